"""BLIP's two heads, as the network's own forward computes them."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from realignkit.testing import check_plugin
from realignkit_plugins.rewards.blip import BLIPReward
from tests.plugins.rewards.conftest import pictures

PROMPTS = ["a red book", "a blue dog and a pen", "pen"]


@pytest.mark.parametrize("head", ["itm", "itc"])
def test_the_reward_is_the_networks_own(checkpoint, head):
    folder = checkpoint("blip_itm")
    reward, images = BLIPReward(model=folder, head=head), pictures(3)
    network = hf.BlipForImageTextRetrieval.from_pretrained(folder).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = network(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=reward.preprocessing(images),
            use_itm_head=head == "itm",
        ).itm_score
    expected = out.softmax(-1)[:, 1] if head == "itm" else out.diagonal()
    torch.testing.assert_close(reward(images, PROMPTS), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.005


@pytest.mark.parametrize("head", ["itm", "itc"])
def test_ascent_raises_the_reward(checkpoint, head):
    reward, images = BLIPReward(model=checkpoint("blip_itm"), head=head), pictures(3)
    before = reward(images, PROMPTS)
    for _ in range(10):
        images = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(reward(images, PROMPTS).sum(), images)
        images = (images + 0.01 * gradient.sign()).clamp(0, 1)
    assert (reward(images, PROMPTS) > before).all()


@pytest.mark.parametrize("head", ["itm", "itc"])
def test_it_keeps_its_contract(checkpoint, head):
    check_plugin(BLIPReward(model=checkpoint("blip_itm"), head=head))
