"""Every loader against a hub on loopback that refuses, breaks off, or is not there: one message each, with advice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from realignkit_plugins.failures import explain
from tests.conftest import HANGS

EVERY = (
    *("stable_diffusion", "structure_diffusion", "deepfloyd_if", "promptist", "lora"),
    *("image_classification", "ram", "florence2", "clipseg", "grounding_dino", "sam"),
    *("clip", "blip", "caption", "image_reward", "llama_cpp"),
)
SERVED = ("image_classification", "ram", "clipseg", "stable_diffusion")
ADVICE = {
    "gated": "Accept them at https://huggingface.co/gated/",
    "nobody": "Check the spelling",
    "no network": "Check the network and run again",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.hub", str(folder / "cache"), str(folder)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_loader_was_tried(found):
    assert set(found) == set(EVERY)


@pytest.mark.parametrize("mode", ADVICE)
@pytest.mark.parametrize("loader", EVERY)
def test_a_refusal_says_what_to_do(found, loader, mode):
    answer = found[loader][mode]
    assert answer["type"] == "ModelError", answer
    assert ADVICE[mode] in answer["text"]
    assert "\n" not in answer["text"]


@pytest.mark.parametrize("loader", EVERY)
def test_a_path_that_is_not_there(found, loader):
    answer = found[loader]["no folder"]
    assert answer["type"] in ("ModelError", "ScorerError"), answer
    assert "there is no f" in answer["text"]


@pytest.mark.parametrize("loader", SERVED)
def test_a_download_that_breaks_off_leaves_nothing_half_and_goes_on(found, loader):
    assert found[loader]["drops"]["type"] == "ModelError"
    assert "Run again: it goes on where it stopped" in found[loader]["drops"]["text"]
    assert found[loader]["resumed"] == {"type": "", "text": "loaded", "left": ""}


@pytest.mark.parametrize("loader", SERVED)
def test_a_file_that_is_only_half_there(found, loader):
    answer = found[loader]["short"]
    assert answer["type"] == "ModelError", answer
    assert "hf cache rm model/short/" in answer["text"]


@pytest.mark.parametrize("loader", SERVED)
def test_too_little_memory(found, loader):
    answer = found[loader]["memory"]
    assert answer["type"] == "ModelError", answer
    assert "does not fit into memory" in answer["text"]


def test_adapters_from_the_hub(found):
    """By repository, by a file of it, and from the cache without network."""
    for given in ("good/lora", "good/lora:other.safetensors", "kept"):
        assert found["lora"][given] == {"type": "", "text": "loaded"}
    answer = found["lora"]["good/lora:none.safetensors"]
    assert answer["type"] == "ModelError"
    assert "none.safetensors" in answer["text"]


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_hubs_token_is_in_no_message(variable, monkeypatch):
    token = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"
    monkeypatch.setenv(variable, f"{token}\n")  # a line end too much: no header may have one, and the library quotes it
    error = ValueError(f"Illegal header value b'Bearer {token}\\n'")
    for local in (False, True):
        told = explain("owner/name", error, local)
        assert "Illegal header value" in told
        assert token[:14] not in told
