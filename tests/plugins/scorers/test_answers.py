"""Reading a model's answer: what is right comes through as it is, everything else is refused with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit.types import Likelihood, LocalCaption, Tag
from realignkit_plugins.scorers.answers import ANSWER_SCHEMA, MAX_ANSWER, MalformedAnswerError, read_answer
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
        (right_answer() * 2, "broken JSON"),
        (right_answer().replace('"', "'"), "broken JSON"),
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
@given(st.integers(0, len(right_answer())), st.integers(0, 40), st.text(max_size=30))
def test_a_damaged_answer_is_refused_or_says_the_same(start, length, other):
    damaged = right_answer()[:start] + other + right_answer()[start + length :]
    try:
        found = read_answer(damaged, PROMPT, TAGS)
    except MalformedAnswerError:
        return
    # What still parses must say what the damaged JSON says, by an independent reading of it.
    body = damaged[damaged.index("{") : damaged.rindex("}") + 1]
    entries = {" ".join(e["tag"].lower().split()): e for e in json.loads(body)["objects"]}
    for caption in found:
        assert entries[caption.tag]["likelihood"].strip().lower() == caption.likelihood.value


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps)))
def test_nonsense_never_becomes_an_answer(text):
    with pytest.raises(MalformedAnswerError):
        read_answer(text, PROMPT, TAGS)


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
