"""Rated pictures: several of a prompt, with what a reward or people said of each, compared with one another."""

from __future__ import annotations

import math
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from realignkit.advantages import advantages, alike
from realignkit.errors import DamagedError, OptionError
from realignkit.images import open_image
from realignkit.provenance import digest_of
from realignkit.records import sealed_notes
from realignkit.refl.data import METADATA, TABLES, Pairs
from realignkit.refl.seeds import numpy_rng

if TYPE_CHECKING:
    from realignkit.refl.model import Networks

REWARD, REWARDS, RANK = "reward", "rewards", "rank"
"""Columns of ratings: one number, higher is better; of a sum, its parts by name; or a rank, of which 1 is the best."""
LATENTS = ".safetensors"
"""The file beside a picture of ours, of its name, with the latents that it was decoded from, ends so."""
LARGEST = 1e18
"""Of ratings: float32 holds the squares of such, which their spread is made of."""


class RatedPictures(Pairs):
    """A folder of pictures as :class:`Pairs` reads it, whose table has a ``reward`` or a ``rank`` for each as well.

    Args:
        folder: that holds them.
        networks: that encode them; of what has been drawn here, the latents are there.
        weights: of the parts of a sum of rewards, by name; others count 1.

    Attributes:
        groups: the pictures' numbers by prompt, of prompts with two pictures or more.
        weights: of the rewards, by name; 1 of a single one.
        scores: float (N,): what pictures of a prompt are compared by. One reward as it is; the parts of a sum each
            standardised within its prompt, weighed and summed (:func:`realignkit.advantages.advantages`).

    Raises:
        OptionError: there is no such folder, a picture or caption cannot be used, one has several ratings, or ratings
            are missing or no numbers.
    """

    def __init__(self, folder: Path, networks: Networks, weights: Mapping[str, float] | None = None) -> None:
        if folder.is_dir() and not any((folder / name).is_file() for name in TABLES):
            raise OptionError(
                f"'{folder}' has no table that says how good each picture is. Add {METADATA} with file_name, text and "
                f"'{REWARD}' (higher is better) or '{RANK}' (1 is the best)."
            )
        super().__init__(folder, networks)
        lines = Counter((posixpath.normpath(name), prompt) for name, prompt in self.pairs)
        (name, prompt), times = lines.most_common(1)[0]
        if times > 1:
            raise OptionError(f"'{name}' in {folder} has {times} ratings for '{prompt}'. Keep one line of it.")
        of_prompt: dict[str, list[int]] = {}
        for i, (_, prompt) in enumerate(self.pairs):
            of_prompt.setdefault(prompt, []).append(i)
        self.groups = tuple(tuple(members) for members in of_prompt.values() if len(members) > 1)
        self.rewards = _rewards(folder, [name for name, _ in self.pairs], self.rows)
        if len(self.rewards) == 1:
            ((only, self.scores),) = self.rewards.items()
            self.weights: Mapping[str, float] = {only: 1.0}
        else:
            self.weights = {name: (weights or {}).get(name, 1.0) for name in self.rewards}
            self.scores = advantages(self.rewards, self.weights, [prompt for _, prompt in self.pairs])

    def shuffle(self, seed: int, number: int) -> None:
        """Exchange what was said of the pictures of each prompt among them, by the seed and the number of the round."""
        order = np.arange(len(self))
        for place, group in enumerate(self.groups):
            order[list(group)] = numpy_rng(seed, "shuffled rewards", number, place).permutation(group)
        self.rewards = {name: values[order] for name, values in self.rewards.items()}
        self.scores = self.scores[order]

    @property
    def unequal(self) -> tuple[tuple[int, ...], ...]:
        """The groups of which some pictures are rated better than others, by more than rounding."""
        return tuple(group for group in self.groups if not alike(self.scores[list(group)]))

    @property
    def spread(self) -> float:
        """How far apart the scores of pictures of one prompt are: their standard deviation, over all prompts."""
        variances = [self.scores[list(group)].double().var(correction=1) for group in self.groups]
        return float(torch.stack(variances).mean().sqrt()) if variances else 0.0

    @property
    def advantages(self) -> Tensor:
        """Float (N,): how much better each picture is than its prompt's mean, in standard deviations of all scores.

        Of all, as Flow-GRPO's (2025): where a prompt's pictures hardly differ, chance would be made to look large.
        0 where they are rated alike.
        """
        advantages = torch.zeros_like(self.scores)
        for group in self.unequal:
            members = list(group)
            advantages[members] = self.scores[members] - self.scores[members].mean()
        return advantages / self.scores.std().clamp_min(1e-12)

    def prompt(self, index: int) -> str:
        """What a picture was made for."""
        return self.pairs[index][1]

    def check(self) -> None:
        """Refuse pictures and latents that are damaged, before anything is done with the others.

        Raises:
            OptionError: a picture cannot be read.
            DamagedError: latents are not what was written.
        """
        for index, (name, _) in enumerate(self.pairs):
            open_image(self.folder / name)
            if (latents := self._latents_file(index)).is_file():
                sealed_notes(latents)

    def kept(self, index: int) -> Mapping[str, Tensor]:
        """What was kept of a picture when it was drawn here: ``latents`` (C, h, w) and what else; nothing of others.

        Raises:
            DamagedError: it is not what was written.
        """
        path = self._latents_file(index)
        if not path.is_file():
            return {}
        from safetensors.torch import load_file

        sealed_notes(path)
        return load_file(path)

    def _latents_file(self, index: int) -> Path:
        return (self.folder / self.pairs[index][0]).with_suffix(LATENTS)

    def _clean(self, index: int) -> Tensor:
        latents = self.kept(index).get("latents")
        if latents is None:
            return super()._clean(index)
        if tuple(latents.shape) != self.networks.latent_shape:
            raise OptionError(
                f"the latents of '{self.pairs[index][0]}' in {self.folder} are of another model or size. Remove the "
                f"{LATENTS} files there, so that the pictures are encoded anew."
            )
        return latents.float()

    def identity(self, content: bool = False) -> dict[str, str | int]:
        """As of :class:`Pairs`, with a digest of the ratings.

        Raises:
            OptionError: an image is missing.
        """
        ratings = (f"{name} {values.tolist()}" for name, values in self.rewards.items())
        return {**super().identity(content), "ratings": digest_of(ratings)}


