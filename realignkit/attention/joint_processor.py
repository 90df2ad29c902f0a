"""Modulated attention in transformers that attend to text and image in one sequence (SD3, FLUX and their kin).

No processor of diffusers is rewritten. Each runs as it is: projections, norms and rotary embeddings are its own. Only
the one call of torch's attention that it makes is computed here instead.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from realignkit.attention.fast import Keys
from realignkit.attention.joint import Equation, JointMembers, joint_attention, literal_joint_attention
from realignkit.attention.modulation import amounts, likelihood_scores, modulated_similarity, region_matrix
from realignkit.attention.regions import RegionMaps
from realignkit.attention.state import PADDING_BIAS, ModulatedAttention
from realignkit.errors import ModelError
from realignkit.pipelines.families.family import Call, Joint


@dataclass(eq=False)
class JointAttention(ModulatedAttention):
    """What the processors of a joint transformer share.

    Attributes:
        joint: how it attends.
        patch: pixels of the latents, per side, in an image token.
        call: the current call of the network.
        guided: whether the current call is an unconditional one, which is left alone.
    """

    joint: Joint = field(kw_only=True)
    patch: int = field(kw_only=True)
    call: Call = field(init=False)
    guided: bool = False
    _condition: Any = None
    _members: dict[tuple[torch.device, bool], JointMembers] | None = None

    def observe(self, network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the network: note what it is called with."""
        if self.foreign:
            self.foreign_calls += 1
            return
        arguments = inspect.signature(type(network).forward).bind_partial(network, *args, **kwargs).arguments
        self.call, self._members = self._call_of(network, arguments), {}
        if self.joint.guidance == "apart":
            self._condition = self.call.condition if self._condition is None else self._condition
            self.guided = not _same(self._condition, self.call.condition)
        height, width = self.call.grid
        if height * width != self.call.image.stop - self.call.image.start:
            raise ModelError(
                f"a {type(network).__name__} is called with image tokens that are no {height} x {width} of its "
                "latents: this diffusers packs them in another way than realignkit knows. Install another version."
            )
        self._latent = (height * self.patch, width * self.patch)
        if self.guided:
            self.attended = False
        else:
            self.begin(self.call.timestep, self.call.samples, doubled=self.joint.guidance != "apart")

    def _call_of(self, network: Any, arguments: dict[str, Any]) -> Call:
        call = self.joint.call(network, arguments)
        if not self.joint.ragged or not self.regions:
            return call
        # Behind the longest conditional text there is nothing but what it lacks of a longer one, which is hidden.
        stop = call.text.start + self.regions[0].tokens.shape[0]
        return replace(call, text=slice(call.text.start, min(call.text.stop, stop)))

    @property
    def active(self) -> bool:
        """Whether this call is a conditional one of the first ``share`` of the steps."""
        return not self.guided and super().active

    @property
    def weights(self) -> tuple[float, ...]:
        """``w`` of each kind of attention, first of that to text, last of text to image."""
        return *super().weights, self.config.text_weight

    def samples(self, batch: int) -> slice:
        """Which samples of a batch are conditional."""
        return slice(0, self.conditional) if self.joint.guidance == "last" else super().samples(batch)

    def changes_jointly(self) -> bool:
        """Whether the current call differs from plain attention where text and image attend together."""
        of_text = self.config.text_weight > 0 and self.active and any(item.lifts for item in self.regions)
        return of_text or self.changes(True) or self.changes(False)

    def attend_jointly(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, of_text: bool = True
    ) -> Tensor:
        """Attention of a batch of whole sequences, its conditional part modulated.

        Args:
            query: (batch, heads, N, d); key, value: likewise, text and image where the call has them.
            bias: additive attention mask, broadcastable to (batch, heads, N, N).
            of_text: whether the sequence holds text; if not, its image tokens stand first, and others fill it up.
        """
        maps = self.maps(self.call.grid, query.device)
        if not of_text and query.shape[2] == maps.cells.shape[1]:
            return self.attend(query, key, value, cross=False, size=self.call.grid, bias=bias)
        self.check_tokens(maps, self.call.text.stop - self.call.text.start)
        return self.among(query, key, value, bias, functools.partial(self._whole, maps=maps, of_text=of_text))

    def _whole(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, maps: RegionMaps, of_text: bool
    ) -> Tensor:
        length = query.shape[2]
        if self.config.mask_padding and of_text:
            hide = torch.zeros(len(query), 1, 1, length, dtype=query.dtype, device=query.device)
            hide[..., self.call.text] = self.without_padding(maps, query, None)
            bias = hide if bias is None else (bias + hide).clamp_min(PADDING_BIAS)
        if not self.is_fast(maps, cross=of_text):
            return literal_joint_attention(query, key, value, self._blocks(maps, of_text), bias)
        assert self._members is not None  # a call has been observed
        place = (query.device, of_text)
        if place not in self._members:
            self._members[place] = self._joint_members(maps, length, of_text)
        return joint_attention(query, key, value, self._members[place], bias)

    def _joint_members(self, maps: RegionMaps, length: int, of_text: bool) -> JointMembers:
        batch, _, objects = maps.cells.shape
        text, image = self.call.text, self.call.image
        queries = maps.cells.new_zeros(batch, length, objects)
        queries[:, image] = maps.cells
        to_text, to_image = (maps.score.new_zeros(batch, length) for _ in range(2))
        to_image[:, image] = amounts(self.weight(False), maps.score, maps.area, self.config)
        kinds = [Keys(image, maps.cells, to_image)]
        if of_text:
            queries[:, text] = maps.tokens
            to_text[:, image] = amounts(self.weight(True), maps.score, maps.area, self.config)
            to_image[:, text] = amounts(self._text_weight, *_of_tokens(maps), self.config)
            kinds.insert(0, Keys(text, maps.tokens, to_text))
        return JointMembers(queries, tuple(kinds))

    def _blocks(self, maps: RegionMaps, of_text: bool) -> list[tuple[slice, slice, Equation]]:
        """The blocks of the matrix that are modulated, with their equations."""
        text, image = self.call.text, self.call.image
        among_cells = (image, image, self.equation(maps, False))
        if not of_text:
            return [among_cells]
        blocks = [(image, text, self.equation(maps, True)), among_cells]
        if self._text_weight > 0:
            score, area = (each[:, None, :, None] for each in _of_tokens(maps))
            region = region_matrix(maps.tokens, maps.cells)[:, None]
            terms: dict[str, Any] = {"region": region, "weight": self._text_weight, "score": score, "area": area}
            blocks.append((text, image, functools.partial(modulated_similarity, **terms, config=self.config)))
        return blocks

    @property
    def _text_weight(self) -> float:
        return self.faded(self.timestep, self.config.text_weight) if self.active else 0.0


