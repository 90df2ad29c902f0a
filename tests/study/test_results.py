"""From answers to results: known people with known tastes, and the reference's rankings."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from realignkit.errors import OptionError
from realignkit.study.answers import Answers
from realignkit.study.folder import Item, Question, Study
from realignkit.study.results import answer_records, counted_answers, evaluate, failed_people, rank_table, system_ranks
from tests.study.conftest import answer, dutiful, person
from tests.study.test_ranking import EXPECTED, GOLDEN


@pytest.fixture(scope="module")
def reference():
    """A study with the reference's rankings as answers of twelve people about nine systems."""
    ranks = load_file(GOLDEN / "io.safetensors")["ranks"]
    people, prompts, systems = ranks.shape
    items = [
        Item(id=str(i + 1), prompt=f"prompt {i}", pictures=[f"{i * systems + s:032x}" for s in range(systems)])
        for i in range(prompts)
    ]
    study = Study(
        id="0" * 32,
        consent="yes",
        questions=[Question(name="alignment", text="?"), Question(name="fidelity", text="?")],
        systems=[f"system {s}" for s in range(systems)],
        items=items,
    )
    answers = [
        answer(study, item, np.argsort(ranks[p, i]).tolist(), of=p)
        for p in range(people)
        for i, item in enumerate(items)
    ]
    return study, answers, ranks


@pytest.fixture(scope="module")
def judged(reference):
    study, answers, _ = reference
    (result,) = evaluate(study, answers).questions  # nobody was asked about fidelity
    return result


def test_answers_become_the_ranks_that_were_given(reference):
    study, answers, ranks = reference
    assert np.array_equal(rank_table(study, answers, "alignment"), ranks)


def test_the_results_are_the_reference_s(judged):
    assert [p.rank for p in judged.placed] == pytest.approx(EXPECTED["average_ranks"], rel=1e-12)
    assert [p.first for p in judged.placed] == pytest.approx(EXPECTED["share_ranked_first"], rel=1e-12)
    names = {
        "friedman_blocks_people_by_prompts": judged.by_answer,
        "friedman_blocks_people (ranks averaged over prompts, ranked again)": judged.by_person,
        "friedman_blocks_prompts (ranks averaged over people, ranked again)": judged.by_prompt,
    }
    for name, test in names.items():
        wanted = EXPECTED[name]
        assert (test.chi2, test.p, test.w) == pytest.approx(
            (wanted["chi2"], wanted["p"], wanted["kendall_w"]), rel=1e-9
        )
    assert judged.w == pytest.approx(EXPECTED["mean_kendall_w_per_prompt"], rel=1e-9)
    assert (judged.answers, judged.people, judged.prompts) == (240, 12, 20)


def test_every_pair_has_an_interval_around_its_difference(judged):
    assert len(judged.pairs) == 36
    ranks = {placed.system: placed.rank for placed in judged.placed}
    for pair in judged.pairs:
        low, high = pair.interval
        assert low < pair.difference < high
        assert pair.difference == pytest.approx(ranks[pair.one] - ranks[pair.other])
    for placed in judged.placed:
        low, high = placed.interval
        assert low < placed.rank < high


def test_people_of_one_mind(answered):
    folder, study = answered
    results = evaluate(study, Answers(folder, study).read())
    assert [judged.question for judged in results.questions] == ["alignment", "fidelity"]
    for judged in results.questions:
        assert {p.system: (p.rank, p.first) for p in judged.placed} == {"base": (3, 0), "ours": (1, 1), "third": (2, 0)}
        assert judged.w == 1
        assert judged.by_person.chi2 == pytest.approx(3 * 2)
    assert (results.people.answered, results.people.finished, results.people.failed) == (3, 3, 0)
    assert results.people.share_failed == 0


def test_ties_share_their_ranks(make):
    _, study = make()
    item = study.items[0]
    assert system_ranks(item, answer(study, item, [2, (0, 1)])) == [2.5, 2.5, 1]
    assert system_ranks(item, answer(study, item, [(2, 0, 1)])) == [2, 2, 2]


