"""The training algorithms by name.

A new one is a file beside these, a line in :data:`ALGORITHMS`, and its group of options in ``ReFLConfig``.
"""

from __future__ import annotations

from collections.abc import Mapping

from realignkit.refl.algorithms.base import Algorithm, Gradients, MicroBatch, RolloutOptions
from realignkit.refl.algorithms.raft import RAFT, RAFTOptions
from realignkit.refl.algorithms.refl import ReFL, ReFLOptions
from realignkit.refl.algorithms.reward_weighted import RewardWeighted, RewardWeightedOptions

ALGORITHMS: Mapping[str, type[Algorithm]] = {"refl": ReFL, "raft": RAFT, "reward_weighted": RewardWeighted}

__all__ = [
    "ALGORITHMS",
    "RAFT",
    "Algorithm",
    "Gradients",
    "MicroBatch",
    "RAFTOptions",
    "ReFL",
    "ReFLOptions",
    "RewardWeighted",
    "RewardWeightedOptions",
    "RolloutOptions",
]