def _of_tokens(maps: RegionMaps) -> tuple[Tensor, Tensor]:
    """``S`` and the area fraction of each text token's object, both float (batch, K); 0 outside all phrases."""
    score = likelihood_scores(maps.tokens, maps.scores, outside=0.0)
    return score, (maps.tokens * maps.cells.float().mean(1)[:, None]).sum(-1)


def _same(one: Any, other: Any) -> bool:
    return one is other or (one.shape == other.shape and torch.equal(one, other))


class JointAttnProcessor:
    """One attention layer: the original processor, with modulated attention where something changes.

    Args:
        state: shared by all layers.
        name: of the layer.
        original: diffusers' processor.
    """

    def __init__(self, state: JointAttention, name: str, original: Any) -> None:
        self.state = state
        self.name = name
        self.original = original
        self.sees_text = not any(part in name for part in state.joint.image_only)
        self.sees_image = not any(part in name for part in state.joint.text_only)

        @functools.wraps(original.__call__)
        def as_original(*args: Any, **kwargs: Any) -> Any:
            return self(*args, **kwargs)

        # Layers of diffusers hand on those arguments alone that the signature of their processor's __call__ names.
        vars(self)["__call__"] = as_original

    def __call__(self, attn: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the layer: what the original processor takes and returns."""
        state = self.state
        self.state.attended |= not state.foreign
        changes = state.changes_jointly() if self.sees_text else state.changes(False)
        if state.foreign or not self.sees_image or not changes:
            return self.original(attn, *args, **kwargs)
        with AttentionCalls(self._attend) as calls:
            out = self.original(attn, *args, **kwargs)
        if calls.count != 1:
            raise ModelError(
                f"{self.name} computed attention with {calls.count} calls of torch's scaled_dot_product_attention, not "
                f"one: this diffusers' {type(self.original).__name__} is none that realignkit knows. Install another "
                "version."
            )
        return out

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        return self.state.attend_jointly(query, key, value, bias, of_text=self.sees_text)


class AttentionCalls(TorchFunctionMode):
    """While the context lasts, in its thread: what is asked of torch's attention is computed by ``attend`` instead.

    Args:
        attend: of query, key, value and an additive mask (or None), all with (batch, heads) first.
    """

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.attend = attend
        self.count = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Every function of torch comes by here."""
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.count += 1
        return self._attend(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        if dropout_p or is_causal or options.get("scale") is not None or options.get("enable_gqa"):
            raise ModelError(
                "a layer asks torch's attention for a causal mask, a scale, dropout or shared keys, with which it "
                "cannot be modulated. Install another version of diffusers."
            )
        bias = attn_mask
        if bias is not None and bias.dtype == torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill_(~bias, PADDING_BIAS)
        if bias is not None:
            bias = bias[(None,) * (4 - bias.ndim)].expand(len(query), -1, -1, -1)
        return self.attend(query, key, value, bias)
