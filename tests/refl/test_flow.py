"""Flow transformers learn: Stable Diffusion 3 and FLUX.1, against plain computations and diffusers' own pipelines."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from realignkit.errors import ModelError, OptionError
from realignkit.pipelines.families import flux, sd3
from realignkit.pipelines.images import noise_sources
from realignkit.refl import losses, seeds
from realignkit.refl.model import Networks
from realignkit.refl.refusals import check_trainable
from realignkit.refl.rollout import Rollout
from realignkit.refl.trainable import LORA_FILE, MODEL_FOLDER
from realignkit_plugins.generators.lora import merge_lora
from tests.attention.flow_pipelines import flux2_pipeline, flux_pipeline, sd3_pipeline
from tests.refl.rewards import Blind, Colour

CPU = torch.device("cpu")
PROMPTS = ("a red book", "a red pen")
SOLVERS = ("ddim", "dpmpp", "unipc")


KINDS = {"sd3": partial(sd3_pipeline, t5=False), "flux": flux_pipeline}
SMALL: dict[str, Any] = {"sampling": {"height": 32, "width": 32}}
QUIET: dict[str, Any] = {**SMALL, "validation.every": 0}


def pipeline():
    return KINDS["sd3"]()


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
@pytest.mark.parametrize("make", [*KINDS.values(), partial(flux_pipeline, distilled=False)])
def test_eulers_rollout_is_the_pipelines_own_picture(guidance_scale, make):
    """The jump of the last step, which goes to sigma = 0, is the finished picture."""
    networks = Networks(make(), CPU, "no", height=32, width=32)
    rollout = Rollout(networks, "ddim", 4, guidance_scale)
    sources = noise_sources([3, 4])
    noise = torch.stack([torch.randn((4, 16, 16), generator=source) for source in sources])
    wanted = networks.pipeline(
        list(PROMPTS),
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        generator=noise_sources([3, 4]),
        output_type="latent",
        height=32,
        width=32,
    ).images
    if wanted.ndim == 3:
        wanted = networks.pipeline._unpack_latents(wanted, 32, 32, networks.pipeline.vae_scale_factor)
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


def test_fluxs_shift_is_that_of_the_pictures_size():
    networks = Networks(flux_pipeline(), CPU, "no", height=32, width=64)
    networks.pipeline(PROMPTS[0], height=32, width=64, num_inference_steps=5, output_type="latent")
    scheduler = Rollout(networks, "ddim", 5, 3.5).scheduler()
    torch.testing.assert_close(scheduler.sigmas, networks.pipeline.scheduler.sigmas, rtol=1e-5, atol=1e-6)
    wider = Networks(flux_pipeline(), CPU, "no", height=64, width=64)
    assert wider.noise.shift > networks.noise.shift > 1


def test_fluxs_l_pre_is_told_that_nothing_guides_it(make_trainer, tmp_path):
    given = {"pairs": pictures(tmp_path / "pairs"), "caption_dropout": 0.0}
    trainer = make_trainer(Blind(), pipeline=flux_pipeline(), **given, **SMALL)
    algorithm, networks = trainer.learner.algorithm, trainer.networks
    _, clean, captions = algorithm.pairs_at([0])
    assert clean.shape == (1, 4, 16, 16)
    (loss,) = algorithm.denoising_losses(clean, captions, "pairs", [0])
    sigma = torch.tensor(seeds.numpy_rng(42, "pairs timestep", 0).standard_normal()).sigmoid()
    shift = networks.noise.shift
    sigma = (shift * sigma / (1 + (shift - 1) * sigma)).float()
    noise = seeds.normal(clean.shape[1:], 42, "pairs noise", [0])
    plain = networks.pipeline
    embeddings, pooled, ids = plain.encode_prompt(captions[0], None)
    velocity = plain.transformer(
        plain._pack_latents((1 - sigma) * clean + sigma * noise, 1, 4, 16, 16),
        encoder_hidden_states=embeddings,
        pooled_projections=pooled,
        timestep=sigma[None],
        guidance=torch.ones(1),
        txt_ids=ids,
        img_ids=plain._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32),
    ).sample
    expected = (velocity - plain._pack_latents(noise - clean, 1, 4, 16, 16)).square().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-4)


def test_flux_is_told_how_its_own_pictures_were_guided(make_trainer, monkeypatch, tmp_path):
    told = []
    for guided in (2.0, None):
        trainer = make_trainer(
            Colour(), pipeline=flux_pipeline(), algorithm="dpo", iterations=1, **QUIET,
            dpo={"guidance_scale": guided}, out=tmp_path / str(guided),
        )  # fmt: skip
        forward = trainer.networks.unet.forward

        def remember(*arguments, forward=forward, **options):
            told.append(options["guidance"].unique().item())
            return forward(*arguments, **options)

        monkeypatch.setattr(trainer.networks.unet, "forward", remember)
        trainer.train()
        assert set(told) - {1.0} == {guided or 3.5}  # the pipeline's own; 1 where L_pre holds what is unconditional
        told.clear()


def test_flux_is_told_how_the_pictures_of_the_frozen_model_were_guided(make_trainer):
    trainer = make_trainer(Blind(), pipeline=flux_pipeline(), prior_images=1, iterations=1, **QUIET)
    assert trainer.learner.algorithm.pairs.guidance_scale == 3.5


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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ["refl", "raft", "reward_weighted", "dpo", "nft", "grpo"])
def test_every_algorithm_trains_it(algorithm, kind, make_trainer, tmp_path):
    options = {} if algorithm in ("dpo", "nft", "grpo") else {"pairs": pictures(tmp_path / "pairs")}
    trainer = make_trainer(
        Colour(),
        pipeline=KINDS[kind](),
        algorithm=algorithm,
        iterations=1,
        **QUIET,
        **options,
    )
    before = [p.detach().clone() for p in trainer.trainable.parameters.values()]
    trainer.train()
    after = list(trainer.trainable.parameters.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_load_in_plain_diffusers(kind, make_trainer, tmp_path):
    trainer = make_trainer(
        Colour(), pipeline=KINDS[kind](), pairs=pictures(tmp_path / "pairs"), iterations=2, ema_decay=None,
        lora={"rank": 2, "alpha": 6.0}, **QUIET,
    )  # fmt: skip
    trainer.train()
    plain = KINDS[kind]()
    given = {
        "hidden_states": torch.randn(1, 4, 16, 16),
        "encoder_hidden_states": torch.randn(1, 9, 32),
        "pooled_projections": torch.randn(1, 24),
        "timestep": torch.tensor([400.0]),
    }
    if kind == "flux":
        given |= {
            "hidden_states": torch.randn(1, 64, 16),
            "pooled_projections": torch.randn(1, 16),
            "timestep": torch.tensor([0.4]),
            "guidance": torch.tensor([3.5]),
            "txt_ids": torch.zeros(9, 3),
            "img_ids": plain._prepare_latent_image_ids(1, 8, 8, "cpu", torch.float32),
        }
    with torch.no_grad():
        learnt, came = (each(**given).sample for each in (trainer.networks.unet, plain.transformer))
        plain.load_lora_weights(tmp_path / "run", weight_name=LORA_FILE)
        torch.testing.assert_close(plain.transformer(**given).sample, learnt, rtol=1e-4, atol=1e-5)
    assert (learnt - came).abs().max() > 1e-4
    merged = KINDS[kind]()
    merge_lora(merged, str(tmp_path / "run"), 1.0, partial=False)  # realignkit run --lora
    with torch.no_grad():
        torch.testing.assert_close(merged.transformer(**given).sample, learnt, rtol=1e-4, atol=1e-5)
    trainer.trainable.load_exported(tmp_path / "run", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_transformer_learns_in_bfloat16_with_checkpointing(kind, make_trainer, tmp_path):
    trainer = make_trainer(
        Colour(), pipeline=KINDS[kind](), pairs=pictures(tmp_path / "pairs"), iterations=1, trainable="unet",
        mixed_precision="bf16", gradient_checkpointing=True, **QUIET,
    )  # fmt: skip
    trainer.train()
    came = KINDS[kind]().transformer
    saved = type(came).from_pretrained(tmp_path / "run" / MODEL_FOLDER / "transformer")
    assert not torch.equal(saved.proj_out.weight, came.proj_out.weight)
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

    with pytest.raises(
        ModelError, match="Flux2KleinPipeline cannot be fine-tuned here: its transformer can be sampled"
    ):
        check_trainable(flux2_pipeline())
    with pytest.raises(OptionError, match=r"trained without true guidance.* leave sampling\.negative_prompt out"):
        Networks(flux_pipeline(), CPU, "no", negative_prompt="a cat")
    other = pipeline()
    other.scheduler = DDIMScheduler()
    with pytest.raises(ModelError, match="DDIMScheduler cannot be fine-tuned here: it was trained by flow matching"):
        check_trainable(other)
    with pytest.raises(ModelError, match="noise levels are shifted by the picture's size"):
        check_trainable(sd3_pipeline(t5=False, use_dynamic_shifting=True))
    with pytest.raises(OptionError, match="no cross-attention"):
        _ = make_trainer(Colour(), pipeline=pipeline(), trainable="cross_attention", denoising_weight=0).trainable


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_its_text_encoders_load_in_plain_diffusers(kind, make_trainer, tmp_path):
    """Those of CLIP: FLUX's T5 stays as it is."""
    trainer = make_trainer(
        Colour(), pipeline=KINDS[kind](), pairs=pictures(tmp_path / "pairs"), iterations=2, ema_decay=None,
        train_text_encoder=True, **QUIET,
    )  # fmt: skip
    trainer.train()
    plain, came = KINDS[kind](), KINDS[kind]()
    plain.load_lora_weights(tmp_path / "run", weight_name=LORA_FILE)

    def read(each):
        with torch.no_grad():
            return sd3.encode(each, list(PROMPTS)) if kind == "sd3" else flux.encode(each, list(PROMPTS))[1:]

    for learnt, loaded, first in zip(*(read(each) for each in (trainer.networks.pipeline, plain, came)), strict=True):
        torch.testing.assert_close(loaded, learnt, rtol=1e-4, atol=1e-5)
        assert (learnt - first).abs().max() > 1e-5
