"""The originals' numbers (tests/golden/fid_inception and clean_resize), and weights by the first one's recipe."""

from __future__ import annotations

import json
import zlib
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"


def read(pack: str, name: str) -> Any:
    return json.loads((GOLDEN / pack / name).read_text())


@cache
def tensors(pack: str, name: str = "io") -> dict[str, np.ndarray]:
    return load_file(GOLDEN / pack / f"{name}.safetensors")


def pixels(pack: str) -> list[np.ndarray]:
    count = len(read(pack, "meta.json")["images"])
    return [tensors(pack)[f"image_{number}"] for number in range(count)]


def images(pack: str) -> list[Image.Image]:
    return [Image.fromarray(each) for each in pixels(pack)]


@cache
def weights() -> dict[str, torch.Tensor]:
    """As the recipe in ``meta.json`` says; held against its probe."""
    recipe = read("fid_inception", "meta.json")["weights_recipe"]
    made = {}
    for key, (shape, _) in sorted(read("fid_inception", recipe["keys"])["keys"].items()):
        if key.endswith(".num_batches_tracked"):
            made[key] = torch.tensor(0)
            continue
        z = np.random.default_rng([recipe["seed"], zlib.crc32(key.encode())]).standard_normal(shape)
        if key.endswith(".conv.weight"):
            z = z * np.sqrt(2 / np.prod(shape[1:]))
        elif key == "fc.weight":
            z = z * np.sqrt(1 / 2048)
        elif key.endswith(".bn.running_var"):
            z = np.abs(z) + 0.5
        else:
            z = 1 + 0.1 * z if key.endswith(".bn.weight") else 0.1 * z
        made[key] = torch.from_numpy(z.astype(np.float32))
    for key, begin in recipe["probe"].items():
        assert np.array_equal(made[key].flatten()[:3].numpy(), np.float32(begin)), key
    return made
