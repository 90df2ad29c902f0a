"""Where RAM's files are looked for, and what is said when one is missing, damaged or of another model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from realignkit.errors import ModelError
from realignkit_plugins.taggers.recognize_anything import RecognizeAnythingTagger
from realignkit_plugins.taggers.recognize_anything_config import VOCABULARY_REVISION
from realignkit_plugins.weight_files import read_weights
from tests.plugins.taggers import recognize_anything as golden

CHECKPOINT = golden.GOLDEN / "ram" / "checkpoint.pth"


def make_folder(folder: Path, weights: str = "model.safetensors") -> Path:
    """A checkpoint folder as the recipes of the embedded world write it, thresholds in a file."""
    folder.mkdir()
    if weights == "model.safetensors":
        save_file({key: value.half() for key, value in golden.weights("ram").items()}, folder / weights)
    else:
        shutil.copy(CHECKPOINT, folder / weights)
    (folder / "config.json").write_text(json.dumps(golden.config("ram")))
    about = golden.meta("ram")
    (folder / "tag_list.txt").write_text("\n".join(about["tag_list"]) + "\n")
    (folder / "tag_list_threshold.txt").write_text("\n".join(map(str, about["class_threshold"])) + "\n")
    return folder


def names(tagger: RecognizeAnythingTagger) -> list[set[str]]:
    return [{tag.name for tag in tags} for tags in tagger(golden.images("ram"))]


def expected() -> list[set[str]]:
    return [set(tags.split(" | ")) for tags in golden.meta("ram")["expected"]["tags"]]


@pytest.mark.parametrize("weights", ["model.safetensors", "ram_swin_large_14m.pth"])
def test_a_folder_has_everything(weights: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine", weights)
    tagger = RecognizeAnythingTagger(model=str(folder), file="ram_swin_large_14m.pth", device="cpu")
    assert names(tagger) == expected()
    assert tagger.probabilities(golden.images("ram")).dtype == torch.float32


def test_files_beside_a_single_file_are_found_but_not_its_neighbours_config(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine", "any.pth")
    shape = folder / "shape.json"
    (folder / "config.json").rename(shape)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert names(RecognizeAnythingTagger(model=str(folder / "any.pth"), config=shape)) == expected()


def test_thresholds_may_be_a_python_list_that_is_never_run(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    (folder / "tag_list_threshold.txt").unlink()
    numbers = golden.meta("ram")["class_threshold"]
    listed = "raise SystemExit\nram_class_threshold = [" + ",\n".join(map(str, numbers)) + "]\n"
    (folder / "ram_tag_list_threshold.py").write_text(listed)
    assert names(RecognizeAnythingTagger(model=str(folder))) == expected()


def test_a_missing_vocabulary_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    images = golden.images("ram")

    def tag(**options: object) -> list:
        return RecognizeAnythingTagger(model=str(folder), **options)(images)

    (folder / "tag_list_threshold.txt").unlink()
    with pytest.raises(ModelError, match=r"without its thresholds.*21 lines"):
        tag()
    assert len(tag(threshold=0.5)) == 2
    (folder / "tag_list_threshold.txt").write_text("0.5\n" * 20)
    with pytest.raises(ModelError, match="has 20 thresholds"):
        tag()
    (folder / "tag_list_threshold.txt").write_text("0.5\n" * 20 + "half\n")
    with pytest.raises(ModelError, match="no list of thresholds"):
        tag()
    (folder / "tag_list_threshold.txt").write_text("0.5\n" * 20 + "1.5\n")
    with pytest.raises(ModelError, match="from 0 to 1"):
        tag()
    (folder / "tag_list.txt").write_text("cat\n\ndog\n")
    with pytest.raises(ModelError, match=r"3 lines, 2 of them not empty.* knows 21"):
        tag(threshold=0.5)
    (folder / "tag_list.txt").unlink()
    with pytest.raises(ModelError, match=r"without its tag list.*ram_tag_list.txt \(21 lines"):
        tag(threshold=0.5)
    with pytest.raises(ModelError, match=r"tag list.*cannot be read"):
        tag(threshold=0.5, tag_list=tmp_path / "nowhere.txt")
    with pytest.raises(ModelError, match=r"nowhere.json.*cannot be read"):
        tag(config=tmp_path / "nowhere.json")


def test_what_is_no_weights_is_said_before_its_tag_list_is_missed(tmp_path: Path) -> None:
    file = tmp_path / "ram_swin_large_14m.pth"
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for model in (file, tmp_path):
        with pytest.raises(ModelError, match="is a Git LFS pointer"):
            RecognizeAnythingTagger(model=str(model), device="cpu").loaded  # noqa: B018


def test_missing_and_damaged_weights(tmp_path: Path) -> None:
    images = golden.images("ram")
    folder = make_folder(tmp_path / "mine")

    def tag(model: Path, **options: object) -> None:
        RecognizeAnythingTagger(model=str(model), config=folder / "config.json", **options)(images)

    with pytest.raises(ModelError, match=r"no file '.*none.pth'"):
        tag(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="no folder"):
        tag(tmp_path / "none")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"neither 'a.pth' nor 'model.safetensors'"):
        tag(folder, file="a.pth")
    whole = CHECKPOINT.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        (folder / "a.pth").write_bytes(broken)
        with pytest.raises(ModelError, match=r"cannot be read as weights.*ownload it again"):
            tag(folder, file="a.pth")
    for empty in ({"epoch": 3}, [1, 2], {"model": {"fc.bias": 1.0}}):
        torch.save(empty, folder / "a.pth")
        with pytest.raises(ModelError, match="holds no weights"):
            tag(folder, file="a.pth")


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_unpickled(zipped: bool, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    saved = {"model": golden.weights("ram"), "more": Trap(sprung)}
    torch.save(saved, tmp_path / "trap.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="cannot be read as weights"):
        read_weights(tmp_path / "trap.pth")
    assert not sprung.exists()
    del saved["more"]
    torch.save(saved, tmp_path / "fine.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_weights(tmp_path / "fine.pth")["fc.bias"], golden.weights("ram")["fc.bias"])


ON_THE_HUB = """
import sys
from realignkit.errors import ModelError
from realignkit.registry import Registry
from realignkit_plugins import taggers
from tests.plugins.taggers import recognize_anything as golden

