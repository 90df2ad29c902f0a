"""Taggers, scorers, segmenters and question answerers that break their contract, each told in one sentence."""

from __future__ import annotations

import contextlib
import itertools
import re
import sqlite3
import sys
import threading

import numpy as np
import pytest
import torch

from realignkit import VQA, Likelihood, LocalCaption, Scorer, Segmenter, Tag, Tagger
from realignkit.testing import check_plugin
from tests.testing.conftest import problem


class Brightness(Tagger):
    """Light, dark, and how much."""

    def tags(self, image):
        light = np.asarray(image.convert("L")).mean() / 255
        return sorted((Tag("light", float(light)), Tag("dark", 1 - float(light))), key=lambda tag: -tag.confidence)

    def __call__(self, images):
        return [tuple(self.tags(image)) for image in images]


class Least(Brightness):
    """The other way round."""

    def __call__(self, images):
        return [each[::-1] for each in super().__call__(images)]


class Sorts(Brightness):
    """By brightness, whatever was asked."""

    def __call__(self, images):
        light = sorted(int(self.tags(image)[0].confidence * 1000) for image in images)
        return [(Tag(f"{share} per mille"),) for share in light]


class Neighbours(Brightness):
    """Says of each image how many there are."""

    def __call__(self, images):
        return [(Tag(f"one of {len(images)}"),) for _ in images]


class Paints(Brightness):
    """Paints on what it sees."""

    def __call__(self, images):
        for image in images:
            image.paste("red", (0, 0, 4, 4))
        return super().__call__(images)


class Lottery(Brightness):
    """Draws from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.count = itertools.count()

    def __call__(self, images):
        return [(Tag(f"ticket {next(self.count)}"),) for _ in images]


class Large(Brightness):
    """Cuts out a window that not every picture has."""

    def tags(self, image):
        array = np.asarray(image)[10:12, 10:12]
        return [Tag("light", float(array.max()) / 255)]


class One(Brightness):
    """Answers about the first image alone."""

    def __call__(self, images):
        return super().__call__(images[:1])


class Percent(Brightness):
    """So sure, in percent."""

    def __call__(self, images):
        return [(Tag("light", 99.0),) for _ in images]


class Quits(Brightness):
    """Ends the program."""

    def __call__(self, images):
        sys.exit(0)


class Waits(Brightness):
    """Never comes back."""

    def __call__(self, images):
        threading.Event().wait()


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Least, r"^tagger 'Least' broke its contract: tags come most confident first, and these are"),
        (Sorts, "the tags of an image depend on the order of the batch|in a batch are others than alone"),
        (Neighbours, "the tags of an image in a batch are others than alone"),
        (Paints, r"it changes the images that it is handed: work on a copy \(image.copy\(\)\)"),
        (Lottery, "the same images get another answer the second time: draw from torch's generator alone"),
        (Large, r"failed: ValueError: .* \(with an image of 1 x 1\)\.$"),
        (One, "1 answers for 4 images"),
        (Percent, r"tag 'light': confidence must be in \[0, 1\], got 99.0"),
        (Quits, "tagger 'Quits' failed: SystemExit: 0"),
    ],
)  # fmt: skip
def test_a_tagger_that_breaks_its_contract(plugin, message):

    assert re.search(message, problem(plugin()))


def test_one_that_never_comes_back(monkeypatch):
    monkeypatch.setenv("REALIGNKIT_PLUGIN_TIMEOUT", "0.5")
    assert problem(Waits()).startswith("tagger 'Waits': it did not finish within 0.5 s.")


def test_a_right_tagger():
    check_plugin(Brightness())


# --- scorers ----------------------------------------------------------------------------------------------------------


class Says(Scorer):
    """Everything is certain."""

    def __call__(self, prompt, tags):
        return tuple(LocalCaption(tag.name, self.phrase(prompt, tag), Likelihood.CERTAIN) for tag in tags)

    def phrase(self, prompt, tag):
        return f"a {tag.name}"


class Backwards(Says):
    """In another order."""

    def __call__(self, prompt, tags):
        return super().__call__(prompt, tags)[::-1]


class Needs(Says):
    """Believes that there is always a tag."""

    def __call__(self, prompt, tags):
        assert tags[0]
        return super().__call__(prompt, tags)


class Pattern(Says):
    """Takes names for regular expressions."""

    def phrase(self, prompt, tag):
        import re

        return "that" if re.search(tag.name, prompt) else "this"


class Remembers(Says):
    """Says how often it was asked."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def phrase(self, prompt, tag):
        self.asked += 1
        return f"question {self.asked}"


