"""What a family of pipelines is: the facts that differ between those whose attention can be modulated."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Guidance = Literal["first", "last", "apart"]
"""Where the unconditional samples are: before or after the conditional ones of a call, or in calls of their own."""


@dataclass(frozen=True)
class Reader:
    """Text encoders that make one stretch of the text tokens that the network sees.

    Attributes:
        encoders: (tokenizer, text encoder) pairs; several make the same tokens together, as SDXL's two do.
        start: place of the first token.
        length: how many there are, padding included, which is also how many are read.
        left: whether padding comes before the text.
    """

    encoders: tuple[tuple[Any, Any], ...]
    start: int
    length: int
    left: bool = False


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a joint transformer, as its arguments tell it.

    Attributes:
        samples: how many there are in the batch.
        timestep: in the scheduler's units, from 0 to ``T_train``.
        grid: (h, w) of the image tokens, which stand row by row.
        image: their places in the joint sequence.
        text: the places of the text tokens.
        condition: what the network is told of the text; tells calls apart where guidance has calls of its own.
    """

    samples: int
    timestep: float
    grid: tuple[int, int]
    image: slice
    text: slice
    condition: Any


@dataclass(frozen=True)
class Joint:
    """How a transformer attends to text and image in one sequence.

    Attributes:
        processors: diffusers' attention processors that compute it plainly, each with one call of torch's
            ``scaled_dot_product_attention``.
        call: what one call of the network comes to, of the network and its arguments by name.
        readers: what makes the text tokens of a pipeline, first the encoders that read most.
        guidance: see :data:`Guidance`.
        plain: one of them that every layer can have; None: layers differ in that, or the network has no way to set it.
        ragged: whether texts are as long as the longest of a call's batch, unconditional ones included.
        image_only: parts of the names of layers that see image tokens alone.
        text_only: likewise of text tokens alone.
        image_to_image: diffusers' pipeline of the same components that starts from an image; None: there is none.
    """

    processors: tuple[str, ...]
    call: Callable[[Any, Mapping[str, Any]], Call]
    readers: Callable[[Any], Sequence[Reader]]
    guidance: Guidance
    plain: str | None = None
    ragged: bool = False
    image_only: tuple[str, ...] = ()
    text_only: tuple[str, ...] = ()
    image_to_image: str | None = None


def default(pipeline: Any, name: str) -> Any:
    """What a pipeline is called with where nobody says."""
    return inspect.signature(type(pipeline).__call__).parameters[name].default


def padded_length(pipeline: Any) -> int:
    """How many T5 tokens the pipeline's ``encode_prompt`` pads texts to."""
    return int(inspect.signature(pipeline.encode_prompt).parameters["max_sequence_length"].default)


def as_they_are(pipeline: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sampling options that a pipeline takes under their own names."""
    return arguments


@dataclass(frozen=True)
class Family:
    """One kind of pipeline.

    Attributes:
        name: what :func:`realignkit.pipelines.families.attention_family` says.
        pipelines: diffusers' classes.
        network: the class of the network with the attention.
        denoiser: the pipeline's component that is this network.
        patch: pixels of the latents, per side, that make one token at the finest attention.
        encode: text embeddings (B, K, C) and what comes with them, of a pipeline and texts; differentiable in the text
            encoders' weights.
        text_extra: the pipeline's argument for what comes with text embeddings, by pipeline class.
        with_text: the pipeline's arguments with the text in them, of the pipeline, the others, and what ``encode``
            gives; None: ``prompt_embeds`` and ``text_extra`` are all.
        options: arguments that the pipeline is always called with.
        sampling: sampling options as the pipeline's arguments, of the pipeline and the options that were asked for.
        sample_size: of latents, per side, that suit the model, where neither network nor pipeline says.
        joint: of transformers that attend to text and image in one sequence.
    """

    name: str
    pipelines: tuple[str, ...]
    network: str
    denoiser: str
    patch: int
    encode: Callable[[Any, list[str]], tuple[Tensor, Tensor | None]]
    text_extra: Mapping[str, str] = field(default_factory=dict)
    with_text: Callable[[Any, Mapping[str, Any], Tensor, Tensor | None], Mapping[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    sampling: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] = as_they_are
    sample_size: int | None = None
    joint: Joint | None = None
