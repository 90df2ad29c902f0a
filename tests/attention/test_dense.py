"""DenseDiffusion as a preset: its own numbers, and layouts from boxes, pictures and arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.attention.config import ModulationConfig
from realignkit.attention.dense import DENSE_DIFFUSION, dense_diffusion, dense_layout, dense_modulation
from realignkit.attention.regions import Regions
from realignkit.attention.sampler import refine
from realignkit.errors import OptionError, PromptError
from realignkit.pipelines.generate import generate
from tests.attention.test_golden import IO, META, TOLERANCE, attend, layer, spans
from tests.attention.test_golden import SETTINGS as ORIGINAL

FAST = {"num_inference_steps": 4, "height": 16, "width": 16}


@pytest.mark.parametrize("case", META["cases"], ids=lambda case: case["name"])
def test_outputs_are_the_originals(case):
    """The preset, with certain objects (s_i = 2), is DenseDiffusion's attention without likelihoods."""
    masks = torch.stack([IO[f"binary_matrix_{i}"] for i in range(len(spans()))]).bool()
    tokens = torch.zeros(ORIGINAL["max_tokens"], len(masks), dtype=torch.bool)
    for i, span in enumerate(spans()):
        tokens[span, i] = True
    regions = Regions(tokens, masks, torch.full((len(masks),), 2.0))
    hidden = IO[f"hidden_states_{case['L']}"]
    out = attend(regions, case["kind"], hidden, case["step"], **DENSE_DIFFUSION.model_dump())
    torch.testing.assert_close(out, IO[f"{case['name']}.out"], **TOLERANCE)


class Original:
    """DenseDiffusion's modulated attention with any ``creg``, ``sreg`` and ``sizereg``, as its code writes it."""

    def __init__(self, case, creg: float, sreg: float, sizereg: float):
        self.case, self.sizereg = case, sizereg
        self.cross = case["kind"] == "cross"
        self.reg = creg if self.cross else sreg

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(layer(states))
            for layer, states in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        sim = query @ key.transpose(1, 2) * attn.scale
        if self.case["modulated"]:
            length, half = self.case["L"], len(sim) // 2
            mask = IO[f"{'creg' if self.cross else 'sreg'}_map_{length}"].repeat_interleave(attn.heads, 0)
            # The pack's sizes are those of sizereg = 1.
            size = 1 - self.sizereg * (1 - IO[f"reg_sizes_{length}"].repeat_interleave(attn.heads, 0))
            cond, treg = sim[half:], self.case["treg"]
            low, high = cond.min(-1, keepdim=True)[0], cond.max(-1, keepdim=True)[0]
            change = (mask > 0) * size * self.reg * treg * (high - cond)
            sim[half:] = cond + change - ~(mask > 0) * size * self.reg * treg * (cond - low)
        return attn.to_out[0](attn.batch_to_head_dim(sim.softmax(-1) @ value))


@pytest.mark.parametrize("form", ["auto", "literal"])
@pytest.mark.parametrize(
    ("creg", "sreg", "sizereg"), [(1.0, 0.3, 1.0), (1.0, 0.3, 0.5), (0.4, 1.2, 0.0), (2.0, 0, 0.8)]
)
@pytest.mark.parametrize("case", META["cases"], ids=lambda case: case["name"])
def test_the_originals_values_are_options(case, creg, sreg, sizereg, form):
    """Whatever the objects' likelihoods are."""
    masks = torch.stack([IO[f"binary_matrix_{i}"] for i in range(len(spans()))]).bool()
    tokens = torch.zeros(ORIGINAL["max_tokens"], len(masks), dtype=torch.bool)
    for i, span in enumerate(spans()):
        tokens[span, i] = True
    regions = Regions(tokens, masks, torch.tensor([2.0, 0.5, 2.0]))
    changes = {"cross_weight": creg, "self_weight": sreg, "size_weight": sizereg, "form": form}
    hidden = IO[f"hidden_states_{case['L']}"]
    out = attend(regions, case["kind"], hidden, case["step"], **dense_modulation(changes).model_dump())
    attention = layer(case["kind"])
    attention.set_processor(Original(case, creg, sreg, sizereg))
    text = IO["text_cond"] if case["kind"] == "cross" else None
    with torch.no_grad():
        wanted = attention(hidden, encoder_hidden_states=text)
    torch.testing.assert_close(out, wanted, **TOLERANCE)
    if (creg, sreg, sizereg) == (1.0, 0.3, 1.0):
        torch.testing.assert_close(wanted, IO[f"{case['name']}.out"], **TOLERANCE)


