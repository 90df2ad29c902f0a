"""Loss scaling, gradient checkpointing and the moving average: what they must change, and what not."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit.refl import losses
from realignkit.refl.config import ReFLConfig
from realignkit.refl.distributed import LossScale
from realignkit.refl.model import Networks
from realignkit.refl.rollout import Rollout
from realignkit.refl.trainable import Trainable
from tests import tiny

QUIET = {"validation.every": 0, "refl.gradient_steps": (3, 3)}


def close(found, expected):
    assert losses.norm(expected) > 0
    assert losses.norm([a - b for a, b in zip(found, expected, strict=True)]) < 1e-4 * losses.norm(expected)


def log(trainer):
    return [json.loads(line) for line in (trainer.folder / "log.jsonl").read_text().splitlines()]


# --- loss scaling (fp16 itself needs a GPU; its arithmetic does not) ------------------------------------------------


def test_a_scaled_loss_gives_the_same_gradient(make_trainer, tmp_path):
    plain = make_trainer(**QUIET, **{"refl.kl_weight": 0.1}, prior=tmp_path / "prior")
    scaled = make_trainer(**QUIET, **{"refl.kl_weight": 0.1}, prior=tmp_path / "prior")
    scaled.learner.scale = LossScale("fp16")
    assert scaled.learner.scale.value == 2**16
    ours, expected = scaled.gradients(0), plain.gradients(0)
    close(ours.reward, expected.reward)
    close(ours.denoising, expected.denoising)
    assert ours.values == pytest.approx(expected.values)


def test_an_overflow_skips_the_step_and_halves_the_scale(make_trainer, tmp_path):
    trainer = make_trainer(iterations=3, prior=tmp_path / "prior", **QUIET)
    scale = trainer.learner.scale = trainer._scale = LossScale("fp16")
    # So large that the scaled loss overflows float32; a quarter of it fits.
    first = trainer.gradients(0)
    scale.value = 2.0**129 / max(max(g.abs().max() for g in first.reward + first.denoising).item(), 1.0)
    before = [p.detach().clone() for p in trainer.trainable.parameters.values()]
    start = scale.value
    state = trainer.learner.step(0, lambda: False, None)
    assert state.skipped
    assert state.gradient_norm is None and state.reward_gradient_norm is None
    assert scale.value == start / 2
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.trainable.parameters.values(), strict=True))
    assert not trainer.learner.optimizer.state
    while trainer.learner.step(0, lambda: False, None).skipped:
        assert scale.value >= 1
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.trainable.parameters.values(), strict=True))


def test_the_scale_is_part_of_the_checkpoint(make_trainer):
    trainer = make_trainer(iterations=1, denoising_weight=0, **QUIET)
    trainer.learner.scale = trainer._scale = LossScale("fp16")
    trainer._scale.value = 2.0**9
    trainer.train()
    resumed = make_trainer(iterations=2, denoising_weight=0, **QUIET)
    resumed._scale.active = True
    resumed.train(resume=True)
    assert (resumed._scale.value, resumed._scale.good) == (2.0**9, 2)


def test_loss_scale_backs_off_and_recovers():
    scale = LossScale("fp16")
    start = scale.value
    scale.update(True)
    assert scale.value == start / 2
    for _ in range(1000):
        scale.update(False)
    assert scale.value == start
    assert LossScale("bf16").value == 1


# --- gradient checkpointing -----------------------------------------------------------------------------------------


def kept_bytes(compute):
    """Bytes that autograd keeps for the way back."""
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        compute()
    return total


def test_checkpointing_keeps_less_of_unet_and_decoder(make_trainer):
    found = {}
    for on in (False, True):
        networks = make_trainer(gradient_checkpointing=on, denoising_weight=0, **QUIET).learner.algorithm.networks
        text = networks.text(["a red book"])
        latents = torch.randn(1, *networks.latent_shape, generator=torch.Generator().manual_seed(0))
        unet = kept_bytes(lambda n=networks, t=text, x=latents: n.predict(x, torch.tensor(300), t))
        decoder = kept_bytes(lambda n=networks, x=latents: n.decode(x.clone().requires_grad_()))
        found[on] = unet, decoder
    assert all(saving < 0.6 * plain for saving, plain in zip(found[True], found[False], strict=True))


# --- the moving average ---------------------------------------------------------------------------------------------


def test_the_average_is_the_recursion_and_is_what_is_exported(make_trainer):
    from safetensors.torch import load_file

    seen = []
    trainer = make_trainer(iterations=4, ema_decay=0.3, learning_rate=0.05, reward_weight=1.0, **QUIET)
    first = [p.detach().clone() for p in trainer.trainable.parameters.values()]
    trainer._on_step = lambda _: seen.append([p.detach().clone() for p in trainer.trainable.parameters.values()])
    trainer.train()
    expected = first
    for i, now in enumerate(seen):
        decay = min(0.3, (1 + i) / (10 + i))
        expected = [decay * a + (1 - decay) * b for a, b in zip(expected, now, strict=True)]
    exported = load_file(trainer.folder / "pytorch_lora_weights.safetensors")
    for name, value in zip(trainer.trainable.parameters, expected, strict=True):
        key = "unet." + name.replace(".lora_A.realignkit.", ".lora.down.").replace(".lora_B.realignkit.", ".lora.up.")
        torch.testing.assert_close(exported[key], value)
    assert losses.norm([a - b for a, b in zip(expected, seen[-1], strict=True)]) > 0


# --- reward_weight=auto ---------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    ratio=st.floats(1e-3, 1e4),
    reward_size=st.floats(1e-12, 1e6),
    denoising_size=st.floats(1e-12, 1e6),
    clip=st.floats(1e-3, 1e3),
    seed=st.integers(0, 9),
)
def test_auto_holds_the_ratio_whatever_the_gradients(ratio, reward_size, denoising_size, clip, seed):
    """Also after clipping, which scales both terms alike."""
    generator = torch.Generator().manual_seed(seed)
    reward, denoising = (
        [size * torch.randn(shape, generator=generator) for shape in ((3, 4), (5,))]
        for size in (reward_size, denoising_size)
    )
    weight = losses.reward_weight_for(ratio, losses.norm(reward), losses.norm(denoising))
    weighted = [weight * g for g in reward]
    total = losses.norm([a + b for a, b in zip(weighted, denoising, strict=True)])
    factor = min(1.0, clip / total)
    found = losses.norm([factor * g for g in weighted]) / losses.norm([factor * g for g in denoising])
    assert found == pytest.approx(ratio, rel=1e-3)


def test_auto_holds_the_ratio_at_every_step_of_a_run(make_trainer):
    trainer = make_trainer(reward_weight="auto", gradient_ratio=3.0, iterations=3, **QUIET, **{"refl.kl_weight": 0.1})
    trainer.train()
    rows = log(trainer)
    assert len(rows) == 3
    for row in rows:
        assert row["reward_weight"] * row["reward_gradient_norm"] == pytest.approx(3 * row["denoising_gradient_norm"])
    assert len({row["reward_weight"] for row in rows}) == 3


# --- fp16, as far as a CPU can --------------------------------------------------------------------------------------


def test_fp16_arithmetic_gives_about_the_same_gradient():
    """Networks, rollout and adapters in fp16 as the trainer sets them up; only the trainer itself asks for a GPU."""
    config = ReFLConfig(lora={"rank": 2})
    found = {}
    for precision in ("no", "fp16"):
        networks = Networks(tiny.build_pipeline(), torch.device("cpu"), precision)
        trainable = Trainable(networks, config)
        noise = torch.randn(1, *networks.latent_shape, generator=torch.Generator().manual_seed(0))
        (point,) = Rollout(networks, "ddim", 4, 2.0).jumps(noise, networks.text(["a red book"]), [3])
        loss = networks.decode(point.x0)[:, 0].mean()
        scale = 2.0**16 if precision == "fp16" else 1.0
        parameters = list(trainable.parameters.values())
        assert {p.dtype for p in parameters} == {torch.float32}
        gradients = torch.autograd.grad(loss * scale, parameters, allow_unused=True)
        found[precision] = torch.cat([(g / scale).flatten() for g in gradients if g is not None])
    assert torch.isfinite(found["fp16"]).all()
    assert torch.nn.functional.cosine_similarity(found["no"], found["fp16"], dim=0) > 0.95
