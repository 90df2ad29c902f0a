"""RAM and Tag2Text at the size of the embedded world: the classes that run the published checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from realignkit.storage import atomic_write
from realignkit_plugins.micro.train.augment import augment
from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, to_tensor
from realignkit_plugins.micro.train.loop import Schedule, console, fit
from realignkit_plugins.micro.train.tagger import targets
from realignkit_plugins.micro.world import TAGS
from realignkit_plugins.taggers.recognize_anything_config import MEAN, STD, Architecture, NetworkConfig
from realignkit_plugins.taggers.recognize_anything_networks import TaggingNetwork, build_network
from realignkit_plugins.taggers.swin import Block

SCHEDULE = Schedule(steps=1100, batch_size=48, learning_rate=3e-3, warmup=100, ema=0.995)
SCENES = 16_000
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


def train_as(architecture: Architecture, out: Path, work: Path, seed: int, steps: int | None) -> None:
    """Train, measure precision and recall on unseen scenes, save to ``out/<architecture>``."""
    schedule = SCHEDULE if steps is None else Schedule(**{**vars(SCHEDULE), "steps": steps})
    torch.manual_seed(seed)
    model = build(architecture)
    pixels = images(SCENE_SEEDS[architecture], SCENES, "train", work / "cache")
    truth = targets(SCENE_SEEDS[architecture], SCENES)

    def loss(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        pick = torch.randint(SCENES, (schedule.batch_size,), generator=generator)
        x = augment(to_tensor(pixels[pick.numpy()]), generator)
        return binary_cross_entropy_with_logits(model(normalise(x)), truth[pick]) * 10, {}

    fit(model, loss, schedule, seed, work / architecture)
    precision, recall = precision_and_recall(model)
    console.print(f"unseen scenes: precision {precision:.3f}, recall {recall:.3f}")
    write(model, out / architecture)


@torch.no_grad()
def precision_and_recall(model: TaggingNetwork, count: int = 1000) -> tuple[float, float]:
    """Of tags at a threshold of 0.5, over scenes that no model was trained on."""
    check = normalise(to_tensor(images(SCENE_SEEDS["check"], count)))
    guess = torch.cat([model(part) for part in check.split(100)]) > 0
    wanted = targets(SCENE_SEEDS["check"], count).bool()
    right = float((guess & wanted).sum())
    return right / max(float(guess.sum()), 1.0), right / float(wanted.sum())


def write(model: TaggingNetwork, folder: Path) -> None:
    """Half-precision weights, the network's shape and the tag list, as the taggers read them."""
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    atomic_write(folder / "model.safetensors", save(weights, {"format": "pt"}))
    atomic_write(folder / "config.json", model.config.model_dump_json(indent=2) + "\n")
    atomic_write(folder / "tag_list.txt", "\n".join(TAGS) + "\n")
