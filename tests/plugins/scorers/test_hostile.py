"""10,000 malformed replies: no crash, no hang, and no wrong score taken for right."""

from __future__ import annotations

import functools
import json
import random
import time

import pytest

from realignkit import calls
from realignkit.named import chain
from realignkit.types import Likelihood, LocalCaption, Tag
from realignkit_plugins.scorers.lexical import LexicalScorer
from realignkit_plugins.scorers.openai_chat import OpenAIChatScorer
from tests.plugins.scorers.endpoint import PROMPT, TRUTH, Reply, completion, right_answer, say, serving

TAGS = tuple(Tag(name, 0.5) for name in TRUTH)
RIGHT = tuple(LocalCaption(name, caption, Likelihood(word)) for name, (caption, word) in TRUTH.items())
RIGHT_TEXT = right_answer()
WRONG = {"certain": "unlikely", "possible": "unlikely", "unlikely": "possible"}


def entries():
    return json.loads(RIGHT_TEXT)["objects"]


def turned_around():
    """Well-formed, and every likelihood is wrong: to believe this, once it is damaged, would be the accident."""
    return [{**entry, "likelihood": WRONG[entry["likelihood"]]} for entry in entries()]


def as_text(objects):
    return json.dumps({"objects": objects})


def truncated(rng):
    return say(as_text(turned_around())[: rng.randrange(1, len(RIGHT_TEXT) - 2)])


def wrong_tags(rng):
    objects = turned_around()
    one = rng.randrange(len(objects))
    kind = rng.randrange(4)
    if kind == 0:
        objects[one]["tag"] = rng.choice(["cat", "", "b00k", "книга", "book\u0000", "book, pen"])
    elif kind == 1:
        del objects[one]
    elif kind == 2:
        objects.append(dict(objects[one], likelihood="possible"))
    else:
        objects.append({"tag": "elephant", "caption": "an elephant", "likelihood": "certain"})
    return say(as_text(objects))


def wrong_values(rng):
    objects = turned_around()
    one = rng.choice(objects)
    name = rng.choice(["likelihood", "caption", "tag"])
    one[name] = rng.choice([None, 2, 0.5, True, [], {}, "", *(["maybe", "2"] if name != "caption" else [])])
    return say(as_text(objects))


def extra_text(rng):
    """Two answers, or one in words that cannot be told apart: only one that stands alone may count."""
    other = as_text(turned_around())
    texts = f"{other}\n\nWait, no:\n\n{RIGHT_TEXT}", f"{RIGHT_TEXT},{other}", f"It is {{}}: {other}", other[1:]
    return say(rng.choice(texts))


def html(rng):
    page = f"<!DOCTYPE html><html><body>{rng.choice(['502 Bad Gateway', as_text(turned_around())[:-1]])}</body></html>"
    return say(page) if rng.random() < 0.5 else Reply(page.encode(), kind="text/html")


def unicode(rng):
    noise = "".join(chr(rng.choice([0x202E, 0x200B, 0xFEFF, 0x1F600, 0xFFFD, 0x0300, 0x7F, 0x2028])) for _ in range(9))
    text = as_text(turned_around())
    at = rng.randrange(1, len(text) - 1)
    position = text.index('"likelihood": "') + len('"likelihood": "')
    return say(rng.choice([noise, noise + text[:-1], text[:position] + noise + text[position:], text[:at] + "\ud800"]))


def empty(rng):
    bodies = [completion(""), completion(None), completion(" \n"), b"", b"{}", b"[]", completion("", choices=[])]
    return Reply(rng.choice(bodies))


def huge(rng):
    return say(rng.choice(["{" * 200_000, "x" * 200_000, as_text(turned_around() * 3000), "[" * 100_000]))


def broken_body(rng):
    body = completion(as_text(turned_around()))
    return Reply(rng.choice([body[: rng.randrange(1, len(body))], b"\x00" * 50, b"null", b"\xff\xff", b'"text"', b"7"]))


def slow(rng):
    return say(as_text(turned_around()), delay=1.0)


def status(rng):
    return Reply(rng.choice([b"", b"no", b'{"error": {"message": "go away"}}']), rng.choice([429, 500, 502, 503, 400]))


def dropped(rng):
    return rng.choice(
        [Reply(completion(as_text(turned_around())), drop=True), Reply(raw=b""), Reply(raw=b"HTTP/1.1 200")]
    )


USUAL = (truncated, wrong_tags, wrong_values, extra_text, html, unicode, empty, broken_body, status, dropped)
RARE = (huge, slow)


def reply(request, number):
    rng = random.Random(number)
    # Slow ones cost their timeout, huge ones their transport: one in a hundred is plenty.
    kind = rng.choice(RARE) if number % 100 == 99 else USUAL[number % len(USUAL)]
    return kind(rng)


@functools.cache
def impatient(service, **options):
    """A scorer that waits for nothing, asks as long as it may, and asks for no form."""
    return OpenAIChatScorer(
        base_url=service.url, backoff=0.0, timeout=0.4, max_total_tokens=None, structured="none", **options
    )


def lexical():
    return LexicalScorer()(PROMPT, TAGS)


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_malformed_replies(count, tmp_path):
    questions_each = 20
    with serving(reply) as service:
        chat = impatient(service, attempts=4, retries=6, concurrency=16, cache_dir=tmp_path)
        scorers = chain([("chat", chat), ("lexical", LexicalScorer())])
        start = time.monotonic()
        while len(service.requests) < count:
            for answer in calls.answers(scorers, [(PROMPT, TAGS)] * questions_each):
                # Nothing here is a right answer of the service's, so whoever believes one is wrong.
                assert answer.scorer == "lexical"
                assert answer.captions == lexical()
                assert len(answer.failures["chat"]) < 2000
        seconds = time.monotonic() - start
    # All of it within what timeouts and retries allow; a hang would be far beyond.
    assert seconds < 1.0 * count
    assert not any(tmp_path.rglob("*.json")), "a malformed answer was kept"


def test_a_right_answer_among_the_rubbish_is_found(tmp_path):
    def mostly(request, number):
        return say(RIGHT_TEXT) if number % 7 == 6 else reply(request, number)

    with serving(mostly) as service:
        chat = impatient(service, attempts=8, retries=20, cache=False)
        found = [calls.answer(chain([("chat", chat), ("lexical", LexicalScorer())]), PROMPT, TAGS) for _ in range(10)]
    answered = [answer for answer in found if answer.scorer == "chat"]
    assert answered
    assert all(answer.captions == RIGHT for answer in answered)
