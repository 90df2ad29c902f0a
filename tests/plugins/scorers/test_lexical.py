"""The rule-based scorer against judgements written down by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realignkit.types import Likelihood, LocalCaption, Tag
from realignkit_plugins.scorers.lexical import LexicalScorer

C, P, U = Likelihood.CERTAIN, Likelihood.POSSIBLE, Likelihood.UNLIKELY

# prompt -> tag -> (likelihood, local caption)
CASES: dict[str, dict[str, tuple[Likelihood, str]]] = {
    # METHOD's example of eq. 6
    "a red book and a yellow pen": {
        "book": (C, "a red book"),
        "pen": (C, "a yellow pen"),
        "desk": (P, "a desk"),
        "sign": (U, "a sign"),
        "banana": (U, "a banana"),
        "Books": (C, "a red book"),
        "red book": (C, "a red book"),
        "blue book": (U, "a blue book"),
    },
    "A boat and two brown dogs": {
        "boat": (C, "A boat"),
        "dog": (C, "two brown dogs"),
        "water": (P, "water"),
        "tail": (P, "a tail"),
        "puppy": (C, "two brown dogs"),
        "animal": (C, "two brown dogs"),
        "cat": (U, "a cat"),
    },
    "a red car and a blue car": {"car": (C, "a red car"), "automobile": (C, "a red car"), "wheel": (P, "a wheel")},
    "a teddy bear on a bed": {
        "teddy bear": (C, "a teddy bear"),
        "bear": (P, "a bear"),
        "toy": (C, "a teddy bear"),
        "bed": (C, "a bed"),
        "pillow": (P, "a pillow"),
    },
    "a brown bear": {"bear": (C, "a brown bear"), "teddy bear": (U, "a teddy bear")},
    "a blue cell phone next to a couch": {
        "cell phone": (C, "a blue cell phone"),
        "phone": (C, "a blue cell phone"),
        "cell_phone": (C, "a blue cell phone"),
        "sofa": (C, "a couch"),
    },
    "a man riding a bike past a stop sign": {
        "person": (C, "a man"),
        "man": (C, "a man"),
        "woman": (U, "a woman"),
        "bicycle": (C, "a bike"),
        "sign": (C, "a stop sign"),
        "stop sign": (C, "a stop sign"),
        "road": (P, "a road"),
        "helmet": (P, "a helmet"),
    },
    "a woman and a person": {"woman": (C, "a woman"), "person": (C, "a person")},
    "two people on a couch": {"person": (C, "two people"), "man": (C, "two people")},
    "an orange cat": {"orange": (U, "an orange"), "cat": (C, "an orange cat"), "kitten": (C, "an orange cat")},
    "an apple tree": {"apple": (P, "an apple"), "tree": (C, "an apple tree")},
    "a table without a cup": {"cup": (U, "a cup"), "table": (C, "a table"), "mug": (U, "a mug")},
    "a cat that is black": {"cat": (C, "a cat that is black")},
    "a watch on a television": {"tv": (C, "a television"), "television": (C, "a television"), "watch": (C, "a watch")},
    "a wall clock": {"clock": (C, "a wall clock"), "alarm clock": (U, "an alarm clock")},
    "a fast car": {"sports car": (C, "a fast car"), "boat": (U, "a boat")},
    "a dining table on the grass": {
        "table": (C, "a dining table"),
        "lawn": (C, "the grass"),
        "grass": (C, "the grass"),
        "sky": (P, "sky"),
    },
    "a (red:1.3) cup and a blue++ box": {"cup": (C, "a red cup"), "box": (C, "a blue box")},
    'a sign that says "red dog" and a box': {"dog": (U, "a dog"), "box": (C, "a box"), "sign": (C, "a sign")},
    "a cup and a box; the cup is red and the box is blue": {
        "cup": (C, "the cup is red"),
        "box": (C, "the box is blue"),
    },
    "the cup and the box are red": {"cup": (C, "the red cup"), "box": (C, "the red box")},
    "a red 杯子 and a cat": {"cat": (C, "a cat"), "cup": (U, "a cup")},
    "cafe\u0301 and a re\u200bd cup": {"café": (C, "café"), "cup": (C, "a red cup")},
    "a cup --no dog, cat": {"cup": (C, "a cup"), "dog": (U, "a dog"), "cat": (U, "a cat")},
    "": {"cat": (U, "a cat"), "sky": (P, "sky"), "": (U, "")},
}


@pytest.mark.parametrize(("prompt", "tag"), [(prompt, tag) for prompt, tags in CASES.items() for tag in tags])
def test_judgement(prompt: str, tag: str) -> None:
    likelihood, caption = CASES[prompt][tag]
    assert LexicalScorer()(prompt, [Tag(tag)]) == (LocalCaption(tag, caption, likelihood),)


def test_tags_keep_their_order_and_are_judged_independently() -> None:
    prompt = "a red book and a yellow pen"
    names = ["sign", "pen", "desk", "book", "pen"]
    answer = LexicalScorer()(prompt, [Tag(name, 0.1 * i) for i, name in enumerate(names)])
    assert [caption.tag for caption in answer] == names
    assert [caption.score for caption in answer] == [0.0, 2.0, 0.5, 2.0, 2.0]


def test_options() -> None:
    strict = LexicalScorer(kinds=False, scenery=False)
    answer = strict("a man on a sofa", [Tag("person"), Tag("man"), Tag("couch"), Tag("sky")])
    assert [caption.likelihood for caption in answer] == [U, C, C, U]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a red cup and a blue box", []),
        ("a (red:1.3) cup BREAK a box", ["'red:1.3', 'BREAK'"]),
        ("eine rote Tasse und eine blaue Kiste", ["'eine', 'rote', 'Tasse' …"]),
        ("a red 杯子, a (cat:1.2)", ["'cat:1.2'", "'杯子'"]),
    ],
)
def test_what_is_read_over_is_said(prompt: str, said: list[str]) -> None:
    notes = LexicalScorer().notes(prompt, LexicalScorer()(prompt, [Tag("cup")]))
    assert len(notes) == len(said)
    assert all(part in note for part, note in zip(said, notes, strict=True))


_TAGS = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(["car", "cell phone", "desk", "a", "the", "s"])))


@settings(deadline=None)
@given(
    st.text()
    | st.lists(
        st.sampled_from(["a", "no", "red", "car", "cars", "and", "desk", "of", "without", "is", "that", "'s"])
    ).map(" ".join),
    _TAGS,
)
def test_always_answers(prompt: str, names: list[str]) -> None:
    answer = LexicalScorer()(prompt, [Tag(name) for name in names])
    assert [caption.tag for caption in answer] == names
    for caption in answer:
        if caption.likelihood is C:
            assert caption.caption
            assert all(word in prompt for word in caption.caption.split() if word.isalnum())
        else:
            assert caption.caption.endswith(caption.tag)
