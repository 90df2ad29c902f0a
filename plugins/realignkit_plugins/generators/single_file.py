"""Stable Diffusion 1.x, 2.x and XL from one file, as people download them, without any network.

The file holds the networks under the names of the original code. Their settings are read off the weights, the tokenizer
comes with this package, and diffusers' ``from_single_file`` renames the weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.errors import ModelError
from realignkit.machine import say_once
from realignkit_plugins.failures import loading
from realignkit_plugins.generators.single_file_config import UNET, VAE, Prediction, incomplete, unlike, write_config
from realignkit_plugins.generators.single_file_kinds import FIRST, family_of
from realignkit_plugins.model_names import resolve_model
from realignkit_plugins.weight_files import metadata, read_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Of two networks that predict differently, the last normalisation's bias; the rule, and its limit, are ComfyUI's.
_TELLING = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SPREAD = 0.09
_OF_TRAINING = ("model_ema.", f"{VAE}loss.")
_TWICE = 2 * "diffusion_model."
_PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


@contextmanager
def single_file(
    path: Path, model: str, config: str | None, prediction: Prediction | None, dtype: torch.dtype
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A folder of settings and the networks that go with it: ``DiffusionPipeline.from_pretrained(folder, **networks)``.

    Args:
        path: the file, of any format that :func:`realignkit_plugins.weight_files.read_weights` reads.
        model: what the user calls it, for messages.
        config: a folder or hub id with the settings, in diffusers' layout; None: read off the weights.
        prediction: what the U-Net predicts, where ``config`` is None; None: as the file says, or as it looks.
        dtype: of the networks.

    Yields:
        The folder (or hub id), which lasts as long as the context, and the networks by component.

    Raises:
        ModelError: there is no such file, or it is damaged, a pickle that would run something, something else than a
            whole Stable Diffusion model, or made for other settings.
    """
    weights = _usual_names(read_weights(path, model))
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    try:
        family = family_of(shapes, model)
    except IndexError as error:
        raise unlike(model, "a weight has another number of dimensions") from error
    for name in [name for name in weights if name.startswith(_OF_TRAINING)]:
        del weights[name], shapes[name]
    with tempfile.TemporaryDirectory(prefix="realignkit-") as temporary:
        if config is None:
            if prediction is None:
                prediction = _prediction(path, weights, family, model)
            write_config(Path(temporary), shapes, family, prediction, zero_snr="ztsnr" in shapes, model=model)
        folder = temporary if config is None else _settings(config)
        try:
            networks = _networks(weights, folder, dtype, model)
        except (KeyError, IndexError) as error:  # of diffusers' renaming: the settings speak of weights that it lacks
            if config is None and isinstance(error, KeyError):
                raise incomplete(model, error.args) from error
            raise unlike(model, f"{error} does not go with its settings") from error
        yield folder, networks


def _settings(config: str) -> str:
    """The folder that the option ``config`` names, on this machine: from the hub, the settings alone."""
    from diffusers import DiffusionPipeline

    try:
        with loading("folder of settings", config):
            folder = resolve_model(config)
            if not Path(folder).is_dir():
                from huggingface_hub import snapshot_download

                folder = snapshot_download(folder, allow_patterns=["*.json", "*.txt"])
            index = DiffusionPipeline.load_config(folder)
    except ModelError as error:
        raise ModelError(f"the option config does not help: {error}") from error
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if index.get(name, [None, None])[1] is not None and not (Path(folder) / name / "config.json").is_file():
            raise ModelError(
                f"the option config does not help: '{config}' has no {name}/config.json. Give a folder with the "
                f"settings of every part."
            )
    return folder