class Racing(Says):
    """Keeps the question in itself, and says that eight can ask at once."""

    concurrency = 8

    def __init__(self):
        super().__init__()
        self.together = threading.Barrier(2)

    def phrase(self, prompt, tag):
        self.prompt = prompt
        if threading.current_thread().name.startswith("realignkit_"):
            with contextlib.suppress(threading.BrokenBarrierError):
                self.together.wait(0.5)
        return f"{self.prompt} {tag.name}"


class OneThread(Says):
    """Holds what only the thread that made it can use."""

    def phrase(self, prompt, tag):
        self.table = getattr(self, "table", None) or sqlite3.connect(":memory:")
        return str(self.table.execute("select 'a thing'").fetchone()[0])


class Talks(Says):
    """Notes that are no sentences."""

    def notes(self, prompt, captions):
        return "all of it"


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Backwards, "the answer has another order than the tags"),
        (Needs, "did not answer about 'a red book and a yellow pen': IndexError: tuple index out of range"),
        (Pattern, "did not answer about 'a cup': error: "),
        (Remembers, "the same question gets another answer the second time"),
        (Racing, "asked from 8 threads at once, as concurrency allows, it answers otherwise"),
        (
            OneThread,
            "did not answer about .*: ProgrammingError: SQLite objects created in a thread can only",
        ),
        (Talks, r"notes\(\) must return a tuple of sentences"),
    ],
)
def test_a_scorer_that_breaks_its_contract(plugin, message):

    assert re.search(message, problem(plugin()))


def test_a_right_scorer():
    check_plugin(Says())


# --- segmenters -------------------------------------------------------------------------------------------------------


class Halves(Segmenter):
    """What begins with 'a red' is left, anything else right."""

    def __call__(self, image, phrases):
        left = np.zeros((image.height, image.width), bool)
        left[:, : image.width // 2 + 1] = True
        return [(left if phrase.startswith("a red") else ~left, 0.5) for phrase in phrases]


class Transposed(Halves):
    """Width first."""

    def __call__(self, image, phrases):
        return [(mask.T, confidence) for mask, confidence in super().__call__(image, phrases)]


class Drops(Halves):
    """Leaves out what it does not find."""

    def __call__(self, image, phrases):
        return [
            answer
            for answer, phrase in zip(super().__call__(image, phrases), phrases, strict=True)
            if "c" not in phrase
        ]


class Alphabetical(Halves):
    """In the phrases' alphabetical order."""

    def __call__(self, image, phrases):
        return super().__call__(image, sorted(phrases))


class Logits(Halves):
    """Numbers that are no truth values."""

    def __call__(self, image, phrases):
        return [(mask * 1.0, confidence) for mask, confidence in super().__call__(image, phrases)]


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Transposed, r"masks must be bool \(1, 120\), got bool \(120, 1\) \(with an image of 120 x 1\)"),
        (Drops, "2 answers for 3 phrases"),
        (Alphabetical, "the mask of a phrase depends on the order of the phrases, or stands at another's place"),
        (Logits, r"masks must be bool \(64, 64\), got float64"),
    ],
)  # fmt: skip
def test_a_segmenter_that_breaks_its_contract(plugin, message):

    assert re.search(message, problem(plugin()))


def test_a_right_segmenter():
    check_plugin(Halves())


# --- questions --------------------------------------------------------------------------------------------------------


class Yes(VQA):
    """Says yes."""

    def __call__(self, images, questions, choices=None):
        return ["yes" for _ in questions]

    def probabilities(self, images, questions, answers):
        return [[float(answer == "yes") for answer in each] for each in answers]


class TooSure(Yes):
    """Gives every answer all of it."""

    def probabilities(self, images, questions, answers):
        return [[1.0 for _ in each] for each in answers]


class Numbers(Yes):
    """Answers with numbers."""

    def __call__(self, images, questions, choices=None):
        return [7 for _ in questions]


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (TooSure, r"the probabilities of different answers are \[1.0, 1.0\], more than 1 together"),
        (Numbers, "7 is no answer in words"),
    ],
)
def test_a_question_answerer_that_breaks_its_contract(plugin, message):

    assert re.search(message, problem(plugin()))


def test_a_right_question_answerer():
    torch.manual_seed(3)
    check_plugin(Yes())
