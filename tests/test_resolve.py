"""What users name, or have made, becomes a realigner: plugins with their options, defaults and chains; pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import realignkit
from realignkit import ModulationConfig, Realigner, contracts
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.realignment import Realignment
from realignkit.resolve import LAST_SCORER, rewards_in
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
    result = made(PROMPT, 7)
    assert same(result.coarse, wanted.coarse) and same(result.refined, wanted.refined)
    assert not same(result.coarse, result.refined)
    assert pipeline.unet is unet
    assert result.plugins["generator"] == "StableDiffusionPipeline"
    result.save(tmp_path)
    assert Realignment.load(tmp_path) == result


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


# --- of a realigner ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "tagger", "scorer", "segmenter"])
def test_unknown_names_suggest_known_ones(make_realigner, kind):
    wrong = {"model": "tinny", "tagger": "quadrant", "scorer": "word", "segmenter": "quadrant"}[kind]
    right = {"model": "tiny", "tagger": "quadrants", "scorer": "wordy", "segmenter": "quadrants"}[kind]
    with pytest.raises(PluginError, match=f"Did you mean '{right}'"):
        make_realigner(**{kind: wrong})


def test_unknown_options_suggest_known_ones(make_realigner):
    with pytest.raises(OptionError, match="threshold"):
        make_realigner(options={"tagger": {"treshold": 0.5}})
    with pytest.raises(OptionError, match="share"):
        make_realigner(modulation={"shares": 0.5})
    with pytest.raises(OptionError, match="num_inference_steps"):
        make_realigner(sampling={"steps": 5})
    with pytest.raises(OptionError, match="kind"):
        make_realigner(options={"taggers": {}})


def test_plugin_that_is_not_installed(make_realigner):
    with pytest.raises(PluginError, match="pip install 'distant-thing>=1'"):
        make_realigner(scorer="distant")


def test_models_defaults_lie_below_the_users_settings(make_realigner):
    plain = make_realigner()
    assert plain.modulation == ModulationConfig(share=0.5, cross_weight=2.0)
    assert plain.sampling.num_inference_steps == 4
    changed = make_realigner(modulation={"share": 0.9, "power": 3}, sampling={"guidance_scale": 2})
    assert changed.modulation == ModulationConfig(share=0.9, cross_weight=2.0, power=3)
    assert (changed.sampling.num_inference_steps, changed.sampling.guidance_scale) == (4, 2)
    whole = ModulationConfig(power=1)
    assert make_realigner(modulation=whole).modulation is whole


def test_plugins_may_be_given_ready_made(make_realigner):
    tagger = tiny.QuadrantTagger(threshold=0.2)
    realigner = make_realigner(tagger=tagger)
    assert realigner.tagger is tagger
    assert realigner.settings["tagger"] == {"threshold": 0.2}
    assert realigner.names["tagger"] == "QuadrantTagger"
    with pytest.raises(OptionError, match="already made"):
        make_realigner(tagger=tagger, options={"tagger": {"threshold": 0.3}})


class Raising(contracts.Scorer):
    class Options(contracts.Options):
        api_key: str = ""

    def __call__(self, prompt, tags):
        raise TimeoutError


def test_chain_from_names_ends_with_the_scorer_that_always_answers(registry, make_realigner):
    class More:
        @realignkit.hookimpl
        def register_scorers(self, register: Any) -> None:
            register("raising", Raising, "raises")
            register(LAST_SCORER, tiny.WordyScorer, "always answers")

    assert [name for name, _ in make_realigner().scorers] == ["wordy"]
    registry.register(More(), "more")
    assert [name for name, _ in make_realigner().scorers] == ["wordy", LAST_SCORER]
    explicit = make_realigner(scorer=f"raising, {LAST_SCORER},wordy", options={"scorer": {"api_key": "k"}})
    assert [name for name, _ in explicit.scorers] == ["raising", LAST_SCORER, "wordy"]
    assert [scorer.options.api_key for _, scorer in explicit.scorers] == ["k", "k", "k"]
    one = make_realigner(scorer="raising", options={"scorer": {"raising.api_key": "k"}})
    assert [scorer.options.api_key for _, scorer in one.scorers] == ["k", ""]


@pytest.mark.parametrize(
    ("wishes", "problem"),
    [
        ({"model": ""}, "no generator is called ''"),
        ({"segmenter": ""}, "no segmenter is called ''"),
        ({"tagger": ""}, "no tagger is called ''"),
        ({"scorer": " , "}, "no scorer is called ' , '"),
    ],
)
def test_an_empty_name_is_no_default(make_realigner, wishes, problem):
    with pytest.raises(PluginError, match=problem):
        make_realigner(**wishes)


def test_a_reward_is_named_once_also_under_the_name_that_it_stands_for():
    companions = {"reward:caption": "micro_caption"}
    assert rewards_in("caption:1,clip:1", companions) == {"caption": "micro_caption", "clip": "clip"}
    with pytest.raises(OptionError, match="has one reward twice: with this model 'caption' means 'micro_caption'"):
        rewards_in("caption:1,micro_caption:1", companions)
