"""What every plugin that loads a checkpoint needs: where it is, on which device, and readable errors."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from realignkit.errors import ModelError
from realignkit.machine import say_once, slow_bf16
from realignkit_plugins.failures import explain, is_local, missing_weights

if TYPE_CHECKING:
    import torch

DTypeName = Literal["auto", "fp32", "fp16", "bf16"]
_MICRO = "micro:"
_LIBRARIES = ("transformers", "diffusers", "huggingface_hub")


def resolve_model(model: str) -> str:
    """Turn an option into what ``from_pretrained`` takes.

    Args:
        model: a hub id (``owner/name``), a folder, or ``micro:<name>`` for a checkpoint inside the package.

    Raises:
        ModelError: it is a path, and nothing is there; or there is no such embedded checkpoint.
    """
    if model.startswith(_MICRO):
        from realignkit_plugins.micro import checkpoints

        return str(checkpoints.path(model.removeprefix(_MICRO)))
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder)
    if folder.is_file():
        raise ModelError(f"'{model}' is a file. Give the folder that save_pretrained wrote, or a hub id (owner/name).")
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model or not model:
        raise ModelError(f"there is no folder '{model}'. Check the path, or give a hub id (owner/name).")
    return model


def resolve_device(device: str) -> str:
    """``"auto"`` becomes ``"cuda"``, ``"mps"`` or ``"cpu"``, the first that is there; anything else is kept."""
    if device != "auto":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_dtype(dtype: DTypeName, device: str) -> torch.dtype:
    """``"auto"`` becomes half precision on CUDA and float32 elsewhere, whatever the checkpoint is stored in.

    A line in the log says so where bf16 is asked for on a processor that has no such instructions.
    """
    import torch

    if dtype == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    if (line := slow_bf16(device, dtype)) is not None:
        say_once(line)
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]


@contextlib.contextmanager
def loading(what: str, model: str) -> Iterator[None]:
    """Load quietly, and turn whatever goes wrong into a :class:`ModelError` that says what to do.

    Args:
        what: what is being loaded, for the message ("text-to-image pipeline").
        model: as the user gave it.

    Raises:
        ModelError: loading failed, or a library has filled weights that are missing with random numbers.
    """
    from transformers import dynamic_module_utils
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    # A checkpoint that wants to run code of its own is refused, not asked about on standard input.
    patience, dynamic_module_utils.TIME_OUT_REMOTE_CODE = dynamic_module_utils.TIME_OUT_REMOTE_CODE, 0
    told: list[str] = []
    try:
        with _collected(told):
            yield
        if missing := missing_weights(told):
            raise ModelError(
                f"the {what} '{model}' holds no weights for {len(missing)} of its parameters ({missing[0]} …). Use a "
                f"complete checkpoint of this kind."
            )
    except ModelError:
        raise
    except Exception as error:  # the libraries raise a dozen types for a bad checkpoint
        reason = explain(model, error, is_local(model), told)
        raise ModelError(f"the {what} '{model}' cannot be loaded {reason}") from error
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _collected(told: list[str]) -> Iterator[None]:
    """What the libraries log goes into a list: an error that only points to it needs it, and one sentence is enough."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES if name in sys.modules]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers = [_Collector(told)]
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)


class _Collector(logging.Handler):
    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self.told = told

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


def load_model(
    cls: Any, folder: str | None, model: str, dtype: torch.dtype | None = None, *, exact: bool = False, **kwargs: Any
) -> Any:
    """``cls.from_pretrained``, from safetensors only, in evaluation mode, without code from the checkpoint.

    Args:
        cls: of transformers.
        folder: what :func:`resolve_model` says; None where ``kwargs`` have the configuration and the weights.
        model: as the user gave it.
        exact: refuse weights that the network has no place for.
        dtype: of the weights, but for modules that the class keeps in float32: casting later would undo that, and take
            the memory of both. None: float32.
        kwargs: further ones of ``from_pretrained``.

    Raises:
        ModelError: weights are missing, which transformers would fill with random numbers.
    """
    import torch

    network, info = cls.from_pretrained(
        folder,
        dtype=dtype or torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        trust_remote_code=False,
        **kwargs,
    )
    if info["missing_keys"]:
        some = ", ".join(sorted(info["missing_keys"])[:3])
        raise ModelError(
            f"'{model}' holds no weights for {len(info['missing_keys'])} parameters of {cls.__name__} ({some} …). "
            f"Use a checkpoint that was fine-tuned for this task."
        )
    if exact and info["unexpected_keys"]:
        raise ModelError(
            f"'{model}' holds {len(info['unexpected_keys'])} weights that {cls.__name__} has no place for "
            f"({min(info['unexpected_keys'])} …): it is of another kind. Use a published checkpoint of {cls.__name__}."
        )
    return network.eval()


def image_processor(folder: str, **kwargs: Any) -> Any:
    """The checkpoint's image processor in its PIL form, which needs no torchvision."""
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, **kwargs)


def model_config(folder: str, **kwargs: Any) -> Any:
    """The checkpoint's configuration."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False, **kwargs)


def text_tokenizer(folder: str, **kwargs: Any) -> Any:
    """The checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **kwargs)


def hub_options(revision: str | None) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained`` for a revision that may not be given."""
    return {} if revision is None else {"revision": revision}
