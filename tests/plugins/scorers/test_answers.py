"""Reading a model's answer: what is right comes through as it is, everything else is refused with a reason."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit.types import Likelihood, LocalCaption, Tag
from realignkit_plugins.scorers.answers import ANSWER_SCHEMA, read_answer, write_answer
from realignkit_plugins.scorers.grounding import phrase_of
from realignkit_plugins.scorers.wrappings import MAX_ANSWER, MalformedAnswerError
from tests.plugins.scorers.endpoint import PROMPT, TRUTH, right_answer

TAGS = tuple(Tag(name, 0.5) for name in TRUTH)
RIGHT = tuple(LocalCaption(name, caption, Likelihood(word)) for name, (caption, word) in TRUTH.items())


def answer(**changes):
    """The right answer with one object changed (None: left out)."""
    objects = json.loads(right_answer())["objects"]
    changed = [{**entry, **(changes.get(entry["tag"]) or {})} for entry in objects if changes.get(entry["tag"], 1)]
    return json.dumps({"objects": changed})


@pytest.mark.parametrize(
    "text",
    [
        right_answer(),
        f"```json\n{right_answer()}\n```",
        f"```\n{right_answer()}\n```\n",
        f"Here you are:\n{right_answer()}",
        f"{right_answer()}\nI hope that this helps!",
        f"\ufeff\n {right_answer()} ",
        right_answer(list(reversed(TRUTH))),
        json.dumps(json.loads(right_answer())["objects"]),
        json.dumps(json.loads(right_answer()), indent=4),
        answer(book={"tag": " Book"}, pen={"likelihood": "Certain "}),
        answer(book={"tag": "books"}),
        answer(book={"caption": "A red  book."}, desk={"caption": "a big brown desk"}),
        answer(book={"confidence": 0.9}),
    ],
)
def test_the_same_answer_in_other_wrappings(text):
    assert read_answer(text, PROMPT, TAGS) == RIGHT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("x" * (MAX_ANSWER + 1), "too long"),
        ("certain", "no JSON"),
        ("I cannot help with that.", "no JSON"),
        ("<html><body>502 Bad Gateway</body></html>", "no JSON"),
        (right_answer()[:-1], "broken JSON"),
        (right_answer()[:80], "broken JSON"),
        (f"{right_answer()} or rather {answer(book={'likelihood': 'unlikely'})}", "broken JSON"),
        (right_answer().replace('"a red book"', "'a man's book'").replace('"', "'"), "broken JSON"),
        (right_answer().replace('"certain"', "NaN", 1), "broken JSON"),
        (right_answer().replace('"certain"', "9" * 5000, 1), "broken JSON"),
        ('{"objects": ' + "[" * 30_000, "broken JSON"),
        ("[" * 30_000 + "]" * 30_000, "broken JSON"),
        (
            right_answer().replace('"likelihood": "certain"', '"likelihood": "unlikely", "likelihood": "certain"'),
            "broken JSON",
        ),
        ("{}", "form"),
        ("[1, 2]", "form"),
        ('{"objects": {"book": "certain"}}', "form"),
        ('{"book": {"caption": "a red book", "likelihood": "certain"}}', "form"),
        (answer(book={"caption": None}), "form"),
        (answer(book={"likelihood": 2}), "form"),
        (answer(book={"tag": ["book"]}), "form"),
        (answer(book=None), "tags"),
        ('{"objects": []}', "tags"),
        (answer(book={"tag": "cat"}), "tags"),
        (answer(book={"tag": "pen", "caption": "a yellow pen"}), "tags"),
        (answer(book={"tag": ""}), "tags"),
        (answer(book={"likelihood": "very certain"}), "likelihood"),
        (answer(book={"likelihood": "sicher"}), "likelihood"),
        (answer(book={"likelihood": ""}), "likelihood"),
        (answer(book={"caption": " "}), "caption"),
        (answer(book={"caption": "a"}), "caption"),
        (answer(book={"caption": "a red\u202ebook"}), "caption"),
        (answer(book={"caption": "a red\x00book"}), "caption"),
        (answer(book={"caption": "a red book " * 100}), "caption"),
        (answer(book={"caption": "a blue book"}), "caption"),
        (answer(book={"caption": "a yellow pen"}), "caption"),
        (answer(sign={"likelihood": "certain"}), "caption"),
    ],
)
def test_what_is_refused_and_why(text, reason):
    with pytest.raises(MalformedAnswerError) as refused:
        read_answer(text, PROMPT, TAGS)
    assert refused.value.reason == reason
    assert len(str(refused.value)) < 300


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, len(right_answer())),
    st.integers(0, 40),
    st.text(st.characters(exclude_characters="{}"), max_size=30),
)
def test_a_damaged_answer_is_refused_or_says_the_same(start, length, other):
    damaged = right_answer()[:start] + other + right_answer()[start + length :]
    try:
        found = read_answer(damaged, PROMPT, TAGS)
    except MalformedAnswerError:
        return
    # What still parses must say what the damaged JSON says, by an independent reading of its innermost objects.
    objects = [yaml.safe_load(text) for text in re.findall(r"\{[^{}]*\}", damaged) if "tag" in text.lower()]
    entries = [{name.lower(): value for name, value in one.items()} for one in objects]
    for caption in found:
        said = [e for e in entries if e["tag"].lower().strip().removesuffix("s") == caption.tag]
        assert {e["likelihood"].strip().lower() for e in said} == {caption.likelihood.value}


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps)))
def test_nonsense_never_becomes_an_answer(text):
    with pytest.raises(MalformedAnswerError):
        read_answer(text, PROMPT, TAGS)


# --- what a certain caption must be ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "tag", "others", "caption", "phrase"),
    [
        ("a red car and a blue dog", "car", ["dog"], "The red car", "a red car"),
        ("a red car and a blue dog", "car", ["dog"], "red  CAR.", "red car"),
        ("red car, blue dog", "car", ["dog"], "a red car", "red car"),
        ("two brown dogs on a sofa", "dog", [], "brown dogs", "brown dogs"),
        ("two brown dogs on a sofa", "couch", ["dog"], "a sofa", "a sofa"),
        ("an old man and a cup", "person", ["man"], "an old man", "an old man"),
        ("the cup is red and the box is blue", "cup", ["box"], "the cup is red", "the cup is red"),
        ("the cup is red and the box is blue", "box", ["cup"], "the box", "the box"),
        ("a boat house and a boat", "boat", ["house"], "a boat", "a boat"),
        ("a red car and a blue car", "car", [], "a blue car", "a blue car"),
        ("a cup of coffee on a table", "cup", ["table"], "a cup of coffee", "a cup of coffee"),
        ("a man's hat", "hat", ["cup"], "a man’s hat", "a man's hat"),
        ("a teal-coloured book", "book", [], "a teal coloured book", "a teal-coloured book"),
        ("a red, shiny car", "car", [], "a red, shiny car", "a red, shiny car"),
        ("a red, shiny car", "car", [], "a red shiny car", "a red, shiny car"),
        ("a (red:1.3) car and a blue dog", "car", ["dog"], "a red car", "a red car"),
        ('a red_car and a "blue" dog', "dog", ["car"], "a blue dog", "a blue dog"),
        ("the cup and the box are red", "cup", ["box"], "the red cup", "the red cup"),
    ],
)
def test_a_certain_caption_is_a_phrase_of_the_prompt(prompt, tag, others, caption, phrase):
    assert phrase_of(caption, tag, prompt, others) == phrase


@pytest.mark.parametrize(
    ("prompt", "tag", "others", "caption", "why"),
    [
        ("a red car and a blue dog", "car", ["dog"], "a blue car", "no phrase of"),
        ("a red car and a blue dog", "car", ["dog"], "a red car and a blue dog", "'a blue dog'"),
        ("a red car and a blue dog", "car", [], "a red car and a blue dog", "'a blue dog'"),  # the dog was not seen
        ("a red car and a blue dog", "car", ["dog"], "red car and a blue", "'a blue dog'"),
        ("a red car and a blue dog", "dog", ["car"], "and a blue dog", "no whole phrase"),
        ("a red car and a blue dog", "car", ["dog"], "and", "does not name"),
        ("a red car and a blue dog", "tree", ["car"], "a red car", "does not name"),
        ("a red car and a blue dog", "tree", ["car"], "a red", "does not name"),
        ("the cup is red and the box is blue", "cup", ["box"], "the red cup", "no phrase of"),
        ("the cup is red and the box is blue", "box", ["cup"], "red and the box", "'the cup is red'"),
        ("the cup is red. Box is blue", "box", ["cup"], "red box", "no phrase of"),
        ('a sign that says "red dog"', "dog", ["sign"], "red dog", "no phrase of"),
        ("a boat house and a boat", "boat", ["house"], "a boat house", "does not name"),
        ("a teddy bear", "bear", [], "a teddy bear", "does not name"),
        ("a room without a hat", "hat", [], "a hat", "rules it out"),
        ("a red car and a blue car", "car", [], "a red car and a blue car", "more than one"),
        ("a red and a blue car", "car", [], "a red car", "no phrase of"),
        ("a cup of coffee", "cup", ["coffee"], "a cup of coffee", "'coffee'"),
        ("an orange car and an orange", "orange", ["car"], "an orange car", "does not name"),
        ("a red sports car and a blue car", "sports car", ["car"], "a blue car", "does not name"),
    ],
)
def test_no_other_caption_can_be_certain(prompt, tag, others, caption, why):
    with pytest.raises(MalformedAnswerError, match="cannot be certain") as refused:
        phrase_of(caption, tag, prompt, others)
    assert why in str(refused.value)
    assert refused.value.reason == "caption"


def test_what_was_read_is_read_again():
    assert read_answer(write_answer(RIGHT), PROMPT, TAGS) == RIGHT


def test_captions_are_the_prompts_own_spelling():
    tags = (Tag("dog"), Tag("café"), Tag("person"), Tag("man"))
    prompt = "Two  Brown DOGS, an old man and a Café"
    text = json.dumps(
        {
            "objects": [
                {"tag": "dog", "caption": "two brown dogs", "likelihood": "certain"},
                {"tag": "cafe\u0301", "caption": "a cafe\u0301", "likelihood": "certain"},
                {"tag": "person", "caption": "an old man", "likelihood": "certain"},
                {"tag": "man", "caption": "an old man", "likelihood": "certain"},
            ]
        }
    )
    captions = read_answer(text, prompt, tags)
    assert [caption.caption for caption in captions] == ["Two  Brown DOGS", "a Café", "an old man", "an old man"]


def test_names_that_differ_in_case_alone_must_be_exact():
    tags = (Tag("Bus"), Tag("bus"))
    entries = [{"tag": tag.name, "caption": "x", "likelihood": "unlikely"} for tag in tags]
    assert [c.tag for c in read_answer(json.dumps(entries), "a cat", tags)] == ["Bus", "bus"]
    with pytest.raises(MalformedAnswerError, match="not in the list"):
        read_answer(json.dumps([{**entries[0], "tag": "BUS"}, entries[1]]), "a cat", tags)


def test_the_schema_is_what_the_reader_reads():
    item = ANSWER_SCHEMA["properties"]["objects"]["items"]
    assert set(item["required"]) == {"tag", "caption", "likelihood"} == set(item["properties"])
    assert item["properties"]["likelihood"]["enum"] == ["certain", "possible", "unlikely"]
