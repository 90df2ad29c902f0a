"""What counts as one file of weights, by its name or by its content."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from realignkit.errors import ModelError
from realignkit_plugins.weight_files import read_weights
from realignkit_plugins.weight_formats import is_weight_file

WEIGHTS = {"a": torch.ones(3, 4)}


def test_what_counts_as_one_file(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    assert is_weight_file("not/there.CKPT")
    assert is_weight_file("model.safetensors")
    for other in (str(tmp_path / "folder.safetensors"), str(tmp_path), "owner/name", "micro:base", "index.json"):
        assert not is_weight_file(other)


@pytest.mark.parametrize("name", ["model", "x.safetensors (1)", "a.save"])
def test_a_file_under_a_browsers_name_is_told_by_its_content(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(save(WEIGHTS))
    assert is_weight_file(str(tmp_path / name))
    assert read_weights(tmp_path / name).keys() == WEIGHTS.keys()


def test_an_unfinished_download_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors.part").write_bytes(save(WEIGHTS)[:40])
    with pytest.raises(ModelError, match=r"unfinished download\. Finish the download; .*ends in \.safetensors\.$"):
        read_weights(tmp_path / "x.safetensors.part")
