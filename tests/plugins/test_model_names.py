"""What a user may name as a model, and what an address on the web ends in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError
from realignkit.registry import default_registry
from realignkit.resolve import choose_generator
from realignkit_plugins.generators.lora_files import find
from realignkit_plugins.model_names import hub_file, local_file, resolve_model
from realignkit_plugins.weight_files import read_weights

HUB = "https://huggingface.co/owner/name"


def test_where_models_are(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("owner/name") == "owner/name"
    assert resolve_model("gpt2") == "gpt2"
    for nowhere in (str(tmp_path / "x"), "./x", "~/no/such", "a/b/c", "C:\\models"):
        with pytest.raises(ModelError, match="no folder"):
            resolve_model(nowhere)
    with pytest.raises(ModelError):
        resolve_model("micro:no_such_checkpoint")


def test_files_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_file("owner/name:sub/model.safetensors") == ("owner/name", "sub/model.safetensors")
    for other in (
        "owner/name",
        "name:file.gguf",
        "./owner/name:file",
        "C:\\models\\x",
        f"{HUB}/x.safetensors",
        "micro:x",
    ):
        assert hub_file(other) is None
    monkeypatch.chdir(tmp_path)
    Path("owner").mkdir()
    Path("owner/name:x.safetensors").touch()
    assert hub_file("owner/name:x.safetensors") is None, "what is here comes first"
    assert local_file("owner/name:x.safetensors") == Path("owner/name:x.safetensors")
    with pytest.raises(ModelError, match=r"is a file\. Give the folder that save_pretrained wrote, or a hub id"):
        resolve_model("owner/name:y.safetensors")


@pytest.mark.parametrize(
    ("address", "file", "folder"),
    [
        (HUB, "Give owner/name, which", "Give owner/name, which"),
        (f"{HUB}/", "Give owner/name, which", "Give owner/name, which"),
        (f"{HUB}/tree/main", "Give owner/name, which", "Give owner/name, which"),
        (f"{HUB}/blob/main/a/b.safetensors", "Give owner/name:a/b.safetensors, which", "Give owner/name, which"),
        (
            f"{HUB}/resolve/fp16/b.ckpt?download=true",
            "name:b.ckpt and the option revision=fp16, which",
            "revision=fp16",
        ),
        ("https://example.org/x.safetensors", "Download it and give the path of the file", "the path of the folder"),
    ],
)
def test_an_address_on_the_web_names_what_to_give_instead(address: str, file: str, folder: str) -> None:
    for call, told in ((local_file, file), (resolve_model, folder)):
        with pytest.raises(ModelError) as caught:
            call(address)
        assert "is an address on the web, which is not read" in str(caught.value)
        assert told in str(caught.value)
        assert "download=true" not in str(caught.value)


def test_keys_in_an_address_are_not_shown() -> None:
    with pytest.raises(ModelError) as caught:
        local_file("https://me:pass1234@example.org/x.safetensors?token=abcdef")
    assert "pass1234" not in str(caught.value)
    assert "abcdef" not in str(caught.value)


PLUGINS = {
    "image_classification": lambda made, m: made("tagger", "image_classification", model=m)([IMAGE]),
    "ram": lambda made, m: made("tagger", "ram", model=m)([IMAGE]),
    "clipseg": lambda made, m: made("segmenter", "clipseg", model=m)(IMAGE, ["a book"]),
    "grounding_dino": lambda made, m: made("segmenter", "grounded_sam", model=m, tokenizer="micro:blip")(IMAGE, ["a"]),
    "sam": lambda made, m: made("segmenter", "grounded_sam", sam=m).masks(IMAGE, torch.ones(1, 4)),
    "clip": lambda made, m: made("reward", "clip", model=m)(torch.zeros(1, 3, 64, 64), ["a"]),
    "caption": lambda made, m: made("reward", "caption", captioner=m)(torch.zeros(1, 3, 64, 64), ["a"]),
    "image_reward": lambda made, m: made("reward", "image_reward", model=m)(torch.zeros(1, 3, 64, 64), ["a"]),
    "lora": lambda made, m: made("generator", "stable_diffusion", model="micro:base", lora=m).pipeline(),
}
IMAGE = Image.new("RGB", (64, 64))


@pytest.mark.parametrize("name", ["https://huggingface.co/owner/name", "https://example.org/model.safetensors"])
@pytest.mark.parametrize("plugin", PLUGINS)
def test_every_plugin_refuses_an_address_in_one_sentence(plugin: str, name: str) -> None:
    def made(kind: str, registered: str, **options: Any) -> Any:
        return default_registry().create(kind, registered, device="cpu", **options)

    with pytest.raises(ModelError, match=rf"^'{name}' is an address on the web, which is not read"):
        PLUGINS[plugin](made, name)


def test_a_generator_refuses_an_address_in_one_sentence() -> None:
    for address in (HUB, "https://example.org/model.safetensors"):
        info = choose_generator(default_registry(), address)
        with pytest.raises(ModelError, match=f"^'{address}' is an address on the web, which is not read"):
            info.create(device="cpu").pipeline()


def test_what_ends_like_a_file_of_weights_is_a_path_and_asks_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *args, **kwargs: pytest.fail("asked the hub"))
    told = "there is no file 'h/nosuch.safetensors'. Check the path, or give a folder or a hub id (owner/name)."
    for call in (resolve_model, find, lambda model: read_weights(local_file(model))):
        with pytest.raises(ModelError) as caught:
            call("h/nosuch.safetensors")
        assert str(caught.value) == told


def test_a_device_is_no_regular_file() -> None:
    with pytest.raises(ModelError, match="'/dev/null' is neither a folder nor a regular file"):
        resolve_model("/dev/null")
