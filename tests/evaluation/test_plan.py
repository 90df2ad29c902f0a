"""Plans: which rows there are, and whose pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from realignkit.errors import ModelError, OptionError
from realignkit.evaluation.plan import BASE, Model, raised, scorers_plan, stages_plan, trained_model
from realignkit.named import Named
from tests.refl.rewards import Darkness


def test_stages_without_a_part_leave_its_rows_out():
    tuned = [Model({}, {"weights": name}) for name in "ab"]
    assert list(stages_plan([], fine=False).rows) == ["base"]
    both = stages_plan(tuned, candidates=2, select_by=Named("reward", "darkness", Darkness())).rows
    assert list(both) == [
        *("base", "fine", "base, best of 2"),
        *("coarse", "both", "coarse, best of 2", "both, best of 2"),
    ]
    assert both["both"] == tuned
    assert both["fine"] == [BASE]


def test_guided_rows_stand_beside_every_stage(make_realigner):
    guided = make_realigner(guide_by="colour", guide_strength=0.3)
    plan = stages_plan([Model({}, {"weights": "a"})], guided=guided)
    assert list(plan.rows) == [
        *("base", "fine", "base, guided", "fine, guided"),
        *("coarse", "both", "coarse, guided", "both, guided"),
    ]
    assert plan.settings == {
        "guide_by": {"colour": {}},
        "guide_strength": 0.3,
        "guide_share": 0.65,
        "guide_margin": None,
    }
    assert plan.selected["fine, guided"] == "colour"
    assert list(stages_plan([], fine=False, guided=guided).rows) == ["base", "base, guided"]


def test_answers_have_a_row_for_each_tagger_and_scorer():
    plan = scorers_plan(["ram", "tag2text"], ["gpt4", "lexical"])
    assert list(plan.rows) == ["ram x gpt4", "ram x lexical", "tag2text x gpt4", "tag2text x lexical"]
    with pytest.raises(OptionError, match="at least one"):
        scorers_plan(["ram"], [])


def test_models_are_known_by_their_weights(tmp_path):
    def run(name, data, training=None):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "pytorch_lora_weights.safetensors").write_bytes(data)
        if training is not None:
            (folder / "training.json").write_text(
                json.dumps({"format": "realignkit.training", "version": 1, **training})
            )
        return folder

    training = {
        "config": {"reward_weight": 0.001, "seed": 7},
        "identity": {"reward": "micro_clip:1,blip:0.5"},
        "iteration": 90,
        "best": 60,
        "status": "finished",
    }
    one, same, other = run("1", b"one", training), run("2", b"one"), run("3", b"other")
    found = trained_model(one)
    assert found.options == {"lora": str(one)}
    assert found.record["weights"] == trained_model(same).record["weights"] != trained_model(other).record["weights"]
    facts = {name: found.record[name] for name in ("reward", "iteration", "seed", "status")}
    assert facts == {"reward": "micro_clip:1,blip:0.5", "iteration": 60, "seed": 7, "status": "finished"}
    assert str(tmp_path) not in json.dumps(found.record)
    file = one / "pytorch_lora_weights.safetensors"
    assert trained_model(file).record["weights"] == found.record["weights"]
    (tmp_path / "whole" / "model" / "unet").mkdir(parents=True)
    (tmp_path / "whole" / "model" / "model_index.json").write_text("{}")
    (tmp_path / "whole" / "model" / "unet" / "weights.safetensors").write_bytes(b"w")
    assert trained_model(tmp_path / "whole").options == {"model": str(Path(tmp_path / "whole" / "model"))}
    (tmp_path / "empty").mkdir()
    for folder, why in (("empty", "no .safetensors file"), ("nowhere", "no such folder")):
        with pytest.raises(ModelError, match=why):
            trained_model(tmp_path / folder)
    companions = {"reward:clip": "micro_clip"}
    assert raised(found.record, ["clip", "image_reward", "blip"], companions) == ["clip", "blip"]
    assert raised(found.record, ["clip"], {}) == []
    twice = {**found.record, "reward": "clip:1,micro_clip:1"}  # as earlier versions took it
    assert raised(twice, ["clip", "image_reward"], {"reward:clip": "micro_clip"}) == ["clip"]
    assert raised({**found.record, "reward_weight": 0.0}, ["clip"], companions) == []
    assert raised(BASE.record, ["clip"], companions) == []
