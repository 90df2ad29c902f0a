"""What the fine stage has changed in a picture, in one sentence."""

from __future__ import annotations

import numpy as np
from PIL import Image

from realignkit.realignment import Realignment
from realignkit.types import Likelihood

SEEN = 26
"""The least difference of a channel, of 255, that counts: a tenth."""


def changed_share(before: Image.Image, after: Image.Image) -> float:
    """The share of pixels, in [0, 1], that differ to be seen: by a tenth of a channel's range."""
    pair = [np.asarray(image.convert("RGB"), dtype=np.int16) for image in (before, after)]
    return float((np.abs(pair[0] - pair[1]).max(axis=-1) >= SEEN).mean())


def what_changed(realignment: Realignment) -> str:
    """The sentence: what was drawn to its place, and how much of the picture differs."""
    acting = [
        f"“{segment.caption.caption}”"
        for segment in realignment.layout
        if segment.caption.likelihood is not Likelihood.UNLIKELY
    ]
    share = changed_share(realignment.coarse, realignment.refined)
    if not acting:
        return "Nothing was changed: no object of the picture belongs to the prompt."
    named = acting[0] if len(acting) == 1 else f"{', '.join(acting[:-1])} and {acting[-1]}"
    if not realignment.accepted:
        return f"Drawn again with {named} in place, but not accepted: an object was lost, so the first picture stands."
    amount = f"{share:.0%} of the picture" if share >= 0.005 else "next to nothing"
    return f"Drawn again from the same noise with {named} in place: {amount} looks different."
