"""What every plugin with a checkpoint shares: where it is, on which device, loaded once, and readable errors.

:class:`CheckpointPlugin` is the base class; :class:`Checkpoint` says what a checkpoint has to be, and loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Plugin
from realignkit.errors import ModelError
from realignkit.machine import say_once, slow_bf16
from realignkit_plugins.failures import loading
from realignkit_plugins.hub import out_of_reach
from realignkit_plugins.model_names import local_file, resolve_model
from realignkit_plugins.weight_formats import is_weight_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DTypeName = Literal["auto", "fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class Loaded:
    """A network on its device, in evaluation mode, and what goes with it; None what is not asked for."""

    network: Any
    processor: Any = None
    tokenizer: Any = None


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint has to be, and what belongs to it.

    Attributes:
        what: what it is called in messages ("CLIPSeg checkpoint").
        classes: of transformers that read it, by the ``model_type`` in its configuration.
        other: the class for every other ``model_type``; "": there is none.
        refusal: what a checkpoint of another ``model_type`` is, and what to use instead, to stand behind "'model' is";
            ``{}`` is that type.
        fits: whether a configuration of the right ``model_type`` is of the right kind too.
        verify: called with the network and the user's name of it, to raise :class:`ModelError` where it will not do.
        processor: reads what prepares images, from a folder or hub id (:func:`image_processor`); None: nothing does.
        tokenizer: reads the tokenizer likewise (:func:`text_tokenizer`).
        original: reads a network and its image processor from one file, as the model's authors publish it.
        frozen: whether its weights take no gradient, for a network that gradients pass through. (Where none do, it
            stays as it is: torch's kernels for frozen weights may differ in the last bit.)
    """

    what: str
    classes: Mapping[str, str] = field(default_factory=dict)
    other: str = ""
    refusal: str = ""
    fits: Callable[[Any], bool] = lambda config: True
    verify: Callable[[Any, str], None] = lambda network, model: None
    processor: Callable[..., Any] | None = None
    tokenizer: Callable[..., Any] | None = None
    original: Callable[[Path, str], tuple[Any, Any]] | None = None
    frozen: bool = False

    def load(
        self, model: str, revision: str | None = None, device: str = "cpu", dtype: torch.dtype | None = None
    ) -> Loaded:
        """Load one.

        Args:
            model: hub id, folder, ``micro:<name>``; where ``original`` is known a file too.
            revision: branch, tag or commit on the hub.
            device: where the network goes.
            dtype: of its weights; None: float32.

        Raises:
            ModelError: it is missing, damaged, incomplete or of another kind.
        """
        with loading(self.what, model):
            if self.original is not None and is_weight_file(model):
                network, processor = self.original(local_file(model, revision), model)
                return Loaded(network.to(device), processor)
            folder, hub = resolve_model(model), hub_options(revision)
            network = load_model(self._class(folder, model, hub), folder, model, dtype, **hub)
            self.verify(network, model)
            network = freeze(network, device) if self.frozen else network.to(device)
            return Loaded(network, *(read and read(folder, **hub) for read in (self.processor, self.tokenizer)))

    def _class(self, folder: str, model: str, hub: Mapping[str, Any]) -> Any:
        import transformers

        name = self.other
        if self.classes:
            config = model_config(folder, **hub)
            name = self.classes.get(config.model_type, self.other)
            if not name or not self.fits(config):
                raise ModelError(f"'{model}' is {self.refusal.format(config.model_type)}")
        return getattr(transformers, name)


