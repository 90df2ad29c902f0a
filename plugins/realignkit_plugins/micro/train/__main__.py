"""``python -m realignkit_plugins.micro.train MODEL``: rebuild one embedded checkpoint from a seed."""

from __future__ import annotations

import importlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from realignkit_plugins.micro.checkpoints import FOLDER


class Model(StrEnum):
    """The recipes, in the order in which they depend on each other."""

    VAE = "vae"
    BASE = "base"
    TAGGER = "tagger"
    SEGMENTER = "segmenter"
    ORACLE = "oracle"
    RAM = "ram"
    TAG2TEXT = "tag2text"
    VQA = "vqa"
    CLIP = "clip"
    BLIP = "blip"
    CAPTION_TEXT_ENCODER = "caption_text_encoder"
    CAPTIONER = "captioner"
    IMAGE_REWARD = "image_reward"


_REWARDS = (Model.CLIP, Model.BLIP, Model.CAPTION_TEXT_ENCODER, Model.CAPTIONER, Model.IMAGE_REWARD)


def main(
    model: Annotated[
        Model, typer.Argument(help="Which checkpoint to rebuild; base needs vae, rewards and vqa use base.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = FOLDER,
    work: Annotated[Path, typer.Option(help="Logs and the state to resume from.")] = Path("runs/micro"),
    seed: Annotated[int, typer.Option(help="Seed of weights, data order and noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Train for fewer (or more) steps than the recipe says.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads for torch.")] = None,
) -> None:
    """Rebuild one checkpoint of the embedded world. Stop with Ctrl-C; the same command resumes."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    module = f"rewards_{model.value}" if model in _REWARDS else model.value
    recipe = importlib.import_module(f"realignkit_plugins.micro.train.{module}")
    recipe.train(out=out, work=work, seed=seed, steps=steps)


if __name__ == "__main__":
    typer.run(main)
