"""The 4,000 training prompts of ``cc500-feedback-fresh``: of two objects and of three.

    python benchmarks/feedback_prompts.py prompts.txt
    realignkit train --preset feedback --prompts prompts.txt …

2,700 of ``micro:train`` and 1,300 of ``micro:train,objects=3``, shuffled once.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from realignkit.files import atomic_write
from realignkit_plugins.micro.prompts import WorldPrompts

SIZES = {2: 2_700, 3: 1_300}
"""How many prompts, by how many objects they name."""


def prompts() -> list[str]:
    """All of them, always in the same order."""
    texts = [
        text for objects, size in SIZES.items() for text in WorldPrompts(objects=objects, size=size, purpose="train")
    ]
    random.Random(0).shuffle(texts)
    return texts


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write, a prompt a line")
    arguments = parser.parse_args()
    atomic_write(arguments.out, "".join(f"{text}\n" for text in prompts()))


if __name__ == "__main__":
    main()
