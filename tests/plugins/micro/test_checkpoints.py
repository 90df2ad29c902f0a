"""The embedded checkpoints: ordinary classes and formats, small, and good enough for what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit import Realigner
from realignkit.errors import ModelError
from realignkit.registry import default_registry
from realignkit_plugins.micro import RECOGNIZE_ANYTHING, REWARDS, checkpoints
from realignkit_plugins.micro.metrics import FullyRight
from realignkit_plugins.micro.prompts import WorldPrompts
from realignkit_plugins.micro.train.promptist import departure
from realignkit_plugins.micro.train.rewards import accuracy
from realignkit_plugins.micro.train.vqa import accuracy as vqa_accuracy
from realignkit_plugins.micro.world import TAGS, held_out, phrase, render, scene
from realignkit_plugins.micro.world.scenes import compose


@pytest.fixture(scope="module")
def realigner():
    return Realigner.from_pretrained("micro")


def test_small_safe_and_half_precision():
    files = [file for file in checkpoints.FOLDER.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    assert sum(file.stat().st_size for file in files) < 60e6
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}
    weights = [file for file in files if file.suffix == ".safetensors"]
    # VAE, text encoder, U-Net; tagger, RAM, Tag2Text, segmenter, oracle, question answerer, Promptist's adapter;
    # captioner and its text encoder; other rewards. The flow model has a VAE, two text encoders and a transformer, and
    # pictures of 256 pixels a VAE of their own.
    assert len(weights) == 1 + 4 + 10 + len({model for _, models, _ in REWARDS.values() for model in models.values()})
    from safetensors import safe_open

    for file in weights:
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_tensor(key).dtype for key in tensors.keys()}  # noqa: SIM118 - no mapping
        assert torch.float32 not in kinds, file


def test_an_unknown_checkpoint_says_how_to_make_it():
    with pytest.raises(ModelError, match=r"micro\.train upscaler"):
        checkpoints.path("upscaler")


def test_the_autoencoder_keeps_pictures(realigner):
    vae = realigner.generator.pipeline().vae
    pixels = np.stack([render(scene(31, index, "all")).image for index in range(48)])
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(x).latent_dist.mean
        error = (vae.decode(latents).sample.clamp(-1, 1) - x).square().mean()
    assert float(10 * torch.log10(4 / error)) > 27
    assert float((latents * vae.config.scaling_factor).std()) == pytest.approx(1, abs=0.1)


def test_the_tagger_names_what_is_there(realigner):
    drawn = [scene(32, index, "all") for index in range(120)]
    tags = realigner.tag([Image.fromarray(render(s).image) for s in drawn])
    found = [{tag.name for tag in some} for some in tags]
    hits = sum(len(names & s.tags) for names, s in zip(found, drawn, strict=True))
    assert set().union(*found) <= set(TAGS)
    assert hits / sum(len(s.tags) for s in drawn) > 0.85
    assert hits / sum(map(len, found)) > 0.85


@pytest.mark.parametrize("name", ["resnet", *RECOGNIZE_ANYTHING])
def test_all_embedded_taggers_name_what_is_there(name):
    tagger = default_registry().create("tagger", f"micro_{name}")
    drawn = [scene(35, index, "all") for index in range(60)]
    found = [{tag.name for tag in tags} for tags in tagger([Image.fromarray(render(s).image) for s in drawn])]
    hits = sum(len(names & s.tags) for names, s in zip(found, drawn, strict=True))
    assert hits / sum(len(s.tags) for s in drawn) > 0.95
    assert hits / sum(map(len, found)) > 0.95


def test_the_segmenter_finds_phrases_and_tells_objects_apart(realigner):
    overlaps = []
    for index in range(60):
        drawn = scene(33, index, "all")
        rendering = render(drawn)
        phrases = [phrase(thing) for thing in drawn.things]
        if len(set(phrases)) < len(phrases):
            continue
        for mask, answer in zip(
            rendering.masks, realigner.segmenter(Image.fromarray(rendering.image), phrases), strict=False
        ):
            overlaps.append(0.0 if answer is None else (answer[0] & mask).sum() / (answer[0] | mask).sum())
    assert np.mean(overlaps) > 0.5


def test_the_base_model_draws_what_prompts_say_more_often_than_not_nothing(realigner):
    """Far above chance: the right colours on the right objects, on prompts it was never tuned on."""
    prompts = list(WorldPrompts(pairs="seen", size=32, purpose="validation"))
    metric = FullyRight()
    metric.update(realigner.generate(prompts, list(range(32))), prompts)
    assert metric.compute()["objects_right"] > 0.4


def test_the_flow_model_draws_what_prompts_say_however_many_nulls_there_are():
    """As good as the base model, by pipelines of the class that Stable Diffusion 3 has."""
    prompts = list(WorldPrompts(size=12, purpose="validation"))
    for nulls in (1, 40):
        realigner = Realigner.from_pretrained("micro_flow", options={"generator": {"max_sequence_length": nulls}})
        assert realigner.generator.attention_family == "sd3"
        metric = FullyRight()
        metric.update(realigner.generate(prompts, list(range(12))), prompts)
        assert metric.compute()["objects_right"] > 0.4
    assert sum(file.stat().st_size for file in checkpoints.path("flow").rglob("*")) < 15e6


def test_the_flow_model_goes_down_the_whole_line():
    result = Realigner.from_pretrained("micro_flow")("a red book and a yellow cup", 3)
    assert {segment.caption.caption for segment in result.layout} >= {"a red book", "a yellow cup"}
    assert np.abs(np.subtract(result.coarse, result.refined, dtype=int)).max() > 1


def test_the_larger_decoder_shows_what_the_base_models_own_shows(realigner):
    """256 x 256, of the same latents: reduced by area they are near, and the oracle judges most of them alike."""
    prompts, seeds = list(WorldPrompts(size=8, purpose="validation")), list(range(8))
    large = Realigner.from_pretrained("micro_256")
    drawn = [each.generate(prompts, seeds) for each in (realigner, large)]
    assert {image.size for image in drawn[1]} == {(256, 256)}
    pixels = [np.stack([np.asarray(image.reduce(image.width // 64), float) for image in images]) for images in drawn]
    assert 10 * np.log10(255**2 / np.square(pixels[0] - pixels[1]).mean()) > 26
    right = [[each["fully_right"] for each in FullyRight().judge_each(images, prompts)] for images in drawn]
    assert sum(a == b for a, b in zip(*right, strict=True)) >= 7
    assert large.generator.companions == realigner.generator.companions
    assert sum(file.stat().st_size for file in checkpoints.path("vae_256").iterdir()) < 6e6


def test_pictures_of_256_pixels_go_down_the_whole_line():
    result = Realigner.from_pretrained("micro_256")("a red book and a yellow cup", 3)
    assert {segment.caption.caption for segment in result.layout} >= {"a red book", "a yellow cup"}
    assert {segment.mask.shape for segment in result.layout} == {(256, 256)}
    assert result.refined.size == (256, 256)
    assert np.abs(np.subtract(result.coarse, result.refined, dtype=int)).max() > 1


def test_prompt_sets_are_fixed_and_keep_validation_from_test():
    seen, unseen = (list(WorldPrompts(pairs=pairs, size=50)) for pairs in ("seen", "held_out"))
    assert seen == list(WorldPrompts(pairs="seen", size=60))[:50]
    pairs = [tuple(part.split()[1:]) for prompt in seen for part in prompt.split(" and ")]
    assert not any(held_out(colour, noun) for colour, noun in pairs)
    pairs = [tuple(part.split()[1:]) for prompt in unseen for part in prompt.split(" and ")]
    assert all(held_out(colour, noun) for colour, noun in pairs)
    assert set(seen).isdisjoint(WorldPrompts(pairs="seen", size=50, purpose="test"))


@pytest.mark.parametrize(
    ("name", "options"),
    [("micro_caption", {"estimator": "likelihood"}), *((f"micro_{name}", {}) for name in REWARDS if name != "caption")],
)
def test_rewards_tell_true_captions_from_wrong_ones_and_pictures_from_malformed_ones(name, options):
    # On 60 unseen scenes; docs/micro.md has the numbers of 500.
    found = accuracy(default_registry().create("reward", name, **options), count=60)
    assert min(found.values()) > 0.8, found


def test_the_question_answerer_knows_the_world():
    found = vqa_accuracy(str(checkpoints.path("vqa")), 60)
    for kind in ("there", "coloured", "colour", "caption"):
        right, count = found[kind]
        assert right / count > 0.8, kind


@pytest.mark.parametrize("metric", ["tifa", "vqascore", "soft_tifa"])
def test_metrics_by_the_question_answerer_prefer_the_right_picture(metric):
    registry = default_registry()
    judge = registry.create("metric", f"micro_{metric}")
    rng = np.random.default_rng(5)
    pairs = [[("bird", "red"), ("car", "blue")], [("bird", "blue"), ("car", "red")]]
    pictures = [Image.fromarray(render(compose(rng, each)).image) for each in pairs]
    right, wrong = judge.judge_each(pictures, ["a red bird and a blue car"] * 2)
    value = next(iter(right))
    assert right[value] > wrong[value] + 0.2
    reward = registry.create("reward", f"micro_{metric}")
    torch.testing.assert_close(reward.reported(pictures[:1], ["a red bird and a blue car"]).item(), right[value])


def test_what_goes_with_the_model_answers_questions_too():
    companions = default_registry().info("generator", "micro").options["companions"]
    assert (companions["vqa"], companions["reward:tifa"]) == ("micro", "micro_tifa")


def test_the_prompt_adapter_keeps_the_things_of_prompts_that_it_never_saw():
    adapter = checkpoints.path("promptist")
    assert sum(file.stat().st_size for file in adapter.iterdir()) < 2e6
    generator = default_registry().create("generator", "promptist", model="micro:base", adapter="micro:promptist")
    prompts = [prompt for objects in (2, 3) for prompt in WorldPrompts(objects=objects, size=20)]
    rewritten = [generator.adapt(prompt) for prompt in prompts]
    assert sum(departure(*pair) == 0 for pair in zip(prompts, rewritten, strict=True)) >= 34
    assert rewritten != prompts
