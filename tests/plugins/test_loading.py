"""Where checkpoints are looked for, what the errors say, and what the registering modules import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from realignkit.errors import ModelError
from realignkit.registry import Registry
from realignkit_plugins import generators, prompts, scorers, segmenters, taggers
from realignkit_plugins.failures import loading
from realignkit_plugins.loading import resolve_device, resolve_dtype
from realignkit_plugins.model_names import resolve_model
from tests.conftest import HANGS

MODULES = (generators, taggers, scorers, segmenters, prompts)


def test_where_models_are(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("owner/name") == "owner/name"
    assert resolve_model("gpt2") == "gpt2"
    for nowhere in (str(tmp_path / "x"), "./x", "~/no/such", "a/b/c", "C:\\models"):
        with pytest.raises(ModelError, match="no folder"):
            resolve_model(nowhere)
    with pytest.raises(ModelError):
        resolve_model("micro:no_such_checkpoint")


def test_devices_and_precisions() -> None:
    assert resolve_device("cuda:3") == "cuda:3"
    assert resolve_device("auto") in ("cuda", "mps", "cpu")
    assert resolve_dtype("auto", "cuda:1") == torch.float16
    assert resolve_dtype("auto", "cpu") == torch.float32
    assert resolve_dtype("fp16", "cpu") == torch.float16


@pytest.mark.parametrize(("model", "advice"), [("owner/name", "safetensors"), (".", "folder is complete")])
def test_errors_say_what_to_do(model: str, advice: str) -> None:
    """In one line, and never the first line of several alone."""
    with pytest.raises(ModelError, match=advice) as caught, loading("thing", model):
        raise RuntimeError("weights\nand a long story")
    assert "weights and a long story" in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_everything_registered_can_be_made() -> None:
    registry = Registry(discover=False)
    for module in MODULES:
        registry.register(module)
    names = {(info.kind, info.name) for info in registry.infos()}
    assert names == {
        *(("generator", name) for name in ("stable_diffusion", "sd15", "sdxl", "pixart_alpha", "deepfloyd_if")),
        *(("generator", name) for name in ("promptist", "structure_diffusion")),
        *(("tagger", name) for name in ("image_classification", "ram", "ram_plus", "tag2text", "florence2")),
        *(("scorer", name) for name in ("lexical", "openai_chat", "gpt4", "chatgpt")),
        *(("scorer", name) for name in ("llama_cpp", "llama_cpp_logprob", "vicuna", "llama2")),
        *(("segmenter", name) for name in ("clipseg", "grounded_sam")),
        ("prompts", "file"),
    }
    required = {"image_classification": {"model": "x/y"}, "file": {"path": "x.txt"}}
    for info in (info for info in registry.infos() if info.available):  # some need an extra that has to be compiled
        assert info.create(**required.get(info.name, {})).options is not None
    assert registry.create("generator", "sdxl").options.variant == "fp16"


def test_registering_imports_no_heavy_library() -> None:
    names = [module.__name__ for module in MODULES]
    heavy = "{'torch', 'transformers', 'diffusers', 'PIL'}"
    code = f"import sys, importlib\nfor n in {names}: importlib.import_module(n)\nprint({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_first_call_in_python_prints_nothing() -> None:
    code = "from realignkit import Realigner; Realigner.from_pretrained(sampling={'num_inference_steps': 1})('cup')"
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_VERBOSITY")}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=HANGS, check=True)
    assert (found.stdout, found.stderr) == ("", "")
