from __future__ import annotations

import numpy as np
import pytest

from realignkit.contracts import Metric
from realignkit.evaluation.statistics import wilson
from realignkit.evaluation.summary import summarise
from realignkit.named import Named
from tests.evaluation.judges import Redness


def line(prompt: str, labels=None, **values):
    about = {"id": prompt, "index": 1, "prompt": prompt, "seed": 1, "number": 0, "image": "", "sha256": ""}
    return {**about, "values": {"m": values}, **({"labels": labels} if labels else {})}


def plain() -> list[Named]:
    return [Named("metric", "m", object())]


def test_each_prompt_counts_the_same():
    lines = [line("a", score=1.5), line("a", score=0.5), line("b", score=4.0)]
    (value,) = summarise(lines, plain())
    assert (value.metric, value.name, value.group, value.value) == ("m", "score", "", 2.5)
    assert (value.n, value.prompts, value.binary) == (3, 2, False)
    assert (value.low, value.high) == (1.0, 4.0)  # of two prompts, any may be drawn twice


def test_shares_have_wilsons_interval():
    lines = [line(f"prompt {i}", right=float(i < 30)) for i in range(40)]
    (value,) = summarise(lines, plain())
    assert (value.value, value.binary) == (0.75, True)
    assert (value.low, value.high) == pytest.approx(wilson(30, 40))


def test_yes_or_no_is_what_the_metric_says_and_not_what_few_pictures_look_like():
    class Saying(Redness):
        yes_or_no = ("right",)
        summarise = None

    lines = [line(f"prompt {i}", right=float(i < 30), share=float(i < 30), odd=i / 40) for i in range(40)]
    values = {value.name: value for value in summarise(lines, [Named("metric", "m", Saying())])}
    assert [values[name].binary for name in ("right", "share", "odd")] == [True, False, False]
    assert (values["right"].low, values["right"].high) == pytest.approx(wilson(30, 40))
    assert values["share"].low != values["right"].low


def test_shares_of_prompts_with_unequal_numbers_of_pictures_are_never_too_sure():
    lines = [line(f"prompt {i}", right=1.0) for i in range(40)] + [line("prompt 0", right=1.0)]
    (value,) = summarise(lines, plain())
    assert (value.low, value.high) == pytest.approx(wilson(40, 40))


def test_elements_are_over_the_pictures_that_have_them_and_groups_over_theirs():
    lines = [
        line("a", {"id": "1", "atoms": "3"}, **{"score": 0.5, "score/colour": 0.25}),
        line("b", {"id": "2", "atoms": "10"}, score=0.75),
        line("c", score=0.25),
    ]
    values = {(v.name, v.group, v.label): (v.value, v.n) for v in summarise(lines, plain())}
    assert values == {
        ("score", "", ""): (0.5, 3),
        ("score/colour", "", ""): (0.25, 1),
        ("score", "atoms", "3"): (0.5, 1),
        ("score", "atoms", "10"): (0.75, 1),
    }
    assert [label for _, _, label in values][2:] == ["3", "10"]  # in the order of numbers


def test_what_a_metric_sums_up_itself_is_taken_with_an_interval_by_prompt():
    class Pooled(Metric):
        """A mean over questions."""

        def summarise(self, records):
            assert {"id", "prompt", "seed", "details"} <= set(records[0])
            return {"asked": float(np.mean([right for r in records for right in r["details"]])), "score": 0.0, "n": 9}

        def update(self, images, prompts): ...
        def compute(self): ...
        def merge(self, other): ...

    lines = []
    for i in range(60):
        each = line(f"prompt {i}", score=0.0)
        lines.append({**each, "details": {"m": [i % 2, 1, 1][: 1 + i % 3]}})
    values = {v.name: v for v in summarise(lines, [Named("metric", "m", Pooled())])}
    assert set(values) == {"score", "asked"}
    right = [right for each in lines for right in each["details"]["m"]]
    assert values["asked"].value == pytest.approx(np.mean(right))
    assert values["asked"].low < values["asked"].value < values["asked"].high


def test_metrics_of_whole_sets_have_a_number_and_pictures_that_were_not_understood_none():
    lines = [line("a", score=1.0), {**line("b"), "values": {"m": {}}}]
    values = summarise(lines, [*plain(), Named("metric", "fid", Redness())], {"fid": {"fid": 12.5, "n": 2}})
    assert [(v.metric, v.name, v.value, v.low, v.n) for v in values] == [
        ("m", "score", 1.0, values[0].low, 1),
        ("fid", "fid", 12.5, None, 2),
    ]
