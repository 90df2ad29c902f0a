"""The prompt adapter's recipe: pairs that keep their things, a policy gradient that climbs, a folder that loads."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from realignkit_plugins.generators.promptist import CUE, PromptistGenerator
from realignkit_plugins.micro import checkpoints
from realignkit_plugins.micro.train import promptist
from realignkit_plugins.micro.train.promptist import REWRITINGS, PromptistRecipe, departure, pair
from realignkit_plugins.micro.train.tokenizer import build_gpt2_tokenizer
from realignkit_plugins.micro.world import BACKGROUNDS, COLOURS, NOUNS, caption, plain, scene
from realignkit_plugins.micro.world.vocabulary import plural


@pytest.fixture
def recipe(tmp_path):
    return PromptistRecipe(tmp_path / "out", tmp_path / "work")


def test_words_are_tokens_with_the_blank_before_them_and_texts_come_back():
    tokens = build_gpt2_tokenizer([CUE.removesuffix(":")])
    for word in (*NOUNS, *map(plural, NOUNS), *COLOURS, *BACKGROUNDS, "and", "two"):
        assert len(tokens.tokenize(f" {word}")) == 1, word
    assert tokens.tokenize(f"a pen{CUE}") == ["a", "Ġpen", "ĠRephrase", ":"]
    text = f"two red birds, a xylophone and a café on the grass{CUE}"
    assert tokens.decode(tokens(text).input_ids) == text


def test_pairs_name_the_same_things_and_differ_as_captions_do():
    rng = np.random.default_rng(0)
    pairs = [pair(rng) for _ in range(80)]
    assert all(departure(prompt, text) == 0 for prompt, text in pairs)
    texts = " ".join(text for _, text in pairs if text not in dict(pairs))
    assert {"on", "left", "above"} <= set(texts.replace(",", "").split())
    assert 0.3 < np.mean([prompt != text for prompt, text in pairs]) < 0.9


@pytest.mark.parametrize(
    ("rewriting", "count"),
    [
        ("a yellow pen and a red book", 0),
        ("a red book to the left of a yellow pen on a desk", 0),
        ("a yellow pen above a red book, a grass", 0),
        ("a red book", 1),
        ("a red book, a yellow pen and a blue cup", 1),
        ("a yellow book and a red pen", 4),
        ("two red books and a yellow pen", 2),
        ("a red book and a yellow and", 2),
        ("", 2),
    ],
)
def test_leaving_the_prompt_is_counted_thing_by_thing(rewriting, count):
    assert departure("a red book and a yellow pen", rewriting) == count


def test_plain_prompts_say_no_more_than_what_there_is():
    for index in range(60):
        drawn = scene(41, index)
        assert departure(plain(drawn.things), caption(drawn, np.random.default_rng(index))) == 0
        assert plain(drawn.things) == caption(replace(drawn, background=None), NoRelation())


class NoRelation:
    """A generator of numbers with which a caption has no mistake and no relation."""

    def random(self):
        return 0.99

    def permutation(self, count):
        return range(count)


def test_only_the_rewriting_is_learnt_and_padding_is_not(recipe):
    rows = [(recipe.cued("a pen"), recipe.ended("a red pen")), (recipe.cued("a red book"), recipe.ended("a pen"))]
    ids, said = recipe.read(rows)
    assert recipe.tokens.decode(ids[0][1:][said[0]]) == " a red pen<|endoftext|>"
    assert recipe.tokens.decode(ids[1][1:][said[1]]) == " a pen<|endoftext|>"
    assert recipe.tokens.decode(ids[0][:4]) == f"a pen{CUE}"


def test_the_gradient_is_the_policys(tmp_path, monkeypatch):
    """Against its formula, sample by sample and without padding; the reward is one that anybody can compute."""
    monkeypatch.setattr(promptist, "LONGEST", 6)
    drawn: list[tuple[list[int], list[list[int]]]] = []

    class Shorter(PromptistRecipe):
        def rewrite(self, cued):
            drawn.append((cued, super().rewrite(cued)))
            return drawn[-1][1]

        def rewards(self, prompt, rewritings, seed):
            return -torch.tensor([float(len(text)) for text in rewritings])

    recipe = Shorter(tmp_path, tmp_path)
    recipe.taught = deepcopy(recipe.learner)  # no divergence yet, and no gradient of it
    recipe.reward_loss(3, torch.Generator())[0].backward()
    got = {name: parameter.grad.clone() for name, parameter in recipe.learner.named_parameters()}
    recipe.learner.zero_grad()
    for cued, samples in drawn:
        worth = [-len(recipe.tokens.decode(sample, skip_special_tokens=True).strip()) for sample in samples]
        for sample, each in zip(samples, worth, strict=True):
            log_probabilities = recipe.learner(torch.tensor([cued + sample])).logits[0].log_softmax(-1)
            likelihood = sum(log_probabilities[len(cued) - 1 + i, token] for i, token in enumerate(sample))
            (-(each - np.mean(worth)) * likelihood / (len(drawn) * REWRITINGS)).backward()
    assert len(drawn) == recipe.rewarded.batch_size
    for name, parameter in recipe.learner.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-3, atol=1e-4)


def test_pictures_of_a_prompt_start_alike_and_leaving_it_costs(recipe):
    from diffusers import StableDiffusionPipeline

    from realignkit_plugins.rewards.image_reward import ImageReward

    recipe.pipeline = StableDiffusionPipeline.from_pretrained(checkpoints.path("base")).to(dtype=torch.float32)
    recipe.judge = ImageReward(model="micro:image_reward", device="cpu")
    prompt, other = "a red book and a yellow pen", "a red book"
    first = recipe.rewards(prompt, [prompt, other, prompt], 5)
    assert first[0] == first[2] != first[1]
    torch.testing.assert_close(recipe.rewards(prompt, [other, prompt], 5), first[1:], rtol=1e-4, atol=1e-4)
    twice = recipe.rewards(other, [other, f"{other} and a blue book"], 5)
    assert twice[0] > twice[1] + 1


def test_samples_end_where_they_end(recipe):
    end = recipe.tokens.eos_token_id
    torch.manual_seed(0)
    samples = recipe.rewrite(recipe.cued("a red book"))
    assert len(samples) == REWRITINGS
    assert all(end not in sample[:-1] for sample in samples)
    with torch.no_grad():
        recipe.learner.transformer.ln_f.weight.zero_()
        recipe.learner.transformer.ln_f.bias.copy_(1e4 * recipe.learner.transformer.wte.weight[end])
    assert recipe.rewrite(recipe.cued("a red book")) == [[end]] * REWRITINGS


@pytest.mark.slow
def test_both_trainings_save_what_the_generator_loads(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    PromptistRecipe.train(out, tmp_path / "pairs", steps=1)
    assert "learns from pairs alone" in capsys.readouterr().err.replace("\n", " ")
    for name in ("base", "image_reward"):
        (out / name).symlink_to(checkpoints.path(name))
    PromptistRecipe.train(out, tmp_path / "work", steps=1)
    assert (tmp_path / "work" / "promptist_reward" / "state.pt").is_file()
    assert {file.name for file in (out / "promptist").iterdir()} >= {"config.json", "model.safetensors"}
    generator = PromptistGenerator(adapter=str(out / "promptist"), device="cpu")
    assert isinstance(generator.adapt("a red book"), str)


def test_what_the_pairs_taught_is_found_again(tmp_path):
    """Each stage has a state of its own: the second run finds the first stage done, and ends at the same weights."""
    first, second = (PromptistRecipe(tmp_path / "out", tmp_path / "work", 0, 2) for _ in range(2))
    first.fit()
    second.fit()
    for ours, theirs in zip(first.learner.parameters(), second.learner.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
