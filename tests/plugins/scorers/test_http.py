"""Trouble on the way to a chat service: what is waited out, for how long, and what is not repeated."""

from __future__ import annotations

import gzip
import threading
import time
import zlib

import pytest

from realignkit_plugins.scorers.openai_chat import OpenAIChatScorer
from tests.plugins.scorers.endpoint import (
    PROMPT,
    RIGHT,
    TAGS,
    Reply,
    completion,
    failure,
    right_answer,
    say,
    script,
    serving,
)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_passing_trouble_is_waited_out(scorer, status):
    with serving(script(Reply(b"busy", status), Reply(b"{}", status), say(right_answer()))) as service:
        assert scorer(service)(PROMPT, TAGS) == RIGHT
    assert len(service.requests) == 3


def test_a_dropped_connection_is_tried_again(scorer):
    dropped = Reply(completion(right_answer()), drop=True)
    with serving(script(dropped, Reply(raw=b""), Reply(raw=b"rubbish\r\n\r\n"), say(right_answer()))) as service:
        assert scorer(service)(PROMPT, TAGS) == RIGHT
    assert len(service.requests) == 4


def test_retries_end(scorer):
    with serving(script(Reply(b"", 503))) as service:
        problem = failure(scorer(service, retries=2))
    assert len(service.requests) == 3
    assert (problem.reason, problem.final) == ("server error", False)
    assert "503" in str(problem)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 418])
def test_what_will_not_pass_is_not_repeated(scorer, status):
    away = Reply(b"{}", status, {"Location": "http://127.0.0.1:9/"})
    with serving(script(away)) as service:
        problem = failure(scorer(service, structured="none"))
    assert len(service.requests) == 1
    assert problem.reason == "refused"
    assert str(status) in str(problem)


def test_the_wait_doubles_and_heeds_the_service(scorer):
    chat = OpenAIChatScorer(backoff=2.0)
    for failures, longest in ((1, 2), (2, 4), (3, 8), (10, 60)):
        waits = [chat.service._wait(failures, None) for _ in range(50)]
        assert longest / 2 <= min(waits) <= max(waits) <= longest
    assert chat.service._wait(1, 7.5) == 7.5
    assert chat.service._wait(1, 9999.0) == 60.0
    with serving(script(Reply(b"", 429, {"Retry-After": "0.4"}), say(right_answer()))) as service:
        start = time.monotonic()
        assert scorer(service, backoff=60.0)(PROMPT, TAGS) == RIGHT
    assert 0.4 <= time.monotonic() - start < 30
    for nonsense in ("-5", "nan", "inf", "soon", ""):
        with serving(script(Reply(b"", 429, {"Retry-After": nonsense}), say(right_answer()))) as service:
            assert scorer(service, cache=False)(PROMPT, TAGS) == RIGHT


@pytest.mark.parametrize(
    "reply",
    [
        Reply(completion(right_answer()), delay=3.0),
        Reply(completion(right_answer()), dribble=0.2),
        Reply(dribble_head=0.2),
    ],
    ids=["silent", "dribbling body", "dribbling head"],
)
def test_nothing_hangs(scorer, reply):
    with serving(script(reply)) as service:
        start = time.monotonic()
        problem = failure(scorer(service, timeout=0.5, retries=0))
        assert time.monotonic() - start < 20
        assert problem.reason == "timeout"
        # The connection was cut, so nobody waits for the rest of the reply.
        for thread in threading.enumerate():
            if thread.name == "realignkit-request":
                thread.join(30)
                assert not thread.is_alive()


def test_a_question_has_a_bound_that_no_wait_exceeds(scorer):
    """The waits that it would have come to are minutes, so a slow machine makes no difference."""
    busy = Reply(b"", 429, {"Retry-After": "50"})
    with serving(script(busy)) as service:
        start = time.monotonic()
        problem = failure(scorer(service, retries=20, total_timeout=20))
        assert time.monotonic() - start < 20
    assert len(service.requests) == 1
    assert (problem.reason, problem.final) == ("rate limit", False)
    assert "raise total_timeout" in str(problem)


@pytest.mark.parametrize("reply", [Reply(dribble_head=0.2), say("no", delay=60.0)], ids=["dribbling", "silent"])
def test_all_requests_for_a_question_share_the_bound(scorer, reply):
    with serving(script(say("rubbish"), reply)) as service:
        start = time.monotonic()
        problem = failure(scorer(service, attempts=10, retries=20, timeout=3000, total_timeout=2.0))
        assert time.monotonic() - start < 60
    assert len(service.requests) <= 2
    assert problem.reason == "timeout"
    assert "total_timeout" in str(problem)


def test_huge_bodies_are_not_read(scorer):
    bomb = gzip.compress(b" " * 50_000_000)
    for reply in (Reply(completion("x" * 6_000_000)), Reply(bomb, headers={"Content-Encoding": "gzip"})):
        with serving(script(reply)) as service:
            problem = failure(scorer(service))
        assert problem.reason == "protocol"
        assert "more than 4194304 bytes" in str(problem)
        assert service.requests[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_body_that_was_packed_all_the_same_is_unpacked(scorer, name, pack):
    with serving(script(Reply(pack(completion(right_answer())), headers={"Content-Encoding": name}))) as service:
        assert scorer(service)(PROMPT, TAGS) == RIGHT


def test_what_cannot_be_unpacked_is_said(scorer):
    for name in ("br", "gzip"):
        with serving(script(Reply(b"\x1f\x8b rubbish", headers={"Content-Encoding": name}))) as service:
            assert "the reply is compressed" in str(failure(scorer(service)))
