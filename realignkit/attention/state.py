"""What the attention processors of a network share while it is modulated: regions, and where in the sampling it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from realignkit.attention.config import ModulationConfig
from realignkit.attention.fast import Members, fast_attention
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

PADDING_BIAS = -1e4
"""What hides a padding token; finite in half precision, and exp of it is 0."""


@dataclass(eq=False)
class ModulatedAttention:
    """What the processors of one network share: the regions, and where in the sampling it is.

    Attributes:
        schedule: the calls that run (their timesteps will do to make one), or what tells them once the first has come;
            None counts them instead.
        steps: how many sampling steps they make.
        timestep_at: place of the timestep among the network's positional arguments.
        step: index of the current sampling step; -1 before the first call.
        timestep: the current timestep.
        attended: whether the current call has come by the processors.
        foreign_calls: how often other threads have called the network, which changes nothing for them.
    """

    regions: tuple[Regions, ...]
    config: ModulationConfig
    schedule: Schedule | Callable[[], Schedule] | None
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
    _layouts: dict[tuple[RegionMaps, bool], Members] = field(default_factory=dict)
    _amounts: dict[tuple[RegionMaps, bool], Tensor] = field(default_factory=dict)

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
        self._latent = (int(sample.shape[-2]), int(sample.shape[-1]))
        self.begin(float(torch.as_tensor(timestep).flatten()[0]), sample.shape[0])

    def begin(self, timestep: float, samples: int, *, doubled: bool = True) -> None:
        """A call of the network with a number of samples, which guidance may double, has begun.

        Raises:
            ModelError: there are regions for another number of samples.
        """
        self.timestep, self.attended, self._amounts = timestep, False, {}
        if callable(self.schedule):
            self.schedule = self.schedule()
            self.steps = self.schedule.count
        if self.schedule is None:
            self.step += 1
        else:
            self._call = self.schedule.locate(self.timestep, self._call)
            self.step = self.schedule.steps[self._call]
        if samples not in (self.conditional, (1 + doubled) * self.conditional):
            raise ModelError(
                f"the network is called with {samples} samples, but there are regions for {len(self.regions)} "
                f"prompts x {self.repeats} images{' (twice that with guidance)' if doubled else ''}. Pass one Regions "
                "per prompt, and num_images_per_prompt."
            )

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
        """How many samples of a batch are conditional: the last, unless the family says otherwise."""
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

    @property
    def weights(self) -> tuple[float, ...]:
        """``w`` of each kind of attention, first of that to text."""
        return self.config.cross_weight, self.config.self_weight

    def weight(self, cross: bool) -> float:
        """``lambda_t`` of this call for cross- or self-attention; 0 past the cut-off."""
        return self.weight_at(self.timestep, cross) if self.active else 0.0

    def weight_at(self, timestep: float, cross: bool) -> float:
        """``lambda_t`` of a timestep for cross- or self-attention, be its step modulated or not."""
        return self.faded(timestep, self.config.cross_weight if cross else self.config.self_weight)

    def faded(self, timestep: float, weight: float) -> float:
        """``lambda_t`` of a timestep, from ``w``."""
        if isinstance(self.schedule, Schedule):
            return time_weight(self.schedule.level(timestep), weight, self.config.power, 1)
        return time_weight(timestep, weight, self.config.power, self.train_timesteps)

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
        maps = self.maps(size or layer_size(query.shape[2], self._latent), query.device)
        if cross:
            self.check_tokens(maps, key.shape[2])
        attend = partial(self._conditional, maps=maps, cross=cross)
        return self.among(query, key, value, bias, attend)

    def check_tokens(self, maps: RegionMaps, count: int) -> None:
        """Refuse regions for another text than the network attends to."""
        if maps.tokens.shape[1] != count:
            raise ModelError(
                f"the regions are made for {maps.tokens.shape[1]} text tokens, but the network attends to "
                f"{count}. Make them for the encoder's padded length."
            )

    def samples(self, batch: int) -> slice:
        """Which samples of a batch are conditional."""
        return slice(batch - self.conditional, batch)

    def among(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, attend: Callable[..., Tensor]
    ) -> Tensor:
        """Attention of a batch: ``attend`` of the conditional samples, plain attention of the others."""
        some = self.samples(query.shape[0])

        def of(each: slice, compute: Callable[..., Tensor]) -> Tensor:
            return compute(query[each], key[each], value[each], None if bias is None else bias[each])

        parts = []
        for each, compute in ((slice(some.start), _plain), (some, attend), (slice(some.stop, None), _plain)):
            if len(query[each]):
                parts.append(of(each, compute))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _conditional(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, maps: RegionMaps, cross: bool
    ) -> Tensor:
        config = self.config
        if cross and config.mask_padding:
            bias = self.without_padding(maps, query, bias)
        if self.is_fast(maps, cross):
            return fast_attention(query, key, value, *self._of_layer(maps, cross), bias)
        return literal_attention(query, key, value, self.equation(maps, cross), bias)

    def _of_layer(self, maps: RegionMaps, cross: bool) -> tuple[Members, Tensor]:
        """Members and amounts of a layer, made once for a layout and for a call: on a GPU each small step is dear."""
        layer = (maps, cross)
        if layer not in self._layouts:
            self._layouts[layer] = Members(maps.cells, maps.tokens if cross else maps.cells, maps.rows)
        if layer not in self._amounts:
            self._amounts[layer] = amounts(self.weight(cross), maps.score, maps.area, self.config)
        return self._layouts[layer], self._amounts[layer]

    def without_padding(self, maps: RegionMaps, query: Tensor, bias: Tensor | None) -> Tensor:
        """An additive attention mask that hides the padding of the text as well, (batch, 1, 1, K)."""
        hide = (maps.padding * PADDING_BIAS).to(query.dtype)[:, None, None]
        return hide if bias is None else (bias + hide).clamp_min(PADDING_BIAS)

    def is_fast(self, maps: RegionMaps, cross: bool) -> bool:
        """Whether the fast form is exact, and not declined."""
        low_rank = maps.disjoint and self.config.size_term != "similarity" and not self._suppresses(cross)
        return low_rank and self.config.form != "literal"

    def _suppresses(self, cross: bool) -> bool:
        return cross and self.config.suppress_unlikely and any(item.suppresses for item in self.regions)

    def equation(self, maps: RegionMaps, cross: bool) -> Callable[..., Tensor]:
        """Eqs. 8 and 10 of cells that attend to text (``cross``) or to cells, of similarities and ``hidden``."""
        keys = maps.tokens if cross else maps.cells
        region, score = region_matrix(maps.cells, keys)[:, None], maps.score[:, None, :, None]
        if self._suppresses(cross):  # as if they lay in no common object, and the score were 1
            pairs = region_matrix(maps.cells & maps.suppressed[:, None], keys)[:, None]
            region, score = region & ~pairs, torch.where(pairs, 1.0, score)
        return partial(
            modulated_similarity,
            region=region,
            weight=self.weight(cross),
            score=score,
            area=maps.area[:, None, :, None],
            config=self.config,
        )


def _plain(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
