"""What test_rounds.py has killed: ``python -m tests.refl.killed OUT WHERE`` dies in the second round."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from realignkit.refl.algorithms.grpo import GRPO
from realignkit.refl.algorithms.nft import NFT
from tests.refl.conftest import trainer
from tests.refl.rewards import Blind

PICTURES = Path("rounds", "001", "metadata.jsonl")
WHERE = {
    "drawing": ("nft", NFT, "sample", PICTURES, 1),
    "rating": ("dpo", Blind, "__call__", PICTURES, 1),
    "learning": ("grpo", GRPO, "add", Path("log.jsonl"), 3),
}
"""The algorithm, the method in which it dies, and the file that has so many lines by then."""


def made(out: Path, where: str) -> Any:
    """Two rounds of two iterations."""
    algorithm = WHERE[where][0]
    return trainer(
        Blind(), algorithm=algorithm, **{algorithm: {"iterations_per_round": 2, "prompts_per_round": 4}}, out=out,
        iterations=4, checkpoint_every=2, batch_size=1, validation={"every": 0}, names={"reward": "blind"},
    )  # fmt: skip


def main(out: Path, where: str) -> None:
    _, owner, method, file, lines = WHERE[where]
    plain = getattr(owner, method)

    def dies(*arguments: Any, **options: Any) -> Any:
        result = plain(*arguments, **options)
        path = out / file
        if path.is_file() and len(path.read_text().splitlines()) >= lines:
            os.kill(os.getpid(), signal.SIGKILL)  # as losing power would
        return result

    setattr(owner, method, dies)
    made(out, where).train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