class CheckpointPlugin(Plugin):
    """Base of a plugin whose work is a network's forward pass.

    A child names its :attr:`checkpoint` and its options (those below, and ``dtype`` where the precision is for the user
    to choose); :attr:`loaded` is then the network and what goes with it, loaded at first use and kept. One that loads
    otherwise overrides :meth:`load`.

    Attributes:
        checkpoint: what the option ``model`` has to be.
        role: what messages call the plugin ("tagger").
        remedy: what to do when the network computes NaN.
        checkpoint_options: pairs of options: a checkpoint, and its revision on the hub, None where there is no such
            option.
    """

    class Options(PluginOptions):
        """The options of every plugin with a checkpoint; a child gives ``model`` a default by stating it again."""

        model: str = Field(description="hub id, folder, or micro:<name>", min_length=1)
        revision: str | None = Field(None, description="branch, tag or commit on the hub")
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")

    options: Any
    checkpoint: ClassVar[Checkpoint]
    role: ClassVar[str] = "plugin"
    remedy: ClassVar[str] = "Download or train the checkpoint again."
    checkpoint_options: ClassVar[tuple[tuple[str, str | None], ...]] = (("model", "revision"),)

    @cached_property
    def loaded(self) -> Any:
        """What :meth:`load` returns.

        Raises:
            ModelError: the checkpoint is missing, damaged, incomplete or of another kind.
        """
        with loading(self.checkpoint.what, self.model):
            return self.load()

    def load(self) -> Loaded | Any:
        """Load the checkpoint that the options name: a :class:`Loaded`. Whatever goes wrong is explained."""
        chosen = self.options
        return self.checkpoint.load(chosen.model, chosen.revision, self.device, self.dtype)

    def out_of_reach(self) -> str:
        """Of all checkpoints that the options name, the first that is neither here nor to be had."""
        if "loaded" in vars(self):
            return ""
        for option, revision in self.checkpoint_options:
            model = getattr(self.options, option)
            if model is not None and (why := out_of_reach(model, revision and getattr(self.options, revision))):
                return f"its checkpoint '{model}' (option {option}) cannot be loaded {why}"
        return ""

    @property
    def model(self) -> str:
        """The checkpoint as the user names it, for messages."""
        return str(self.options.model)

    @property
    def device(self) -> str:
        """Where the network works."""
        return resolve_device(self.options.device)

    @property
    def dtype(self) -> torch.dtype:
        """The precision that it works in: float32 where the plugin has no option ``dtype``."""
        return resolve_dtype(getattr(self.options, "dtype", "fp32"), self.device)

    def finite(self, values: Tensor) -> Tensor:
        """``values``, as they are.

        Raises:
            ModelError: one of them is NaN or infinite.
        """
        return check_finite(values, f"{self.role} '{self.model}'", self.remedy)


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
    """The checkpoint's tokenizer.

    Raises:
        ModelError: its vocabulary is missing.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **kwargs)
    check_tokenizer(tokenizer, f"the tokenizer of '{folder}'", "its files")
    return tokenizer


def check_tokenizer(tokenizer: Any, name: str, files: str) -> None:
    """Refuse a tokenizer without vocabulary, which the library makes where the files with the words are missing.

    Args:
        tokenizer: of transformers.
        name: what it is called in messages.
        files: what to copy again.

    Raises:
        ModelError: it knows no more than special tokens, and at most the sign for a space.
    """
    if len(tokenizer) - len(tokenizer.all_special_ids) < 2:
        raise ModelError(
            f"{name} has no vocabulary: it knows {len(tokenizer)} tokens, none of them a word. Copy or download "
            f"{files} again."
        )


def hub_options(revision: str | None) -> dict[str, Any]:
    """Keyword arguments of ``from_pretrained`` for a revision that may not be given."""
    return {} if revision is None else {"revision": revision}


def check_finite(values: Tensor, who: str, remedy: str) -> Tensor:
    """``values``, as they are.

    Raises:
        ModelError: one of them is NaN or infinite.
    """
    if not values.detach().isfinite().all():
        raise ModelError(f"the {who} computed NaN or infinity. {remedy}")
    return values


def load_tokenizer(what: str, model: str, revision: str | None = None) -> Any:
    """A tokenizer that is not beside its network.

    Args:
        what: what it is called in messages.
        model: hub id or folder.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: it is missing or damaged.
    """
    with loading(what, model):
        return text_tokenizer(resolve_model(model), **hub_options(revision))


def check_vocabulary(
    tokenizer: Any, name: str, size: int, advice: str = "Give the tokenizer that the model was trained with."
) -> None:
    """Refuse a tokenizer with more tokens than the network has embeddings.

    Raises:
        ModelError: it has.
    """
    if len(tokenizer) > size:
        raise ModelError(f"the tokenizer '{name}' has {len(tokenizer)} tokens, the model only {size}. {advice}")


def freeze(network: Any, device: str) -> Any:
    """Move a network where it shall work, frozen and in evaluation mode; its precision is what it was loaded in."""
    return network.to(device).requires_grad_(False).eval()
