"""What Table I on the embedded model needs beside its rows: prompts that the world knows, and pictures to compare with.

    python benchmarks/systems.py cc500 --every 3 --out systems
    realignkit ablate methods --prompts systems/prompts.txt --set metric.fid.reference=systems/reference …

writes ``prompts.txt``, a prompt a line, and ``reference/``, which ``fid`` compares with: what the world itself draws
for all prompts in its vocabulary, as many pictures for each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from realignkit.calls import texts_of
from realignkit.files import atomic_write
from realignkit.images import png
from realignkit.prompts import prompt_set
from realignkit.registry import default_registry

PICTURES = 5
"""Of each prompt, in the reference."""


def main() -> None:
    """Parse and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", help="a file or a prompt set")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth of them")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    registry = default_registry()
    oracle = registry.create("metric", "micro_oracle")
    prompts = [text for text in texts_of(prompt_set(registry, arguments.prompts)) if oracle.can_judge(text)]
    chosen = prompts[:: arguments.every]
    atomic_write(arguments.out / "prompts.txt", "".join(f"{prompt}\n" for prompt in chosen))
    for number, image in enumerate(oracle.reference(prompts, PICTURES * len(prompts))):
        atomic_write(arguments.out / "reference" / f"{number:05}.png", png(image))
    print(f"{len(chosen)} of {len(prompts)} prompts, {PICTURES * len(prompts)} pictures: {arguments.out}")


if __name__ == "__main__":
    main()
