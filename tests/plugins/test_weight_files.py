"""Files of weights as people have them: formats are told by content, pickles run nothing, and errors say what is so."""

from __future__ import annotations

import argparse
import errno
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from realignkit.errors import ModelError
from realignkit_plugins import weight_files
from realignkit_plugins.generators.lora_files import find
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from realignkit_plugins.micro import checkpoints
from realignkit_plugins.segmenters.clipseg import CLIPSegSegmenter
from realignkit_plugins.weight_files import read_weights

WEIGHTS = {"a": torch.arange(12.0).view(3, 4).half(), "b": torch.ones(2)}


class Trap:
    """What a hostile pickle holds: it makes a folder when it is read without care."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


def same(found, wanted=WEIGHTS):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("name", ["x.pt", "x.ckpt", "x.bin", "misnamed.safetensors"])
@pytest.mark.parametrize(
    "wrap", [lambda w: w, lambda w: {"state_dict": w, "global_step": 3}, lambda w: {"model": {"state_dict": w}}]
)
def test_what_torch_wrote(tmp_path, zipped, name, wrap, recwarn):
    torch.save(wrap(WEIGHTS), tmp_path / name, _use_new_zipfile_serialization=zipped)
    assert same(read_weights(tmp_path / name))
    assert not recwarn.list


@pytest.mark.parametrize("name", ["x.safetensors", "misnamed.ckpt"])
def test_safetensors_by_whatever_name(tmp_path, name):
    save_file(WEIGHTS, tmp_path / name)
    assert same(read_weights(tmp_path / name))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_hostile_pickle_runs_nothing_and_ends_in_one_sentence(tmp_path, zipped):
    content = {"state_dict": WEIGHTS, "callbacks": Trap(tmp_path / "ran")}
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"mkdir.*is refused\)\. Take the model as safetensors\.$") as caught:
        read_weights(tmp_path / "x.ckpt")
    assert "\n" not in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_trainers_objects_are_named(tmp_path):
    torch.save({"args": argparse.Namespace(lr=1), "model": WEIGHTS}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"argparse\.Namespace"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("keep", [0.3, 0.6, 0.97])
def test_half_a_file_is_damaged(tmp_path, kind, keep):
    path = tmp_path / "x.ckpt"
    if kind == "safetensors":
        path.write_bytes(save(WEIGHTS))
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ModelError, match=r"\(it is damaged or only half there.*Copy or download it again\.$"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is an empty file"),
        (b"<!DOCTYPE html><html><body>Log in", "is a web page"),
        (b"\n<HTML>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "git lfs pull"),
        (b"GGUF\3\0\0\0", "is a GGUF file"),
        (b"hello there, this is a text", "begins neither as safetensors do nor"),
        (pickle.dumps({"a": 3}, protocol=2), "a pickle that torch did not write"),
        (pickle.dumps({"a": 3}, protocol=4), "a pickle that torch did not write"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, told):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=told) as caught:
        read_weights(tmp_path / "x.safetensors")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("content", [[WEIGHTS], {"model": {"a": 1}}, WEIGHTS["a"]])
def test_no_weights_in_it(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ModelError, match="holds no weights"):
        read_weights(tmp_path / "x.pt")


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.ckpt", "w") as file:
        file.writestr("photo.txt", "hello")
    with pytest.raises(ModelError, match=r"is a zip archive, not a checkpoint\. Unpack it"):
        read_weights(tmp_path / "x.ckpt")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = tmp_path / "x.ckpt"
    torch.save(WEIGHTS, path)

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(weight_files, "first_bytes", refuse)
    with pytest.raises(ModelError, match="Make the file readable") as caught:
        read_weights(path)
    assert "damaged" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        read_weights(tmp_path / "x.ckpt")


def test_quantised_weights_are_refused_whoever_reads_them(tmp_path: Path) -> None:
    weight, scale = torch.ones(4, 4, dtype=torch.int8), torch.ones(1)
    for content, told in (
        ({"a.weight": weight, "b": torch.ones(2)}, r"quantised to whole numbers \(int8\)"),
        ({"a.weight": weight.to(torch.uint8), "a.weight.absmax": scale}, r"quantised \(it has a\.weight\.absmax\)"),
        (
            {"a.weight": weight.to(torch.float8_e4m3fn), "a.scale_weight": scale},
            r"quantised \(it has a\.scale_weight\)",
        ),
    ):
        save_file(content, tmp_path / "x.safetensors")
        with pytest.raises(ModelError, match=told + r", which is not read\. Give a float file") as caught:
            read_weights(tmp_path / "x.safetensors")
        assert "config" not in str(caught.value)
        with pytest.raises(ModelError, match=told):
            find(str(tmp_path / "x.safetensors"))


def test_whole_numbers_that_are_no_weights_are_kept(tmp_path: Path) -> None:
    """Tables of positions, counts of batches; and eight-bit floats without a scale are numbers like others."""
    content = {"position_ids": torch.arange(4)[None], "n.num_batches_tracked": torch.tensor(3)}
    content["a.weight"] = torch.ones(2, 2).to(torch.float8_e4m3fn)
    save_file(content, tmp_path / "x.safetensors")
    assert read_weights(tmp_path / "x.safetensors").keys() == content.keys()


def test_a_cut_off_checkpoint_says_so_and_no_more(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "x.ckpt")
    whole = (tmp_path / "x.ckpt").read_bytes()
    (tmp_path / "x.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"its end is cut off\)\. Copy or download it again\.$") as caught:
        read_weights(tmp_path / "x.ckpt")
    assert "miniz" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"GGUF\3\0\0\0", "is a GGUF file"),
    ],
)
def test_adapters_and_folders_say_the_same_of_what_is_no_weights(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "page.safetensors").write_bytes(content)
    shutil.copytree(checkpoints.path("base"), tmp_path / "base")
    with pytest.raises(ModelError, match=told):
        find(str(tmp_path / "page.safetensors"))
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (tmp_path / "base" / part).glob("*.safetensors")
        whole = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(ModelError, match=rf"\({part}/\S+ {told}") as caught:
            StableDiffusionGenerator(model=str(tmp_path / "base"), device="cpu").pipeline()
        assert "damaged" not in str(caught.value)
        assert "\n" not in str(caught.value)
        file.write_bytes(whole)


def test_other_networks_of_a_folder_say_it_too(tmp_path: Path) -> None:
    shutil.copytree(checkpoints.path("segmenter"), tmp_path / "clipseg")
    (tmp_path / "clipseg" / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"\(model.safetensors is a Git LFS pointer .*Run 'git lfs pull'"):
        CLIPSegSegmenter(model=str(tmp_path / "clipseg"), device="cpu").loaded  # noqa: B018
