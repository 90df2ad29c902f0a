"""Checkpoints that bring code: it is not run, nobody is asked, and one sentence says so."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError
from realignkit_plugins.generators.deepfloyd import DeepFloydGenerator
from realignkit_plugins.generators.promptist import PromptistGenerator
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from realignkit_plugins.micro import checkpoints
from realignkit_plugins.rewards.blip import BLIPReward
from realignkit_plugins.rewards.caption import CaptionReward
from realignkit_plugins.rewards.clip import CLIPReward
from realignkit_plugins.segmenters.clipseg import CLIPSegSegmenter
from realignkit_plugins.segmenters.grounded_sam import GroundedSamSegmenter
from realignkit_plugins.taggers.florence2 import Florence2Tagger
from realignkit_plugins.taggers.image_classification import ImageClassificationTagger
from tests.tiny import build_pipeline

CLIP = checkpoints.path("clip")
IMAGE = Image.new("RGB", (32, 32))
PIXELS = torch.zeros(1, 3, 32, 32)
WORDS = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
# A folder whose configuration names classes of its own, given to everything that loads one.
LOADERS: dict[str, Callable[[str], Any]] = {
    "florence2": lambda folder: Florence2Tagger(model=folder)([IMAGE]),
    "image_classification": lambda folder: ImageClassificationTagger(model=folder)([IMAGE]),
    "clipseg": lambda folder: CLIPSegSegmenter(model=folder)(IMAGE, ["book"]),
    "grounding_dino": lambda folder: GroundedSamSegmenter(model=folder)(IMAGE, ["book"]),
    "sam": lambda folder: GroundedSamSegmenter(sam=folder).masks(IMAGE, torch.ones(1, 4)),
    "clip": lambda folder: CLIPReward(model=folder)(PIXELS, ["a"]),
    "blip": lambda folder: BLIPReward(model=folder)(PIXELS, ["a"]),
    "captioner": lambda folder: CaptionReward(captioner=folder)(PIXELS, ["a"]),
    "text_encoder": lambda folder: CaptionReward(captioner="micro:captioner", text_encoder=folder)(PIXELS, ["a"]),
    "promptist": lambda folder: PromptistGenerator(model="micro:base", adapter=folder).adapt("a book"),
}


class Asked(io.StringIO):
    """Standard input on which nobody must be asked."""

    def readline(self, *args: Any) -> str:
        raise AssertionError("asked on standard input")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``trap(folder)`` puts code into a folder; after the test it has not run."""
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()\nclass Own: pass\nclass OwnConfig: pass\n"
    monkeypatch.setattr("sys.stdin", Asked())

    def put(folder: Path, name: str = "own.py") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)

    yield put
    assert not ran.exists()


def refused(load: Callable[[], Any]) -> None:
    with pytest.raises(ModelError, match="wants to run code of its own, which is never done here") as caught:
        load()
    assert "trust_remote_code" not in str(caught.value), "advice that cannot be followed here"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_configuration_with_code(loader: str, trap: Any, tmp_path: Path):
    trap(tmp_path / "model")
    classes = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own", "AutoTokenizer": ["own.Own", None]}
    classes |= dict.fromkeys(("AutoModelForImageTextToText", "AutoModelForImageClassification"), "own.Own")
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": classes}))
    refused(lambda: LOADERS[loader](str(tmp_path / "model")))


def test_an_image_processor_with_code(trap: Any, tmp_path: Path):
    shutil.copytree(CLIP, tmp_path / "model")
    trap(tmp_path / "model")
    settings = {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    refused(lambda: CLIPReward(model=str(tmp_path / "model"))(PIXELS, ["a"]))


def test_a_tokenizer_that_is_nothing_but_code(trap: Any, tmp_path: Path):
    shutil.copytree(CLIP, tmp_path / "model")
    trap(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(WORDS))
    with pytest.raises(ModelError, match="cannot be loaded"):
        CLIPReward(model=str(tmp_path / "model"))(PIXELS, ["a"])


def test_code_that_nobody_needs_is_left_alone(trap: Any, tmp_path: Path):
    """Known classes are transformers' own, whatever the folder would rather have."""
    shutil.copytree(CLIP, tmp_path / "model")
    trap(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(WORDS))  # tokenizer.json is enough
    assert CLIPReward(model=str(tmp_path / "model"))(PIXELS, ["a"]).shape == (1,)


def _own_class(folder: Path, index: dict[str, Any], trap: Any) -> None:
    trap(folder)
    index["_class_name"] = ["own", "Own"]


def _own_unet(folder: Path, index: dict[str, Any], trap: Any) -> None:
    trap(folder / "unet")
    index["unet"] = ["own", "Own"]


def _installed_package(folder: Path, index: dict[str, Any], trap: Any) -> None:
    index["unet"] = ["antigravity", "Own"]


def _file_by_accident(folder: Path, index: dict[str, Any], trap: Any) -> None:
    trap(folder, "None.py")  # what diffusers looks for where no pipeline is asked for


@pytest.mark.parametrize("wish", [_own_class, _own_unet, _installed_package, _file_by_accident])
def test_a_pipeline_with_code(wish: Any, trap: Any, tmp_path: Path):
    build_pipeline().save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    wish(tmp_path / "model", index, trap)
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    refused(lambda: StableDiffusionGenerator(model=str(tmp_path / "model"), device="cpu").pipeline())
    refused(lambda: DeepFloydGenerator(model=str(tmp_path / "model"), second=None, third=None).pipeline())
