"""llama.cpp's own OpenAI-compatible server on loopback, behind the real ``openai`` client (skipped without it)."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from realignkit import calls
from realignkit.named import chain
from realignkit.types import Likelihood, Tag
from realignkit_plugins.scorers import templates
from realignkit_plugins.scorers.answers import objects_form
from realignkit_plugins.scorers.lexical import LexicalScorer
from realignkit_plugins.scorers.openai_chat import OpenAIChatScorer
from tests.plugins.scorers.endpoint import PROMPT

TAGS = (Tag("book"), Tag("pen"), Tag("desk"))


@pytest.fixture(scope="module")
def server(gguf, tmp_path_factory):
    for name in ("fastapi", "uvicorn", "starlette_context"):
        if importlib.util.find_spec(name) is None:
            pytest.skip("llama.cpp's server is not installed: pip install 'llama-cpp-python[server]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    options = ["--host", "127.0.0.1", "--port", str(port), "--n_ctx", "2048", "--n_threads", "1"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), *options], stdout=output, stderr=output
        )
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                    break
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def chat(server, tmp_path):
    return OpenAIChatScorer(
        base_url=server, model="smollm2", timeout=600, attempts=1, cache_dir=tmp_path, concurrency=1
    )


def test_the_server_takes_the_schema_and_the_answer_has_its_form(chat):
    text = chat.complete(templates.question(PROMPT, TAGS), objects_form(TAGS), {})
    objects = json.loads(text)["objects"]
    for entry in objects:
        assert set(entry) == {"tag", "caption", "likelihood"}
        assert Likelihood(entry["likelihood"])
    used = chat.usage
    assert used.requests >= 1
    assert used.prompt_tokens > 100
    assert used.completion_tokens > 10


def test_whatever_it_says_there_is_an_answer(chat):
    answer = calls.answer(chain([("smollm2", chat), ("lexical", LexicalScorer())]), PROMPT, TAGS)
    assert [caption.tag for caption in answer.captions] == [tag.name for tag in TAGS]
    assert answer.scorer == "smollm2" or answer.captions == LexicalScorer()(PROMPT, TAGS)
