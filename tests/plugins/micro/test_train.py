"""The training loop resumes to the same weights; Muon's updates are what its paper says; recipes build and save."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from PIL import Image
from torch import nn

from realignkit_plugins.micro.train import base, recognize_anything, tokenizer
from realignkit_plugins.micro.train.data import to_tensor
from realignkit_plugins.micro.train.loop import Schedule, fit
from realignkit_plugins.micro.train.muon import muon, orthogonalise
from realignkit_plugins.micro.world import BACKGROUNDS, COLOURS, EXTRA_NOUNS, NOUNS, TAGS, render, scene
from realignkit_plugins.taggers.recognize_anything import RecognizeAnythingTagger

SCHEDULE = Schedule(steps=24, batch_size=8, learning_rate=1e-2, warmup=3)


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))


def loss_of(model: nn.Module, kill_at: int | None = None):
    def loss(step, generator):
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        x = torch.randint(7, (8,), generator=generator)
        noise = 0.1 * torch.randn(8, generator=generator)
        return (model(x)[:, 0] - x.float().sin() - noise).square().mean(), {}

    return loss


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    straight = small_model()
    fit(straight, loss_of(straight), SCHEDULE, 5, tmp_path / "straight")
    stopped = small_model()
    with pytest.raises(SystemExit):
        fit(stopped, loss_of(stopped, kill_at=9), SCHEDULE, 5, tmp_path / "stopped")
    torch.manual_seed(99)
    resumed = small_model()
    fit(resumed, loss_of(resumed), SCHEDULE, 5, tmp_path / "stopped")
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_training_learns(tmp_path):
    model = small_model()
    before = float(loss_of(model)(0, torch.Generator().manual_seed(0))[0])
    fit(model, loss_of(model), Schedule(300, 8, 2e-2, warmup=10, ema=0.9), 0, tmp_path)
    assert float(loss_of(model)(0, torch.Generator().manual_seed(0))[0]) < 0.2 * before


def test_a_part_that_does_not_learn_is_an_error(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))

    def loss(step, generator):
        return model[1](0 * model[0](torch.ones(4, 3)) + 1).square().mean(), {}

    with pytest.raises(RuntimeError, match=r"1 of 2 weights get no gradient: 0\.weight"):
        fit(model, loss, SCHEDULE, 5, tmp_path)


@pytest.mark.parametrize("shape", [(8, 8), (5, 40), (40, 5)])
def test_orthogonalised_singular_values_are_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrix, iterations=8))
    assert values.min() > 0.6
    assert values.max() < 1.3
    # The same left and right singular directions: the product with the input stays symmetric positive.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ orthogonalise(matrix, iterations=8) @ v.T
    assert (rotated - torch.diag(rotated.diagonal())).abs().max() < 1e-4


def test_vectors_and_embeddings_follow_adamw():
    ours, theirs = small_model(), small_model()
    optimizer = muon(ours, 1e-2, 0.01, 0.98)
    vectors = [p for group in optimizer.param_groups if not group["orthogonal"] for p in group["params"]]
    names = {name for name, p in ours.named_parameters() if any(p is vector for vector in vectors)}
    assert names == {"0.weight", "1.bias", "3.bias"}
    chosen = [p for name, p in theirs.named_parameters() if name in names]
    reference = torch.optim.AdamW(chosen, 1e-2, (0.9, 0.98), weight_decay=0.01)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        for mine, its in zip(vectors, chosen, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            its.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    for mine, its in zip(vectors, chosen, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-7)


def test_every_word_of_the_world_is_one_token():
    tokens = tokenizer.build()
    for word in (*NOUNS, *COLOURS, *BACKGROUNDS, *EXTRA_NOUNS, "benches", "sheep", "and", "two"):
        assert len(tokens.tokenize(word)) == 1, word
    assert len(tokens.tokenize("xylophone")) > 1
    assert tokens.decode(tokens("a red book, a pen").input_ids, skip_special_tokens=True) == "a red book , a pen"


def test_a_fresh_unet_predicts_nothing_and_passes_gradients():
    """Zero-initialised branches: the first prediction is 0, and yet there is something to learn from."""
    unet = base.build_unet()
    x = torch.randn(1, 4, 16, 16)
    out = unet(x, torch.tensor([10]), torch.randn(1, 5, 128)).sample
    assert out.abs().max() == 0
    (out - 1).square().mean().backward()
    assert unet.conv_out.weight.grad.abs().max() > 0


@pytest.mark.parametrize("architecture", ["ram", "tag2text"])
def test_the_tagger_reads_what_its_recipe_writes(architecture, tmp_path):
    torch.manual_seed(0)
    network = recognize_anything.build(architecture).eval()
    pixels = render(scene(34, 0)).image
    with torch.no_grad():
        for parameter in network.parameters():  # the zeros of a fresh network would hide mistakes
            parameter.add_(0.1 * torch.randn_like(parameter))
        want = network(recognize_anything.normalise(to_tensor(pixels[None]))).sigmoid()
    recognize_anything.write(network, tmp_path / "mine")
    tagger = RecognizeAnythingTagger(model=str(tmp_path / "mine"), device="cpu")
    assert tagger.labels == TAGS
    torch.testing.assert_close(tagger.probabilities([Image.fromarray(pixels)]), want, rtol=0, atol=5e-3)
