"""The training loop resumes to the same weights; Muon's updates are what its paper says; recipes build and save."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from realignkit.pipelines.phrases import isolate
from realignkit.pipelines.spans import phrase_spans
from realignkit_plugins.micro.oracle import expected
from realignkit_plugins.micro.train import base, data, recognize_anything, segmenter, tokenizer
from realignkit_plugins.micro.train.__main__ import main
from realignkit_plugins.micro.train.data import to_tensor
from realignkit_plugins.micro.train.loop import Schedule, fit
from realignkit_plugins.micro.train.muon import muon, orthogonalise
from realignkit_plugins.micro.train.patches import all_labels
from realignkit_plugins.micro.world import (
    BACKGROUNDS,
    COLOURS,
    EXTRA_NOUNS,
    NOUNS,
    TAGS,
    caption,
    phrases,
    render,
    scene,
)
from realignkit_plugins.micro.world.vocabulary import plural
from realignkit_plugins.taggers.recognize_anything import RecognizeAnythingTagger

command = typer.Typer()
command.command()(main)
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
    tokens = tokenizer.build_tokenizer()
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


def test_captions_fall_into_the_phrases_that_they_were_made_of():
    rng = np.random.default_rng(0)
    for index in range(200):
        drawn = scene(8, index)
        parts = phrases(caption(drawn, rng))
        nouns = [noun for part in parts for noun, *_ in expected_or_none(part)]
        assert len(nouns) == len({(t.noun, t.colour) for t in drawn.things})
        assert parts[-1].split()[-1] in (*NOUNS, *BACKGROUNDS, *map(plural, NOUNS))


def expected_or_none(part):
    try:
        return expected(part)
    except ValueError:  # "a desk"
        return ()


def test_phrase_by_phrase_encoding_is_what_the_sampler_calls_isolation(monkeypatch):
    """The recipe's batched version against the engine's, which works on one span at a time."""
    monkeypatch.setattr(base, "PHRASE_BY_PHRASE", 1.0)
    words = tokenizer.build_tokenizer()
    torch.manual_seed(0)
    encoder = base.build_text_encoder(words).eval()
    texts = ["a red book and a yellow pen on a desk", "two red birds and a red cup", ""]

    def encode(text):
        ids = words(text, padding="max_length", return_tensors="pt").input_ids
        return encoder(ids).last_hidden_state[0]

    with torch.no_grad():
        tokens, sources = base.caption_ids(words, texts, np.random.default_rng(0))
        batched = base.place_phrases(encoder(tokens).last_hidden_state, sources)
        for text, got in zip(texts, batched, strict=True):
            wanted, parts = encode(text), phrases(text)
            for part, span in zip(parts, phrase_spans(words, text, parts), strict=True):
                wanted = isolate(wanted, span, encode(part), 1)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_every_query_of_the_segmenter_has_its_true_mask():
    """Found again from the words alone: the noun decides, and the colour where the picture has that pair."""
    rng = np.random.default_rng(0)
    for index in range(150):
        drawn = scene(9, index)
        seen = render(drawn)
        for text, mask in segmenter.queries(drawn, seen, rng):
            *_, noun = text.split()
            colour = text.split()[1] if text.split()[1] in COLOURS else None
            if noun in BACKGROUNDS:
                wanted = seen.backdrop if noun == drawn.background else np.zeros_like(mask)
            else:
                things = (*drawn.things, *drawn.extras)
                same = np.array([t.noun == noun for t in things])
                exact = np.array([t.noun == noun and t.colour == colour for t in things])
                wanted = seen.masks[exact if exact.any() else same].any(0)
            assert np.array_equal(mask, wanted), text


def test_every_process_numbers_the_words_alike():
    """Otherwise a resumed training would read its own embeddings under other names."""
    words = "sorted(build_tokenizer().get_vocab().items())"
    code = f"from realignkit_plugins.micro.train.tokenizer import build_tokenizer; print({words})"
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, check=True) for _ in range(2))
    assert first.stdout == second.stdout
    assert b"('red</w>', " in first.stdout


def test_cells_know_how_much_of_them_each_object_covers():
    found = recognize_anything.cells(41, 12).float().unflatten(1, (4, 4))
    for row, index in zip(found, range(12), strict=True):
        drawn = scene(41, index)
        want = np.zeros((4, 4, len(TAGS)))
        for thing in (*drawn.things, *drawn.extras):
            left, top, right, bottom = thing.box
            pixels = np.zeros((64, 64))
            pixels[top:bottom, left:right] = 1
            shares = pixels.reshape(4, 16, 4, 16).mean((1, 3))
            want[..., TAGS.index(thing.noun)] = np.maximum(want[..., TAGS.index(thing.noun)], shares)
        np.testing.assert_allclose(row.numpy(), want, atol=1e-3)


@pytest.mark.parametrize("architecture", ["ram", "tag2text"])
def test_every_weight_of_the_small_taggers_learns(architecture):
    torch.manual_seed(0)
    lesson = recognize_anything.Lesson(recognize_anything.build(architecture))
    with torch.no_grad():
        for parameter in lesson.parameters():  # residual branches start at zero, and pass no gradient then
            parameter.add_(0.05 * torch.randn_like(parameter))
    tags, places = lesson(torch.rand(2, 3, 64, 64))
    assert (tags.shape, places.shape) == ((2, len(TAGS)), (2, 16, len(TAGS)))
    (tags.square().mean() + places.square().mean()).backward()
    assert [name for name, p in lesson.named_parameters() if p.grad is None or not p.grad.any()] == []


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


def test_a_training_by_minutes_cools_down_in_time(tmp_path, monkeypatch):
    """The clock decides: here a step takes a second."""
    now = itertools.count()
    monkeypatch.setattr("realignkit_plugins.micro.train.loop.time.monotonic", lambda: float(next(now)))
    schedule = Schedule(steps=3, batch_size=8, learning_rate=1.0, warmup=1, cooldown=0.5, minutes=0.2)
    assert [schedule.rate(5, schedule.done(5, seconds)) for seconds in (0, 6, 9, 12)] == [1, 1, 0.5, 0]
    model = small_model()
    fit(model, loss_of(model), schedule, 5, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert 9 <= state["step"] <= 12
    # What is over is over: the same command trains no further.
    again = small_model()
    fit(again, loss_of(again, kill_at=state["step"]), schedule, 5, tmp_path)
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_scenes_and_steps_are_the_same_by_whatever_process(tmp_path):
    with data.processes(2):
        together = data.images(51, 3, cache=tmp_path), all_labels(51, 3, tmp_path / "together")
    data.scenes.cache_clear()
    data.images.cache_clear()
    alone = data.images(51, 3), all_labels(51, 3, tmp_path / "alone")
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    ahead, here = data.Ahead(square, 2), data.Ahead(square, 0)
    for step in (4, 5, 6, 2, 3):  # in order, and once again from an earlier one
        np.testing.assert_array_equal(ahead.of(step), here.of(step))


def square(step: int):
    return np.array([step, step**2])


def test_what_trains_on_a_cpu_only_says_so(tmp_path):
    result = CliRunner().invoke(command, ["vae", "--device", "cuda", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "vae trains on a CPU only" in " ".join(result.output.replace("│", " ").split())


def test_matrices_of_one_shape_are_updated_together_as_one_by_one():
    matrices = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(orthogonalise(matrices), torch.stack([orthogonalise(matrix) for matrix in matrices]))
    models = [nn.Sequential(nn.Linear(6, 4), nn.Linear(6, 4), nn.Conv2d(2, 4, (3, 1))) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    whole = muon(models[0], 1e-2, 0.01, 0.98)
    parts = [muon(layer, 1e-2, 0.01, 0.98) for layer in models[1]]
    for seed in range(3):
        for model in models:
            generator = torch.Generator().manual_seed(seed)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        whole.step()
        for part in parts:
            part.step()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
