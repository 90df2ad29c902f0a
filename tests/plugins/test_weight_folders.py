"""Folders with pickles only, or a variant only: the true reason, and the option."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from realignkit.errors import ModelError
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from realignkit_plugins.micro import checkpoints
from realignkit_plugins.rewards.clip import CLIPReward
from realignkit_plugins.segmenters.clipseg import CLIPSegSegmenter
from realignkit_plugins.weight_folders import reason
from tests.tiny import build_pipeline


def load(folder, **options):
    return StableDiffusionGenerator(model=str(folder), device="cpu", **options).pipeline()


def refused(call):
    with pytest.raises(ModelError) as caught:
        call()
    told = str(caught.value)
    assert "\n" not in told
    assert "damaged" not in told
    return told


def test_a_pipeline_of_variants_only(tmp_path, capfd):
    build_pipeline().save_pretrained(tmp_path, variant="fp16")
    capfd.readouterr()
    told = refused(lambda: load(tmp_path))
    assert "its weights are there as the variant fp16 only" in told
    assert "--set generator.variant=fp16" in told
    assert capfd.readouterr() == ("", ""), "no lines of the libraries before it"
    load(tmp_path, variant="fp16")


def test_a_variant_that_is_not_there(tmp_path):
    build_pipeline().save_pretrained(tmp_path)
    assert "no weights of the variant fp16). Leave the option variant out" in refused(
        lambda: load(tmp_path, variant="fp16")
    )


@pytest.mark.parametrize("part", ["unet", "text_encoder", "all"])
def test_a_pipeline_of_pickles(tmp_path, capfd, part):
    build_pipeline().save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        if part in ("all", file.parent.name):
            torch.save({}, file.with_name(f"{'pytorch_' * (file.stem == 'model')}{file.stem}.bin"))
            file.unlink()
    capfd.readouterr()
    told = refused(lambda: load(tmp_path))
    assert "its weights are pickles, which can run code and are not read" in told
    assert ("unet/" if part == "all" else part) in told
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("variant", [True, False], ids=["variant", "pickle"])
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("clip", lambda folder: CLIPReward(model=folder)(torch.zeros(1, 3, 32, 32), ["a"])),
        ("segmenter", lambda folder: CLIPSegSegmenter(model=folder)(Image.new("RGB", (32, 32)), ["a"])),
    ],
)
def test_other_models(tmp_path, name, use, variant):
    folder = tmp_path / "model"
    shutil.copytree(checkpoints.path(name), folder)
    weights = folder / "model.safetensors"
    weights.rename(folder / ("model.fp16.safetensors" if variant else "pytorch_model.bin"))
    told = refused(lambda: use(str(folder)))
    assert ("the variant fp16 only" if variant else "are pickles") in told


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin"], None),
        (["unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors"], "the variant fp16 only"),
        (["unet/diffusion_pytorch_model-00001-of-00002.safetensors"], None),
        (
            ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"],
            "the variant fp16 only",
        ),
        (["pytorch_model-00001-of-00002.bin", "config.json"], "are pickles"),
        (["sd_xl_base_1.0.safetensors", "training_args.bin", "config.json"], None),
        (["optimizer.bin", "scheduler.bin"], None),
        ([], None),
    ],
)
def test_by_the_names_of_the_files(names, found):
    told = reason(names)
    assert told is None if found is None else found in told


@pytest.mark.parametrize("asked", ["FP16", "bf16"])
def test_another_variant_names_those_that_are_there(tmp_path: Path, asked: str) -> None:
    build_pipeline().save_pretrained(tmp_path, variant="fp16")
    told = refused(lambda: load(tmp_path, variant=asked))
    assert f"no weights of the variant {asked}; there is fp16). Set variant=fp16." in told


def test_weights_that_are_whole_numbers_are_refused_before_drawing(tmp_path: Path) -> None:
    build_pipeline().save_pretrained(tmp_path)
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    save_file({name: weight.to(torch.int8) for name, weight in load_file(file).items()}, file)
    assert f"unet/{file.name} are quantised to whole numbers (I8), which is not read. Give a float" in refused(
        lambda: load(tmp_path)
    )


def quantise(file: Path, dtype: torch.dtype = torch.int8) -> None:
    save_file({name: weight.to(dtype) for name, weight in load_file(file).items()}, file)


def test_weights_that_are_not_read_may_be_whole_numbers(tmp_path: Path) -> None:
    build_pipeline().save_pretrained(tmp_path)
    build_pipeline().save_pretrained(tmp_path, variant="int8")
    quantise(tmp_path / "unet" / "diffusion_pytorch_model.int8.safetensors")
    shutil.copytree(tmp_path / "unet", tmp_path / "unet_int8")
    quantise(tmp_path / "unet_int8" / "diffusion_pytorch_model.safetensors")
    load(tmp_path)
    assert "diffusion_pytorch_model.int8.safetensors are quantised" in refused(lambda: load(tmp_path, variant="int8"))
    (tmp_path / "unet" / "diffusion_pytorch_model.int8.safetensors").unlink()
    load(tmp_path, variant="int8")


def test_weights_with_scales_beside_them(tmp_path: Path) -> None:
    build_pipeline().save_pretrained(tmp_path)
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"encoder.conv_in.scale_weight": torch.ones(1)}, file)
    assert f"vae/{file.name} are quantised (it has encoder.conv_in.scale_weight)" in refused(lambda: load(tmp_path))


def test_a_folder_of_several_models_lists_them(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save_file({"a": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    assert refused(lambda: load(tmp_path)).endswith("Give one of its files: a.safetensors, b.safetensors")


def test_a_folder_of_one_file_names_it(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert refused(lambda: load(tmp_path)).endswith(
        f"has no model_index.json. Give the file: {tmp_path / 'model.safetensors'}"
    )
    (tmp_path / "config.json").write_text("{}")  # one network of a larger folder, whose file is no model either
    assert "Give the file" not in refused(lambda: load(tmp_path))
