"""Soft-TIFA's arithmetic against what the original computed (tests/golden/geneval2)."""

from __future__ import annotations

import json
from statistics import fmean

import pytest

from realignkit_plugins.metrics.soft_tifa import read_atoms
from realignkit_plugins.metrics.soft_tifa_scores import (
    arithmetic_mean,
    geometric_mean,
    over_prompts,
    per_atom_count,
    per_skill,
)
from realignkit_plugins.metrics.spellings import YES, first_token_probability, is_said, spellings
from tests.conftest import ROOT

FOLDER = ROOT / "tests" / "golden" / "geneval2"
PROMPTS = read_atoms(FOLDER / "prompts.json")
SCORES = json.loads((FOLDER / "scores.json").read_text())
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
RULE = json.loads((FOLDER / "token_rule.json").read_text())
NEAR = {"rel": 1e-9, "abs": 1e-12}


def test_means_of_each_prompt():
    assert [arithmetic_mean(each) for each in SCORES["soft"]] == pytest.approx(EXPECTED["per_prompt_am"], **NEAR)
    assert [geometric_mean(each) for each in SCORES["soft"]] == pytest.approx(EXPECTED["per_prompt_gm"], **NEAR)


def test_totals():
    soft, hard = SCORES["soft"], SCORES["hard_above_one_half"]
    totals = {
        "soft_tifa_am": over_prompts(map(arithmetic_mean, soft)),
        "soft_tifa_gm": over_prompts(map(geometric_mean, soft)),
        "tifa": over_prompts(map(arithmetic_mean, hard)),
        "vqascore": fmean(SCORES["vqascore"]),
    }
    assert {name: 100 * value for name, value in totals.items()} == pytest.approx(EXPECTED["total_in_percent"], **NEAR)


def test_skills_are_pooled_over_questions():
    found = per_skill(SCORES["soft"], [prompt.skills for prompt in PROMPTS])
    assert {name: 100 * value for name, value in found.items()} == pytest.approx(
        EXPECTED["per_skill_am_in_percent"], **NEAR
    )


def test_atom_counts_are_means_of_geometric_means():
    found = per_atom_count(SCORES["soft"], [prompt.count for prompt in PROMPTS])
    expected = {int(count): each["score"] for count, each in EXPECTED["per_atom_count_gm_in_percent"].items()}
    assert {count: 100 * value for count, value in found.items()} == pytest.approx(expected, **NEAR)


def first_tokens(texts):
    return [RULE["vocabulary"].index(RULE["splits"].get(text, [text])[0]) for text in texts]


@pytest.mark.parametrize("case", RULE["cases"], ids=lambda case: case["question"])
def test_answers_are_as_probable_as_the_original_says(case):
    accepted = spellings(case["question"], case["answer"])
    assert list(accepted) == case["answer_strings"]
    assert first_token_probability(case["logits"], first_tokens(accepted)) == pytest.approx(
        case["expected_soft"], **NEAR
    )
    assert is_said(case["most_likely_token"], accepted) == case["expected_tifa"]


def test_vqascore_has_the_four_spellings_of_yes():
    case = RULE["vqascore"]
    assert first_token_probability(case["logits"], first_tokens(YES)) == pytest.approx(case["expected"], **NEAR)
