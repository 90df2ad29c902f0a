"""The flow model's recipe: nulls count as often as told, it learns, and what it saves is a plain pipeline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from realignkit_plugins.micro.train import flow, replay
from realignkit_plugins.micro.train.recipe import Machine
from realignkit_plugins.micro.train.replay import Replayed


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "SCENES", 12)
    return flow.FlowRecipe(tmp_path / "out", tmp_path / "work", 0, 4)


def test_one_null_stands_for_many():
    from diffusers.models.attention_processor import JointAttnProcessor2_0

    torch.manual_seed(0)
    transformer = flow.build_transformer().eval()
    for parameter in transformer.parameters():  # nothing at zero, where every text gives the same
        torch.nn.init.normal_(parameter, std=0.1)
    latents, text, pooled = torch.randn(2, 4, 16, 16), torch.randn(2, 5, 192), torch.randn(2, 192)
    timesteps = torch.tensor([100.0, 900.0])

    def predicted(nulls):
        zeros = text.new_zeros(2, nulls, 192)
        with torch.no_grad():
            return transformer(latents, torch.cat([text, zeros], 1), pooled, timesteps).sample

    many = flow.ManyNulls()
    transformer.set_attn_processor(many)
    many.bias = torch.tensor([7.0, 7.0]).log()
    counted = predicted(1)
    transformer.set_attn_processor(JointAttnProcessor2_0())
    torch.testing.assert_close(counted, predicted(7), rtol=1e-4, atol=1e-4)
    assert (counted - predicted(1)).abs().max() > 1e-3


def test_it_learns_in_the_pipelines_own_terms(recipe):
    pipeline = recipe.pipeline()
    prompts = ["a red book and a yellow pen", ""]
    text, pooled = recipe._encode(*flow.caption_ids(recipe.tokenizer, prompts, np.random.default_rng(1)))
    wanted, _, wanted_pooled, _ = pipeline.encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=1
    )
    torch.testing.assert_close(text[1], wanted[1])
    torch.testing.assert_close(pooled, wanted_pooled)
    recipe.schedule = flow.Schedule(steps=4, batch_size=3, learning_rate=1e-3)
    for parameter in recipe.learner.parameters():  # weights at zero let no gradient through
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    recipe.loss(0, torch.Generator().manual_seed(0))[0].backward()
    trained = {name: p.grad for name, p in recipe.learner.named_parameters() if p.requires_grad and p.ndim > 1}
    assert not [name for name, gradient in trained.items() if gradient is None or not gradient.any()]


def test_the_first_text_encoder_starts_as_the_base_models(recipe):
    from transformers import CLIPTextModel

    trained = CLIPTextModel.from_pretrained(flow.checkpoints.path("base") / "text_encoder", torch_dtype=torch.float32)
    ids = recipe.tokenizer(["two red birds and a cup"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        output = recipe.text_encoder(ids, output_hidden_states=True)
        known = trained(ids, output_hidden_states=True)
    torch.testing.assert_close(output.hidden_states[-2], known.hidden_states[-1])
    torch.testing.assert_close(output.text_embeds, known.pooler_output, rtol=1e-4, atol=1e-4)


def test_what_it_saves_is_a_plain_pipeline(recipe, tmp_path):
    from diffusers import StableDiffusion3Pipeline

    recipe.finish(tmp_path / "flow")
    files = list((tmp_path / "flow").rglob("*"))
    assert sum(file.stat().st_size for file in files) < 15e6
    assert not [file for file in files if file.suffix == ".json" and "_name_or_path" in file.read_text()]
    without_t5 = {"text_encoder_3": None, "tokenizer_3": None}
    loaded = StableDiffusion3Pipeline.from_pretrained(tmp_path / "flow", torch_dtype=torch.float32, **without_t5)
    loaded.set_progress_bar_config(disable=True)
    image = loaded("a red book", num_inference_steps=1, guidance_scale=2.0).images[0]
    assert image.size == (64, 64)


def test_a_stopped_run_goes_on_to_the_same_weights_whoever_prepares(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "SCENES", 12)
    monkeypatch.setattr(flow.FlowRecipe, "schedule", flow.Schedule(steps=4, batch_size=2, learning_rate=1e-3, warmup=1))

    def train(work, steps, workers):
        recipe = flow.FlowRecipe(tmp_path / "out", tmp_path / work, 0, None, None, Machine(workers=workers))
        recipe.schedule = replace(recipe.schedule, steps=steps, cooldown=1e-6)
        recipe.fit()
        return recipe.learner

    straight = train("straight", 4, 0)
    train("stopped", 2, 2)
    for ours, theirs in zip(train("stopped", 4, 2).parameters(), straight.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class Recorded(Replayed):
    """As a graph does, without CUDA: it computes anew from the inputs that are kept, into the same gradients."""

    def _recorded(self):
        self._forget()
        self._outcome = self._step(self._inputs)
        kept = [(each, each.grad) for each in self._parameters if each.grad is not None]

        def again():
            self._forget()
            self._outcome = self._step(self._inputs)
            for parameter, gradient in kept:
                gradient.copy_(parameter.grad)

        return again


def shown(recipe, step):
    """The loss, and the gradients that a step leaves."""
    recipe.learner.zero_grad()
    torch.manual_seed(step)
    value, parts = recipe.loss(step, torch.Generator().manual_seed(step))
    value.backward()
    gradients = {name: p.grad.clone() for name, p in recipe.learner.named_parameters() if p.grad is not None}
    return {"loss": value.detach(), **{name: part.detach() for name, part in parts.items()}, **gradients}


@pytest.mark.parametrize("record", [False, True])
def test_a_replayed_step_is_a_plain_one(recipe, monkeypatch, record):
    monkeypatch.setattr(replay, "FIRST", 1)
    recipe.schedule = replace(recipe.schedule, batch_size=3)
    for parameter in recipe.learner.parameters():  # weights at zero let no gradient through
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    replayed = Recorded(recipe._compare, recipe.learner, record)
    given = []
    monkeypatch.setattr(recipe, "replayed", lambda *inputs: given.append(inputs) or recipe._compare(*inputs))
    monkeypatch.setattr(recipe.replayed, "record", False, raising=False)
    plain = [shown(recipe, step) for step in range(4)]
    monkeypatch.setattr(recipe, "replayed", replayed)
    for step, wanted in enumerate(plain):
        found = shown(recipe, step)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)
    assert (replayed._replay is not None) == record
    assert len(given) == 4 and (not record or len(replayed._inputs[1]) == 6 > len(given[0][1]))


def test_a_graph_that_cannot_be_recorded_is_done_without(recipe, monkeypatch, capsys):
    monkeypatch.setattr(replay, "FIRST", 0)
    recipe.schedule = replace(recipe.schedule, batch_size=2)
    wanted = shown(recipe, 0)
    replayed = Replayed(recipe._compare, recipe.learner, record=True)
    monkeypatch.setattr(replayed, "_recorded", lambda: torch.ones(2)[5])
    monkeypatch.setattr(recipe, "replayed", replayed)
    found = shown(recipe, 0)
    torch.testing.assert_close(found["loss"], wanted["loss"], rtol=1e-5, atol=1e-6)
    assert not replayed.record
    assert " ".join(capsys.readouterr().err.split()).startswith(
        "steps are computed one by one, not replayed as a CUDA graph: index 5 is out of bounds"
    )
