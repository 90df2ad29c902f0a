"""The rewards of all of L_pre's pairs, once, before they are drawn by them: ``pairs.jsonl`` in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from realignkit.errors import OutputError
from realignkit.refl.data import digest
from realignkit.refl.objective import Objective
from realignkit.refl.tracking import Processes
from realignkit.rewarding import settings_of
from realignkit.storage import atomic_write

RATINGS = "pairs.jsonl"
BLOCK = 500
"""Pairs that are rated between two writes, or a tenth of all where that is more: each write is of the whole file."""


def draw_by_reward(
    objective: Objective, processes: Processes, folder: Path, stop: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Rate every pair, each in one of the processes, and have the objective draw them by it.

    What an earlier start has rated with the same reward is kept: a line of ``file_name``, ``text``, ``reward`` and
    ``by`` (a digest of the reward's name and options) each.

    Args:
        objective: with pairs.
        processes: that share the work.
        folder: of the run.
        stop: asked between blocks.
        say: is told how far it is, and what came of it.

    Raises:
        OptionError, ModelError, PluginError: as for :meth:`Objective.rate_pair` and :meth:`Objective.draw_pairs_by`.
        OutputError: the folder cannot be written, or the file is damaged.
        KeyboardInterrupt: ``stop`` said so; what is rated is kept.
    """
    assert objective.pairs is not None
    pairs = objective.pairs.pairs
    # A folder without checkpoints is no run yet, so nothing else notices that the reward is another one now.
    by = digest([objective.name, repr(settings_of(objective.reward))])
    rewards: list[float] = processes.share(_read(folder / RATINGS, pairs, by) if processes.main else None)
    size = max(BLOCK, len(pairs) // 10)
    while len(rewards) < len(pairs):
        if processes.any(stop()):
            raise KeyboardInterrupt
        block = range(len(rewards), min(len(rewards) + size, len(pairs)))
        mine = [(i, objective.rate_pair(i, pairs[i][1])) for i in block[processes.rank :: processes.count]]
        rewards += [reward for _, reward in sorted(processes.gather(mine))]
        if processes.main:
            lines = [
                json.dumps({"file_name": name, "text": text, "reward": reward, "by": by}) + "\n"
                for (name, text), reward in zip(pairs, rewards, strict=False)
            ]
            atomic_write(folder / RATINGS, "".join(lines))
            say(f"{len(rewards)} of {len(pairs)} pairs rated")
    worth = objective.draw_pairs_by(rewards)
    say(f"pairs are drawn by their reward: as many as {worth:.0f} of {len(pairs)} with equal shares")


def _read(path: Path, pairs: tuple[tuple[str, str], ...], by: str) -> list[float]:
    """What a reward has rated of these pairs, from the first on."""
    if not path.is_file():
        return []
    rewards: list[float] = []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row, pair in zip(lines, pairs, strict=False):
            if (row["file_name"], row["text"], row.get("by")) != (*pair, by):
                break
            rewards.append(float(row["reward"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path} cannot be read ({error}). Delete it, to rate the pairs again.") from error
    return rewards
