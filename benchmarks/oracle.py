"""Does the oracle see what a person sees on *generated* pictures? Agreement with labels made by looking.

    python benchmarks/oracle.py draw --out benchmarks/results/oracle      # pictures to label: images.png, prompts.json
    python benchmarks/oracle.py agree --out benchmarks/results/oracle     # the oracle against labels.json

``labels.json``: for each picture how many of the prompt's objects are there, whole and in their colour ("0", "1", "2"),
as a string of digits, row by row. It was made without seeing the oracle's answers.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from realignkit import Realigner
from realignkit.files import atomic_write
from realignkit.images import png
from realignkit_plugins.micro.oracle import Detection, Oracle, expected, fully_right, share_right
from realignkit_plugins.micro.prompts import WorldPrompts

COUNT, COLUMNS, SIZE = 120, 10, 64


def draw(out: Path, count: int = COUNT) -> None:
    """Generate pictures for two-object prompts, one seed each, and put them on one sheet."""
    prompts = list(WorldPrompts(objects=2, size=count, purpose="validation"))
    images = Realigner.from_pretrained("micro", batch_size=24).generate(prompts, [1_900 + i for i in range(count)])
    sheet = Image.new("RGB", (COLUMNS * SIZE, -(-count // COLUMNS) * SIZE))
    for i, image in enumerate(images):
        sheet.paste(image, (i % COLUMNS * SIZE, i // COLUMNS * SIZE))
    atomic_write(out / "images.png", png(sheet))
    atomic_write(out / "prompts.json", json.dumps(prompts, indent=1))


def agree(out: Path) -> str:
    """Compare the oracle with the labels: accuracy, Cohen's kappa, precision and recall of "fully right"."""
    prompts = json.loads((out / "prompts.json").read_text())
    labels = [int(digit) for digit in json.loads((out / "labels.json").read_text())["right"]]
    sheet = Image.open(out / "images.png")
    boxes = [(i % COLUMNS * SIZE, i // COLUMNS * SIZE) for i in range(len(labels))]
    found = Oracle.load().detect([sheet.crop((x, y, x + SIZE, y + SIZE)) for x, y in boxes])
    pairs = list(zip(prompts, found, strict=False))[: len(labels)]
    lines = [
        "| pictures | fully right, person | fully right, oracle | same verdict | kappa | objects, person / oracle |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines.append(_row(pairs, labels))
    atomic_write(out / "summary.md", "\n".join(lines) + "\n")
    return "\n".join(lines)


def _row(pairs: list[tuple[str, tuple[Detection, ...]]], labels: list[int]) -> str:
    oracle = np.array([fully_right(prompt, seen) for prompt, seen in pairs])
    objects = sum(share_right(prompt, seen) * 2 for prompt, seen in pairs)
    person = np.array([label == sum(n for *_, n in expected(p)) for label, (p, _) in zip(labels, pairs, strict=True)])
    same = (oracle == person).mean()
    chance = oracle.mean() * person.mean() + (1 - oracle.mean()) * (1 - person.mean())
    return (
        f"| {len(labels)} | {100 * person.mean():.1f} % | {100 * oracle.mean():.1f} % | {100 * same:.1f} % "
        f"| {(same - chance) / (1 - chance):.2f} | {sum(labels)} / {objects:.0f} |"
    )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["draw", "agree"])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out: Path = arguments.out
    if arguments.command == "draw":
        out.mkdir(parents=True, exist_ok=True)
        draw(out)
        return
    if missing := [name for name in ("images.png", "prompts.json", "labels.json") if not (out / name).is_file()]:
        how = "write it by looking at images.png" if missing == ["labels.json"] else "begin with 'draw'"
        parser.error(f"'{out}' has no {' and no '.join(missing)}: {how}.")
    print(agree(out))


if __name__ == "__main__":
    main()
