"""Which files of a folder or a repository are an adapter's, and which are refused unread."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from realignkit.errors import ModelError
from realignkit_plugins.generators.lora_files import choose, find

DIFFUSERS, PEFT, CONFIG = "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json"


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([DIFFUSERS], [DIFFUSERS]),
        ([PEFT, CONFIG, "README.md"], [PEFT]),
        (["my-style-v3.safetensors", "x.png"], ["my-style-v3.safetensors"]),
        # What training scripts leave beside it: the same for another program, embeddings, checkpoints, pickles.
        ([DIFFUSERS, "style.safetensors", "emb.safetensors", "optimizer.bin"], [DIFFUSERS]),
        ([DIFFUSERS, f"checkpoint-500/{DIFFUSERS}", f"checkpoint-1000/{DIFFUSERS}"], [DIFFUSERS]),
        ([f"text_encoder/{PEFT}", f"unet/{PEFT}", f"unet/{CONFIG}"], [f"text_encoder/{PEFT}", f"unet/{PEFT}"]),
    ],
)
def test_what_a_folder_means(names: list[str], chosen: list[str]):
    assert choose(names, "folder") == chosen


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a-1.safetensors", "a-2.safetensors"], ["2 files", "a-1.safetensors", "a-2.safetensors", "Give the one"]),
        ([DIFFUSERS, PEFT, CONFIG], ["2 files", DIFFUSERS, PEFT]),
        ([PEFT, f"text_encoder/{PEFT}"], ["2 files", "text_encoder/"]),
        ([f"style/{PEFT}", CONFIG], ["in its folders only", f"style/{PEFT}"]),
        ([f"unet/{PEFT}", f"unet/{DIFFUSERS}"], ["in its folders only"]),
        (["adapter_model.bin", CONFIG], ["adapter_model.bin", "can run code"]),
        (["pytorch_lora_weights.bin"], ["can run code"]),
        (["style.ckpt"], ["style.ckpt", "can run code"]),
        (["unet/diffusion_pytorch_model.safetensors", "model_index.json"], ["holds no adapters"]),
        ([], ["holds no adapters"]),
    ],
)
def test_what_a_folder_does_not_say(names: list[str], words: list[str]):
    with pytest.raises(ModelError) as caught:
        choose(names, "the folder")
    assert all(word in str(caught.value) for word in ("the folder", *words)), caught.value


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.pth", "a.ckpt", "a.CKPT", "adapter_model.bin"])
def test_pickles_are_not_opened(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(b"not even a pickle")
    for given in (tmp_path / name, tmp_path, f"owner/name:{name}"):
        with pytest.raises(ModelError, match="can run code"):
            find(str(given))
    (tmp_path / "style.txt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        find(str(tmp_path / "style.txt"))


def test_settings_belong_to_the_file_beside_them(tmp_path: Path):
    (tmp_path / CONFIG).write_text(json.dumps({"lora_alpha": 8}))
    save_file({"base_model.model.x.lora_A.weight": torch.ones(1)}, tmp_path / PEFT)
    save_file({"lora_unet_x.lora_down.weight": torch.ones(1)}, tmp_path / "kohya.safetensors")
    save_file({"unet.x.lora_A.weight": torch.ones(1)}, tmp_path / DIFFUSERS)
    assert find(str(tmp_path / PEFT))[0].configs == {"": {"lora_alpha": 8}}
    assert find(str(tmp_path / "kohya.safetensors"))[0].configs == {}
    assert find(str(tmp_path / DIFFUSERS))[0].configs == {}


def test_the_folder_names_the_component(tmp_path: Path):
    for name in ("unet", "text_encoder_2"):
        (tmp_path / name).mkdir()
        save_file({f"{name}.lora_A.weight": torch.ones(1)}, tmp_path / name / PEFT)
    assert {file.component: list(file.tensors) for file in find(str(tmp_path))} == {
        "unet": ["unet.lora_A.weight"],
        "text_encoder_2": ["text_encoder_2.lora_A.weight"],
    }
    assert find(str(tmp_path / "unet"))[0].component == "unet"
