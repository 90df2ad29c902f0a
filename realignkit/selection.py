"""Candidate selection: draw several coarse images per prompt, keep the one that a reward likes best."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realignkit.calls import rank
from realignkit.named import Named

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Choice:
    """The candidate that was kept for one prompt.

    Attributes:
        image: RGB.
        seed: the one that it was drawn from.
        rewards: of all candidates, in the order of their seeds.
        index: which of them was kept.
    """

    image: Image
    seed: int
    rewards: tuple[float, ...]
    index: int

    def note(self, name: str) -> str:
        """The choice in words."""
        others = ", ".join(f"{value:.3g}" for i, value in enumerate(self.rewards) if i != self.index)
        return (
            f"candidate {self.index + 1} of {len(self.rewards)} was kept (seed {self.seed}): {name} gave it "
            f"{self.rewards[self.index]:.3g}, the others {others}"
        )


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seeds of ``count`` candidates, in [0, 2**63); the first is ``seed`` itself: one candidate changes nothing.

    The others are far from any seed that a user would count up to, so that neighbours share no candidates.
    """
    derived = [hashlib.blake2b(f"candidate:{seed}:{i}".encode(), digest_size=8).digest() for i in range(1, count)]
    return [seed, *(int.from_bytes(found, "big") >> 1 for found in derived)]


def choose(
    images: Sequence[Image], prompts: Sequence[str], seeds: Sequence[int], reward: Named, batch_size: int
) -> list[Choice]:
    """For each prompt the best of its candidates; of equals the first.

    Args:
        images: the candidates, all of the first prompt's, then the next one's.
        prompts: one per group of candidates.
        seeds: one per candidate.
        reward: who chooses.
        batch_size: images per call; a reward that says ``compares`` gets all candidates of one prompt instead.

    Raises:
        PluginError: the reward failed or broke its contract.
        ModelError: a reward is NaN or infinite.
    """
    count = len(images) // len(prompts)
    texts = [prompt for prompt in prompts for _ in range(count)]
    rewards: list[float] = []
    # A reward whose numbers depend on what else is there sees one prompt's candidates, all of them, at a time.
    at_once = count if getattr(reward.plugin, "compares", False) else batch_size
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        rewards += rank(reward, images[part], texts[part])
    chosen = []
    for start in range(0, len(images), count):
        values = tuple(rewards[start : start + count])
        index = values.index(max(values))
        chosen.append(Choice(images[start + index], seeds[start + index], values, index))
    return chosen
