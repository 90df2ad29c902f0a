"""``python -m realignkit_plugins.micro.world OUT``: pictures of the embedded world with captions, to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from rich.progress import track

from realignkit.files import atomic_write, make_folder, write_lines
from realignkit.images import png
from realignkit_plugins.micro.world.captions import CAREFUL, CARELESS, caption
from realignkit_plugins.micro.world.scenes import render, sample_scene


def main(
    out: Annotated[Path, typer.Argument(help="Folder to fill: numbered PNG files and metadata.jsonl.")],
    count: Annotated[int, typer.Option(min=1, help="Pictures.")] = 1024,
    objects: Annotated[int | None, typer.Option(min=1, max=3, help="In each picture; none: one to three.")] = None,
    careless: Annotated[
        bool, typer.Option(help="Captions as careless as those that the embedded model learnt from, not true ones.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Decides all of them.")] = 9100,
) -> None:
    """Draw pictures of the embedded world, each with a caption: pairs for L_pre of 'realignkit train'.

    Held-out pairs of colour and noun are not among them.

    python -m realignkit_plugins.micro.world runs/pairs --count 1024

    realignkit train --reward caption --set pairs=runs/pairs
    """
    make_folder(out)
    rows = []
    for number in track(range(count), description="drawing"):
        rng = np.random.default_rng([seed, number])
        scene = sample_scene(rng, "train", objects)
        name = f"{number:05}.png"
        atomic_write(out / name, png(Image.fromarray(render(scene).image)))
        rows.append({"file_name": name, "text": caption(scene, rng, CARELESS if careless else CAREFUL)})
    # Last, so that a folder with it is whole.
    write_lines(out / "metadata.jsonl", rows)


if __name__ == "__main__":
    typer.run(main)
