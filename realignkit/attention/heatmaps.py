"""Heat maps of words: where in a picture the network attends to each (figure 10; DAAM, Tang et al., 2023).

The arithmetic is the original's, as plain functions of tensors. What differs: the original takes every picture for a
square, and stretches a map over width x height where height x width is meant; here maps have the shape of the latents.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.attention.inputs import attention_inputs
from realignkit.attention.processor import ModulatedAttnProcessor
from realignkit.attention.regions import layer_size
from realignkit.errors import ModelError
from realignkit.heatmap import Heat
from realignkit.pipelines import encoding, families
from realignkit.pipelines.spans import every_span

SKIPPED_FACTOR = 8
"""Layers with so many times fewer cells a side than the latents are left out, as the original leaves out Stable
Diffusion's innermost."""


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def token_maps(layers: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Each token's heat map: the mean over layers and heads of their maps, all brought to one size.

    Args:
        layers: for each layer (heads, tokens, h, w), its attention probabilities summed over the network's calls.
        size: (H, W) of the result; the original's is that of the latents.

    Returns:
        float32 (tokens, H, W), at least 0: bicubic interpolation undershoots, which is cut off in each head.
    """
    resized = [F.interpolate(layer.float(), size=size, mode="bicubic").clamp_(min=0) for layer in layers]
    return torch.cat(resized).mean(0)


def word_map(tokens: Tensor, positions: Sequence[int]) -> Tensor:
    """A word's heat map (H, W): the mean over all of its tokens, wherever it stands, in maps (tokens, H, W)."""
    return tokens[list(positions)].mean(0)


def shares(tokens: Tensor) -> Tensor:
    """Maps (tokens, H, W) of a whole text as shares of what its own tokens have together, start and end aside."""
    return tokens / (tokens[1:-1].sum(0, keepdim=True) + 1e-6)


def expanded(heat: Tensor, size: tuple[int, int], *, absolute: bool = False, threshold: float | None = None) -> Tensor:
    """A heat map stretched over a picture.

    Args:
        heat: (h, w).
        size: (height, width) of the picture in pixels.
        absolute: leave values as they are; otherwise the lowest becomes 0, the highest 1.
        threshold: 1 above it and 0 elsewhere.

    Returns:
        float32 (height, width).
    """
    out = F.interpolate(heat.float()[None, None], size=size, mode="bicubic")[0, 0]
    if not absolute:
        out = (out - out.min()) / (out.max() - out.min() + 1e-8)
    return out if threshold is None else (out > threshold).float()


# --- in a pipeline ----------------------------------------------------------------------------------------------------


def word_positions(pipeline: Any, text: str, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """For each of some words that a text contains the places of its tokens, at all of its occurrences.

    Places count as the network's cross-attention sees them, start token included. "cat" in "bobcat" is no occurrence.
    """
    tokenizer = encoding.encoders(pipeline)[0][0]
    spans = {word: every_span(tokenizer, text, word) for word in words}
    return {
        word: tuple(i for span in found for i in range(span.start, span.stop)) for word, found in spans.items() if found
    }


def check_recorded(pipeline: Any) -> None:
    """Refuse a pipeline of which there can be no heat maps.

    Raises:
        ModelError: it attends to text and image in one sequence.
    """
    if families.is_joint(pipeline):
        raise ModelError(
            f"no heat maps are made of a {type(pipeline).__name__}, which attends to text and image in one sequence. "
            "Leave heat maps out."
        )


@contextmanager
def recording(pipeline: Any, words: Sequence[str], texts: Sequence[str]) -> Iterator[Recorder]:
    """Record where the network of a pipeline attends to words while the context lasts, in the thread that enters it.

    What is drawn stays the same to the bit: the probabilities of the words' tokens are computed beside the attention,
    modulated where that is. Without words that a text contains nothing is installed. What is compiled runs uncompiled
    meanwhile, as in :func:`~realignkit.attention.processor.modulate`.

    Args:
        pipeline: of a family (see :func:`~realignkit.pipelines.families.family_of`), called with one image per text.
        words: those that a text does not contain have no map of it.
        texts: what the images are conditioned on.

    Raises:
        ModelError: the network is called with a batch that does not fit, has no layer of a suitable size, or attends to
            text and image in one sequence.
    """
    if words:
        check_recorded(pipeline)
    recorder = Recorder([word_positions(pipeline, text, words) for text in texts])
    network = families.denoiser(pipeline)
    with families.alone(network), ExitStack() as after:
        if recorder.tokens:
            after.callback(network.register_forward_pre_hook(recorder.observe, with_kwargs=True).remove)
            for name in network.attn_processors:
                layer = network.get_submodule(name.removesuffix(".processor"))
                record = partial(recorder.record, name)
                after.callback(layer.register_forward_hook(record, with_kwargs=True).remove)
            after.enter_context(torch.compiler.set_stance("force_eager"))
        yield recorder


@dataclass(eq=False)
class Recorder:
    """Attention probabilities of some tokens, summed over the calls of a network.

    Attributes:
        positions: for each image of the batch: word -> the places of its tokens.
        sums: layer -> float32 (batch, heads, tokens, h, w); the tokens are those of :attr:`tokens`.
    """

    positions: Sequence[Mapping[str, Sequence[int]]]
    sums: dict[str, Tensor] = field(default_factory=dict)
    _latent: tuple[int, int] = (0, 0)
    _thread: int = field(default_factory=threading.get_ident)

    def __post_init__(self) -> None:
        #: the places that are asked for in any image: memory grows with them, not with the text
        self.tokens = sorted({i for words in self.positions for places in words.values() for i in places})

    def observe(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the network: note the size of the latents."""
        if threading.get_ident() == self._thread:
            sample = args[0] if args else kwargs["sample"] if "sample" in kwargs else kwargs["hidden_states"]
            self._latent = (int(sample.shape[-2]), int(sample.shape[-1]))

    @torch.no_grad()
    def record(self, name: str, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Forward hook of an attention layer: add its probabilities, if it attends to text."""
        context = kwargs.get("encoder_hidden_states")
        if context is None or threading.get_ident() != self._thread:
            return
        hidden, count = args[0] if args else kwargs["hidden_states"], len(self.positions)
        if hidden.shape[0] not in (count, 2 * count):
            raise ModelError(
                f"the network is called with {hidden.shape[0]} samples, but heat maps are for {count} (twice that with "
                f"guidance). Draw one image per prompt, or leave heat maps out."
            )
        # Under guidance the conditional half comes last.
        mask, temb = (each if each is None else each[-count:] for each in map(kwargs.get, ("attention_mask", "temb")))
        query, key, _, bias, size = attention_inputs(layer, hidden[-count:], context[-count:], mask, temb)
        size = size or layer_size(query.shape[2], self._latent)
        if round(math.sqrt(math.prod(self._latent) / math.prod(size))) == SKIPPED_FACTOR:
            return
        attend: Callable[[Tensor, Tensor, Tensor], Tensor] = partial(F.scaled_dot_product_attention, attn_mask=bias)
        processor = layer.processor
        if isinstance(processor, ModulatedAttnProcessor) and processor.state.changes(True):
            attend = partial(processor.state.attend, cross=True, size=size, bias=bias)
        maps = probabilities(query, key, self.tokens, attend)
        maps = maps.view(*maps.shape[:-1], *size)
        self.sums[name] = self.sums[name].add_(maps) if name in self.sums else maps

    def maps(self) -> list[dict[str, Heat]]:
        """For each image: word -> its heat map at the size of the latents.

        Raises:
            ModelError: the network has no layer of a suitable size, or did not attend to text at all.
        """
        if not self.tokens:
            return [{} for _ in self.positions]
        if not self.sums:
            raise ModelError(
                f"the network has no cross-attention that heat maps can be made of: layers of {SKIPPED_FACTOR} times "
                f"fewer cells a side than the latents are left out. Leave heat maps out."
            )
        places = {token: place for place, token in enumerate(self.tokens)}
        made = []
        for image, words in enumerate(self.positions):
            tokens = token_maps([layer[image] for layer in self.sums.values()], self._latent)
            maps = {word: word_map(tokens, [places[i] for i in at]) for word, at in words.items()}
            made.append({word: heat.cpu().numpy().astype(np.float32) for word, heat in maps.items()})
        return made


def probabilities(
    query: Tensor, key: Tensor, tokens: Sequence[int], attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Attention probabilities of some keys, without holding those of all.

    Attention to values that are 1 for one key and 0 for others is that key's probability, whatever computes it.

    Args:
        query: (batch, heads, N, d); key: (batch, heads, K, d).
        tokens: n of the K keys.
        attend: attention of (query, key, value), plain or modulated.

    Returns:
        float32 (batch, heads, n, N).
    """
    value = query.new_zeros((*key.shape[:3], len(tokens)))
    value[..., list(tokens), range(len(tokens))] = 1
    return attend(query, key, value).transpose(-1, -2).float().contiguous()
