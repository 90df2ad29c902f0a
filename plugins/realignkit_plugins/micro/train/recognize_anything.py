"""RAM and Tag2Text at the size of the embedded world: the classes that run the published checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from realignkit.files import atomic_write
from realignkit_plugins.micro.train.augment import augment
from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, scenes, to_tensor
from realignkit_plugins.micro.train.loop import Schedule
from realignkit_plugins.micro.train.recipe import Recipe
from realignkit_plugins.micro.train.tagger import report_tags, targets
from realignkit_plugins.micro.world import BACKGROUNDS, IMAGE_SIZE, TAGS
from realignkit_plugins.taggers.recognize_anything_config import MEAN, STD, Architecture, NetworkConfig
from realignkit_plugins.taggers.recognize_anything_networks import TaggingNetwork, build_network
from realignkit_plugins.taggers.swin import Block

SCENES = 16_000
GRID = 4
"""Cells per side of the picture: the last stage's tokens."""
RARITY = -2.5
"""The logit of a tag in a fresh network: a scene has about three of the 36."""


def config(architecture: Architecture) -> NetworkConfig:
    """Three stages, 16 x 16 down to 4 x 4 tokens, in windows of 4 x 4."""
    return NetworkConfig(
        architecture=architecture,
        num_tags=len(TAGS),
        image_size=64,
        embed_dim=32,
        depths=(2, 2, 2),
        num_heads=(2, 4, 8),
        window_size=4,
        hidden_size=96,
        intermediate_size=192,
        label_size=64,
        threshold=0.5,
    )


def build(architecture: Architecture) -> TaggingNetwork:
    """A fresh network whose residual branches start at zero."""
    network = build_network(config(architecture))
    for block in network.modules():
        if isinstance(block, Block):
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)
    nn.init.constant_(network.get_parameter("fc.b" if architecture == "tag2text" else "fc.bias"), RARITY)
    return network


def normalise(x: torch.Tensor) -> torch.Tensor:
    """What the taggers do to pixels in [0, 1]."""
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


class Lesson(nn.Module):
    """The network to train, and a throw-away classifier of its image tokens.

    The head alone tells the image encoder little: which tags there are, not where. So each token learns, besides,
    how much of its cell each object's box covers.
    """

    def __init__(self, network: TaggingNetwork) -> None:
        super().__init__()
        self.network = network
        self.place = nn.Linear(network.config.vision_width, len(TAGS))
        nn.init.constant_(self.place.bias, RARITY)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the tags, float (B, tags), and of their places, float (B, cells, tags)."""
        with torch.autocast("cpu", torch.bfloat16):
            tokens = self.network.visual_encoder(pixels)
        tokens = tokens.float()
        return self.network.tag(self.network.project(tokens)), self.place(tokens[:, 1:])


def cells(seed: int, count: int) -> torch.Tensor:
    """Share of each cell that boxes of each object cover: half (count, GRID², tags) in [0, 1], row by row."""
    side = IMAGE_SIZE // GRID
    edges = np.arange(GRID) * side
    shares = np.zeros((count, GRID, GRID, len(TAGS)), np.float16)
    for row, drawn in zip(shares, scenes(seed, count), strict=True):
        for thing in (*drawn.things, *drawn.extras):
            left, top, right, bottom = thing.box
            across = (np.minimum(right, edges + side) - np.maximum(left, edges)).clip(0) / side
            down = (np.minimum(bottom, edges + side) - np.maximum(top, edges)).clip(0) / side
            known = row[..., TAGS.index(thing.noun)]
            np.maximum(known, down[:, None] * across, out=known)
    return torch.from_numpy(shares).flatten(1, 2)


def write(model: TaggingNetwork, folder: Path) -> None:
    """Half-precision weights, the network's shape and the tag list, as the taggers read them."""
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    atomic_write(folder / "model.safetensors", save(weights, {"format": "pt"}))
    atomic_write(folder / "config.json", model.config.model_dump_json(indent=2) + "\n")
    atomic_write(folder / "tag_list.txt", "\n".join(TAGS) + "\n")


class RecognizeAnythingRecipe(Recipe):
    """A picture's tags, and where they are; the child says which network is trained."""

    architecture: ClassVar[Architecture]
    schedule = Schedule(steps=2200, batch_size=48, learning_rate=3e-3, warmup=100, ema=0.995)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.learner = self.lesson = Lesson(build(self.architecture))
        scene_seed = SCENE_SEEDS[self.name]
        self.pixels = images(scene_seed, SCENES, "train", self.work / "cache")
        self.truth, self.places = targets(scene_seed, SCENES), cells(scene_seed, SCENES)
        self.objects = torch.tensor([tag not in BACKGROUNDS for tag in TAGS])

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Binary cross-entropy of the tags, and of their places."""
        pick = torch.randint(SCENES, (self.schedule.batch_size,), generator=generator)
        x = augment(to_tensor(self.pixels[pick.numpy()]), generator)
        tags, where = self.lesson(normalise(x))
        tagging = binary_cross_entropy_with_logits(tags, self.truth[pick])
        truth = self.places[pick][..., self.objects].float()
        placing = binary_cross_entropy_with_logits(where[..., self.objects], truth)
        return (tagging + placing) * 10, {"tagging": tagging, "placing": placing}

    def finish(self, folder: Path) -> None:
        """Say precision and recall on unseen scenes; save."""
        report_tags(lambda x: self.lesson.network(normalise(x)))
        write(self.lesson.network, folder)


class RAMRecipe(RecognizeAnythingRecipe):
    """RAM's own class at small size."""

    name = architecture = "ram"


class Tag2TextRecipe(RecognizeAnythingRecipe):
    """Tag2Text's own class at small size."""

    name = architecture = "tag2text"
