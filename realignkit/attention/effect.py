"""What modulation has come to in a picture: notes for what was asked for and could not act."""

from __future__ import annotations

from torch import Tensor

from realignkit.attention.processor import ModulatedAttention
from realignkit.attention.regions import RegionMaps, smaller_wins
from realignkit.pipelines.phrases import Conditioning

NEGLIGIBLE = 0.01
"""Amounts ``a = lambda_t * S * (1 - B)`` below this share of a row's range change next to nothing."""


def effect_notes(state: ModulatedAttention, index: int, conditioning: Conditioning) -> tuple[str, ...]:
    """Why nothing of an image was modulated, or which of its objects were not; empty if all of them were.

    Args:
        state: as the sampling left it.
        index: place of the image in the batch, one image per prompt.
        conditioning: the image's text and segments.
    """
    if why := _why_nothing(state, index):
        return (f"attention was not modulated: {why}",)
    suppress = state.config.suppress_unlikely
    acting = [
        i
        for i, (segment, span) in enumerate(zip(conditioning.segments, conditioning.spans, strict=True))
        if segment.caption.score > 0 or (suppress and span is not None)
    ]
    reasons = {i: _why_lost(state, index, i) for i in acting}
    lost = [
        f"'{conditioning.segments[i].caption.caption}' is not modulated: {why}" for i, why in reasons.items() if why
    ]
    if len(lost) == len(acting):
        lost.append("attention was not modulated in any object: see the notes on each")
    return tuple(lost)


def _why_nothing(state: ModulatedAttention, index: int) -> str | None:
    config, regions = state.config, state.regions[index]
    suppresses = config.suppress_unlikely and regions.suppresses
    if not regions.lifts and not suppresses:
        return "no segment of its layout is certain or possible and named by the text"
    if config.share <= 0:
        return "modulation.share is 0, so no step is; 0.3 is the first 30 % of them"
    if config.cross_weight <= 0 and (config.self_weight <= 0 or not regions.lifts):
        return "modulation.cross_weight and modulation.self_weight are 0; the method's are 1 and 0.3"
    strongest = _strongest(state)
    if strongest < NEGLIGIBLE:
        return (
            f"lambda_t is at most {strongest:.1g} in the steps that are modulated; lower modulation.power, or with "
            "strength set modulation.time_scale=start"
        )
    return None


def _strongest(state: ModulatedAttention) -> float:
    assert state.schedule is not None  # the sampler knows what runs
    calls = zip(state.schedule.timesteps.tolist(), state.schedule.steps, strict=True)
    return max(
        (state.weight_at(t, cross) for t, step in calls if state.modulates(step) for cross in (True, False)),
        default=0.0,
    )


def _why_lost(state: ModulatedAttention, index: int, item: int) -> str | None:
    maps = [layer for layer in state.layers if layer.cells[index, :, item].any()]
    if not maps:
        masks = state.regions[index].masks.bool().cpu()
        if state.config.overlap == "smaller" and not smaller_wins(masks)[item].any():
            return "smaller masks cover all of its own; modulation.overlap=union gives it what they share"
        return "no cell of attention is left of its mask; use modulation.mask_resize=area, or a larger mask"
    if max(_amount(layer, index, item, state) for layer in maps) < NEGLIGIBLE:
        return (
            "its mask covers the image, and modulation.size_term=area pushes the less the larger a mask is; "
            "lower size_weight, use size_term=none, or a smaller mask"
        )
    return None


def _amount(layer: RegionMaps, index: int, item: int, state: ModulatedAttention) -> float:
    score = float(state.regions[index].scores[item]) or 1.0  # what is suppressed has no part of S
    if state.config.size_term != "area":
        return score * _strongest(state)
    inside: Tensor = layer.cells[index, :, item]
    size = 1 - state.config.size_weight * layer.area[index, inside]
    return score * _strongest(state) * float(size.abs().max())
