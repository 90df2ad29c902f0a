"""TIFA's arithmetic against what the original computed (tests/golden/tifa)."""

from __future__ import annotations

import json

import pytest

from realignkit_plugins.metrics.tifa_questions import read_questions
from realignkit_plugins.metrics.tifa_scores import (
    choose,
    in_digits,
    keeps,
    plain,
    question_score,
    sentence_embedding,
    similarities,
    tifa_scores,
    token_f1,
)
from tests.conftest import ROOT

FOLDER = ROOT / "tests" / "golden" / "tifa"
QUESTIONS = read_questions(FOLDER / "questions.json")
ANSWERS = json.loads((FOLDER / "answers.json").read_text())
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
PARTS = json.loads((FOLDER / "parts.json").read_text())
TOLERANCE = json.loads((FOLDER / "meta.json").read_text())["tolerance"]


def scores():
    found = []
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True):
        assert (question.id, question.question) == (answer["id"], answer["question"])
        asked_encoder = []

        def nearest(said, choices, answer=answer, asked=asked_encoder):
            asked.append(said)
            return answer["nearest_choice_if_not_a_choice"]

        choice = choose(answer["free_form_vqa"], question.choices, nearest)
        score = question_score(choice, question.answer)
        expected = answer["expected"]
        assert (choice, score) == (expected["multiple_choice_vqa"], expected["score"])
        assert bool(asked_encoder) == expected["sbert_used"]
        found.append((question.id, question.element_type, score))
    return found


def test_averages_are_the_originals():
    result = tifa_scores(scores())
    exact = {"abs": TOLERANCE["aggregates"]}
    assert result.average == pytest.approx(EXPECTED["tifa_average"], **exact)
    assert result.deviation == pytest.approx(EXPECTED["tifa_stdev"], **exact)
    assert dict(result.by_type) == pytest.approx(EXPECTED["accuracy_by_type"], **exact)
    assert dict(result.by_caption) == pytest.approx(EXPECTED["caption_scores"], **exact)


def test_one_caption_has_no_deviation():
    first = [score for score in scores() if score[0] == "made_0"]
    result = tifa_scores(first)
    assert result.average == pytest.approx(EXPECTED["tifa_score_single"]["made_0"])
    assert result.deviation is None


@pytest.mark.parametrize("case", PARTS["sbert_choice"])
def test_the_nearest_choice_is_the_originals(case):
    answer = sentence_embedding(case["answer_tokens"][0], case["answer_mask"][0])
    choices = [
        sentence_embedding(tokens, mask)
        for tokens, mask in zip(case["choice_tokens"], case["choice_masks"], strict=True)
    ]
    near = similarities(answer, choices)
    assert near == pytest.approx(case["expected_similarities"], abs=TOLERANCE["similarities"])
    assert near.index(max(near)) == case["expected_choice_index"]


@pytest.mark.parametrize("case", PARTS["question_filter"], ids=lambda case: case["why"])
def test_the_filter_keeps_what_the_original_keeps(case):
    answer, said = case["answer"], case["free_form_answer"]
    assert token_f1(answer, said) == pytest.approx(case["token_f1_before_number_words"])
    assert keeps(answer, case["multiple_choice_answer"], said) is case["kept"]


@pytest.mark.parametrize("case", PARTS["free_form_normalisation"], ids=lambda case: case["raw"])
def test_free_answers_are_made_plain_as_in_the_original(case):
    assert plain(case["raw"]) == case["normalised"]


def test_number_words_become_digits():
    assert in_digits("Two dogs and a twelve") == "2 dogs and a 12"