registry = Registry(discover=False)
registry.register(taggers)
tagger = registry.create("tagger", "ram", config=sys.argv[1])
try:
    print([" | ".join(sorted(tag.name for tag in tags)) for tags in tagger(golden.images("ram"))])
except ModelError as error:
    print("ModelError:", error)
"""


def test_from_the_hubs_cache_without_a_network(tmp_path: Path) -> None:
    """The files of a small model, where the hub's client keeps the published ones after a download."""
    options = golden.write_vocabulary(tmp_path, "ram")
    model = tmp_path / "cache" / "models--xinyu1205--recognize_anything_model"
    space = tmp_path / "cache" / "spaces--xinyu1205--recognize-anything" / "snapshots" / VOCABULARY_REVISION / "data"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def run() -> str:
        command = [sys.executable, "-c", ON_THE_HUB, str(options["config"])]
        root = Path(__file__).parents[3]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, env={**environment, "PYTHONPATH": str(root)}
        ).stdout

    assert "Unset HF_HUB_OFFLINE" in run()
    space.mkdir(parents=True)
    shutil.copy(options["tag_list"], space / "ram_tag_list.txt")
    thresholds = options["thresholds"].read_text().split()
    (space / "ram_tag_list_threshold.py").write_text("ram_class_threshold = [" + ",\n".join(thresholds) + "]\n")
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(CHECKPOINT, snapshot / "ram_swin_large_14m.pth")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    assert run().strip() == str([" | ".join(sorted(tags)) for tags in expected()])
