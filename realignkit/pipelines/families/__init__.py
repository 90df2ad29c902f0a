"""The kinds of pipeline whose attention can be modulated, a file for each, and what a pipeline says of itself."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from realignkit.errors import OptionError
from realignkit.pipelines.families import flux, flux2, pixart, qwen_image, sd3, unet, z_image
from realignkit.pipelines.families.family import Family

if TYPE_CHECKING:
    import torch

UNET, PIXART, SD3, FLUX = (family.FAMILY.name for family in (unet, pixart, sd3, flux))

FAMILIES: tuple[Family, ...] = (
    unet.FAMILY,
    pixart.FAMILY,
    sd3.FAMILY,
    flux.FAMILY,
    flux2.FAMILY,
    qwen_image.FAMILY,
    z_image.FAMILY,
)

SUPPORTED = tuple(name for family in FAMILIES for name in family.pipelines)
"""The pipeline classes that can be modulated, for messages."""


def family_of(pipeline: Any) -> Family | None:
    """The family of a pipeline that the fine stage can modulate, else None."""
    for family in FAMILIES:
        if is_a(pipeline, *family.pipelines) and is_a(denoiser(pipeline), family.network):
            return family
    return None


def family_of_network(network: Any) -> Family | None:
    """The family that a network belongs to, be it in a pipeline or not."""
    return next((family for family in FAMILIES if is_a(network, family.network)), None)


def attention_family(pipeline: Any) -> str | None:
    """What can be modulated, by the name of its family, such as ``"unet"`` (SD-1.x/2.x, SDXL), else None."""
    family = family_of(pipeline)
    return None if family is None else family.name


def is_joint(pipeline: Any) -> bool:
    """Whether its network attends to text and image in one sequence, as flow transformers do."""
    family = family_of(pipeline)
    return family is not None and family.joint is not None


def denoiser_name(pipeline: Any) -> str:
    """What the pipeline, of any family, calls the network with the attention."""
    return "transformer" if getattr(pipeline, "unet", None) is None else "unet"


def denoiser(pipeline: Any) -> Any:
    """The network with the attention, of a pipeline of any family; of a compiled one the network itself."""
    return unwrapped(getattr(pipeline, denoiser_name(pipeline), None))


def image_size(pipeline: Any, width: int | None = None, height: int | None = None) -> tuple[int, int]:
    """(width, height) in pixels of the images that the pipeline makes, where not given.

    Raises:
        OptionError: it states none.
    """
    if width and height:
        return width, height
    stated = getattr(getattr(denoiser(pipeline), "config", None), "sample_size", None)
    sample = stated if stated is not None else getattr(pipeline, "default_sample_size", None)
    if sample is None and (family := family_of(pipeline)) is not None:
        sample = family.sample_size
    if sample is None:
        raise OptionError("the model states no size of its images: give height and width.")
    scale = getattr(pipeline, "vae_scale_factor", 1)  # pixel models have none
    rows, columns = sample if isinstance(sample, list | tuple) else (sample, sample)
    return width or columns * scale, height or rows * scale


def check_size(pipeline: Any, height: int | None, width: int | None) -> None:
    """Refuse sizes in pixels that the pipeline's networks cannot draw; None, its own, is fine.

    Raises:
        OptionError: they are no multiples of its unit.
    """
    family = family_of(pipeline)
    unit = 8 * (family.patch if family is not None else 1)
    if any(size is not None and (size < unit or size % unit) for size in (height, width)):
        raise OptionError(f"height and width must be multiples of {unit}, got {height} x {width}.")


def attention_processors(network: Any) -> dict[str, Any]:
    """What computes attention in each layer, by diffusers' names, of networks that list it and of others (Z-Image)."""
    if hasattr(network, "attn_processors"):
        return dict(network.attn_processors)
    return {name: layer.get_processor() for name, layer in _attention_layers(network).items()}


def set_attention_processors(network: Any, processors: Mapping[str, Any]) -> None:
    """Exchange all of :func:`attention_processors`."""
    if hasattr(network, "set_attn_processor"):
        network.set_attn_processor(dict(processors))
        return
    for name, layer in _attention_layers(network).items():
        layer.set_processor(processors[name])


def _attention_layers(network: Any) -> dict[str, Any]:
    layers = network.named_modules() if hasattr(network, "named_modules") else ()
    return {f"{name}.processor": layer for name, layer in layers if hasattr(layer, "set_processor")}


def unwrapped(network: Any) -> Any:
    """What ``torch.compile`` was given, if the network is what it returned."""
    return getattr(network, "_orig_mod", network)


def place(module: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Move a network and cast its weights; those that its class keeps in float32 (T5's ``wo``, say) are float32."""
    import torch

    keep = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    torch.nn.Module.to(module, device)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.float32 if keep.intersection(name.split(".")) else dtype)


def text_extra(pipeline: Any) -> str | None:
    """The pipeline's argument for what comes with text embeddings: pooled ones (SDXL), their mask (PixArt); or None."""
    family = family_of(pipeline)
    if family is None:
        return None
    return next((name for kind, name in family.text_extra.items() if is_a(pipeline, kind)), None)


def padded_text_length(pipeline: Any) -> int | None:
    """The length that a PixArt pipeline pads texts to (120, Sigma 300); None where the tokenizer says."""
    if attention_family(pipeline) != PIXART:
        return None
    return int(call_parameters(pipeline)["max_sequence_length"].default)


def is_text_to_image(pipeline: Any) -> bool:
    """Whether it can be called with prompts alone, as diffusers' text-to-image pipelines are."""
    if not callable(pipeline):
        return False
    parameters = call_parameters(pipeline)
    return {"prompt", "generator", "output_type"} <= parameters.keys() and "image" not in parameters


def is_a(thing: Any, *names: str) -> bool:
    """``isinstance`` of a class of diffusers, by name: importing each class that is asked for would take seconds."""
    return any(base.__name__ in names and base.__module__.startswith("diffusers.") for base in type(thing).__mro__)


def call_parameters(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """What a pipeline can be called with: where a class of the user's hands everything on, what its base takes."""
    calls = [inspect.signature(cls.__call__).parameters for cls in type(pipeline).__mro__ if "__call__" in vars(cls)]
    handed_on = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    named = (call for call in calls if not handed_on <= {parameter.kind for parameter in call.values()})
    return next(named, inspect.signature(type(pipeline).__call__).parameters)


_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_FINDING = threading.Lock()


@contextlib.contextmanager
def alone(pipeline: Any) -> Iterator[None]:
    """Wait until no other thread draws with a pipeline (or network), its network or its scheduler; then none can.

    All three change meanwhile: attention processors come and go, and schedulers count steps.
    """
    shared = [pipeline, denoiser(pipeline), getattr(pipeline, "scheduler", None)]
    locks = []
    with _FINDING:
        for part in sorted(shared, key=id):  # in one order, so that no two threads wait for each other
            with contextlib.suppress(TypeError):  # None, or of a class that takes no weak reference
                locks.append(_LOCKS.setdefault(part, threading.RLock()))
    with contextlib.ExitStack() as held:
        for lock in locks:
            held.enter_context(lock)
        yield
