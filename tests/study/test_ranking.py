"""Statistics of rankings, against reference values, scipy and simulated people."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy import stats

from realignkit.errors import OptionError
from realignkit.study import ranking
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden" / "statistics"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())["ranking"]
BLOCKS = {
    "friedman_blocks_people_by_prompts": lambda ranks: ranks.reshape(-1, 9),
    "friedman_blocks_people (ranks averaged over prompts, ranked again)": lambda ranks: ranks.mean(1),
    "friedman_blocks_prompts (ranks averaged over people, ranked again)": lambda ranks: ranks.mean(0),
}


@pytest.fixture(scope="module")
def tensors():
    return load_file(GOLDEN / "io.safetensors")


@pytest.fixture(scope="module")
def ranks(tensors):
    return tensors["ranks"].astype(float)


def same(result, wanted):
    assert result.blocks == wanted["blocks"]
    assert result.df == wanted["df"]
    pairs = {"chi2": result.chi2, "p": result.p, "kendall_w": result.w}
    pairs |= {"iman_davenport_f": result.f, "iman_davenport_p": result.f_p}
    assert pairs == pytest.approx({name: wanted[name] for name in pairs}, rel=1e-9)
    assert result.average_ranks == pytest.approx(tuple(wanted["average_ranks"]), rel=1e-9)
    difference = ranking.nemenyi_difference(len(result.average_ranks), result.blocks)
    assert difference == pytest.approx(wanted["nemenyi_critical_difference_0.05"], rel=1e-6)


@pytest.mark.parametrize("name", BLOCKS)
def test_friedman_s_test_is_the_reference_s(name, ranks):
    same(ranking.friedman(BLOCKS[name](ranks)), EXPECTED[name])


def test_ties_are_corrected_for(tensors):
    same(ranking.friedman(-tensors["scores_with_ties"].astype(float)), EXPECTED["with_ties"])


def test_average_ranks_and_agreement_of_people_are_the_reference_s(ranks):
    assert ranking.mean_ranks(ranks) == pytest.approx(EXPECTED["average_ranks"], rel=1e-12)
    assert ranking.average_ranks(ranks.reshape(-1, 9)) == pytest.approx(EXPECTED["average_ranks"], rel=1e-12)
    by_prompt = [ranking.kendall_w(ranks[:, prompt]) for prompt in range(20)]
    assert by_prompt == pytest.approx(EXPECTED["kendall_w_of_the_people_per_prompt"], rel=1e-9)
    assert ranking.mean_kendall_w(ranks) == pytest.approx(EXPECTED["mean_kendall_w_per_prompt"], rel=1e-9)
    averaged = EXPECTED["kendall_w_of_people_on_averaged_ranks"]
    assert ranking.kendall_w(ranks.mean(1)) == pytest.approx(averaged, rel=1e-9)
    pairs = [ranking.rank_correlation(a, b) for a, b in itertools.combinations(ranks[:, 0], 2)]
    assert np.mean(pairs) == pytest.approx(EXPECTED["mean_pairwise_spearman_of_the_people_prompt_0"], rel=1e-9)


TABLES = st.integers(3, 6).flatmap(lambda k: st.lists(st.lists(st.integers(1, 5), min_size=k, max_size=k), min_size=3))


@given(TABLES)
def test_friedman_s_test_is_scipy_s(table):
    result = ranking.friedman(table)
    if result.w is None:
        assert all(len(set(row)) == 1 for row in table)
        return
    wanted = stats.friedmanchisquare(*np.transpose(table))
    assert (result.chi2, result.p) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-9, abs=1e-12)
    assert 0 <= result.w <= 1 + 1e-12


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=9))
def test_rank_correlation_is_scipy_s(pairs):
    one, other = zip(*pairs, strict=True)
    result = ranking.rank_correlation(one, other)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert result is None
    else:
        assert result == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)


def test_what_has_no_value():
    tied = ranking.friedman([[1, 1, 1], [2, 2, 2]])
    assert (tied.w, tied.chi2, tied.p, tied.f) == (None, None, None, None)
    of_one_mind = ranking.friedman([[1, 2, 3]] * 4)
    assert (of_one_mind.w, of_one_mind.f) == (1.0, None)
    assert ranking.friedman([[1, 2, 3]]).f is None
    assert ranking.rank_correlation([1], [2]) is None
    nothing = np.full((3, 2, 4), np.nan)
    assert ranking.mean_kendall_w(nothing) is None
    assert ranking.resampled_means(nothing) is None


@pytest.mark.parametrize("table", [[], [[1]], [1, 2], [[1, float("nan")]], [[[1, 2]]]])
def test_what_is_no_table_of_rankings(table):
    with pytest.raises(OptionError, match="a table of numbers"):
        ranking.friedman(table)


def test_lists_of_unequal_length_do_not_correlate():
    with pytest.raises(OptionError, match="give equally many"):
        ranking.rank_correlation([1, 2], [1, 2, 3])


def simulated(random, people=12, prompts=20, systems=4, spread=0.6):
    """Rankings by liking = the system's quality + the prompt's and the person's own preference + whim; of all equal."""
    of_prompt = random.normal(0, spread, (1, prompts, systems))
    of_person = random.normal(0, spread, (people, 1, systems))
    whim = random.normal(0, 1, (people, prompts, systems))
    return ranking.mid_ranks((of_prompt + of_person + whim).reshape(-1, systems)).reshape(people, prompts, systems)


def test_intervals_hold_the_truth_where_people_and_prompts_come_back():
    """Systems that are equally good differ by 0: intervals over people and prompts hold that, others do not."""
    random = np.random.default_rng(0)
    both = by_answer = 0
    for _ in range(100):
        ranks = simulated(random)
        means = ranking.resampled_means(ranks, resamples=500)
        low, high = ranking.percentiles(means[:, 0] - means[:, 1])
        both += low <= 0 <= high
        differences = (ranks[..., 0] - ranks[..., 1]).ravel()
        error = differences.std() / np.sqrt(differences.size)
        by_answer += abs(differences.mean()) <= 1.96 * error
    assert both >= 92
    assert by_answer <= 85


def test_friedman_s_p_of_rankings_is_too_small():
    random = np.random.default_rng(1)
    tests = [simulated(random) for _ in range(60)]
    assert np.mean([ranking.friedman(ranks.reshape(-1, 4)).p < 0.05 for ranks in tests]) > 0.3


def test_resampling_leaves_out_what_nobody_ranked():
    ranks = simulated(np.random.default_rng(2))
    holes = ranks.copy()
    holes[np.random.default_rng(3).random(ranks.shape[:2]) < 0.4] = np.nan
    whole, part = (ranking.resampled_means(table, resamples=2000) for table in (ranks, holes))
    assert np.isfinite(part).all()
    assert part.sum(1) == pytest.approx(10)  # ranks of four systems: 1 + 2 + 3 + 4
    assert part.mean(0) == pytest.approx(ranking.mean_ranks(holes), abs=0.05)
    assert whole.std(0).mean() < part.std(0).mean()
    assert np.array_equal(part, ranking.resampled_means(holes, resamples=2000))


def test_one_person_or_one_prompt_is_no_sample():
    ranks = simulated(np.random.default_rng(4))
    assert ranking.resampled_means(ranks[:1]) is None
    assert ranking.resampled_means(ranks[:, :1]) is None
    assert ranking.resampled_means(ranks[:2, :2], resamples=50) is not None
