"""The statistics of paired comparisons, against enumeration, published formulas and known values."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import stats

from realignkit.errors import OptionError
from realignkit.evaluation import statistics
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "statistics"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())["paired_designs"]
DESIGNS = tuple(EXPECTED)


@pytest.fixture(scope="module")
def designs():
    """Per design: prompts, verdicts before, verdicts after."""
    rows = load_file(GOLDEN / "io.safetensors")
    return {name: (rows[name][:, 0].tolist(), rows[name][:, 2] == 1, rows[name][:, 3] == 1) for name in DESIGNS}


@pytest.mark.parametrize("name", DESIGNS)
def test_p_flips_whole_prompts_as_the_reference_does(name, designs):
    prompts, before, after = designs[name]
    wanted = EXPECTED[name]
    found = statistics.compare(before, after, prompts)
    assert found.p == pytest.approx(wanted["sign_flip_by_prompt"]["exact_two_sided_p"], rel=1e-9)
    assert (found.n, found.prompts) == (wanted["pairs"], wanted["prompts"])
    assert found.gain == pytest.approx(100 * wanted["difference_b_minus_a"])
    assert (found.fixed, found.broken) == (wanted["table"]["only_b"], wanted["table"]["only_a"])
    by_picture = wanted["mcnemar_ignoring_prompts"]["exact_two_sided_p"]
    assert statistics.mcnemar(found.fixed, found.broken) == pytest.approx(by_picture, rel=1e-9)
    assert statistics.compare(before, after, range(len(before))).p == pytest.approx(by_picture, rel=1e-9)


@pytest.mark.parametrize("name", DESIGNS)
def test_bootstraps_and_errors_of_means_are_the_reference_s(name, designs):
    prompts, before, after = designs[name]
    wanted = EXPECTED[name]
    for what, values in {"a": before, "b": after, "b_minus_a": after.astype(float) - before}.items():
        bounds = wanted["cluster_bootstrap_95_percentile"][what]
        assert statistics.mean_interval(values, prompts) == pytest.approx(tuple(bounds), abs=0.01)
        error = wanted["cluster_robust"][what]["standard_error"]
        assert statistics.standard_error(values, prompts) == pytest.approx(error, rel=1e-9)
    # Where the prompts are few, the bootstrap is too narrow: Student's t over prompts is the measure.
    found = statistics.compare(before, after, prompts)
    low, high = wanted["cluster_robust"]["b_minus_a"]["t_interval_95"]
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), abs=0.5)


def test_with_one_picture_per_prompt_they_are_mcnemar_and_wilson():
    random = np.random.default_rng(4)
    for n in (1, 2, 7, 60, 440):
        before, after = random.random(n) < 0.5, random.random(n) < 0.7
        found = statistics.compare(before, after, [f"prompt {i}" for i in range(n)])
        tail = sum(math.comb(found.fixed + found.broken, k) for k in range(min(found.fixed, found.broken) + 1))
        mcnemar = min(1.0, 2 * tail / 2 ** (found.fixed + found.broken))
        assert found.p == (None if n < 2 else pytest.approx(mcnemar, rel=1e-9))
        assert statistics.share_interval(after, range(n)) == statistics.wilson(int(after.sum()), n)


def test_four_seeds_of_a_prompt_are_no_four_prompts():
    """Under no effect, pictures of a prompt moving together, p is below 0.05 no more often than 5 % explains, in 500
    draws and by a one-sided binomial test at 5 %; by picture it is below 0.05 in more than 20 %.
    """
    random = np.random.default_rng(0)
    by_prompt = by_picture = 0
    draws = 500
    for _ in range(draws):
        signs = random.choice([-1, 0, 1], size=100, p=[0.15, 0.7, 0.15])
        moved = signs[:, None] * (random.random((100, 4)) < 0.8)
        by_prompt += statistics.sign_flip(moved.sum(1)) < 0.05
        by_picture += statistics.mcnemar(int((moved > 0).sum()), int((moved < 0).sum())) < 0.05
    # P(X >= by_prompt) of a binomial X with a share of 5 %.
    as_many = sum(math.comb(draws, k) * 0.05**k * 0.95 ** (draws - k) for k in range(by_prompt, draws + 1))
    assert as_many > 0.05
    assert by_picture / draws >= 0.2


@given(st.lists(st.integers(-4, 4), max_size=10))
def test_sign_flip_counts_all_choices_of_signs(differences):
    flips = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
             for signs in itertools.product((-1, 1), repeat=len(differences))]  # fmt: skip
    extreme = sum(flip >= abs(sum(differences)) for flip in flips)
    assert statistics.sign_flip(differences) == pytest.approx(extreme / len(flips), rel=1e-9)


@pytest.mark.parametrize(("fixed", "broken"), [(5, 1), (3, 3), (0, 4), (7, 2), (0, 0)])
def test_mcnemar_is_the_share_of_coin_flips_at_least_as_uneven(fixed, broken):
    total = fixed + broken
    flips = [sum(way) for way in itertools.product((0, 1), repeat=total)]
    uneven = [abs(heads - total / 2) >= abs(fixed - total / 2) for heads in flips]
    assert statistics.mcnemar(fixed, broken) == pytest.approx(sum(uneven) / len(flips))


def test_thousands_of_prompts_and_the_smallest_p():
    assert statistics.sign_flip([1] * 900 + [-1] * 100) == pytest.approx(
        2 * sum(math.comb(1000, k) for k in range(101)) / 2**1000, rel=1e-9
    )
    all_better = statistics.compare([False] * 3000, [True] * 3000, range(3000))
    assert statistics.shown_p(all_better.p) == "< 1e-300"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 25), st.booleans(), st.booleans()), min_size=1, max_size=80),
    st.integers(1, 4),
)
def test_no_row_contradicts_itself(rows, copies):
    prompts, before, after = (list(column) * copies for column in zip(*rows, strict=True))
    found = statistics.compare(before, after, prompts)
    assert found.gain == pytest.approx(found.after - found.before)
    assert found.gain == pytest.approx(100 * (found.fixed - found.broken) / found.n)
    if found.low is not None:
        assert found.low <= found.gain <= found.high
        assert (found.low <= 0 <= found.high) == (found.p > 0.05)
        shown = found.row("x").split(" | ")
        low, high = (float(end) for end in shown[5].split("[")[1].rstrip("]").split(", "))
        assert (low <= 0 <= high) == (float(shown[7].rstrip(" |")) >= 0.05)


def test_the_interval_is_what_the_test_does_not_reject():
    """Against the p of every supposed difference, by all signs of eight prompts with uneven seeds."""
    sums, sizes = np.array([3, 2, -1, 4, 0, 1, 2, 0]), np.array([4, 4, 2, 5, 3, 1, 4, 2])
    prompts = np.repeat(np.arange(8), sizes)
    values = np.concatenate([[np.sign(s)] * abs(s) + [0] * (n - abs(s)) for s, n in zip(sums, sizes, strict=True)])
    low, high = statistics.difference_interval(values, prompts)
    signs = np.array(list(itertools.product((-1, 1), repeat=8)))

    def p(supposed):
        off = sums - sizes * supposed
        return np.mean(np.abs(signs @ off) >= abs(off.sum()) - 1e-12)

    inside = np.linspace(low, high, 20)[1:-1]
    assert min(map(p, inside)) > 0.05
    assert max(p(low - 1e-6), p(high + 1e-6)) <= 0.05


def test_intervals_hold_the_truth_where_seeds_move_together():
    random = np.random.default_rng(5)
    prompts = np.repeat(np.arange(40), 4)
    held = plain = difference = 0
    for _ in range(200):
        talent = random.beta(0.5, 0.5, 40).repeat(4)
        verdicts = random.random(160) < talent
        low, high = statistics.share_interval(verdicts, prompts)
        held += low <= 0.5 <= high
        low, high = statistics.wilson(int(verdicts.sum()), 160)
        plain += low <= 0.5 <= high
        after = verdicts | (random.random(40) < 0.3).repeat(4)
        found = statistics.compare(verdicts, after, prompts)
        difference += found.low <= 15 <= found.high
    assert held >= 184
    assert plain <= 170
    assert difference >= 182


def test_prompts_that_are_listed_twice_count_once():
    verdicts = [True, True, False, False, True, True, False, False]
    texts = ["a red car", "a red car", "a blue dog", "a blue dog"] * 2
    assert statistics.share_interval(verdicts, texts) == statistics.share_interval(sorted(verdicts), [0] * 4 + [1] * 4)
    found = statistics.compare([False] * 8, verdicts, texts)
    assert (found.n, found.prompts, found.p) == (8, 2, 1.0)


@pytest.mark.parametrize("how", ["nothing", "one prompt", "two prompts", "all ties", "all alike"])
def test_what_too_little_is_known_about_has_no_interval(how):
    n = {"nothing": 0, "one prompt": 4, "two prompts": 2}.get(how, 20)
    after = np.ones(n, bool)
    before = after if how == "all ties" else ~after
    found = statistics.compare(before, after, [0] * n if how == "one prompt" else range(n))
    assert (found.low, found.high) == (None, None)
    row = found.row(how)
    assert "nan" not in row
    wanted = {
        "nothing": "| nothing | 0 | 0 | - | - | - | 0 / 0 | - |",
        "one prompt": "| one prompt | 4 | 1 | 0.0 | 100.0 | +100.0 [-] | 4 / 0 | - |",
        "two prompts": "| two prompts | 2 | 2 | 0.0 | 100.0 | +100.0 [-] | 2 / 0 | 0.5 |",
        "all ties": "| all ties | 20 | 20 | 100.0 | 100.0 | +0.0 [-] | 0 / 0 | 1 |",
        "all alike": "| all alike | 20 | 20 | 0.0 | 100.0 | +100.0 [-] | 20 / 0 | 1.9e-06 |",
    }
    assert row == wanted[how]


def test_shares_of_nothing_one_and_all():
    assert statistics.share_interval([], []) is None
    assert statistics.share_interval([True], ["a"]) == statistics.wilson(1, 1)
    # Twenty seeds of five prompts, all right, tell little more than five pictures.
    assert statistics.share_interval([True] * 100, list(range(5)) * 20) == pytest.approx(statistics.wilson(5, 5))
    low, high = statistics.share_interval([True] * 4 + [False] * 4, ["only"] * 8)
    assert 0 < low < 0.5 < high < 1
    assert statistics.mean_interval([1.0, 2.0], ["a", "a"]) is None
    assert statistics.standard_error([1.0, 2.0], ["a", "a"]) is None


def test_numbers_that_are_shown_tell_the_side_they_are_on():
    assert statistics.shown_gain(5.0, 0.012, 9.0) == "+5.0 [+0.01, +9.0]"
    assert statistics.shown_gain(-0.0, -1.25, 0.0) == "+0.0 [-1.2, +0.0]"
    assert statistics.shown_gain(None, None, None) == "-"
    assert [statistics.shown_p(p) for p in (0.0497, 0.0503, 0.05, 1.0, None)] == ["0.0497", "0.05", "0.05", "1", "-"]


def test_compare_counts_pairs_and_brackets_the_difference():
    before = [True] * 40 + [False] * 60
    after = [True] * 35 + [False] * 5 + [True] * 20 + [False] * 40
    result = statistics.compare(before, after, clusters=range(100))
    assert (result.fixed, result.broken, result.before, result.after) == pytest.approx((20, 5, 40, 55))
    # Normal approximation of the paired difference: 15 ± 1.96 * 100 * sqrt((25 - 0.15**2 * 100) / 100**2).
    assert result.low == pytest.approx(15 - 9.35, abs=1.5)
    assert result.high == pytest.approx(15 + 9.35, abs=1.5)


def test_intervals_widen_when_seeds_of_a_prompt_move_together():
    before, after = [False] * 200, [True] * 40 + [False] * 160
    apart = statistics.compare(before, after, clusters=range(200))
    together = statistics.compare(before, after, clusters=[index // 4 for index in range(200)])
    assert together.high - together.low > 1.5 * (apart.high - apart.low)
    assert together == statistics.compare(before, after, clusters=[index // 4 for index in range(200)])


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    low, high = statistics.mean_interval(values, range(400))
    error = values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error)
    # Four copies of a value in a cluster tell no more than one.
    again = statistics.mean_interval(values.repeat(4), np.arange(400).repeat(4).tolist())
    assert again == pytest.approx((low, high))


def test_they_need_no_torch():
    code = "import sys, realignkit.evaluation.statistics; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("before, after, prompts", [([1, 0], [1], "ab"), ([1], [1, 0], "ab"), ([1, 0], [1, 0], "a")])
def test_judgements_that_do_not_go_together(before, after, prompts):
    with pytest.raises(OptionError, match="do not go together"):
        statistics.compare(before, after, prompts)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_are_where_the_score_test_is_borderline(numbers):
    # The interval's definition: |share - p| = z sqrt(p (1 - p) / n) at both ends.
    successes, count = numbers
    share = successes / count
    low, high = statistics.wilson(successes, count)
    assert 0 <= low <= share <= high <= 1
    for p in (low, high):
        assert abs(share - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / count), abs=1e-6)


@pytest.mark.parametrize(("fixed", "broken", "count"), [(0, 0, 5), (1, 0, 6), (4, 2, 60), (9, 1, 40), (30, 12, 500)])
def test_one_picture_per_prompt_is_what_scipy_says(fixed, broken, count):
    if fixed + broken:
        assert statistics.mcnemar(fixed, broken) == pytest.approx(
            stats.binomtest(fixed, fixed + broken).pvalue, rel=1e-12
        )
    interval = stats.binomtest(fixed, count).proportion_ci(method="wilson")
    assert statistics.wilson(fixed, count) == pytest.approx((interval.low, interval.high), abs=1e-7)


def test_few_prompts_of_several_pictures_are_what_scipy_enumerates():
    differences = np.array([3, -1, 2, 0, 1, -2, 4, 1])
    result = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert statistics.sign_flip(differences) == pytest.approx(result.pvalue, rel=1e-12)