def test_without_likelihoods_is_what_certain_objects_at_half_the_weight_are(sd_pipeline):
    """To the bit: S and w only act as their product."""
    layout = dense_layout({"a red book": (0, 0, 0.5, 1), "a dog": (0.4, 0, 1, 1)}, (16, 16))
    halved = DENSE_DIFFUSION.model_dump() | {
        "score_term": "likelihood",
        "outside_score": 2.0,
        "cross_weight": 0.5,
        "self_weight": 0.15,
    }
    configs = (DENSE_DIFFUSION, ModulationConfig(**halved))
    prompt = ["a red book and a dog"]
    found = [np.asarray(refine(sd_pipeline, prompt, [layout], [0], config, **FAST).images[0]) for config in configs]
    assert (found[0] == found[1]).all()


def test_unknown_and_impossible_values(sd_pipeline):
    layout = dense_layout({"a dog": (0, 0, 1, 1)}, (16, 16))
    for changes, message in (
        ({"creg": 1.0}, "creg is cross_weight here"),
        ({"size_weight": 2}, "size_weight"),
        ({"share": "x"}, "share"),
    ):
        with pytest.raises(OptionError, match=message):
            dense_diffusion(sd_pipeline, ["a dog"], [layout], [0], changes, **FAST)


def test_boxes_pictures_and_arrays(tmp_path: Path):
    drawn = np.zeros((8, 16, 4), dtype=np.uint8)
    drawn[2:4, 4:8] = (255, 255, 255, 255)
    drawn[6:, :] = (255, 255, 255, 0)  # transparent is outside, whatever its colour
    Image.fromarray(drawn).save(tmp_path / "book.png")
    array = np.eye(16, 32, dtype=bool)
    layout = dense_layout({"a red book": tmp_path / "book.png", "a dog": (0.5, 0, 1, 0.5), " cat ": array}, (32, 16))
    book, dog, cat = layout
    assert [s.caption.caption for s in layout] == ["a red book", "a dog", "cat"]
    assert [s.caption.tag for s in layout] == ["book", "dog", "cat"]
    assert {s.caption.score for s in layout} == {2.0}
    want = np.zeros((16, 32), dtype=bool)
    want[4:8, 8:16] = True
    assert (book.mask == want).all()
    want[:] = False
    want[:8, 16:] = True
    assert (dog.mask == want).all()
    assert (cat.mask == array).all()
    sliver = dense_layout({"a dog": (0.999, 0.1, 1.0, 0.101)}, (32, 16))
    assert sliver.segments[0].mask.sum() == 1


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({}, "at least one"),
        ({" ": (0, 0, 1, 1)}, "empty"),
        ({"a dog": (0, 0, 16, 16)}, "shares"),
        ({"a dog": (0.5, 0, 0.5, 1)}, "shares"),
        ({"a dog": (0, 0, 1)}, "shares"),
        ({"a dog": np.ones((4, 4), dtype=bool)}, "height, width"),
        ({"a dog": np.zeros((16, 16), dtype=bool)}, "is empty"),
        ({"a dog": np.full((16, 16), 0.5)}, "between inside and outside"),
        ({"a dog": "nowhere.png"}, "cannot be read"),
    ],
)
def test_bad_layouts(regions, message):
    with pytest.raises(OptionError, match=message):
        dense_layout(regions, (16, 16))


def test_images_follow_the_layout(sd_pipeline):
    prompt = "a red book and a dog"
    left = dense_layout({"a red book": (0, 0, 0.5, 1), "a dog": (0.5, 0, 1, 1)}, (16, 16))
    right = dense_layout({"a red book": (0.5, 0, 1, 1), "a dog": (0, 0, 0.5, 1)}, (16, 16))
    plain = generate(sd_pipeline, [prompt], [0], **FAST)[0]
    images = dense_diffusion(sd_pipeline, [prompt] * 2, [left, right], [0, 0], **FAST).images
    pixels = [np.asarray(image, dtype=int) for image in (plain, *images)]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(pixels, [pixels[1], pixels[2], pixels[0]], strict=True))


def test_a_phrase_that_the_prompt_does_not_have(sd_pipeline):
    layout = dense_layout({"a cat": (0, 0, 1, 1)}, (16, 16))
    with pytest.raises(PromptError, match="'a cat' is not part of"):
        dense_diffusion(sd_pipeline, ["a red book and a dog"], [layout], [0], **FAST)
    with pytest.raises(OptionError, match="layouts"):
        dense_diffusion(sd_pipeline, ["a cat"], [], [0], **FAST)
