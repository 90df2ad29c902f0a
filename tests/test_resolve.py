"""Pipelines that users have made, handed to a realigner."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from realignkit import Realigner
from realignkit.errors import ModelError, OptionError
from realignkit.realignment import Realignment
from tests import tiny

PROMPT = "a red book and a yellow pen"
AROUND = {"tagger": "quadrants", "segmenter": "quadrants", "scorer": "wordy"}
CHOSEN = {"modulation": {"share": 0.5, "cross_weight": 2.0}, "sampling": {"num_inference_steps": 4}}


def same(one, other) -> bool:
    """To rounding: sliced products add up in another order."""
    return bool(np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1)


@pytest.fixture
def wanted(make_realigner):
    return make_realigner()(PROMPT, 7)


def sliced(pipeline):
    pipeline.enable_attention_slicing()


def compiled(pipeline):
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")


@pytest.mark.parametrize("change", [lambda pipeline: None, sliced, compiled])
def test_a_pipeline_is_used_as_it_is(registry, wanted, change, tmp_path: Path):
    pipeline = tiny.build_pipeline()
    change(pipeline)
    unet = pipeline.unet
    made = Realigner.from_pretrained(pipeline, registry=registry, **AROUND, **CHOSEN)
    found = made(PROMPT, 7)
    assert same(found.coarse, wanted.coarse) and same(found.refined, wanted.refined)
    assert not same(found.coarse, found.refined)
    assert pipeline.unet is unet
    assert found.plugins["generator"] == "StableDiffusionPipeline"
    found.save(tmp_path)
    assert Realignment.load(tmp_path) == found


def test_so_does_a_realigner_of_parts(registry, wanted):
    parts = [registry.create(kind, name) for kind, name in AROUND.items()]
    made = Realigner(tiny.build_pipeline(), parts[0], parts[2], parts[1], registry=registry, **CHOSEN)
    assert same(made(PROMPT, 7).refined, wanted.refined)
    assert made.names["generator"] == "StableDiffusionPipeline"


def test_a_generator_that_is_made_brings_its_companions(registry, wanted):
    made = Realigner.from_pretrained(tiny.TinyGenerator(), registry=registry)
    assert same(made(PROMPT, 7).refined, wanted.refined)
    assert made.names == {"generator": "TinyGenerator", "tagger": "quadrants", "segmenter": "quadrants"}


def test_where_it_was_loaded_from_is_on_record(registry, tmp_path: Path):
    tiny.build_pipeline().save_pretrained(tmp_path / "model")
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None)
    settings = Realigner.from_pretrained(loaded, registry=registry, **AROUND).settings
    assert settings["generator"] == {"model": str(tmp_path / "model")}
    assert "files" in str(settings["contents"])


def test_a_path_is_a_folder(tmp_path: Path):
    tiny.build_pipeline().save_pretrained(tmp_path / "model")
    around = {"tagger": "micro", "segmenter": "micro"}
    made = [Realigner.from_pretrained(model, **around) for model in (tmp_path / "model", str(tmp_path / "model"))]
    assert made[0].settings == made[1].settings and made[0].image_size == (32, 32)


def test_options_have_nowhere_to_go(registry):
    for model in (tiny.build_pipeline(), tiny.TinyGenerator()):
        with pytest.raises(OptionError, match="already made"):
            Realigner.from_pretrained(model, registry=registry, options={"generator": {"dtype": "fp16"}}, **AROUND)


def test_what_cannot_draw_is_refused_at_once(registry):
    pipeline = tiny.build_pipeline()
    control = diffusers.ControlNetModel.from_unet(pipeline.unet)
    components = {**pipeline.components, "requires_safety_checker": False}
    controlled = diffusers.StableDiffusionControlNetPipeline(**components, controlnet=control)
    with pytest.raises(ModelError, match="cannot draw from a prompt alone"):
        Realigner.from_pretrained(controlled, registry=registry, **AROUND)
    pipeline.vae = None
    with pytest.raises(ModelError, match="has no vae"):
        Realigner.from_pretrained(pipeline, registry=registry, **AROUND)


def test_attention_that_cannot_be_modulated_is_refused_before_anything_is_drawn(registry):
    pipeline = tiny.build_pipeline()

    class Own(diffusers.models.attention_processor.AttnProcessor):
        def __call__(self, *arguments, **options):
            return super().__call__(*arguments, **options) * 0.5

    pipeline.unet.set_attn_processor(Own())
    made = Realigner.from_pretrained(pipeline, registry=registry, **AROUND, **CHOSEN)
    with pytest.raises(ModelError, match=r"computes attention with Own.*still make coarse images"):
        made(PROMPT, 7, progress=lambda *_: pytest.fail("drew"))
    assert made.generate([PROMPT], [7])[0].size == (32, 32)
