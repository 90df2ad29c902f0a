"""The world's own questions: what they ask has the stated answer, by looking at the scene alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from realignkit_plugins.micro.train.rewards import bert_words
from realignkit_plugins.micro.train.vqa import captioned, question_scene, questions_about, spaced
from realignkit_plugins.micro.world import BACKGROUNDS, COLOURS, NOUNS
from realignkit_plugins.micro.world.questions import KINDS, NUMBERS, PLACES, YES_NO, about_caption, ask, words
from realignkit_plugins.micro.world.vocabulary import plural

RNG = np.random.default_rng(7)
SCENES = [question_scene(RNG) for _ in range(90)]
SINGULAR = {plural(noun): noun for noun in NOUNS}


def asked(kind):
    rng = np.random.default_rng(1)
    pairs = [(scene, ask(scene, kind, rng)) for scene in SCENES for _ in range(2)]
    return [(scene, question) for scene, question in pairs if question]


def nouns_of(scene):
    return Counter(thing.noun for thing in scene.things)


def test_what_is_there_is_there():
    for scene, question in asked("there"):
        named = question.text.rstrip("?").removesuffix(" in the picture").removesuffix(" in the image").split()
        noun = SINGULAR.get(named[-1], named[-1])
        pairs = {(thing.noun, thing.colour) for thing in scene.things}
        true = (noun, named[-2]) in pairs if named[-2] in COLOURS else noun in scene.tags
        assert question.answer == YES_NO[not true], question


def test_colours_are_those_of_the_things():
    for scene, question in asked("colour"):
        noun = question.text.rstrip("?").split()[-1]
        noun = SINGULAR.get(noun, noun) if " are " in question.text else noun
        assert {thing.colour for thing in scene.things if thing.noun == noun} == {question.answer}
    for scene, question in asked("coloured"):
        *_, noun, colour = question.text.rstrip("?").split()
        noun = SINGULAR.get(noun, noun) if question.text.startswith("are") else noun
        present = colour in {thing.colour for thing in scene.things if thing.noun == noun}
        assert question.answer == YES_NO[not present]


def test_numbers_are_counted():
    found = Counter()
    for scene, question in asked("count"):
        colour, _, noun = question.text.removeprefix("how many ").partition(" are ")[0].rpartition(" ")
        things = [t for t in scene.things if t.noun == SINGULAR[noun] and colour in ("", t.colour)]
        assert question.answer == NUMBERS[len(things)]
        found[question.answer] += 1
    assert set(found) == set(NUMBERS)


def test_places_and_relations_hold():
    for scene, question in asked("where"):
        (thing,) = [t for t in scene.things if t.noun == question.text.rstrip("?").split()[-1]]
        x, y = thing.centre
        assert question.answer in PLACES
        if question.answer != "middle":
            side = {"left": x < 32, "right": x > 32, "top": y < 32, "bottom": y > 32}
            assert side[question.answer]
    for scene, question in asked("relation"):
        words_of = question.text.rstrip("?").split()
        first, second = (next(w for w in part if w in nouns_of(scene)) for part in (words_of, words_of[::-1]))
        (a,), (b,) = ([t for t in scene.things if t.noun == noun] for noun in (first, second))
        (x0, y0), (x1, y1) = a.centre, b.centre
        holds = {"left": x0 < x1, "right": x0 > x1, "above": y0 < y1, "below": y0 > y1}
        assert question.answer == YES_NO[not holds[next(w for w in words_of if w in holds)]]


def test_backgrounds_are_the_scenes():
    for scene, question in asked("background"):
        if question.text == "what is in the background?":
            assert question.answer == scene.background
        else:
            on = next(name for name, text in BACKGROUNDS.items() if question.text.endswith(f"{text}?"))
            assert question.answer == YES_NO[on != scene.background]


def test_half_of_the_answers_to_yes_or_no_are_no():
    rng = np.random.default_rng(2)
    for kind in ("there", "coloured", "relation"):
        said = Counter(question.answer for _, question in asked(kind))
        assert 0.3 < said["yes"] / said.total() < 0.7, kind
    captions = Counter(captioned(scene, scene, rng).answer for scene in SCENES)
    assert 0.3 < captions["yes"] / captions.total() < 0.7


def test_every_word_is_one_token():
    rng, tokens = np.random.default_rng(3), bert_words(words())
    for scene in SCENES[:60]:
        questions = [*questions_about(scene, scene, 3, rng), captioned(scene, scene, rng)]
        for question in questions:
            ids = tokens(question.text)["input_ids"]
            assert tokens.unk_token_id not in ids, question.text
            assert tokens.convert_ids_to_tokens(ids)[1:-1] == spaced(question.text).split()
            assert tokens.convert_ids_to_tokens(tokens(question.answer)["input_ids"])[1:-1] == [question.answer]


def test_of_a_malformed_picture_nothing_is_true():
    rng = np.random.default_rng(4)
    assert {question.answer for question in questions_about(None, SCENES[0], 5, rng)} == {"no"}
    assert captioned(None, SCENES[0], rng).answer == "no"
    assert about_caption(SCENES[0], SCENES[0], rng).answer == "yes"


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_every_kind_is_asked(kind):
    assert {question.kind for _, question in asked(kind)} == {kind}
