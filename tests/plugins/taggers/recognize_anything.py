"""The originals' numbers (tests/golden/ram, ram_plus and tag2text), and checkpoints made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[2] / "golden"


def meta(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "meta.json").read_text())


def numbers(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / name / "io.safetensors")


def images(name: str) -> list[Image.Image]:
    io = numbers(name)
    return [Image.fromarray(io[f"raw_image_{i}"].numpy()) for i in range(2)]


def weights(name: str) -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / name / "checkpoint.pth", weights_only=True)["model"]


def config(name: str, **changes: Any) -> dict[str, Any]:
    """The original's settings as our config.json has them."""
    about = meta(name)
    settings = about["config"]
    swin, head = settings["swin"], settings["q2l_config"]
    own = about["class_threshold"] if name == "tag2text" else {"default": None, "overrides": {}}
    return {
        "architecture": name,
        "num_tags": settings["num_class"],
        "image_size": settings["image_size"],
        **{key: swin[key] for key in ("embed_dim", "depths", "num_heads", "window_size", "patch_size")},
        **{key: head[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
        "threshold": own["default"],
        "own_thresholds": own["overrides"],
        "deleted_tags": settings["delete_tag_index"],
        **changes,
    }


def write_vocabulary(folder: Path, name: str) -> dict[str, Path]:
    """What a checkpoint needs beside its weights, as options of the tagger."""
    about = meta(name)
    files = {"config": folder / "shape.json", "tag_list": folder / "tags.txt"}
    files["config"].write_text(json.dumps(config(name)))
    files["tag_list"].write_text("\n".join(about["tag_list"]))
    if name != "tag2text":
        files["thresholds"] = folder / "thresholds.txt"
        files["thresholds"].write_text("\n".join(map(str, about["class_threshold"])))
    return files
