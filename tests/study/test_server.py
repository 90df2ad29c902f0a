"""The server: answers are taken and kept, and nothing but the study is to be had, by its token alone."""

from __future__ import annotations

import http.client
import json
import signal
import socket
from urllib.parse import urlsplit

import pytest

from realignkit.errors import OutputError
from realignkit.study.answers import Answers
from realignkit.study.folder import RECORD
from realignkit.study.server import LARGEST, serve
from tests.conftest import HANGS
from tests.study.conftest import answer, person
from tests.study.serving import served


def ask(address, path="", method="GET", body=None, **headers):
    """Status, headers and body; the path is sent as it is."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=HANGS)
    connection.putrequest(method, path if path.startswith("/") else parts.path + path, skip_host=False)
    for name, value in {"Content-Length": str(len(body or b"")), **headers}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def put(address, given, **changes):
    said = {name: getattr(given, name) for name in ("ranking", "shown", "seconds")} | changes
    path = f"answers/{given.person}/{given.item}/{given.question}"
    return ask(address, path, "PUT", json.dumps(said).encode())[0]


def test_the_page_and_its_pictures(running):
    folder, study, address = running
    status, headers, page = ask(address)
    assert status == 200
    assert study.id.encode() in page
    assert headers["content-security-policy"].endswith("frame-ancestors 'none'")
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    name = study.items[0].pictures[0]
    assert headers["cache-control"] == "no-store"
    status, headers, picture = ask(address, f"pictures/{name}.png")
    assert "immutable" in headers["cache-control"]  # seen again and again, and fetched once
    assert (status, headers["content-type"]) == (200, "image/png")
    assert picture == (folder / "pictures" / f"{name}.png").read_bytes()
    # Times of writing would tell the order in which the systems' pictures were written.
    assert not {"last-modified", "etag"} & {header.lower() for header in headers}


def test_an_answer_is_kept_and_may_be_given_again(running):
    folder, study, address = running
    given = answer(study, study.items[0], [0, 1, 2])
    assert put(address, given) == 204
    later = answer(study, study.items[0], [(2, 1), 0])
    assert put(address, later) == 204
    (kept,) = Answers(folder, study).read()
    assert kept.ranking == later.ranking
    assert kept.person == person(0)


def test_what_is_no_answer_is_refused(running):
    folder, study, address = running
    good = answer(study, study.items[0], [0, 1, 2])
    assert put(address, good, ranking=[[good.shown[0]]]) == 422
    assert put(address, good, ranking="all") == 422
    assert put(address, good, seconds=-1) == 422
    assert put(address, good, admin=True) == 422
    assert put(address, good.model_copy(update={"person": "me"})) == 422
    assert put(address, good.model_copy(update={"item": "777"})) == 422
    assert put(address, good.model_copy(update={"question": "name"})) == 422
    path = f"answers/{good.person}/{good.item}/{good.question}"
    for body in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 10_000, b"null"):
        assert ask(address, path, "PUT", body)[0] == 422
    assert Answers(folder, study).read() == []


def test_an_endless_answer_is_cut_off(running):
    _, study, address = running
    given = answer(study, study.items[0], [0, 1, 2])
    assert ask(address, f"answers/{given.person}/{given.item}/alignment", "PUT", b" " * (LARGEST + 1))[0] == 413
    assert ask(address)[0] == 200


def test_nothing_else_is_to_be_had(running):
    """No other address, method, token or file; and every refusal is the same, whatever is there."""
    _, study, address = running
    token = urlsplit(address).path
    name = study.items[0].pictures[0]
    paths = ["/", token[:-1], "/docs", "/openapi.json", f"{token}docs", f"{token}openapi.json", f"{token}study.json"]
    paths += [
        f"/wrong/pictures/{name}.png",
        "/wrong/",
        f"/{token[1:-2]}x/",
        f"{token[:-1].upper()}/",
        "/%00/",
        "/%C3%BC/",
    ]
    files = [RECORD, "answers.sqlite", f"../{RECORD}", "..%2Fstudy.json", "%2e%2e/study.json", "..%5cstudy.json"]
    paths += [f"{token}pictures/{file}" for file in files] + [f"{token}{file}" for file in files]
    paths += [f"{token}pictures/..%2Fstudy.json%00.png", f"{token}pictures//etc/passwd", f"{token}pictures/{name}"]
    for path in paths:
        status, headers, body = ask(address, path)
        assert status in (400, 404), path
        assert b"systems" not in body
        if status == 404:
            assert body == b'{"detail":"Not Found"}'
            assert "content-security-policy" in headers
    for method in ("POST", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert ask(address, method=method)[0] == 405


def test_another_page_may_not_read_or_write(running):
    _, study, address = running
    given = answer(study, study.items[0], [0, 1, 2])
    path = f"answers/{given.person}/{given.item}/{given.question}"
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
    status, answered, _ = ask(address, path, "OPTIONS", **headers)
    assert status == 405
    assert not [name for name in answered if name.lower().startswith("access-control")]


def test_it_goes_on_where_it_was_killed_at_the_same_address(make):
    folder, study = make()
    with served(folder) as (process, address):
        assert put(address, answer(study, study.items[0], [2, 1, 0])) == 204
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=HANGS)
    with served(folder) as (_, again):
        assert urlsplit(again).path == urlsplit(address).path
        assert put(again, answer(study, study.items[1], [2, 1, 0])) == 204
    assert len(Answers(folder, study).read()) == 2


def test_it_listens_on_loopback_says_so_once_and_logs_nobody(make):
    folder, study = make()
    with served(folder) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        put(address, answer(study, study.items[0], [2, 1, 0]))
        ask(address, "nothing")
        process.send_signal(signal.SIGINT)
        printed, logged = process.communicate(timeout=HANGS)
    assert process.returncode == 0
    assert "what was answered is in" in printed
    assert logged == ""
    assert len(urlsplit(address).path.strip("/")) >= 20


def test_another_host_is_warned_of(make):
    folder, _ = make()
    with served(folder, "--host", "0.0.0.0") as (process, address):
        assert urlsplit(address).hostname == socket.gethostname().lower()
        ask(f"http://127.0.0.1:{urlsplit(address).port}/")  # once it answers, it listens to signals too
        process.send_signal(signal.SIGINT)
        assert "travels unencrypted" in process.communicate(timeout=HANGS)[1]


def test_a_port_that_is_taken(make):
    folder, _ = make()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OutputError, match="Give another --port"):
        serve(folder, port=taken.getsockname()[1])


def test_no_study_is_served(tmp_path):
    with pytest.raises(OutputError, match="holds no study"):
        serve(tmp_path)
