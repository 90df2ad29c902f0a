"""What a gradient has in common: the unbiased estimates, the prompts, and the command."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(scope="module")
def gradients(script):
    """The script as a module."""
    return script("gradients")


def test_smoke(smoke):
    printed = smoke("gradients")
    assert "3 batches of 2 own pictures" in printed
    assert "| caption, likelihood; late steps (50 to 400) |" in printed


def test_shares_of_known_gradients(gradients):
    """Batches that are a known direction and noise: both shares come out."""
    rng = np.random.default_rng(0)
    size, many = 50, 4000
    mean, taught = np.zeros(size), np.zeros(size)
    mean[:2], taught[0] = (1.0, 1.0), 2.0
    rows = mean + rng.normal(0, 0.5, (many, size))
    teacher = taught + rng.normal(0, 0.5, (many, size))
    power = 2 + size * 0.25
    common, useful = gradients.shares(
        rows @ rows.T, rows @ teacher.T, gradients.between(teacher @ teacher.T, np.arange(many)),
        np.arange(many), np.arange(many),
    )  # fmt: skip
    assert common == pytest.approx(2 / power, rel=0.05)
    assert useful == pytest.approx(1 / power, rel=0.05)  # of the mean's two entries, one is what is taught
    _, against = gradients.shares(rows @ rows.T, -rows @ teacher.T, 4.0, np.arange(many), np.arange(many))
    assert against == pytest.approx(-1 / power, rel=0.1)


def test_estimates_are_not_biased_by_few_batches(gradients):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2000):
        rows = rng.normal(0, 1, (3, 20))  # nothing in common
        found.append(gradients.between(rows @ rows.T, np.arange(3)))
    assert abs(np.mean(found)) < 4 * np.std(found) / 2000**0.5
    assert gradients.between(np.ones((2, 2)), np.array([0, 1, 1])) == 1.0


def test_colours_change_places(gradients):
    assert gradients.swapped("a red apple and an orange car") == "an orange apple and a red car"
