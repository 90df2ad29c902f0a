"""Flow transformers learn: Stable Diffusion 3, against plain computations and diffusers' own pipeline."""

from __future__ import annotations

import pytest
import torch

from realignkit.errors import ModelError, OptionError
from realignkit.pipelines.images import noise_sources
from realignkit.refl import losses, seeds
from realignkit.refl.model import Networks
from realignkit.refl.refusals import check_trainable
from realignkit.refl.rollout import Rollout
from realignkit.refl.trainable import LORA_FILE, MODEL_FOLDER
from realignkit_plugins.generators.lora import merge_lora
from tests.attention.flow_pipelines import flux_pipeline, sd3_pipeline
from tests.refl.rewards import Blind, Colour

CPU = torch.device("cpu")
PROMPTS = ("a red book", "a red pen")
SOLVERS = ("ddim", "dpmpp", "unipc")


def pipeline():
    return sd3_pipeline(t5=False)


def pictures(folder):
    """Pairs for L_pre."""
    import json

    from PIL import Image

    folder.mkdir()
    rows = [{"file_name": f"{i}.png", "text": text} for i, text in enumerate(PROMPTS)]
    for i, _ in enumerate(rows):
        Image.effect_noise((32, 32), 90 + i).convert("RGB").save(folder / f"{i}.png")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_eulers_rollout_is_the_pipelines_own_picture(guidance_scale):
    """The jump of the last step, which goes to sigma = 0, is the finished picture."""
    networks = Networks(pipeline(), CPU, "no")
    rollout = Rollout(networks, "ddim", 4, guidance_scale)
    sources = noise_sources([3, 4])
    noise = torch.stack([torch.randn((4, 16, 16), generator=source) for source in sources])
    wanted = networks.pipeline(
        list(PROMPTS),
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        generator=noise_sources([3, 4]),
        output_type="latent",
    ).images
    text = networks.text(PROMPTS)
    torch.testing.assert_close(rollout.sample(noise, text), wanted, rtol=1e-3, atol=1e-3)
    *_, jump = rollout.jumps(noise, text, [1, 3])
    torch.testing.assert_close(jump.x0, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_jump_is_where_the_solver_says(solver):
    networks = Networks(pipeline(), CPU, "no")
    scheduler = Rollout(networks, solver, 7, 1.0).scheduler()
    latents, velocity = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for index, timestep in enumerate(networks.noise.timesteps_of(scheduler)):
        scheduler._step_index = index
        if solver == "ddim":
            solved = latents - scheduler.sigmas[index] * velocity
        else:
            solved = scheduler.convert_model_output(velocity, sample=latents)
        torch.testing.assert_close(networks.predict_x0(latents, timestep, velocity), solved, rtol=1e-4, atol=1e-4)


def test_solvers_of_higher_order_come_nearer_to_the_end_of_the_way(monkeypatch):
    networks = Networks(pipeline(), CPU, "no")
    text, noise = networks.text(PROMPTS[:1]), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def smooth(latents, timestep, text, guidance_scale):  # random networks have no smooth ways
        velocity = (latents + timestep / 1000).sin() * 0.5
        return velocity, velocity

    monkeypatch.setattr(networks, "guided", smooth)
    exact = Rollout(networks, "ddim", 900, 1.0).sample(noise, text)
    euler, *higher = ((Rollout(networks, name, 24, 1.0).sample(noise, text) - exact).norm() for name in SOLVERS)
    assert all(error < 0.3 * euler for error in higher)


def test_l_pre_is_the_velocitys_error_at_logit_normal_times(make_trainer, tmp_path):
    trainer = make_trainer(Blind(), pipeline=pipeline(), pairs=pictures(tmp_path / "pairs"), caption_dropout=0.0)
    algorithm, networks = trainer.learner.algorithm, trainer.networks
    _, clean, captions = algorithm.pairs_at([0, 1])
    each = algorithm.denoising_losses(clean, captions, "pairs", [0, 1])
    for place in (0, 1):
        sigma = torch.tensor(seeds.numpy_rng(42, "pairs timestep", place).standard_normal()).sigmoid()
        sigma = (3 * sigma / (1 + 2 * sigma)).float()  # the model's shift
        noise = seeds.normal(clean.shape[1:], 42, "pairs noise", [place])
        embeddings, _, pooled, _ = networks.pipeline.encode_prompt(
            captions[place], None, None, do_classifier_free_guidance=False
        )
        x = clean[place : place + 1]
        velocity = networks.pipeline.transformer(
            (1 - sigma) * x + sigma * noise, embeddings, pooled, 1000 * sigma[None]
        ).sample
        expected = (velocity - (noise - x)).square().mean()
        torch.testing.assert_close(each[place], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["refl", "raft", "reward_weighted", "dpo", "nft", "grpo"])
def test_every_algorithm_trains_it(algorithm, make_trainer, tmp_path):
    options = {} if algorithm in ("dpo", "nft", "grpo") else {"pairs": pictures(tmp_path / "pairs")}
    trainer = make_trainer(
        Colour(), pipeline=pipeline(), algorithm=algorithm, iterations=1, **{"validation.every": 0}, **options
    )
    before = [p.detach().clone() for p in trainer.trainable.parameters.values()]
    trainer.train()
    after = list(trainer.trainable.parameters.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_adapters_load_in_plain_diffusers(make_trainer, tmp_path):
    trainer = make_trainer(
        Colour(), pipeline=pipeline(), pairs=pictures(tmp_path / "pairs"), iterations=2, ema_decay=None,
        lora={"rank": 2, "alpha": 6.0}, **{"validation.every": 0},
    )  # fmt: skip
    trainer.train()
    plain = pipeline()
    given = {
        "hidden_states": torch.randn(1, 4, 16, 16),
        "encoder_hidden_states": torch.randn(1, 9, 32),
        "pooled_projections": torch.randn(1, 24),
        "timestep": torch.tensor([400.0]),
    }
    with torch.no_grad():
        learnt, came = (each(**given).sample for each in (trainer.networks.unet, plain.transformer))
        plain.load_lora_weights(tmp_path / "run", weight_name=LORA_FILE)
        torch.testing.assert_close(plain.transformer(**given).sample, learnt, rtol=1e-4, atol=1e-5)
    assert (learnt - came).abs().max() > 1e-4
    merged = pipeline()
    merge_lora(merged, str(tmp_path / "run"), 1.0, partial=False)  # realignkit run --lora
    with torch.no_grad():
        torch.testing.assert_close(merged.transformer(**given).sample, learnt, rtol=1e-4, atol=1e-5)
    trainer.trainable.load_exported(tmp_path / "run", 2)


def test_a_whole_transformer_learns_in_bfloat16_with_checkpointing(make_trainer, tmp_path):
    from diffusers import SD3Transformer2DModel

    trainer = make_trainer(
        Colour(), pipeline=pipeline(), pairs=pictures(tmp_path / "pairs"), iterations=1, trainable="unet",
        mixed_precision="bf16", gradient_checkpointing=True, **{"validation.every": 0},
    )  # fmt: skip
    trainer.train()
    saved = SD3Transformer2DModel.from_pretrained(tmp_path / "run" / MODEL_FOLDER / "transformer")
    assert not torch.equal(saved.proj_out.weight, pipeline().transformer.proj_out.weight)
    trainer.trainable.load_exported(tmp_path / "run", 1)


def test_checkpointing_changes_no_gradient(make_trainer, tmp_path):
    found = []
    for name, checkpointing in (("plain", False), ("saving", True)):
        trainer = make_trainer(
            Colour(), pipeline=pipeline(), out=tmp_path / name, pairs=pictures(tmp_path / f"{name}-pairs"),
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        found.append(trainer.gradients(0))
    assert losses.norm(found[0].reward) > 0
    for plain, saving in zip(found[0].reward, found[1].reward, strict=True):
        torch.testing.assert_close(plain, saving, rtol=1e-3, atol=1e-6)


def test_what_cannot_learn_is_refused(make_trainer):
    from diffusers import DDIMScheduler

    with pytest.raises(ModelError, match="FluxPipeline cannot be fine-tuned here: its transformer can be sampled"):
        check_trainable(flux_pipeline())
    other = pipeline()
    other.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match="DDIMScheduler cannot be fine-tuned here: it was trained by flow matching"):
        check_trainable(other)
    with pytest.raises(ModelError, match="noise levels are shifted by the picture's size"):
        check_trainable(sd3_pipeline(t5=False, use_dynamic_shifting=True))
    with pytest.raises(OptionError, match="no cross-attention"):
        _ = make_trainer(Colour(), pipeline=pipeline(), trainable="cross_attention", denoising_weight=0).trainable


def test_adapters_of_its_text_encoders_load_in_plain_diffusers(make_trainer, tmp_path):
    trainer = make_trainer(
        Colour(), pipeline=pipeline(), pairs=pictures(tmp_path / "pairs"), iterations=2, ema_decay=None,
        train_text_encoder=True, **{"validation.every": 0},
    )  # fmt: skip
    trainer.train()
    plain, came = pipeline(), pipeline()
    plain.load_lora_weights(tmp_path / "run", weight_name=LORA_FILE)

    def read(each):
        with torch.no_grad():
            return each.encode_prompt(list(PROMPTS), None, None, do_classifier_free_guidance=False)[::2]

    for learnt, loaded, first in zip(*(read(each) for each in (trainer.networks.pipeline, plain, came)), strict=True):
        torch.testing.assert_close(loaded, learnt, rtol=1e-4, atol=1e-5)
        assert (learnt - first).abs().max() > 1e-5