def pictures_identity(folder: Path | None, networks: Networks, content: bool) -> dict[str, Any]:
    """Rated pictures that are given, as a part of a run's identity; nothing of those that the run draws.

    Raises:
        OptionError, DamagedError: as :class:`RatedPictures` and its check.
    """
    if folder is None:
        return {}
    pictures = RatedPictures(folder, networks)
    pictures.check()
    return {"rated_pictures": pictures.identity(content)}


def is_whole(path: Path) -> bool:
    """Whether the latents of a picture of ours are there, as they were written."""
    try:
        sealed_notes(path.with_suffix(LATENTS))
    except DamagedError:
        return False
    return path.is_file()


def _rewards(folder: Path, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    columns = {column for row in rows for column in row}
    if not columns & {REWARD, RANK}:
        raise OptionError(
            f"'{folder}' says of no picture how good it is. Add a column '{REWARD}' (higher is better) or '{RANK}' (1 "
            f"is the best) to its table."
        )
    if columns >= {REWARD, RANK}:
        raise OptionError(
            f"'{folder}' has both '{REWARD}' and '{RANK}', of which one would not count. Keep one of the two."
        )
    parts = [dict(row[REWARDS]) if isinstance(row.get(REWARDS), Mapping) else {} for row in rows]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise OptionError(
            f"not all pictures of '{folder}' have '{REWARDS}' by the same names, so they cannot be compared. Keep "
            f"those that have."
        )
    if parts and parts[0]:
        return {
            part: torch.tensor([_number(folder, name, each[part]) for name, each in zip(names, parts, strict=True)])
            for part in parts[0]
        }
    column, sign = (REWARD, 1.0) if REWARD in columns else (RANK, -1.0)
    rated = zip(names, rows, strict=True)
    return {column: torch.tensor([sign * _number(folder, name, row.get(column)) for name, row in rated])}


def _number(folder: Path, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= LARGEST:
        why = f"more than the {LARGEST:g} that can be compared" if math.isfinite(number) else "no number"
        raise OptionError(f"'{name}' in {folder} is rated {value!r}, which is {why}. Give it one, or remove it.")
    return number
