"""Where checkpoints are looked for, what the errors say, and what the registering modules import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import Field

from realignkit.errors import ModelError, OptionError
from realignkit.registry import Registry, default_registry
from realignkit_plugins import generators, prompts, scorers, segmenters, taggers
from realignkit_plugins.failures import loading
from realignkit_plugins.loading import (
    Checkpoint,
    CheckpointPlugin,
    DTypeName,
    image_processor,
    load_tokenizer,
    resolve_device,
    resolve_dtype,
)
from tests.conftest import HANGS

MODULES = (generators, taggers, scorers, segmenters, prompts)


@pytest.mark.parametrize("kind", ["generator", "tagger", "segmenter", "reward", "vqa", "metric"])
def test_every_plugin_says_which_of_its_checkpoints_cannot_be_had(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("realignkit_plugins.loading.out_of_reach", lambda model, revision=None: asked.append(model))
    for info in default_registry().infos(kind):
        try:
            plugin = info.create()
        except OptionError:  # it has to be said which checkpoint, or which reward
            continue
        if isinstance(plugin, CheckpointPlugin):
            plugin.out_of_reach()
            assert getattr(plugin.options, plugin.checkpoint_options[0][0]) in asked, info.name
    if kind == "generator":
        assert {"DeepFloyd/IF-II-L-v1.0", "stabilityai/stable-diffusion-x4-upscaler", "microsoft/Promptist"} <= {*asked}


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


class Classifier(CheckpointPlugin):
    """A plugin as an author writes it: what its checkpoint is, its options, its forward pass."""

    role = "classifier"
    checkpoint = Checkpoint(
        "ResNet",
        {"resnet": "ResNetForImageClassification"},
        refusal="a {} checkpoint, no ResNet. Use one such as microsoft/resnet-50.",
        processor=image_processor,
    )

    class Options(CheckpointPlugin.Options):
        model: str = Field("micro:tagger", min_length=1)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.finite(self.loaded.network(pixel_values=pixels).logits)


def test_a_plugin_is_its_checkpoint_its_options_and_its_forward_pass() -> None:
    plugin = Classifier(device="cpu")
    assert list(Classifier.Options.model_fields) == ["model", "revision", "device"]
    assert "loaded" not in vars(plugin), "nothing is loaded before it is used"
    network = plugin.loaded.network
    assert plugin.loaded.network is network, "and then once"
    assert type(network).__name__ == "ResNetForImageClassification"
    assert (plugin.loaded.processor.size["height"], plugin.loaded.tokenizer) == (64, None)
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert plugin(torch.zeros(1, 3, 64, 64)).shape == (1, network.config.num_labels)
    with pytest.raises(
        ModelError, match=r"^the classifier 'micro:tagger' computed NaN or infinity\. Download or train"
    ):
        plugin(torch.full((1, 3, 64, 64), torch.nan))


@pytest.mark.parametrize("kind", ["CLIPTokenizer", "BertTokenizer", "T5Tokenizer", "GPT2Tokenizer", "RobertaTokenizer"])
def test_a_tokenizer_without_its_words(kind: str, tmp_path: Path) -> None:
    """The library makes one of special tokens alone, without a word."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(ModelError, match=r"has no vocabulary: it knows .* none of them a word. Copy or download"):
        load_tokenizer("tokenizer", str(tmp_path))


def test_a_network_that_gradients_pass_through_is_frozen() -> None:
    frozen = replace(Classifier.checkpoint, frozen=True).load("micro:tagger").network
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    x = torch.rand(1, 3, 64, 64, requires_grad=True)
    frozen(pixel_values=x).logits.sum().backward()
    assert x.grad is not None


def test_the_precision_is_an_option_where_a_plugin_has_one() -> None:
    class Precise(Classifier):
        class Options(Classifier.Options):
            dtype: DTypeName = "auto"

    assert Precise(device="cpu").dtype == torch.float32
    assert {p.dtype for p in Precise(device="cpu", dtype="bf16").loaded.network.parameters()} == {torch.bfloat16}


def test_another_kind_of_checkpoint_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ModelError) as caught:
        _ = Classifier(model=str(tmp_path)).loaded
    assert str(caught.value) == f"'{tmp_path}' is a vit checkpoint, no ResNet. Use one such as microsoft/resnet-50."


def test_what_goes_wrong_in_a_load_of_its_own_is_explained_too() -> None:
    class Own(Classifier):
        def load(self) -> None:
            raise RuntimeError("weights\nand a long story")

    with pytest.raises(ModelError, match=r"^the ResNet 'micro:tagger' cannot be loaded \(RuntimeError: weights and a"):
        _ = Own().loaded


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
        *(("segmenter", name) for name in ("clipseg", "grounded_sam", "grounded_sam_package")),
        *(("prompts", name) for name in ("abc6k", "cc500", "coco", "drawbench", "file")),
        *(("prompts", name) for name in ("geneval2", "partiprompts", "tifa", "vilg300")),
    }
    required = {"image_classification": {"model": "x/y"}, "file": {"path": "x.txt"}}
    required["grounded_sam_package"] = {"dino": "x.pth", "sam": "y.pth"}
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
