"""``python -m realignkit_plugins.micro.train MODEL``: rebuild one embedded checkpoint from a seed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realignkit_plugins.micro.checkpoints import FOLDER

if TYPE_CHECKING:
    from realignkit_plugins.micro.train.recipe import Recipe


RECIPES = {
    "vae": "vae:VAERecipe",
    "base": "base:BaseRecipe",
    "flow": "flow:FlowRecipe",
    "vae_256": "vae_256:VAE256Recipe",
    "tagger": "tagger:TaggerRecipe",
    "segmenter": "segmenter:SegmenterRecipe",
    "oracle": "oracle:OracleRecipe",
    "ram": "recognize_anything:RAMRecipe",
    "tag2text": "recognize_anything:Tag2TextRecipe",
    "vqa": "vqa:VQARecipe",
    "clip": "rewards_clip:CLIPRecipe",
    "blip": "rewards_blip:BLIPRecipe",
    "caption_text_encoder": "rewards_caption_text_encoder:TextEncoderRecipe",
    "captioner": "rewards_captioner:CaptionerRecipe",
    "image_reward": "rewards_image_reward:ImageRewardRecipe",
    "promptist": "promptist:PromptistRecipe",
}
"""Module and class of each checkpoint's recipe, in the order in which they depend on each other."""


def load_recipe(model: str) -> type[Recipe]:
    """The recipe of a checkpoint; importing it imports what it trains with."""
    module, _, name = RECIPES[model].partition(":")
    recipe: type[Recipe] = getattr(importlib.import_module(f"realignkit_plugins.micro.train.{module}"), name)
    return recipe


def main(
    model: Annotated[
        str,
        typer.Argument(
            help=f"Which to rebuild: {', '.join(RECIPES)}. Base needs vae, flow, vae_256, rewards and vqa use base, "
            "promptist base and image_reward."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = FOLDER,
    work: Annotated[Path, typer.Option(help="Logs and the state to resume from.")] = Path("runs/micro"),
    seed: Annotated[int, typer.Option(help="Seed of weights, data order and noise.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Train for fewer (or more) steps than the recipe says.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Train for as long instead of a number of steps; what comes before not counted."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to train; flow and vae_256 can elsewhere than on a CPU, such as on cuda.")
    ] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare data beside the training.")] = 0,
    threads: Annotated[int | None, typer.Option(help="CPU threads for torch.")] = None,
) -> None:
    """Rebuild one checkpoint of the embedded world. Stop with Ctrl-C; the same command resumes."""
    if model not in RECIPES:
        raise typer.BadParameter(f"'{model}' is not one of {', '.join(RECIPES)}.", param_hint="MODEL")
    import torch

    from realignkit_plugins.micro.train.recipe import Machine

    if threads:
        torch.set_num_threads(threads)
    recipe = load_recipe(model)
    if device != "cpu" and not recipe.anywhere:
        raise typer.BadParameter(f"{model} trains on a CPU only.", param_hint="--device")
    recipe.train(out, work, seed, steps, minutes, Machine(device, workers))


if __name__ == "__main__":
    typer.run(main)