def test_who_fails_a_check_is_left_out_and_counted(make):
    _, study = make(checks=1)
    (check,) = [item for item in study.items if item.first]
    right = check.pictures.index(check.first)
    answers = []
    for number in range(4):
        # Number 3 answers by chance: the check too.
        order = [1, 2, 0] if number < 3 else [0, 1, 2]
        for item in study.items:
            given = dutiful(study, item, order) if number < 3 else order
            if item is check and number == 3:
                given = [(right + 1) % 3, right, (right + 2) % 3]
            answers.append(answer(study, item, given, of=number))
    assert failed_people(study, answers) == {person(3)}
    results = evaluate(study, answers)
    assert (results.people.answered, results.people.checked, results.people.failed) == (4, 4, 1)
    assert (results.people.counted, results.people.share_failed) == (3, 0.25)
    assert results.people.finished == 0  # nobody was asked about fidelity
    assert results.questions[0].placed[1].rank == 1
    everybody = evaluate(study, answers, everybody=True)
    assert everybody.people.counted == 4
    assert everybody.questions[0].placed[1].rank == 1.25
    assert len(counted_answers(study, answers)) == 3 * len(study.items)


def test_people_who_stopped_are_counted_as_far_as_they_came(make):
    _, study = make(checks=0)
    answers = [answer(study, item, [1, 2, 0], of=0) for item in study.items]
    answers += [answer(study, study.items[0], [0, 1, 2], of=1)]
    (judged,) = evaluate(study, answers).questions
    assert (judged.answers, judged.people, judged.prompts) == (5, 2, 4)
    assert judged.placed[0].rank == pytest.approx((3 * 4 + 1) / 5)


def test_one_person_gives_no_interval(make):
    _, study = make(checks=0)
    (judged,) = evaluate(study, [answer(study, item, [1, 2, 0]) for item in study.items]).questions
    assert {placed.interval for placed in judged.placed} | {pair.interval for pair in judged.pairs} == {None}
    assert judged.w is None


def test_metrics_that_agree_and_that_do_not(make):
    _, study = make(checks=0)
    values = {"good": [0.1, 0.9, 0.5], "bad": [0.9, 0.1, 0.5], "blind": [0.5, 0.5, 0.5], "partial": [0.1, 0.9, None]}
    study = study.model_copy(update={"items": [item.model_copy(update={"values": values}) for item in study.items]})
    answers = [answer(study, item, [1, 2, 0], of=number) for item in study.items for number in range(2)]
    (judged,) = evaluate(study, answers).questions
    found = {agreement.metric: agreement for agreement in judged.agreements}
    assert (found["good"].within, found["good"].systems, found["good"].prompts) == (1, 1, 4)
    assert (found["bad"].within, found["bad"].systems) == (-1, -1)
    for name in ("blind", "partial"):
        assert (found[name].within, found[name].interval, found[name].prompts) == (None, None, 0)


def test_no_results(make):
    _, study = make(checks=1)
    with pytest.raises(OptionError, match="nobody has answered yet"):
        evaluate(study, [])
    (check,) = [item for item in study.items if item.first]
    right = check.pictures.index(check.first)
    good, bad = [right, (right + 1) % 3, (right + 2) % 3], [(right + 1) % 3, right, (right + 2) % 3]
    with pytest.raises(OptionError, match="nobody has answered yet"):
        evaluate(study, [answer(study, check, good)])
    with pytest.raises(OptionError, match="everybody failed a check; --everybody counts them"):
        evaluate(study, [answer(study, check, bad)])


def test_what_leaves_the_study_names_systems(answered):
    folder, study = answered
    records = list(answer_records(study, Answers(folder, study).read()))
    assert len(records) == 3 * len(study.items) * 2
    assert json.loads(json.dumps(records)) == records
    for record in records:
        if record["check"] is None:
            assert record["ranking"] == [["ours"], ["third"], ["base"]]
            assert record["ranks"] == {"base": 3, "ours": 1, "third": 2}
            assert sorted(record["shown"]) == ["base", "ours", "third"]
        else:
            assert record["check"] is True
            assert record["ranking"][0][0].startswith("number ")