def _usual_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names that older and newer tools give to the same parts, as the published files have them."""
    renamed = {}
    weights = _unwrapped(weights)
    xl = f"{UNET}label_emb.0.0.weight" in weights
    for name, weight in weights.items():
        if name.startswith("conditioner.embedders.0.") and not xl:  # SD 1.x and 2.x, written by Stability's later code
            name = "cond_stage_model." + name.removeprefix("conditioner.embedders.0.")
        old = name.removeprefix("cond_stage_model.transformer.")
        if old != name and old.startswith(("embeddings.", "encoder.", "final_layer_norm.")):
            name = f"cond_stage_model.transformer.text_model.{old}"
        renamed[name] = weight
    return renamed


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what some tool has put before them, or written twice, where that leaves each of them its own."""
    plain = {name.replace(_TWICE, _TWICE[: len(_TWICE) // 2]): weight for name, weight in weights.items()}
    wrapped = [name.removesuffix(FIRST) for name in plain if name.endswith(FIRST)]
    if len(wrapped) == 1:
        plain = {name.removeprefix(wrapped[0]): weight for name, weight in plain.items()}
    return plain if len(plain) == len(weights) else weights


def _prediction(path: Path, weights: Mapping[str, Tensor], family: str, model: str) -> Prediction:
    if "v_pred" in weights:
        return "v_prediction"
    said = _PREDICTIONS.get(str(metadata(path).get("modelspec.prediction_type")).lower())
    if said is not None:
        return said
    if family != "sd2":
        return "epsilon"
    last = weights.get(_TELLING)
    prediction: Prediction = "epsilon"
    if last is not None and float(last.float().std(unbiased=False)) > _SPREAD:
        prediction = "v_prediction"
    say_once(
        f"'{model}' does not say what its network predicts, which differs among Stable Diffusion 2.x; by its weights "
        f"it is taken for {prediction}. If it draws noise, set generator.prediction_type to the other."
    )
    return prediction


def _networks(weights: Mapping[str, Tensor], folder: str, dtype: torch.dtype, model: str) -> dict[str, Any]:
    import diffusers
    import transformers
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    index = diffusers.DiffusionPipeline.load_config(folder)
    networks: dict[str, Any] = {}
    for name, prefix in (("unet", UNET), ("vae", VAE)):
        cls = getattr(diffusers, {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}[name])
        theirs = {key: weight for key, weight in weights.items() if key.startswith(prefix)}
        try:
            networks[name] = cls.from_single_file(theirs, config=folder, subfolder=name, dtype=dtype)
        except NotImplementedError as error:  # a weight that is missing can be moved nowhere
            raise _other_weights(cls, theirs, folder, name, model) from error
        if len(theirs) > len(networks[name].state_dict()):
            raise _other_weights(cls, theirs, folder, name, model)
    for name, other in (("text_encoder", "conditioner.embedders.1."), ("text_encoder_2", "conditioner.embedders.0.")):
        if index.get(name, [None, None])[1] is not None:
            cls = getattr(transformers, index[name][1])
            theirs = {key: weight for key, weight in weights.items() if not key.startswith((UNET, VAE, other))}
            networks[name] = create_diffusers_clip_model_from_ldm(
                cls, checkpoint=theirs, config=folder, subfolder=name, torch_dtype=dtype
            )
    for name, network in networks.items():
        if lacking := [key for key, weight in network.state_dict().items() if weight.is_meta]:
            raise incomplete(model, [f"{name}.{key}" for key in lacking])
    return networks


def _other_weights(cls: Any, weights: Mapping[str, Tensor], folder: str, name: str, model: str) -> ModelError:
    """The error for a network whose weights are not those that its settings speak of: which ones."""
    import torch
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    config = cls.load_config(folder, subfolder=name)
    with torch.device("meta"):
        wanted = cls.from_config(config).state_dict().keys()
    renamed = SINGLE_FILE_LOADABLE_CLASSES[cls.__name__]["checkpoint_mapping_fn"](config=config, checkpoint={**weights})
    placed = {weight.data_ptr() for key, weight in renamed.items() if key in wanted}
    missing = [f"{name}.{key}" for key in sorted(wanted - renamed.keys())]
    stray = [key for key, weight in weights.items() if weight.data_ptr() not in placed]
    if missing and not stray:
        return incomplete(model, missing)
    if not stray:  # two names of one weight
        return unlike(model, f"it has more weights than its {cls.__name__}")
    more = f" and {len(stray) - 1} more of its weights" if len(stray) > 1 else ""
    if missing:
        return unlike(model, f"its {cls.__name__} has no place for {stray[0]}{more}, and lacks {missing[0]}")
    return ModelError(
        f"'{model}' holds what its {cls.__name__} has no place for: {stray[0]}{more}. Use a complete checkpoint of "
        f"Stable Diffusion 1.x, 2.x or XL, without additions."
    )
