"""The recipes of the rewards: mistakes in captions, malformed pictures, and checkpoints that the plugins load."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from realignkit_plugins.micro.oracle import expected
from realignkit_plugins.micro.train.__main__ import RECIPES, load_recipe
from realignkit_plugins.micro.train.rewards import MISTAKES, Pairs, accuracy, bert_words, malform, mistaken
from realignkit_plugins.micro.train.rewards_caption_text_encoder import WRONG_COLOUR, similarity
from realignkit_plugins.micro.world import COLOURS, NOUNS, caption, scene

SCENES = [scene(41, index) for index in range(60)]


def pairs_of(drawn):
    return sorted((thing.noun, thing.colour) for thing in drawn.things)


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_makes_the_caption_wrong(kind):
    rng = np.random.default_rng(0)
    for drawn in SCENES:
        changed = mistaken(drawn, kind, rng)
        true, wrong = set(pairs_of(drawn)), set(pairs_of(changed))
        assert wrong - true, "every object of the wrong caption is in the picture"
        if kind == "swapped":
            assert sorted(t.noun for t in changed.things) == sorted(t.noun for t in drawn.things)
        if kind == "replaced":
            assert sorted(t.colour for t in changed.things) == sorted(t.colour for t in drawn.things)
        if kind == "missing":
            assert len(changed.things) == len(drawn.things) + 1
        if len(changed.things) <= 3:
            assert expected(caption(changed, rng))


def test_swapping_keeps_words_where_it_can():
    rng = np.random.default_rng(1)
    two = [s for s in SCENES if len(s.things) == 2 and len({t.colour for t in s.things} | {0}) == 3]
    two = [s for s in two if s.things[0].noun != s.things[1].noun]
    assert len(two) > 10
    for drawn in two:
        swapped = mistaken(drawn, "swapped", rng)
        assert sorted(t.colour for t in swapped.things) == sorted(t.colour for t in drawn.things)


def test_malformed_pictures_are_others_but_in_range():
    rng = np.random.default_rng(0)
    x = torch.rand(40, 3, 64, 64)
    spoilt = malform(x, x.roll(1, 0), rng)
    assert (spoilt - x).abs().mean((1, 2, 3)).min() > 0.02
    assert spoilt.min() >= -1e-6
    assert spoilt.max() <= 1 + 1e-6


def test_similarity_of_scenes():
    drawn = next(s for s in SCENES if len(s.things) == 2 and s.things[0].noun != s.things[1].noun)
    first, second = drawn.things
    assert similarity(drawn, replace(drawn, things=(second, first))) == 1
    other = next(c for c in COLOURS if c not in (first.colour, second.colour))
    recoloured = replace(drawn, things=(replace(first, colour=other), second))
    assert similarity(drawn, recoloured) == pytest.approx((1 + WRONG_COLOUR) / 2)
    assert similarity(drawn, replace(drawn, things=(first,))) == 0.5
    absent = next(n for n in NOUNS if n not in drawn.tags)
    assert similarity(drawn, replace(drawn, things=(replace(first, noun=absent),))) == 0


def test_every_word_of_every_caption_is_known():
    words, rng = bert_words(), np.random.default_rng(2)
    for drawn in SCENES:
        text = caption(drawn, rng)
        ids = words(text)["input_ids"]
        assert words.unk_token_id not in ids
        assert words.decode(ids, skip_special_tokens=True).replace(" ,", ",") == text


def test_batches_depend_on_the_step_alone(tmp_path):
    pairs = Pairs("clip", tmp_path, tmp_path / "nothing", seed=3, seen=12)
    first, again, other = (pairs.batch(step, 4, torch.Generator().manual_seed(step)) for step in (5, 5, 6))
    assert first.captions == again.captions != other.captions
    assert first.wrong == again.wrong
    torch.testing.assert_close(first.malformed, again.malformed, rtol=0, atol=0)
    assert first.images.shape == (4, 3, 64, 64)


def test_accuracy_of_one_who_knows_and_one_who_guesses():
    perfect = accuracy(lambda x, texts: torch.zeros(len(texts)), count=20)
    assert set(perfect.values()) == {0.0}  # never *prefers* the true one
    blur = accuracy(
        lambda x, texts: x.diff(dim=-1).abs().mean((1, 2, 3)) - 1e-3 * torch.tensor([len(t) for t in texts]), 20
    )
    assert 0 <= min(blur.values()) <= max(blur.values()) <= 1


def test_every_recipe_is_found_by_the_name_of_its_checkpoint():
    assert [load_recipe(name).name for name in RECIPES] == list(RECIPES)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "blip", "caption_text_encoder", "captioner", "image_reward"])
def test_a_recipe_saves_what_its_plugin_loads(name, tmp_path, capsys):
    load_recipe(name).train(tmp_path / "out", tmp_path / "work", seed=0, steps=1)
    folder = tmp_path / "out" / name
    weights = folder / "model.safetensors"
    assert 0.2e6 < weights.stat().st_size < 6e6
    assert (folder / "tokenizer.json").is_file()
