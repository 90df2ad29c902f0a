"""Precision: weights are loaded in it, and modules that a network's class keeps in float32 stay so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from realignkit_plugins.rewards.blip import BLIPReward
from realignkit_plugins.rewards.caption import CaptionReward
from realignkit_plugins.rewards.clip import CLIPReward
from tests.plugins.rewards.conftest import CAPTIONERS, pictures

PROMPTS = ["a red book", "a blue pen"]
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def kept_in_float32(network: Any, dtype: torch.dtype) -> bool:
    """Whether anything is, which has to be what the classes of the network and its parts say, for fp16 only."""
    said: set[str] = set()
    if dtype == torch.float16:
        for module in network.modules():
            said |= set(getattr(module, "_keep_in_fp32_modules", None) or ())
    dtypes = {name: parameter.dtype for name, parameter in network.named_parameters()}
    want = {name: torch.float32 if said & set(name.split(".")) else dtype for name in dtypes}
    assert dtypes == want
    return torch.float32 in want.values()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("captioner", CAPTIONERS)
def test_captioners_and_text_encoders(checkpoint: Any, captioner: str, dtype: str):
    text_encoder = "q_former_text" if captioner.startswith("blip2") else "clip"
    reward = CaptionReward(
        captioner=checkpoint(captioner), text_encoder=checkpoint(text_encoder), device="cpu", dtype=dtype
    )
    parts = reward.loaded[0].network, reward.loaded[1].network
    keeps = dtype == "fp16" and captioner.startswith("blip2")  # its Q-Former, and T5's second layers
    assert [kept_in_float32(part, HALVES[dtype]) for part in parts] == [keeps, keeps]
    images = pictures(2).requires_grad_()
    torch.manual_seed(0)
    rewards = reward(images, PROMPTS)
    (gradient,) = torch.autograd.grad(rewards.sum(), images)
    assert torch.isfinite(rewards).all()
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    ("reward_class", "model"), [(CLIPReward, "clip"), (CLIPReward, "siglip"), (BLIPReward, "blip_itm")]
)
def test_similarities(checkpoint: Any, reward_class: Any, model: str, dtype: str):
    full, half = (reward_class(model=checkpoint(model), device="cpu", dtype=name) for name in ("fp32", dtype))
    assert not kept_in_float32(half.loaded.network, HALVES[dtype])
    with torch.no_grad():
        torch.testing.assert_close(half(pictures(2), PROMPTS), full(pictures(2), PROMPTS), atol=0.03, rtol=0)
