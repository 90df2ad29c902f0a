"""The rewards of all of L_pre's pairs, once, before they are drawn by them: ``pairs.jsonl`` in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from realignkit.files import read_lines, write_lines
from realignkit.provenance import placeless
from realignkit.refl.data import digest
from realignkit.refl.objective import Objective
from realignkit.refl.tracking import Processes

RATINGS = "pairs.jsonl"
BLOCK = 500
"""Pairs that are rated between two writes, or a tenth of all where that is more: each write is of the whole file."""


def draw_by_reward(
    objective: Objective, processes: Processes, folder: Path, stop: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Rate every pair, each in one of the processes, and have the objective draw them by it.

    What an earlier start has rated with the same reward is kept: a line of ``file_name``, ``text``, ``image`` (what
    stands for its content), ``reward`` and ``by`` (a digest of the reward, the size and the seed that it was asked
    with) each.

    Args:
        objective: with pairs.
        processes: that share the work.
        folder: of the run.
        stop: asked between blocks.
        say: is told how far it is, and what came of it.

    Raises:
        OptionError, ModelError, PluginError: as for :meth:`Objective.rate_pair` and :meth:`Objective.draw_pairs_by`.
        OutputError: the folder cannot be written.
        KeyboardInterrupt: ``stop`` said so; what is rated is kept.
    """
    assert objective.pairs is not None
    pairs = objective.pairs.pairs
    # A folder without checkpoints is no run yet, so nothing else notices that the reward is another one now.
    reward = objective.reward
    settings = placeless(reward.settings or {})
    by = digest([reward.name, repr(settings), repr(objective.networks.latent_shape), str(objective.config.seed)])
    stamps = objective.pairs.stamps(objective.config.compare_content) if processes.main else []
    wanted = [
        {"file_name": name, "text": text, "image": stamp, "by": by}
        for (name, text), stamp in zip(pairs, stamps, strict=False)
    ]
    rewards: list[float] = processes.share(_read(folder / RATINGS, wanted, say) if processes.main else None)
    size = max(BLOCK, len(pairs) // 10)
    while len(rewards) < len(pairs):
        if processes.any(stop()):
            raise KeyboardInterrupt
        block = range(len(rewards), min(len(rewards) + size, len(pairs)))
        mine = [(i, objective.rate_pair(i, pairs[i][1])) for i in block[processes.rank :: processes.count]]
        rewards += [reward for _, reward in sorted(processes.gather(mine))]
        if processes.main:
            rated = zip(wanted, rewards, strict=False)
            write_lines(folder / RATINGS, ({**pair, "reward": reward} for pair, reward in rated))
            say(f"{len(rewards)} of {len(pairs)} pairs rated")
    worth = objective.draw_pairs_by(rewards)
    say(f"pairs are drawn by their reward: as many as {worth:.0f} of {len(pairs)} with equal shares")


def _read(path: Path, wanted: Sequence[Mapping[str, str]], say: Callable[[str], None]) -> list[float]:
    """What has been rated of these pairs, from the first on; a damaged line and what follows are rated again."""
    rows, torn = read_lines(path)
    if torn:
        say(f"{path} is damaged; the pairs from the damaged line on are rated again")
    rewards: list[float] = []
    for row, pair in zip(rows, wanted, strict=False):
        reward = row.pop("reward", None)
        if row != pair or not isinstance(reward, int | float) or not math.isfinite(reward):
            break
        rewards.append(float(reward))
    return rewards
