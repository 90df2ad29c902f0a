"""Packages in environments of their own, with tiny weights: against our own implementations, and their contracts.

Each needs its environment, of gigabytes, and is skipped where that is not there.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from realignkit.isolation import environments
from realignkit.testing import check_plugin, tiny_images
from realignkit_plugins.generators import clip_bpe
from realignkit_plugins.isolated.grounded_sam import GroundedSamPackage
from realignkit_plugins.isolated.image_reward import ImageRewardPackage
from realignkit_plugins.isolated.lavis import LavisBLIP2
from realignkit_plugins.isolated.open_clip import OpenCLIPPackage
from realignkit_plugins.isolated.t2v_metrics import T2VMetrics
from realignkit_plugins.rewards.clip import CLIPReward
from realignkit_plugins.rewards.image_reward import ImageReward

HERE = Path(__file__)
TINY = HERE.with_name("tiny_programs.py")
GOLDEN = HERE.parents[2] / "golden" / "image_reward"


def make(plugin, **options):
    """The plugin of a package with a tiny model; skips where its environment is not there."""
    if environments.find(plugin.environment) is None:
        pytest.skip(f"run {environments.remedy(plugin.environment, plugin.requires, plugin.python)}")
    return type(plugin.__name__, (plugin,), {"program": TINY, "__doc__": plugin.__doc__})(**options)


def rated(reward, prompts, size=(60, 80)):
    """Rewards, and their gradient with respect to the images."""
    images = torch.rand(len(prompts), 3, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rewards = reward(images, prompts)
    (rewards * torch.arange(1.0, len(prompts) + 1)).sum().backward()
    return rewards.detach(), images.grad


def same(theirs, ours):
    for one, other in zip(theirs, ours, strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_image_reward_is_ours_on_the_same_weights(tmp_path):
    meta = json.loads((GOLDEN / "meta.json").read_text())
    config, bert = meta["config"], meta["config"]["bert"]
    shutil.copy(GOLDEN / "checkpoint.pth", tmp_path / "ImageReward.pt")
    heads = {"vit_heads": config["vit_heads"], "num_attention_heads": bert["num_attention_heads"]}
    (tmp_path / "config.json").write_text(json.dumps(heads))
    (tmp_path / "vocab.txt").write_text("\n".join(meta["vocab"]) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    sizes = {name: value for name, value in config.items() if name.startswith(("image_size", "patch", "vit"))}
    (tmp_path / "med_config.json").write_text(json.dumps({**bert, **sizes}))
    words = {"med_config": str(tmp_path / "med_config.json"), "tokenizer": str(tmp_path)}
    package = make(ImageRewardPackage, model=str(tmp_path / "ImageReward.pt"), **words)
    same(rated(package, meta["prompts"]), rated(ImageReward(model=str(tmp_path)), meta["prompts"]))
    check_plugin(package)


def test_open_clip_is_our_clip_on_the_same_weights(tmp_path):
    golden = json.loads((HERE.parents[2] / "golden" / "open_clip" / "meta.json").read_text())["model_cfg"]
    config = {**golden, "text_cfg": {**golden["text_cfg"], "context_length": 77, "vocab_size": 49408}}
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.json").write_text(json.dumps(config))
    package = make(OpenCLIPPackage, model="tiny", pretrained=str(tmp_path / "open_clip_pytorch_model.bin"))
    prompts = ["a red book", "a yellow pen on a desk"]
    theirs = rated(package, prompts)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    said = {"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said))
    clip_bpe.write_tokenizer(tmp_path / "words", 77, "!")
    same(theirs, rated(CLIPReward(model=str(tmp_path), tokenizer=str(tmp_path / "words")), prompts))
    check_plugin(package)


@pytest.fixture
def words(tmp_path):
    """A vocabulary of BERT's kind."""
    from string import ascii_lowercase

    letters = [*ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    listed = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", ":", *letters]
    (tmp_path / "vocab.txt").write_text("\n".join(listed) + "\n")
    return tmp_path, len(listed)


def test_grounded_sam_finds_boxes_and_masks(words):
    from transformers import BertConfig, BertModel

    folder, count = words
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=count, **sizes)).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    package = make(GroundedSamPackage, dino="none", sam="none", text_encoder=str(folder), threshold=0.0)
    image = tiny_images()[0]
    ((mask, confidence),) = package(image, ["a red book"])
    assert mask.shape == image.size[::-1] and mask.dtype == bool
    assert 0 <= confidence <= 1


def test_blip2_answers(words):
    package = make(LavisBLIP2, model_type=str(words[0]))
    answers = package(tiny_images()[:2], ["what is it?", "how many?"])
    assert len(answers) == 2 and all(isinstance(answer, str) for answer in answers)
    assert answers != package(tiny_images()[:2], ["why not?", "how many?"])
    check_plugin(package)


def test_vqascore_is_a_probability_of_each_picture_and_its_prompt(tmp_path):
    package = make(T2VMetrics, model=str(tmp_path))
    images, prompts = tiny_images()[:2], ["a red book", "a yellow pen"]
    scores = [each["vqascore"] for each in package.judge_each(images, prompts)]
    assert all(0 < score < 1 for score in scores)
    swapped = [each["vqascore"] for each in package.judge_each(images, prompts[::-1])]
    assert len({*scores, *swapped}) == 4
    (alone,) = package.judge_each(images[1:], prompts[1:])
    assert alone["vqascore"] == pytest.approx(scores[1], rel=1e-5)
    check_plugin(package)
