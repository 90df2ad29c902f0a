"""A pipeline's networks in training: sizes, precisions, pictures, and numbers that are none."""

from __future__ import annotations

import diffusers
import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError, OptionError
from realignkit.pipelines.families import place
from realignkit.pipelines.generate import generate
from realignkit.refl.model import Networks
from realignkit.refl.rollout import Rollout
from tests import tiny
from tests.refl.rewards import Colour
from tests.refl.test_refusals import xl

CPU = torch.device("cpu")
PROMPTS, SEEDS = ["a red book", "a yellow pen"], [1, 2]


# --- sizes ----------------------------------------------------------------------------------------------------------


class Sizes(Colour):
    """Notes the sizes of what it rates."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __call__(self, images, prompts):
        self.seen.add(tuple(images.shape[2:]))
        return super().__call__(images, prompts)


@pytest.mark.parametrize("algorithm", ["refl", "raft", "reward_weighted"])
def test_everything_has_the_generators_size(make_trainer, algorithm):
    reward, sampling = Sizes(), {"height": 48, "width": 24, "num_inference_steps": 2, "guidance_scale": 2.0}
    trainer = make_trainer(reward, sampling=sampling, algorithm=algorithm, iterations=1)
    trainer.train()
    assert reward.seen == {(48, 24)}
    assert {Image.open(file).size for file in (trainer.folder / "prior").glob("*.png")} == {(24, 48)}
    latents, _ = trainer.learner.algorithm.pairs.get([0])
    assert latents.shape == (1, 4, 24, 12)
    sheet = Image.open(next((trainer.folder / "samples").glob("*.png")))
    assert sheet.height == 48


def test_sizes_that_the_model_cannot_draw_are_refused(make_trainer):
    with pytest.raises(OptionError, match="multiple of 8"):
        make_trainer(sampling={"height": 50})
    with pytest.raises(OptionError, match=r"hieght.*Its options: .*height"):
        make_trainer(sampling={"hieght": 48})
    with pytest.raises(OptionError, match="multiples of 8, got 50 x None"):
        Networks(tiny.build_pipeline(), CPU, "no", height=50)
    pipeline = tiny.build_pipeline()
    pipeline.unet.register_to_config(sample_size=None)
    with pytest.raises(OptionError, match="states no size"):
        Networks(pipeline, CPU, "no")
    assert Networks(pipeline, CPU, "no", height=32, width=16).latent_shape == (4, 16, 8)


def test_sdxl_is_told_the_size():
    pipeline = xl()
    networks = Networks(pipeline, CPU, "no", height=40, width=24)
    noise = torch.randn(2, 4, 20, 12, generator=torch.Generator().manual_seed(0))
    found = Rollout(networks, "ddim", 3, 4.0).sample(noise, networks.text(PROMPTS))
    shared = {"num_inference_steps": 3, "guidance_scale": 4.0, "latents": noise, "output_type": "latent"}
    expected = pipeline(PROMPTS, height=40, width=24, **shared).images
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    other = pipeline(PROMPTS, height=40, width=24, original_size=(32, 32), target_size=(32, 32), **shared).images
    assert (other - expected).abs().max() > 1e-3, "the size makes no difference, so this shows nothing"


def test_rollouts_steer_away_from_what_the_pipeline_does(make_trainer):
    trainer = make_trainer(sampling={"negative_prompt": "a yellow sign", "num_inference_steps": 3})
    networks, noise = trainer.networks, torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    found = Rollout(networks, "ddim", 3, 4.0).sample(noise, networks.text(PROMPTS))
    shared = {"num_inference_steps": 3, "guidance_scale": 4.0, "latents": noise, "output_type": "latent"}
    expected = networks.pipeline(PROMPTS, negative_prompt=["a yellow sign"] * 2, **shared).images
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (networks.pipeline(PROMPTS, **shared).images - expected).abs().max() > 1e-3
    assert trainer.sampling["negative_prompt"] == "a yellow sign"  # validation's and L_pre's images too


# --- precision ------------------------------------------------------------------------------------------------------


def dtypes_in(module):
    seen = set()
    module.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    return seen


def test_a_decoder_that_overflows_is_run_in_float32_by_pictures_and_gradients_alike():
    pipeline = xl()
    assert pipeline.vae.config.force_upcast
    networks = Networks(pipeline, CPU, "fp16")
    decoded, predicted = dtypes_in(pipeline.vae.decoder.conv_in), dtypes_in(pipeline.unet.conv_in)
    networks.decode(torch.zeros(1, *networks.latent_shape))
    networks.draw(PROMPTS, SEEDS, {"num_inference_steps": 2, "guidance_scale": 2.0})
    assert (decoded, predicted) == ({torch.float32}, {torch.float16})
    networks.autoencoder.give_back()
    assert pipeline.vae.dtype == torch.float16
    assert "decode" not in vars(pipeline.vae) and "forward" not in vars(pipeline.unet)
    generate(pipeline, PROMPTS, SEEDS, num_inference_steps=2)  # plainly usable after training


def test_a_decoder_that_was_kept_in_float32_stays():
    pipeline = tiny.build_pipeline()
    pipeline.vae.register_to_config(force_upcast=False)
    for part in (pipeline.unet, pipeline.text_encoder):
        place(part, CPU, torch.bfloat16)
    decoded = dtypes_in(pipeline.vae.decoder.conv_in)
    networks = Networks(pipeline, CPU, "bf16")
    networks.decode(torch.zeros(1, *networks.latent_shape))
    networks.draw(PROMPTS, SEEDS, {"num_inference_steps": 2})
    assert decoded == {torch.float32}


def test_pictures_are_the_pipelines_own():
    pipeline = tiny.build_pipeline()
    wishes = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 48, "width": 32}
    expected = [image.tobytes() for image in generate(tiny.build_pipeline(), PROMPTS, SEEDS, **wishes)]
    networks = Networks(pipeline, CPU, "no")
    assert [image.tobytes() for image in networks.draw(PROMPTS, SEEDS, wishes)] == expected


def test_what_a_class_keeps_in_float32_is_kept():
    from transformers import T5Config, T5EncoderModel

    network = T5EncoderModel(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    place(network, CPU, torch.float16)
    kept = {name.split(".")[-2] for name, p in network.named_parameters() if p.dtype == torch.float32}
    assert kept == {"wo"}


def test_whole_networks_do_not_start_from_rounded_weights(make_trainer):
    pipeline = tiny.build_pipeline()
    place(pipeline.unet, CPU, torch.float16)
    with pytest.raises(OptionError, match="weights of the unet that were rounded to float16"):
        make_trainer(pipeline=pipeline, trainable="unet")
    assert pipeline.unet.dtype == torch.float16
    pipeline = tiny.build_pipeline()
    place(pipeline.text_encoder, CPU, torch.bfloat16)
    with pytest.raises(OptionError, match="text_encoder that were rounded to bfloat16"):
        make_trainer(pipeline=pipeline, trainable="unet", train_text_encoder=True)
    make_trainer(pipeline=pipeline)  # adapters learn beside whatever there is


def test_a_whole_model_is_saved_as_it_came_but_for_what_learnt(make_trainer):
    trainer = make_trainer(trainable="unet", mixed_precision="bf16", iterations=1, validation={"every": 0})
    trainer.train()
    saved = diffusers.StableDiffusionPipeline.from_pretrained(trainer.folder / "model", use_safetensors=True)
    came = tiny.build_pipeline()
    for name in ("vae", "text_encoder"):
        expected = getattr(came, name).state_dict()
        for key, found in getattr(saved, name).state_dict().items():
            assert torch.equal(found, expected[key]), f"{name}.{key} was rounded"
    assert not torch.equal(saved.unet.conv_in.weight, came.unet.conv_in.weight)


def test_a_large_model_saved_in_several_files_is_read_back(make_trainer, monkeypatch):
    trainer = make_trainer(trainable="unet", iterations=1, validation={"every": 0})
    save = type(trainer.networks.unet).save_pretrained
    monkeypatch.setattr(
        type(trainer.networks.unet),
        "save_pretrained",
        lambda self, *arguments, **options: save(self, *arguments, **{**options, "max_shard_size": "100KB"}),
    )
    trainer.train()
    assert len(list((trainer.folder / "model" / "unet").glob("*.safetensors"))) > 1


# --- numbers that are none ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [float("inf"), float("-inf"), float("nan")])
def test_what_the_decoder_cannot_say_is_no_white_picture(make_trainer, broken):
    def pipeline():
        made = tiny.build_pipeline()
        with torch.no_grad():
            made.vae.decoder.conv_out.bias[1] = broken
        return made

    message = "NaN or infinity in the image decoder"
    networks = Networks(pipeline(), CPU, "no")
    with pytest.raises(ModelError, match=message):
        networks.decode(torch.zeros(1, *networks.latent_shape))
    with pytest.raises(ModelError, match=message):
        networks.draw(PROMPTS, SEEDS, {"num_inference_steps": 1})
    for options in ({"validation.every": 1}, {"validation.every": 0}, {"validation.every": 0, "denoising_weight": 0}):
        with pytest.raises(ModelError, match=message):  # validation, L_pre's pictures, the reward's
            make_trainer(pipeline=pipeline(), **options).train()


def test_what_the_encoder_cannot_say_is_no_target(make_trainer):
    pipeline = tiny.build_pipeline()
    with torch.no_grad():
        pipeline.vae.encoder.conv_out.bias[0] = float("inf")
    with pytest.raises(ModelError, match="NaN or infinity in the image encoder"):
        make_trainer(pipeline=pipeline, validation={"every": 0}).train()


def test_a_tiny_autoencoder_will_do(make_trainer):
    pipeline = tiny.build_pipeline()
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    pipeline.register_modules(vae=vae)
    result = make_trainer(pipeline=pipeline, iterations=1, sampling={"height": 32, "width": 32}).train()
    assert result.status == "finished"
