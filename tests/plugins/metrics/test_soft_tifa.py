from __future__ import annotations

import json

import pytest

from realignkit import OptionError
from realignkit_plugins.metrics.soft_tifa import SoftTIFA, atoms_by_rules
from tests.conftest import ROOT

PROMPTS = ROOT / "tests" / "golden" / "geneval2" / "prompts.json"


def test_both_means_by_skill_and_number_of_atoms(scripted, dark, light):
    metric = SoftTIFA(vqa=scripted, questions=str(PROMPTS))
    first, second = metric.judge_each([dark, light], ["two brass lanterns", "two brass lanterns"])
    assert first["soft_tifa_am"] == first["soft_tifa_gm"] == pytest.approx(0.75)
    assert first["soft_tifa_gm/3 atoms"] == pytest.approx(0.75)
    assert second["soft_tifa_am/count"] == pytest.approx(0.25)
    assert first["details"][0] == {
        "question": "How many lanterns are in the image?",
        "type": "count",
        "answer": "two",
        "probability": 0.75,
    }
    metric.update([dark, light], ["two brass lanterns", "three paper boats and a kite"])
    values = metric.compute()
    assert values["soft_tifa_am"] == pytest.approx(0.5)
    assert values["soft_tifa_am/attribute"] == pytest.approx((0.75 + 0.25) / 2)
    assert values["soft_tifa_am/object"] == pytest.approx((0.75 + 2 * 0.25) / 3)
    assert values["soft_tifa_gm/4 atoms"] == pytest.approx(0.25)


def test_questions_by_rules():
    atoms = atoms_by_rules("two brown dogs and a bench")
    assert dict(zip(atoms.questions, atoms.skills, strict=True)) == {
        ("Are there dogs?", "Yes"): "object",
        ("How many brown dogs are there?", "two"): "count",
        ("Are the dogs brown?", "Yes"): "attribute",
        ("Is there a bench?", "Yes"): "object",
    }
    assert atoms_by_rules("") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "no file of prompts"),
        ('{"prompt": "a pen"}', "entry 1 .* has no prompt, atom_count"),
        ('{"prompt": "a pen", "atom_count": 1, "vqa_list": [["q", "Yes"]], "skills": []}', "1 questions and 0 skills"),
    ],
)
def test_damaged_files_are_named(scripted, tmp_path, text, problem):
    (tmp_path / "prompts.jsonl").write_text(text)
    with pytest.raises(OptionError, match=problem):
        SoftTIFA(vqa=scripted, questions=str(tmp_path / "prompts.jsonl")).can_judge("a pen")


def test_prompts_are_found_in_the_file_that_is_here_however_their_blanks_are(scripted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entry = {"prompt": "a green  bowl ", "atom_count": 1, "vqa_list": [["q", "Yes"]], "skills": ["object"]}
    (tmp_path / "geneval2_data.jsonl").write_text(json.dumps(entry))
    metric = SoftTIFA(vqa=scripted, questions="geneval2_data.jsonl")
    assert [metric.can_judge(prompt) for prompt in ("a green bowl", "a green  bowl ", "a bowl")] == [True, True, False]


def test_questions_are_put_as_the_template_says(scripted):
    with pytest.raises(OptionError, match=r"must have \{\} once"):
        SoftTIFA(vqa=scripted, template="Answer!")
    assert SoftTIFA(vqa=scripted).identity()["template"] == "{} Answer in one word."
