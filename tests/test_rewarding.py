"""What a reward is beside its name."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from realignkit.contracts import Options, Reward
from realignkit.rewarding import settings_of


def test_settings_leave_out_where_a_reward_runs_at_any_depth():
    class Sum(Reward):
        class Options(Options):
            device: str | None = Field(None, description="where it runs")
            options: dict[str, Any] = Field({}, description="reward name -> its options")

        def __call__(self, images, prompts):
            return images.mean((1, 2, 3))

    made = Sum(device="cpu", options={"clip": {"device": "cuda", "dtype": "bf16", "margin": 0.5}})
    assert settings_of(made) == {"options": {"clip": {"margin": 0.5}}}
    assert settings_of(lambda images, prompts: images) is None
