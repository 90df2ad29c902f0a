"""What the page's server gives out, and what it does not; skipped without gradio."""

from __future__ import annotations

import io
import zipfile

import pytest

from tests.conftest import HANGS

pytest.importorskip("gradio", minversion="6.29", reason="no gradio of realignkit[ui] is installed")

KEY = "a" * 32


@pytest.fixture
def client(make_realigner, tmp_path, monkeypatch):
    from fastapi.testclient import TestClient

    from realignkit.ui.server import make_app

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    runs = tmp_path / "runs"
    make_realigner()("a red book", 3).save(runs / "mine")
    (tmp_path / "secret.txt").write_text("the secret")
    app = make_app({"tiny": lambda: make_realigner(select_by="colour")}, runs)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


def called(client, function, data):
    """What the page's function says to data, of an event in the queue."""
    session = {"session_hash": "s" * 10}
    body = {"data": data, "fn_index": function, **session}
    sent = client.post("/gradio_api/queue/join", json=body)
    if sent.status_code != 200:
        return sent.text
    with client.stream("GET", "/gradio_api/queue/data", params=session, timeout=HANGS) as stream:
        lines = []
        for line in stream.iter_lines():
            lines.append(line)
            if "process_completed" in line or "unexpected_error" in line:
                break
    return "\n".join(lines)


def test_no_file_is_given_out(client, tmp_path):
    secret = tmp_path / "secret.txt"
    for path in (
        f"/gradio_api/file={secret}",
        f"/file={secret}",
        "/gradio_api/file=/etc/passwd",
        f"/gradio_api/file={tmp_path}/uploads/../secret.txt",
        f"/gradio_api/file={tmp_path}/runs/mine/realignment.json",
        "/static/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/assets/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        f"/runs/{KEY}/1.zip",
        "/runs/..%2f..%2fetc/1.zip",
        f"/runs/{KEY}/-1.zip",
    ):
        answer = client.get(path)
        assert answer.status_code in (400, 403, 404, 405, 422), path
        assert "the secret" not in answer.text and "root:" not in answer.text


def test_a_file_of_this_machine_is_not_taken_for_one_that_was_sent(client, tmp_path):
    """Who says that a path is an upload gets neither the file nor what is in it."""
    config = client.get("/config").json()
    files = {item["id"] for item in config["components"] if item["type"] == "file"}
    asking = [item for item in config["dependencies"] if len(item["inputs"]) == 2 and item["inputs"][1] in files]
    assert asking  # the one that opens an archive
    for path in (tmp_path / "runs" / "mine" / "coarse.png", tmp_path / "secret.txt"):
        for event in asking:
            said = called(client, event["id"], [KEY, {"path": str(path), "meta": {"_type": "gradio.FileData"}}])
            assert "process_completed" in said and '"success":false' in said.replace(" ", "")
            assert "the secret" not in said


def test_the_page_asks_for_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert client.get("/config").json()["analytics_enabled"] is False


def test_another_name_for_this_machine_is_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:7860"}).status_code == 200


def test_a_refinement_is_downloaded_by_whoever_has_the_key(client, make_realigner, tmp_path, monkeypatch):
    from realignkit.ui import server

    made = []
    monkeypatch.setattr(server, "Work", lambda *parts: made.append(Work(*parts)) or made[-1])
    from realignkit.ui.work import Work

    client.get(f"/runs/{KEY}/1.zip")
    (work,) = made
    work.open(make_realigner()("a red book", 3))
    answer = client.get(f"/runs/{KEY}/1.zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="a-red-book-s3.zip"'
    assert "a-red-book-s3/realignment.json" in zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert client.get(f"/runs/{'b' * 32}/1.zip").status_code == 404
