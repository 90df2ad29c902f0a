from __future__ import annotations

import numpy as np

from realignkit.refl.algorithms.refl import ReFLOptions, draw_steps


def test_late_steps_are_the_last_part_unless_said():
    assert ReFLOptions(num_inference_steps=50).late_steps == (30, 49)
    assert ReFLOptions(num_inference_steps=10, gradient_steps=(2, 5)).late_steps == (2, 5)


def test_steps_are_late_different_and_evenly_drawn():
    rng = np.random.default_rng(0)
    drawn = [draw_steps(3, 7, 2, rng) for _ in range(500)]
    assert all(a < b for a, b in drawn)
    counts = np.bincount(np.array(drawn).ravel(), minlength=8)
    assert counts[:3].sum() == 0
    assert counts[3:].min() > 150  # 200 expected of each
