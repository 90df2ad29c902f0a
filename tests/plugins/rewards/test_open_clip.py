"""Checkpoints in open_clip's layout against open_clip's own numbers (golden/open_clip/meta.json says how made)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file

from realignkit.errors import ModelError
from realignkit.testing import check_plugin
from realignkit_plugins.rewards import open_clip
from realignkit_plugins.rewards.clip import CLIPReward
from tests import tiny
from tests.plugins.rewards.conftest import pictures, to_pil

FOLDER = Path(__file__).parents[2] / "golden" / "open_clip"
META = json.loads((FOLDER / "meta.json").read_text())
IO = load_file(FOLDER / "io.safetensors")
MEAN, STD = [0.5, 0.4, 0.3], [0.3, 0.2, 0.25]
# The same weights twice: only the activation differs.
FILES = {"gelu": "gelu", "quick_gelu": "gelu", "custom_text": "custom_text"}


@pytest.fixture
def make(tmp_path):
    """A folder as on the hub, of one of the golden checkpoints; entries of the model's configuration over its own."""

    def made(kind="gelu", *, tokenizer=True, preprocess=None, **changes):
        folder = tmp_path / kind
        folder.mkdir()
        shutil.copy(FOLDER / f"{FILES[kind]}.safetensors", folder / "open_clip_model.safetensors")
        model = {**META["model_cfg"], **META["checkpoints"][kind], **changes}
        said = {"model_cfg": model, "preprocess_cfg": {"mean": MEAN, "std": STD, **(preprocess or {})}}
        (folder / "open_clip_config.json").write_text(json.dumps(said))
        if tokenizer:
            tiny.tokenizer().save_pretrained(folder)
        return folder

    return made


@pytest.mark.parametrize("kind", FILES)
def test_features_are_the_originals(make, kind):
    reward = CLIPReward(model=str(make(kind)))
    with torch.no_grad():
        torch.testing.assert_close(reward.image_features(IO["pixel_values"]), IO[f"{kind}.image_features"])
        torch.testing.assert_close(reward.text_features(META["prompts"]), IO[f"{kind}.text_features"])
    assert not torch.allclose(IO["gelu.image_features"], IO["quick_gelu.image_features"], atol=1e-3)


def test_the_reward_is_their_cosine_and_has_a_gradient(make):
    reward = CLIPReward(model=str(make()))
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    images = (IO["pixel_values"] * std + mean).requires_grad_()
    rewards = reward(images, META["prompts"])
    expected = (IO["gelu.image_features"] * IO["gelu.text_features"]).sum(-1)
    torch.testing.assert_close(rewards, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(rewards.sum(), images)
    assert gradient.flatten(1).abs().sum(1).gt(0).all()


def test_pickled_weights_are_read_without_running_them(make):
    folder = make()
    weights = load_file(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(weights, folder / "open_clip_pytorch_model.bin")
    torch.testing.assert_close(
        CLIPReward(model=str(folder)).image_features(IO["pixel_values"]), IO["gelu.image_features"]
    )
    torch.save({"weights": Path}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be loaded"):
        _ = CLIPReward(model=str(folder)).loaded


def test_the_tokenizer_may_lie_elsewhere(make, tmp_path):
    folder = make(tokenizer=False)
    tiny.tokenizer().save_pretrained(tmp_path / "words")
    reward = CLIPReward(model=str(folder), tokenizer=str(tmp_path / "words"))
    with torch.no_grad():
        torch.testing.assert_close(reward.text_features(META["prompts"]), IO["gelu.text_features"])


def test_images_are_resized_and_cropped_as_open_clip_says(make):
    """By Pillow: the shorter side to 16, cut from the centre, and standardised."""
    reward = CLIPReward(model=str(make()))
    (picture,) = to_pil(pictures(1, side=40))
    picture = picture.crop((0, 0, 40, 30))
    small = picture.resize((21, 16), Image.Resampling.BICUBIC).crop((2, 0, 18, 16))  # (21 - 16) / 2, halves to even
    pixels = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(16, 16, 3).permute(2, 0, 1) / 255
    expected = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(reward.preprocessing.from_pil([picture])[0], expected)


def test_squashed_images_keep_their_edges(make):
    reward = CLIPReward(model=str(make(preprocess={"resize_mode": "squash", "interpolation": "bilinear"})))
    assert (reward.preprocessing.size, reward.preprocessing.crop) == ((16, 16), None)
    assert reward.preprocessing.resample == "bilinear"


def test_the_full_size_names_and_shapes_load_strictly():
    """ViT-H-14, as laion publishes it: every one of open_clip's weights finds its place, and none is left over."""
    published = json.loads((FOLDER / "vit_h_14_key_shapes.json").read_text())
    state = {name: torch.empty(shape, device="meta") for name, (shape, _) in published["keys"].items()}
    config = open_clip.clip_config(published["model_cfg"], eos_token_id=49407)
    with torch.device("meta"):
        network = hf.CLIPModel(config)
    open_clip.load_strictly(network, open_clip.convert(state), "ViT-H-14")
    assert sum(p.numel() for p in network.parameters()) == 986109441
    assert config.vision_config.num_attention_heads == 16
    assert config.vision_config.hidden_act == "gelu"


def test_a_checkpoint_with_both_layouts_is_read_as_transformers(make, checkpoint):
    folder = make()
    for file in Path(checkpoint("clip")).iterdir():
        shutil.copy(file, folder)
    network = CLIPReward(model=str(folder)).loaded.network
    assert network.config.text_config.hidden_size == 16  # the golden one's is 24


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"vision_cfg": {**META["model_cfg"]["vision_cfg"], "timm_model_name": "convnext_base"}}, "timm_model_name"),
        ({"text_cfg": {**META["model_cfg"]["text_cfg"], "hf_model_name": "roberta-base"}}, "hf_model_name"),
        ({"multimodal_cfg": {"width": 8}}, "multimodal_cfg"),
        ({"vision_cfg": {**META["model_cfg"]["vision_cfg"], "layers": 1}}, "do not fit"),
        ({"embed_dim": 13}, "do not fit"),
        ({"preprocess": {"resize_mode": "longest"}}, "resize_mode=longest"),
    ],
)
def test_what_is_no_plain_clip_is_refused(make, changes, match):
    with pytest.raises(ModelError, match=match):
        _ = CLIPReward(model=str(make(**changes))).loaded


def test_a_tokenizer_with_more_words_than_the_model_is_refused(make, tmp_path):
    words = tiny.tokenizer()
    words.add_tokens(["zebra"])
    words.save_pretrained(tmp_path / "words")
    with pytest.raises(ModelError, match="tokens, the model only"):
        _ = CLIPReward(model=str(make(tokenizer=False)), tokenizer=str(tmp_path / "words")).loaded


def test_it_keeps_its_contract(make):
    check_plugin(CLIPReward(model=str(make())))
