from __future__ import annotations

import pytest
from PIL import Image

from realignkit.contracts import Metric
from realignkit.errors import ModelError, OptionError, PluginError
from realignkit.refl.validation import Judge, best_of, hacking, moved, validation, without_improvement
from realignkit.types import Validation


def at(iteration, reward, judgement, *, higher=True):
    """A validation of four images around these means, the same noise each time."""
    noise = (-0.3, 0.1, -0.1, 0.3)
    return Validation(
        iteration,
        reward,
        judgement,
        higher,
        rewards=tuple(reward + n for n in noise),
        judgements=tuple(judgement + n for n in noise),
    )


def test_moving_means_more_than_the_noise_of_the_differences():
    assert moved([0, 1, 2, 3], [1, 2, 3, 4]) == 1  # all by the same: no noise at all
    assert moved([0, 1, 2, 3], [-1, 0, 1, 2]) == -1
    assert moved([0, 1, 2, 3], [0, 1, 2, 3]) == 0
    assert moved([0, 0, 0, 0], [9, -9, 8, -7]) == 0
    assert moved([0.0], [0.1]) == 1


def test_exploitation_is_reward_up_and_judgement_down():
    first = at(0, 0.2, 0.5)
    assert hacking([first], "clip") is None
    assert hacking([first, at(50, 0.6, 0.7)], "clip") is None
    assert hacking([first, at(50, 0.1, 0.3)], "clip") is None  # worse at both is no exploitation
    warning = hacking([first, at(50, 0.6, 0.4)], "clip")
    for part in ("iteration 50", "0.2 to 0.6", "clip", "0.5 to 0.4", "model as it came"):
        assert part in warning


def test_exploitation_after_a_good_beginning_is_noticed_against_the_best():
    history = [at(0, 0.2, 0.5), at(50, 0.4, 0.7), at(100, 0.8, 0.6)]
    assert "since iteration 50" in hacking(history, "clip")


def test_lower_may_be_better():
    history = [at(0, 0.2, 30.0, higher=False), at(50, 0.6, 40.0, higher=False)]
    assert "30 to 40" in hacking(history, "fid")
    assert hacking([history[0], at(50, 0.6, 20.0, higher=False)], "fid") is None
    assert best_of([*history, at(100, 0.6, 35.0, higher=False)]).iteration == 100


def test_best_is_a_trained_one_and_patience_counts_from_the_best_of_all():
    history = [at(0, 0, 0.9), at(10, 0, 0.5), at(20, 0, 0.7), at(30, 0, 0.7)]
    assert best_of(history).iteration == 20  # the first of equals
    assert best_of(history[:1]) is None
    assert [without_improvement(history[:n]) for n in range(5)] == [0, 0, 1, 2, 3]
    assert without_improvement([*history, at(40, 0, 0.95)]) == 0


class Count(Metric):
    """Remembers what it has seen, as metrics do."""

    def __init__(self, value=1.0):
        super().__init__()
        self.seen, self.value_of_one = 0, value

    def update(self, images, prompts):
        self.seen += len(images)

    def compute(self):
        return {"n": self.seen, "sum": self.seen * self.value_of_one, "half": self.seen / 2}

    def merge(self, other):
        self.seen += other.seen


IMAGES = [Image.new("RGB", (4, 4))] * 3


def test_metric_starts_afresh_for_each_validation():
    judge = Judge(Count(), "count")
    assert not judge.is_reward
    assert judge.judge_all(IMAGES, ["a"] * 3) == judge.judge_all(IMAGES, ["a"] * 3) == {"n": 3, "sum": 3, "half": 1.5}


def test_deciding_value_of_a_metric_may_be_named():
    found = validation(5, [0.5], Judge(Count(), "count"), {"n": 3, "sum": 3.0})
    assert (found.judgement, found.values["count.sum"]) == (3.0, 3.0)
    assert Judge(Count(), "count", "half").deciding({"n": 3, "sum": 3.0, "half": 1.5}) == 1.5
    with pytest.raises(OptionError, match="It has: n, sum"):
        Judge(Count(), "count", "third").judge_all(IMAGES, ["a"] * 3)
    with pytest.raises(ModelError, match="computed nan"):
        Judge(Count(float("nan")), "count").judge_all(IMAGES, ["a"] * 3)


def test_without_a_judge_the_reward_decides():
    found = validation(5, [0.2, 0.4], None, [])
    assert found.judgement == found.reward == pytest.approx(0.3)


def test_a_judge_that_computes_nothing_is_named():
    judge = Judge(Count(), "silent")
    with pytest.raises(PluginError, match="metric 'silent' broke its contract: it computed no value at all"):
        judge.deciding({})


def test_the_parts_of_a_sum_are_on_record_and_the_sum_is_its_own(make_trainer):
    from realignkit.calls import rate
    from realignkit.named import Named
    from realignkit_plugins.rewards.weighted import WeightedReward
    from tests.refl.rewards import Blind, Colour

    reward = WeightedReward.of({"colour": (Colour(), 0.3), "blind": (Blind(), 2.0)})
    trainer = make_trainer(reward, algorithm="raft", iterations=1, denoising_weight=0, validation={"samples": 2})
    (first, _) = trainer.train().history
    assert first.values["reward"] == pytest.approx(
        0.3 * first.values["reward.colour"] + 2.0 * first.values["reward.blind"], rel=1e-5
    )
    fresh = make_trainer(reward, algorithm="raft", out=trainer.folder.parent / "fresh")
    images = fresh.networks.draw(fresh.held_out, [1000, 1001], {**fresh.sampling, "num_inference_steps": 2})
    assert rate(Named("reward", "sum", reward), images, fresh.held_out) == list(first.rewards)
