"""Where the published weights are looked for, and what is refused in their place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from realignkit.errors import ModelError, OptionError
from realignkit_plugins.metrics import weights
from tests.plugins.metrics import inception as golden


@pytest.mark.parametrize("name", ["pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"])
def test_found_where_the_originals_have_put_it(name: str, tmp_path: Path) -> None:
    assert weights.missing().startswith("the Inception network of FID is not on this machine")
    path = tmp_path / "torch" / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    path.write_text("")
    assert weights.weights_file(None) == path
    assert weights.missing() == ""


def test_found_in_the_folder_of_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALIGNKIT_DATA", str(tmp_path))
    path = tmp_path / weights.PUBLISHED.name
    with pytest.raises(OptionError, match=r"get pt_inception-2015-12-05-6726825d.pth from https://github.com/mseitzer"):
        weights.weights_file(None)
    path.write_text("")
    assert weights.weights_file(None) == path == weights.weights_file(str(tmp_path))
    assert weights.missing() == ""


def test_the_published_name_with_another_content_is_refused(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / weights.PUBLISHED.name
    shutil.copy(recipe, path)
    with pytest.raises(OptionError, match=r"its SHA-256 is [0-9a-f]{12}…, not 6726825d0af5…. Get it again from"):
        weights.load_inception(path, "cpu")


def test_other_weights_of_the_network_are_taken_and_said(recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    network, digest = weights.load_inception(recipe, "cpu")
    assert torch.equal(network.fc.bias, golden.weights()["fc.bias"])
    assert len(digest) == 64
    assert weights.load_inception(recipe, "cpu")[0] is network


def test_what_is_refused(tmp_path: Path) -> None:
    state = golden.weights()
    heads = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000), "AuxLogits.fc.bias": torch.zeros(1000)}
    save_file({**state, **heads}, tmp_path / "torchvision.safetensors")
    with pytest.raises(
        ModelError, match=r"'torchvision.safetensors' is not the Inception network of FID: it is torchv"
    ):
        weights.load_inception(tmp_path / "torchvision.safetensors", "cpu")
    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "inception-2015-12-05.pt"))
    with pytest.raises(ModelError, match="is a TorchScript file, a program that is not run here"):
        weights.load_inception(tmp_path / "inception-2015-12-05.pt", "cpu")
    (tmp_path / "page.pth").write_text("<!doctype html>")
    with pytest.raises(ModelError, match="is a web page, not weights"):
        weights.load_inception(tmp_path / "page.pth", "cpu")
