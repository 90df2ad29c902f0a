from __future__ import annotations

import pytest

from realignkit import OptionError
from realignkit_plugins.metrics.vqascore import VQAScore


def test_it_is_the_probability_of_yes(scripted, dark, light):
    metric = VQAScore(vqa=scripted, vqa_options={"sure": 0.9})
    first, second = metric.judge_each([dark, light], ["a {red} pen", "a pen"])
    assert first == {"vqascore": pytest.approx(0.9)}
    assert second == {"vqascore": pytest.approx(0.1)}
    metric.update([dark, light, dark], ["a pen", "a pen", "a book"])
    assert metric.compute() == {"vqascore": pytest.approx((0.5 + 0.9) / 2), "n": 3}


def test_the_prompt_goes_into_the_template(scripted, dark):
    asked = []
    metric = VQAScore(vqa=scripted, template="Is this {}, yes?")
    answer = metric.vqa.probabilities
    metric.vqa.probabilities = lambda images, questions, answers: (
        asked.append((questions, answers)) or answer(images, questions, answers)
    )
    metric.judge_each([dark], ["a {0} pen"])
    assert asked == [(["Is this a {0} pen, yes?"], [["Yes", "yes", " yes", " Yes"]])]
    with pytest.raises(OptionError, match=r"must have \{\} once"):
        VQAScore(template="Is it?")


def test_two_templates_are_two_metrics(scripted):
    assert VQAScore(vqa=scripted).identity() != VQAScore(vqa=scripted, template="Is this {}?").identity()
