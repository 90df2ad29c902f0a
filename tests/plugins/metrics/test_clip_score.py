"""CLIPScore as it is defined, the plain cosine beside it, and prompts that are cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

from realignkit.errors import OptionError, PluginError
from realignkit.testing import check_plugin
from realignkit_plugins.metrics.clip_score import CLIPScore
from realignkit_plugins.model_names import resolve_model
from tests.plugins.metrics.conftest import pictures

PROMPTS = ["a red book and a yellow pen", "a blue dog", "two green cups"]


@pytest.fixture(scope="module")
def metric() -> CLIPScore:
    return CLIPScore(model="micro:clip", device="cpu", batch_size=2)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [image.resize((64, 64)) for image in pictures(3, 5)]


def cosines(images: list[Image.Image], texts: list[str]) -> np.ndarray:
    """By transformers itself."""
    folder = resolve_model("micro:clip")
    network = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(folder, backend="pil")(images, return_tensors="pt")
    with torch.no_grad():
        output = network(**tokens, **pixels)
    return (output.image_embeds * output.text_embeds).sum(-1).numpy()


def test_both_scores_are_what_they_are_called(metric: CLIPScore, images: list[Image.Image]) -> None:
    judged = metric.judge_each(images, PROMPTS)
    framed = cosines(images, [f"A photo depicts {prompt}" for prompt in PROMPTS])
    assert [each["clip_score"] for each in judged] == pytest.approx(2.5 * framed.clip(0), abs=1e-5)
    assert [each["clip_cosine"] for each in judged] == pytest.approx(cosines(images, PROMPTS), abs=1e-5)
    assert {each["truncated"] for each in judged} == {0}
    assert metric.identity() == {"weights": metric.identity()["weights"], "template": "A photo depicts ", "weight": 2.5}


def test_a_negative_cosine_scores_nothing_but_stays_a_cosine(
    metric: CLIPScore, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = metric.clip.image_features(metric.clip.preprocessing.from_pil(images[:1]))
    monkeypatch.setattr(metric.clip, "text_features", lambda texts: -seen)
    (values,) = metric.judge_each(images[:1], PROMPTS[:1])
    assert values["clip_score"] == 0
    assert values["clip_cosine"] == pytest.approx(-1)


def test_a_prompt_that_does_not_fit_is_cut_and_said(metric: CLIPScore, images: list[Image.Image]) -> None:
    limit = metric.clip.loaded.network.config.text_config.max_position_embeddings
    long = "red book " * limit
    (cut,) = metric.judge_each(images[:1], [long])
    assert cut["truncated"] == 1
    assert metric.judge_each(images[:1], [long + "and a dog"])[0]["clip_score"] == cut["clip_score"]


def test_means_over_images_merged(metric: CLIPScore, images: list[Image.Image]) -> None:
    judged = metric.judge_each(images, PROMPTS)
    one, two = CLIPScore(**metric.options.model_dump()), CLIPScore(**metric.options.model_dump())
    with pytest.raises(PluginError, match="nothing to compute"):
        one.compute()
    one.update(images[:1], PROMPTS[:1])
    two.update(images[1:], PROMPTS[1:])
    one.merge(two)
    mean = np.mean([each["clip_score"] for each in judged])
    assert one.compute() == {
        "clip_score": pytest.approx(mean, abs=1e-6),
        "clip_cosine": pytest.approx(np.mean([each["clip_cosine"] for each in judged]), abs=1e-6),
        "truncated": 0,
        "n": 3,
    }
    with pytest.raises(PluginError, match="cannot merge another metric into CLIPScore"):
        one.merge(CLIPScore())
    with pytest.raises(OptionError, match="3 images but 1 prompts"):
        one.update(images, PROMPTS[:1])


def test_half_precision_weights_are_computed_in_full(images: list[Image.Image]) -> None:
    metric = CLIPScore(model="micro:clip")
    assert metric.clip.options.dtype == "fp32"
    assert {weight.dtype for weight in metric.clip.loaded.network.parameters()} == {torch.float32}


def test_it_keeps_its_contract() -> None:
    check_plugin(CLIPScore(model="micro:clip", device="cpu", batch_size=2))
