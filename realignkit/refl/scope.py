"""Whether held-out pictures still look like the model's own: measures that know no prompt, and the range they began in.

They do not say which picture is better. A reward that is exploited moves them, mostly before a judge falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from realignkit.files import atomic_write
from realignkit.images import to_tensor
from realignkit.refl import losses, seeds
from realignkit.refl.model import Networks
from realignkit.types import Validation

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Array = npt.NDArray[Any]

EDGE = 0.1
"""How much brightness changes from a pixel to the next, of 1 at most, where there is an edge."""
LEVELS = 8
"""Of each channel, in the histogram whose entropy is taken."""
THUMBNAIL = (16, 16)
"""The size at which two pictures of a prompt are compared: what is where, and no texture."""
FEWEST = 4
"""Pictures from which the range of a measure is known."""
DIVERSITY, CHANGE = "diversity", "prediction_change"
PROBED = 4
"""Prompts at whose pictures predictions are compared."""
NOISED = (0.25, 0.5, 0.75)
"""The timesteps at which they are, as shares of all."""
FILE = "scope.safetensors"


# --- pictures -------------------------------------------------------------------------------------------------------


def edge_density(picture: Image) -> float:
    """The share of a picture's pixels that are on an edge, in [0, 1]: 0 of a blank one."""
    rows, columns = np.gradient(_brightness(picture))
    return float((np.hypot(rows, columns) > EDGE).mean())


def colour_entropy(picture: Image) -> float:
    """The entropy of a picture's colours in bits, in [0, 9]: 0 of a single colour."""
    levels = np.asarray(picture.convert("RGB"), np.int64) * LEVELS // 256
    counts = np.bincount((levels @ (LEVELS**2, LEVELS, 1)).ravel())
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def brightness(picture: Image) -> float:
    """A picture's mean brightness (Rec. 601), in [0, 1]."""
    return float(_brightness(picture).mean())


MEASURES: Mapping[str, Callable[[Image], float]] = {
    "edge_density": edge_density,
    "colour_entropy": colour_entropy,
    "brightness": brightness,
}
"""What is measured of every held-out picture, by name."""


def difference(one: Image, other: Image) -> float:
    """How much two pictures differ, in [0, 1]: root mean square over the pixels of small copies of them."""
    small = [np.asarray(each.convert("RGB").resize(THUMBNAIL), np.float64) / 255 for each in (one, other)]
    return float(np.sqrt(np.square(small[0] - small[1]).mean()))


def _brightness(picture: Image) -> Array:
    return np.asarray(picture.convert("L"), np.float64) / 255


# --- predictions ----------------------------------------------------------------------------------------------------


class Probe:
    """How far the model's predictions have moved from those of the model as it came, at noised pictures of that model.

    What is compared with is kept in :data:`FILE`.

    Args:
        networks: whose predictions, with whatever weights are in them.
        folder: of the run.
        seed: of the noise.
    """

    def __init__(self, networks: Networks, folder: Path, seed: int) -> None:
        self.networks, self.path, self.seed = networks, folder / FILE, seed

    @torch.no_grad()
    def begin(self, pictures: Sequence[Image], prompts: Sequence[str]) -> None:
        """Keep what the model predicts as it came.

        Raises:
            OutputError: the file cannot be written.
        """
        from safetensors.torch import save

        latents = torch.cat([self.networks.encode(to_tensor([picture])) for picture in pictures])
        prompted, empty = self._predict(latents, prompts), self._predict(latents, [""] * len(prompts))
        kept = {"latents": latents, "predictions": prompted, "unit": _norms(prompted - empty)}
        atomic_write(self.path, save({name: tensor.cpu().contiguous() for name, tensor in kept.items()}))

    @torch.no_grad()
    def change(self, prompts: Sequence[str]) -> tuple[float, ...]:
        """For each prompt, ``||eps - eps_base|| / ||eps_base(prompt) - eps_base("")||``.

        So 1 is as much as the prompt itself moves predictions. Nothing where those of the first model are not known.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            kept = load(self.path.read_bytes())
            latents, before, unit = (kept[name] for name in ("latents", "predictions", "unit"))
        except (OSError, KeyError, SafetensorError):
            return ()
        moved = _norms(self._predict(latents, prompts[: len(latents)]).cpu() - before)
        return tuple((moved / unit).tolist()) if bool((unit > 0).all()) else ()

    def _predict(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        """Predictions (levels, B, C, h, w) for clean latents (B, C, h, w), noised."""
        networks = self.networks
        clean, text = latents.to(networks.device), networks.text(prompts)
        noise = seeds.normal(clean.shape[1:], self.seed, "scope", range(len(clean))).to(networks.device)
        predictions = []
        for share in NOISED:
            timesteps = torch.full((len(clean),), int(share * networks.noise.timesteps), device=networks.device)
            noisy = losses.add_noise(clean, noise, networks.noise.level(timesteps))
            predictions += [networks.predict(noisy, timesteps, text)]
        return torch.stack(predictions)


def _norms(predictions: Tensor) -> Tensor:
    """Of each sample over all levels, (B,)."""
    norms: Tensor = torch.linalg.vector_norm(predictions.float().transpose(0, 1).flatten(1), dim=1)
    return norms


# --- over time ------------------------------------------------------------------------------------------------------


def range_at_first(first: Validation, name: str) -> tuple[float, float] | None:
    """Between which values a measure's mean counts as the model's own; None where too little is known.

    A standard deviation of the model's own pictures to either side of their mean; of predictions, which have not
    changed at first, as far as the prompt moves them.
    """
    values = first.scope.get(name, ())
    if name == CHANGE:
        return (0.0, 1.0) if values else None
    if first.iteration > 0 or len(values) < FEWEST:
        return None
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean - spread, mean + spread


def outside(history: Sequence[Validation]) -> dict[str, tuple[float, tuple[float, float]]]:
    """The measures that have left the range in which they began: name -> (mean of the latest validation, range)."""
    now, left = history[-1], {}
    for name, values in now.scope.items():
        bounds = range_at_first(history[0], name)
        mean = math.fsum(values) / len(values)
        if bounds is not None and not bounds[0] <= mean <= bounds[1]:
            left[name] = (mean, bounds)
    return left


def left_range(history: Sequence[Validation], grid: Path | None) -> str | None:
    """A warning when a measure has left its range for the first time; None otherwise.

    ``grid``: the file with the latest validation's pictures.
    """
    known = {name for n in range(1, len(history)) for name in outside(history[:n])}
    left = {name: found for name, found in outside(history).items() if name not in known}
    if not left:
        return None
    each = (f"{name} is {mean:.3g} ({low:.3g} to {high:.3g})" for name, (mean, (low, high)) in left.items())
    look = "" if grid is None else f" Look at {grid} before believing the reward."
    return (
        f"iteration {history[-1].iteration}: the held-out pictures have left the range of the model as it came: "
        f"{', '.join(each)}.{look}"
    )
