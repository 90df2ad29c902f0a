"""The rewards' agreement with the oracle: the interval, the labels, and the command."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def agreement(script):
    """The script as a module."""
    return script("agreement")


def test_smoke(smoke):
    printed = smoke("agreement")
    assert "24 pictures of 6 validation prompts, 6 different ones" in printed
    assert printed.count("\n| ") == 15


def test_interval_holds_the_area_and_shrinks_with_more_prompts(agreement):
    rng = np.random.default_rng(3)
    right = rng.random((400, 4)) < 0.5
    rewards = right + rng.normal(0, 1, right.shape)
    rewards, right, prompts = rewards.ravel(), right.ravel(), np.arange(400).repeat(4).tolist()
    wide = agreement.interval(rewards[:100], right[:100], prompts[:100], 200)
    narrow = agreement.interval(rewards, right, prompts, 200)
    assert narrow[0] < agreement.area(rewards, right) < narrow[1]
    assert 2.5 < (wide[1] - wide[0]) / (narrow[1] - narrow[0]) < 6.5  # sqrt(16) = 4


def test_pictures_of_a_prompt_that_is_listed_twice_stay_together(agreement):
    rng = np.random.default_rng(5)
    right = rng.random(60) < 0.5
    rewards = right + rng.normal(0, 1, 60)
    once = agreement.interval(rewards, right, range(60), 300)
    again = agreement.interval(np.tile(rewards, 4), np.tile(right, 4), [*range(60)] * 4, 300)
    assert again == pytest.approx(once)  # four copies tell no more than one
    assert all(np.isnan(agreement.interval(rewards, np.ones(60, bool), range(60), 10)))


def test_labels_belong_to_the_pictures(agreement):
    """The oracle, which the labels were made to judge, agrees with most of them (published: 85.8 %)."""
    images, prompts, by_person = agreement.labelled()
    seen = agreement.Oracle.load().detect(images)
    verdicts = [agreement.fully_right(prompt, found) for prompt, found in zip(prompts, seen, strict=True)]
    assert len(images) == 120 and (np.array(verdicts) == by_person).mean() > 0.8
