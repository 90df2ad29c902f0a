"""What the page's server gives out, and what it does not; skipped without gradio."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from tests.conftest import HANGS
from tests.ui.conftest import page_of

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


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A client of a page in a process of its own: what is told of an event comes as a stream."""
    import httpx

    with page_of(tmp_path_factory.mktemp("ui") / "runs") as address, httpx.Client(base_url=address) as client:
        yield client


@pytest.mark.parametrize("name", ["secret.zip", "secret.txt"])
def test_a_file_of_this_machine_is_not_taken_for_one_that_was_sent(served, tmp_path, name):
    """Who says that a path is an upload gets neither the file nor what is in it; who sends one is heard."""
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("secret", "the secret")
    config = served.get("/config").json()
    files = {item["id"] for item in config["components"] if item["type"] == "file"}
    (opening,) = [item for item in config["dependencies"] if len(item["inputs"]) == 2 and item["inputs"][1] in files]
    with (tmp_path / name).open("rb") as file:
        (sent,) = served.post("/gradio_api/upload", files={"files": ("sent.zip", file)}).json()
    told = {}
    for path in (str(tmp_path / name), sent):
        session = {"session_hash": "s" * 10}
        data = [KEY, {"path": path, "meta": {"_type": "gradio.FileData"}}]
        served.post("/gradio_api/queue/join", json={"data": data, "fn_index": opening["id"], **session})
        with served.stream("GET", "/gradio_api/queue/data", params=session, timeout=HANGS) as stream:
            told[path] = next(line for line in stream.iter_lines() if "process_completed" in line)
    assert "holds 0 run folders" in told.pop(sent)
    assert '"success":false' in told.popitem()[1] and not list(Path(sent).parents[1].rglob(name))
