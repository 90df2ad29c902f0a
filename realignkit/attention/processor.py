"""Modulated attention inside a diffusers U-Net or PixArt transformer: installed by a context manager, gone afterwards.

::

    with modulate(pipeline.unet, regions, config, timesteps=pipeline.scheduler.timesteps):
        pipeline(...)
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.attention.config import ModulationConfig
from realignkit.attention.fast import Members, fast_attention
from realignkit.attention.inputs import attention_inputs
from realignkit.attention.modulation import (
    Schedule,
    amounts,
    literal_attention,
    modulated_similarity,
    region_matrix,
    time_weight,
)
from realignkit.attention.regions import RegionMaps, Regions, layer_size, region_maps
from realignkit.errors import ModelError
from realignkit.pipelines.families import alone, unwrapped
from realignkit.pipelines.refusals import why_not_replaced

PADDING_BIAS = -1e4
"""What hides a padding token; finite in half precision, and exp of it is 0."""


@contextmanager
def modulate(
    unet: Any,
    regions: Sequence[Regions],
    config: ModulationConfig | None = None,
    *,
    timesteps: Sequence[float] | Tensor | Schedule | None = None,
    num_inference_steps: int | None = None,
    num_images_per_prompt: int = 1,
    train_timesteps: int = 1000,
) -> Iterator[ModulatedAttention]:
    """Modulate the attention of ``unet`` while the context lasts, in the thread that enters it.

    Other threads that call it compute as they did before. Called in this one, ``unet`` (``UNet2DConditionModel`` or
    ``PixArtTransformer2DModel``) takes ``len(regions) * num_images_per_prompt`` samples, all conditional, or twice as
    many under classifier-free guidance: unconditional first, as diffusers does; those are left alone.

    What is compiled runs uncompiled meanwhile: compiled code may not notice that its attention has changed.

    Args:
        unet: the network. Its attention processors come back when the context ends, however it ends.
        regions: one per prompt.
        config: how to modulate.
        timesteps: those that run, one for each call, or a :class:`~realignkit.attention.modulation.Schedule`, which
            also knows steps of several calls; tells which step a call belongs to.
        num_inference_steps: instead of ``timesteps``, count the calls (one a step).
        num_images_per_prompt: neighbouring samples that share a prompt.
        train_timesteps: ``T_train`` of ``lambda_t``.

    Raises:
        ModelError: the network has attention of another kind (IP-Adapter, added keys …), is called with a batch
            that does not fit, computes without its processors (traced, say), or was called by other threads alone.
        ValueError: neither ``timesteps`` nor ``num_inference_steps`` is given, and ``share`` depends on it.
    """
    config = config or ModulationConfig()
    if timesteps is None and num_inference_steps is None and 0 < config.share < 1:
        raise ValueError("pass timesteps (or num_inference_steps): share is a share of them")
    unet = unwrapped(unet)
    if timesteps is not None and not isinstance(timesteps, Schedule):
        timesteps = Schedule.of_timesteps(timesteps, train_timesteps)
    steps = num_inference_steps if timesteps is None else timesteps.count
    state = ModulatedAttention(tuple(regions), config, timesteps, steps, num_images_per_prompt, train_timesteps)
    # U-Nets take (sample, timestep, text), PixArt's transformer (sample, text, timestep).
    state.timestep_at = list(inspect.signature(type(unet).forward).parameters).index("timestep") - 1
    with alone(unet), ExitStack() as after:
        if reason := why_not_replaced(unet):
            raise ModelError(reason)
        before = dict(unet.attn_processors)
        after.callback(unet.register_forward_pre_hook(state.observe, with_kwargs=True).remove)
        after.callback(unet.register_forward_hook(state.confirm).remove)
        after.callback(unet.set_attn_processor, before)
        unet.set_attn_processor({name: ModulatedAttnProcessor(state, original) for name, original in before.items()})
        with torch.compiler.set_stance("force_eager"):
            yield state
    if state.foreign_calls and state.step < 0:
        raise ModelError(
            "the network was called by another thread than the one that modulates it, so nothing was modulated: enter "
            "modulate in the thread that calls the pipeline."
        )


@dataclass(eq=False)
class ModulatedAttention:
    """What the processors of one network share: the regions, and where in the sampling it is.

    Attributes:
        schedule: the calls that run (their timesteps will do to make one); None counts them instead.
        steps: how many sampling steps they make.
        timestep_at: place of the timestep among the network's positional arguments.
        step: index of the current sampling step; -1 before the first call.
        timestep: the current timestep.
        attended: whether the current call has come by the processors.
        foreign_calls: how often other threads have called the network, which changes nothing for them.
    """

    regions: tuple[Regions, ...]
    config: ModulationConfig
    schedule: Schedule | None
    steps: int | None
    repeats: int = 1
    train_timesteps: int = 1000
    timestep_at: int = 1
    step: int = -1
    timestep: float = 0.0
    attended: bool = False
    foreign_calls: int = 0
    _thread: int = field(default_factory=threading.get_ident)
    _call: int = -1
    _latent: tuple[int, int] = (0, 0)
    _maps: dict[tuple[Any, ...], RegionMaps] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.schedule, Tensor):
            self.schedule = Schedule.of_timesteps(self.schedule, self.train_timesteps)
        if self.config.score_term == "none":
            self.regions = tuple(replace(item, scores=(item.scores > 0).float()) for item in self.regions)

    def observe(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the network: note timestep, step, latent size and whether guidance is on."""
        if self.foreign:
            self.foreign_calls += 1
            return
        sample = args[0] if args else kwargs["sample"] if "sample" in kwargs else kwargs["hidden_states"]
        timestep = kwargs["timestep"] if "timestep" in kwargs else args[self.timestep_at]
        self.timestep, self.attended = float(torch.as_tensor(timestep).flatten()[0]), False
        if self.schedule is None:
            self.step += 1
        else:
            self._call = self.schedule.locate(self.timestep, self._call)
            self.step = self.schedule.steps[self._call]
        conditional = len(self.regions) * self.repeats
        if sample.shape[0] not in (conditional, 2 * conditional):
            raise ModelError(
                f"the network is called with {sample.shape[0]} samples, but there are regions for {len(self.regions)} "
                f"prompts x {self.repeats} images (twice that with guidance). Pass one Regions per prompt, and "
                "num_images_per_prompt."
            )
        self._latent = (int(sample.shape[-2]), int(sample.shape[-1]))

    def confirm(self, *_: Any) -> None:
        """Forward hook of the network: a call that does not come by the processors would draw a plain image."""
        if not self.foreign and not self.attended and (self.changes(True) or self.changes(False)):
            raise ModelError(
                "the network computed without its attention processors, so nothing could be modulated: it was traced, "
                "captured, or its forward was replaced. Load the pipeline again, and refine with it as it is."
            )

    @property
    def foreign(self) -> bool:
        """Whether another thread than the one that modulates is computing."""
        return threading.get_ident() != self._thread

    @property
    def layers(self) -> list[RegionMaps]:
        """The regions at each size of the layers that have been modulated."""
        return list(self._maps.values())

    @property
    def conditional(self) -> int:
        """How many samples at the end of the batch are conditional."""
        return len(self.regions) * self.repeats

    @property
    def active(self) -> bool:
        """Whether this step is among the first ``share`` of the steps."""
        return self.modulates(self.step)

    def modulates(self, step: int) -> bool:
        """Whether a step is among the first ``share`` of the steps."""
        if self.config.share >= 1 or self.config.share <= 0:
            return self.config.share >= 1
        return step < (self.steps or 0) * self.config.share

    def weight(self, cross: bool) -> float:
        """``lambda_t`` of this call for cross- or self-attention; 0 past the cut-off."""
        return self.weight_at(self.timestep, cross) if self.active else 0.0

    def weight_at(self, timestep: float, cross: bool) -> float:
        """``lambda_t`` of a timestep for cross- or self-attention, be its step modulated or not."""
        weight = self.config.cross_weight if cross else self.config.self_weight
        if self.schedule is None:
            return time_weight(timestep, weight, self.config.power, self.train_timesteps)
        return time_weight(self.schedule.level(timestep), weight, self.config.power, 1)

    def changes(self, cross: bool) -> bool:
        """Whether the current call differs from plain attention at all."""
        if not self.active or not any(self._touched(item, cross) for item in self.regions):
            return False
        return self.weight(cross) > 0 or (cross and self.config.mask_padding)

    def _touched(self, item: Regions, cross: bool) -> bool:
        return item.lifts or (cross and self.config.suppress_unlikely and item.suppresses)

    def maps(self, size: tuple[int, int], device: torch.device) -> RegionMaps:
        """The regions at a layer's (h, w), made once."""
        key = (size, self._latent, device)
        if key not in self._maps:
            self._maps[key] = region_maps(
                [item for item in self.regions for _ in range(self.repeats)],
                size,
                self._latent,
                overlap=self.config.overlap,
                mask_resize=self.config.mask_resize,
                outside_score=self.config.outside_score,
                device=device,
            )
        return self._maps[key]

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        cross: bool,
        size: tuple[int, int] | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attention of a whole batch, its conditional part modulated.

        Args:
            query: (batch, heads, N, d); key, value: (batch, heads, K, d).
            cross: whether the keys are text.
            size: (h, w) of the N queries, where known.
            bias: additive attention mask (batch, heads, 1 or N, K).

        Returns:
            (batch, heads, N, d).
        """
        split = query.shape[0] - self.conditional
        maps = self.maps(size or layer_size(query.shape[2], self._latent), query.device)
        if cross and maps.tokens.shape[1] != key.shape[2]:
            raise ModelError(
                f"the regions are made for {maps.tokens.shape[1]} text tokens, but the network attends to "
                f"{key.shape[2]}. Make them for the encoder's padded length."
            )
        cond = None if bias is None else bias[split:]
        out = self._conditional(query[split:], key[split:], value[split:], maps, cross, cond)
        if not split:
            return out
        rest = None if bias is None else bias[:split]
        plain = F.scaled_dot_product_attention(query[:split], key[:split], value[:split], attn_mask=rest)
        return torch.cat([plain, out])

    def _conditional(
        self, query: Tensor, key: Tensor, value: Tensor, maps: RegionMaps, cross: bool, bias: Tensor | None
    ) -> Tensor:
        config, weight = self.config, self.weight(cross)
        if cross and config.mask_padding:
            hide = (maps.padding * PADDING_BIAS).to(query.dtype)[:, None, None]
            bias = hide if bias is None else (bias + hide).clamp_min(PADDING_BIAS)
        keys = maps.tokens if cross else maps.cells
        suppress = cross and config.suppress_unlikely and any(item.suppresses for item in self.regions)
        low_rank = maps.disjoint and config.size_term != "similarity" and not suppress
        if low_rank and config.form != "literal":
            amount = amounts(weight, maps.score, maps.area, config)
            return fast_attention(query, key, value, Members(maps.cells, keys, maps.rows), amount, bias)
        region, score = region_matrix(maps.cells, keys)[:, None], maps.score[:, None, :, None]
        if suppress:  # as if they lay in no common object, and the score were 1
            pairs = region_matrix(maps.cells & maps.suppressed[:, None], keys)[:, None]
            region, score = region & ~pairs, torch.where(pairs, 1.0, score)
        area = maps.area[:, None, :, None]
        modulated = partial(modulated_similarity, region=region, weight=weight, score=score, area=area, config=config)
        return literal_attention(query, key, value, modulated, bias)


class ModulatedAttnProcessor:
    """One attention layer: the original processor wherever nothing changes, modulated attention elsewhere."""

    def __init__(self, state: ModulatedAttention, original: Any) -> None:
        self.state = state
        self.original = original
        # Sliced attention takes no temb.
        self.temb = "temb" in inspect.signature(type(original).__call__).parameters

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the layer: what diffusers' plain processors take and return, in their shapes."""
        cross = encoder_hidden_states is not None
        foreign = self.state.foreign
        self.state.attended |= not foreign
        if foreign or not self.state.changes(cross):
            rest = (temb,) if self.temb else ()
            out: Tensor = self.original(attn, hidden_states, encoder_hidden_states, attention_mask, *rest)
            return out
        residual, shape = hidden_states, hidden_states.shape
        inputs = attention_inputs(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        query, value = inputs.query, attn.to_v(inputs.context).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        states = self.state.attend(query, inputs.key, value, cross=cross, size=inputs.size, bias=inputs.bias)
        out = attn.to_out[1](attn.to_out[0](states.transpose(1, 2).flatten(2).to(query.dtype)))
        if len(shape) == 4:
            out = out.transpose(-1, -2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        out = out / attn.rescale_output_factor
        return out
