"""CLIP's and SigLIP's rewards are the networks' own cosines, and differentiable."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from realignkit.errors import ModelError
from realignkit.testing import check_plugin
from realignkit_plugins.rewards.clip import CLIPReward
from tests.plugins.rewards.conftest import SIDE, pictures, to_pil

PROMPTS = ["a red book", "a yellow pen and a desk on the sign", "a"]


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_reward_is_the_networks_own_cosine(checkpoint, name):
    folder = checkpoint(name)
    reward, images = CLIPReward(model=folder), pictures(3)
    network, tokenizer = hf.AutoModel.from_pretrained(folder).eval(), hf.AutoTokenizer.from_pretrained(folder)
    processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    padding = {"padding": "max_length", "max_length": 12} if name == "siglip" else {"padding": True}
    tokens = tokenizer(PROMPTS, truncation=True, return_tensors="pt", **padding)
    if name == "siglip":
        del tokens["attention_mask"]
    pixels = processor(images=to_pil(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = network(**tokens, pixel_values=pixels)
        expected = (out.image_embeds * out.text_embeds).sum(-1)
    torch.testing.assert_close(reward(images, PROMPTS), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_gradient_is_the_slope(checkpoint, name):
    reward, images = CLIPReward(model=checkpoint(name)), pictures(2, side=24).requires_grad_()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(reward(images, PROMPTS[:2]).sum(), images)
    with torch.no_grad():
        up, down = (reward(images + sign * 1e-3 * direction, PROMPTS[:2]).sum() for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float(up - down) / 2e-3, rel=0.05, abs=1e-3)


def test_pil_images_and_tensors_agree(checkpoint):
    reward = CLIPReward(model=checkpoint("clip"))
    images = pictures(2)
    assert images.shape[-1] == SIDE  # nothing to resize, nothing to round
    torch.testing.assert_close(reward.reported(to_pil(images), PROMPTS[:2]), reward(images, PROMPTS[:2]))


def test_features_are_the_image_side_of_the_cosine(checkpoint):
    reward, images = CLIPReward(model=checkpoint("clip")), pictures(2)
    features = torch.from_numpy(reward.features(to_pil(images)))
    assert features.norm(dim=1) == pytest.approx([1, 1], abs=1e-5)
    cosines = (features * reward.text_features(PROMPTS[:2])).sum(1)
    torch.testing.assert_close(cosines, reward(images, PROMPTS[:2]))


def test_weights_stay_frozen(checkpoint):
    reward = CLIPReward(model=checkpoint("clip"))
    reward(pictures(1).requires_grad_(), ["a red book"]).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in reward.loaded.network.parameters())


def test_long_texts_are_cut_not_refused(checkpoint):
    reward = CLIPReward(model=checkpoint("clip"))
    long = "a red book and " * 30
    torch.testing.assert_close(reward(pictures(1), [long]), reward(pictures(1), [long + "a pen"]))


def test_a_checkpoint_of_another_kind_is_refused(checkpoint):
    with pytest.raises(ModelError, match=r"no image-text features|no weights for"):
        _ = CLIPReward(model=checkpoint("blip")).loaded


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_it_keeps_its_contract(checkpoint, name):
    check_plugin(CLIPReward(model=checkpoint(name)))
