"""The text encoder learns too: its gradient, its files, and the model as it came beside it."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline

from realignkit.errors import OptionError
from tests.refl.test_step import close

WHOLE = {"trainable": "unet", "train_text_encoder": True}


@pytest.mark.parametrize(
    "how",
    [
        {"reward_weight": 1.0, "denoising_weight": 0, "refl.gradients_per_rollout": 2},
        {"reward_weight": 1.0, "denoising_weight": 0, "refl.gradients_per_rollout": 2, "refl.rated_image": "final"},
        {"reward_weight": 0.0},
    ],
)
def test_gradient_is_that_of_finite_differences(make_trainer, how):
    """One weight of the token embeddings and one of a layer, moved a little each way."""
    trainer = make_trainer(**WHOLE, **how, caption_dropout=0.0)
    found = trainer.gradients(0)
    term = "reward" if how["reward_weight"] else "denoising"
    gradients = dict(zip(trainer.trainable.parameters, getattr(found, term), strict=True))
    texts = {name: g for name, g in gradients.items() if name.startswith("text_encoder.")}
    assert texts and all(name in gradients for name in ("conv_in.weight", "conv_out.weight"))
    if term == "reward":  # later points of a rollout read what earlier ones led to, which counts as held
        first = {"refl.gradients_per_rollout": 1, "refl.gradient_steps": (0, 0)}
        if how.get("refl.rated_image") == "final":  # the finished image depends on every later prediction
            first["refl.num_inference_steps"] = 1
        trainer = make_trainer(**WHOLE, **{**how, **first})
        gradients = dict(zip(trainer.trainable.parameters, trainer.gradients(0).reward, strict=True))
        texts = {name: g for name, g in gradients.items() if name.startswith("text_encoder.")}
    for part in ("token_embedding.weight", "q_proj.weight"):
        name = max((n for n in texts if n.endswith(part)), key=lambda n: float(texts[n].abs().max()))
        at = int(texts[name].abs().argmax())
        weight, values = trainer.trainable.parameters[name].data.view(-1), []
        for step in (1e-3, -1e-3):
            weight[at] += step
            values.append(trainer.gradients(0).values[f"{term}_loss"])
            weight[at] -= step
        assert float(texts[name].view(-1)[at]) == pytest.approx((values[0] - values[1]) / 2e-3, rel=0.05, abs=1e-6)


def test_result_is_a_whole_pipeline_and_training_moved_its_text_encoder(make_trainer, pipeline, tmp_path):
    before = copy.deepcopy(pipeline.text_encoder.state_dict())
    trainer = make_trainer(pipeline=pipeline, **WHOLE, reward_weight=1.0)
    trainer.train()
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "model", safety_checker=None)
    now = loaded.text_encoder.state_dict()
    assert any(not torch.equal(now[name], before[name]) for name in before)
    for name, tensor in pipeline.text_encoder.state_dict().items():  # the pipeline in hand carries the exported weights
        torch.testing.assert_close(now[name], tensor)
    drawn = [
        p("a red book", num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images
        for p in (loaded, pipeline)
    ]
    torch.testing.assert_close(*drawn, atol=1e-4, rtol=0)


def test_resumed_run_is_the_run_that_was_never_stopped(make_trainer, tmp_path):
    whole = make_trainer(**WHOLE, reward_weight=1.0, iterations=3, out=tmp_path / "a")
    whole.train()
    make_trainer(**WHOLE, reward_weight=1.0, iterations=2, out=tmp_path / "b").train()
    again = make_trainer(**WHOLE, reward_weight=1.0, iterations=3, out=tmp_path / "b")
    again.train(resume=True)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines()[-1] for name in "ab"]
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_model_as_it_came_reads_prompts_as_it_did(make_trainer):
    trainer = make_trainer(**WHOLE, refl={"kl_weight": 1.0})
    base = trainer.networks.text(["a red book"]).embeddings.detach()
    random = torch.Generator().manual_seed(1)
    for parameter in trainer.trainable.parameters.values():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=random)
    moved = trainer.networks.text(["a red book"]).embeddings.detach()
    assert not torch.allclose(moved, base, atol=1e-3)
    with trainer.trainable.base():
        close([trainer.networks.text(["a red book"]).embeddings.detach()], [base])
    close([trainer.networks.text(["a red book"]).embeddings.detach()], [moved])


def test_kl_term_is_nothing_before_training_and_grows(make_trainer):
    values = []
    for scale in (0.0, 0.05):
        trainer = make_trainer(
            **WHOLE, refl={"kl_weight": 1.0, "gradients_per_rollout": 2}, denoising_weight=0, reward_weight=1.0
        )
        _ = trainer.trainable
        for name, parameter in trainer.trainable.parameters.items():
            if name.startswith("text_encoder."):
                parameter.data += scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        values.append(trainer.gradients(0).values["denoising_loss"])
    assert values[0] == pytest.approx(0, abs=1e-10) and values[1] > 1e-8


def test_learning_the_text_encoder_twice_is_refused(make_trainer):
    with pytest.raises(OptionError, match="with trainable=text_encoder the text encoder alone learns: leave"):
        make_trainer(trainable="text_encoder", train_text_encoder=True)
