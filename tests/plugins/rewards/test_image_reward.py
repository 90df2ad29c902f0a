"""ImageReward's own numbers, reproduced: preprocessing, features, rewards, gradients, scores, strict loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from realignkit.errors import ModelError, OptionError
from realignkit.testing import check_plugin
from realignkit_plugins.rewards.image_reward import ImageReward
from realignkit_plugins.rewards.image_reward_model import ImageRewardConfig, ImageRewardModel
from realignkit_plugins.weight_files import read_weights

FOLDER = Path(__file__).parents[2] / "golden" / "image_reward"
META = json.loads((FOLDER / "meta.json").read_text())
IO = load_file(FOLDER / "io.safetensors")
HEADS = {"vit_heads": META["config"]["vit_heads"], "num_attention_heads": META["config"]["bert"]["num_attention_heads"]}
ATOL = META["tolerance"]["atol_per_tensor"]
RTOL = META["tolerance"]["rtol"]


@pytest.fixture(scope="module")
def model():
    return ImageRewardModel.from_state(read_weights(FOLDER / "checkpoint.pth"), HEADS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as a user would have it: weights, what they do not tell, the tokenizer's vocabulary."""
    where = tmp_path_factory.mktemp("image-reward")
    shutil.copy(FOLDER / "checkpoint.pth", where / "ImageReward.pt")
    (where / "config.json").write_text(json.dumps(HEADS))
    (where / "vocab.txt").write_text("\n".join(META["vocab"]) + "\n")
    (where / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return where


@pytest.fixture(scope="module")
def reward(folder):
    return ImageReward(model=str(folder))


def raw_images():
    return [Image.fromarray(IO[f"raw_image_{i}"].numpy()) for i in range(3)]


def close(ours, name):
    torch.testing.assert_close(ours, IO[name], rtol=RTOL, atol=ATOL[name])


def test_features_and_rewards_are_the_originals(model):
    tokens = IO["prompt_ids"], IO["prompt_attention_mask"]
    with torch.no_grad():
        close(model.blip.visual_encoder(IO["pixel_values"]), "image_embeds")
        features = model.features(IO["pixel_values"], *tokens)
        close(features, "txt_features")
        close(model.mlp(features), "mlp_out")
        close(model(IO["pixel_values"], *tokens)[:, None], "reward")


def test_the_gradient_with_respect_to_the_image_is_the_originals(model):
    pixels = IO["pixel_values"].clone().requires_grad_()
    model(pixels, IO["prompt_ids"], IO["prompt_attention_mask"]).sum().backward()
    close(pixels.grad, "grad_reward_sum_wrt_image")


def test_the_tokenizer_pads_and_cuts_as_the_original(reward):
    tokens = reward.loaded.tokenizer(
        META["prompts"], padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    torch.testing.assert_close(tokens["input_ids"], IO["prompt_ids"], rtol=0, atol=0)


def test_pil_images_become_the_originals_pixel_values(reward):
    ours = reward.preprocessing.from_pil(raw_images())
    torch.testing.assert_close(ours, IO["pixel_values"], rtol=0, atol=META["tolerance"]["atol_pixel_values"])


def test_tensors_become_the_originals_pixel_values(reward):
    ours = reward.preprocessing(IO["refl_image"])
    torch.testing.assert_close(ours, IO["refl_pixel_values_antialias_True"], rtol=0, atol=2e-6)


def test_scores_of_every_prompt_with_every_image(reward):
    for prompt, row in zip(META["prompts"], IO["score_matrix"], strict=True):
        ours = reward.reported(raw_images(), [prompt] * 3)
        torch.testing.assert_close(ours, row, rtol=RTOL, atol=META["tolerance"]["atol_scores"])
    first = reward.reported(raw_images(), [META["prompts"][0]] * 3)
    ranks = (first[None] >= first[:, None]).sum(1)
    assert ranks.tolist() == IO["rank_of_images_for_prompt0"].tolist()


def test_a_batch_is_its_pairs_and_carries_a_gradient(reward):
    images = torch.rand(2, 3, 60, 80, generator=torch.Generator().manual_seed(0)).requires_grad_()
    both = reward(images, META["prompts"][:2])
    each = torch.cat([reward(images[i : i + 1], META["prompts"][i : i + 1]) for i in range(2)])
    torch.testing.assert_close(both, each)
    both[0].backward()
    assert images.grad[0].abs().sum() > 0
    assert images.grad[1].abs().sum() == 0
    assert reward.margin == 2


def published(device):
    shapes = json.loads((FOLDER / "published_key_shapes.json").read_text())["keys"]
    dtypes = {"float32": torch.float32, "int64": torch.int64}
    return {key: torch.empty(shape, dtype=dtypes[dtype], device=device) for key, (shape, dtype) in shapes.items()}


def test_the_published_names_and_shapes_load_strictly():
    state = published("meta")
    loaded = ImageRewardModel.from_state(state)
    assert loaded.config == ImageRewardConfig()
    ours = {key: tuple(value.shape) for key, value in loaded.state_dict().items()}
    assert ours == {key: tuple(value.shape) for key, value in state.items()}
    assert sum(p.numel() for p in loaded.parameters()) == 446665953


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_other_weights_are_refused(damage):
    state = dict(read_weights(FOLDER / "checkpoint.pth"))
    if damage == "missing":
        del state["blip.text_encoder.encoder.layer.1.crossattention.self.key.weight"]
    elif damage == "extra":
        state["blip.text_encoder.pooler.dense.weight"] = torch.zeros(2, 2)
    else:
        state["blip.visual_encoder.norm.weight"] = torch.zeros(5)
    with pytest.raises(ModelError, match=r"ImageReward\.pt as published"):
        ImageRewardModel.from_state(state, HEADS)


def test_weights_of_another_model_are_refused(tmp_path):
    save_file({"vision_model.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="no ImageReward model's"):
        _ = ImageReward(model=str(tmp_path)).loaded
    with pytest.raises(ModelError, match="no ImageReward checkpoint in"):
        _ = ImageReward(model=str(FOLDER.parent)).loaded


def test_a_pickle_is_not_run(tmp_path):
    torch.save({"weights": Path}, tmp_path / "ImageReward.pt")
    with pytest.raises(ModelError, match="cannot be loaded"):
        _ = ImageReward(model=str(tmp_path / "ImageReward.pt")).loaded


def test_a_tokenizer_with_more_words_than_the_model_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    with (tmp_path / "copy" / "vocab.txt").open("a") as file:
        file.writelines(f"word{i}\n" for i in range(5))
    with pytest.raises(ModelError, match=r"95 tokens, the model only 92"):
        _ = ImageReward(model=str(tmp_path / "copy")).loaded


@pytest.mark.parametrize(
    ("images", "prompts", "match"),
    [
        (torch.rand(2, 3, 8, 8), ["a"], "2 images but 1 prompts"),
        (torch.rand(3, 8, 8), ["a", "b", "c"], r"float \(B, 3, H, W\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"], "uint8"),
        (torch.rand(1, 3, 8, 8), "a", "one text per image"),
    ],
)
def test_what_is_no_batch_is_refused(reward, images, prompts, match):
    with pytest.raises(OptionError, match=match):
        reward(images, prompts)


def test_nan_is_refused(reward):
    with pytest.raises(ModelError, match="NaN"):
        reward(torch.full((1, 3, 48, 48), float("nan")), ["a red cat"])


def test_the_file_in_torchs_old_format(folder, reward, tmp_path):
    """As ImageReward.pt was first published: a pickle followed by the numbers, no zip."""
    shutil.copytree(folder, tmp_path / "old")
    weights = torch.load(folder / "ImageReward.pt", weights_only=True)
    torch.save(weights, tmp_path / "old" / "ImageReward.pt", _use_new_zipfile_serialization=False)
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    for given in ("old", "old/ImageReward.pt"):
        found = ImageReward(model=str(tmp_path / given))
        assert torch.equal(found(images, ["a", "b"]), reward(images, ["a", "b"]))


def test_it_keeps_its_contract(reward):
    check_plugin(reward)
