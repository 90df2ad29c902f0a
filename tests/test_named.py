"""A plugin under its name: what it was made with."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from realignkit.contracts import Options, Reward
from realignkit.named import Named


def test_settings_leave_out_where_a_reward_runs_at_any_depth():
    class Sum(Reward):
        class Options(Options):
            device: str | None = Field(None, description="where it runs")
            options: dict[str, Any] = Field({}, description="reward name -> its options")

        def __call__(self, images, prompts):
            return images.mean((1, 2, 3))

    made = Sum(device="cpu", options={"clip": {"device": "cuda", "dtype": "bf16", "margin": 0.5}})
    assert Named("reward", "sum", made).settings == {"options": {"clip": {"margin": 0.5}}}
    assert Named("reward", "mean", lambda images, prompts: images).settings is None
