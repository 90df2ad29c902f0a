"""A chat service on loopback that answers what a test tells it to, however wrong."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from realignkit.errors import ScorerError
from realignkit.types import Likelihood, LocalCaption, Tag

TRUTH = {
    "book": ("a red book", "certain"),
    "pen": ("a yellow pen", "certain"),
    "desk": ("a desk", "possible"),
    "sign": ("a sign", "unlikely"),
}
PROMPT = "a red book and a yellow pen"
TAGS = tuple(Tag(name, 0.5) for name in TRUTH)
RIGHT = tuple(LocalCaption(name, caption, Likelihood(word)) for name, (caption, word) in TRUTH.items())
SECRET = "sk-very-secret-0123456789"


def right_answer(tags: list[str] | None = None) -> str:
    """What a good model would say."""
    names = list(TRUTH) if tags is None else tags
    return json.dumps(
        {"objects": [{"tag": name, "caption": TRUTH[name][0], "likelihood": TRUTH[name][1]} for name in names]}
    )


def completion(content: Any, finish_reason: str = "stop", **changes: Any) -> bytes:
    """The body of a reply whose message is ``content``."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "test",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        **changes,
    }
    return json.dumps(body).encode()


@dataclass
class Reply:
    """What goes over the wire, and how."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    delay: float = 0.0
    drop: bool = False  # close the connection in the middle of the body
    dribble: float = 0.0  # seconds between single bytes
    dribble_head: float = 0.0  # the same, before the body
    raw: bytes | None = None  # instead of everything else


def say(content: Any, **options: Any) -> Reply:
    """A proper reply with this content."""
    return Reply(completion(content), **options)


Script = Callable[[dict[str, Any], int], Reply]


class Service:
    """``requests``: the bodies and headers that came in; ``script(request, number)`` decides what goes out."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.url = ""
        self._lock = threading.Lock()
        self.now = self.most = 0

    def take(self, request: dict[str, Any], headers: dict[str, str]) -> int:
        with self._lock:
            self.requests.append((request, headers))
            return len(self.requests) - 1


@contextlib.contextmanager
def serving(script: Script) -> Iterator[Service]:
    """Serve while the block runs."""
    service = Service(script)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None: ...

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = service.take(request, dict(self.headers))
            with service._lock:
                service.now += 1
                service.most = max(service.most, service.now)
            with contextlib.suppress(OSError):  # the client may have gone
                self._reply(service.script(request, number))
            with service._lock:
                service.now -= 1

        def _reply(self, reply: Reply) -> None:
            time.sleep(reply.delay)
            if reply.raw is not None or reply.dribble_head:
                self.close_connection = True
                head = reply.raw or b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000
                for i in range(0, len(head), 1 if reply.dribble_head else len(head)):
                    self.wfile.write(head[i:] if not reply.dribble_head else head[i : i + 1])
                    time.sleep(reply.dribble_head)
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.kind)
            self.send_header("Content-Length", str(len(reply.body) + (1000 if reply.drop else 0)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if reply.dribble:
                for i in range(len(reply.body)):
                    self.wfile.write(reply.body[i : i + 1])
                    time.sleep(reply.dribble)
            else:
                self.wfile.write(reply.body)
            if reply.drop:
                self.close_connection = True
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *arguments: Any) -> None: ...

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked_prompt(request: dict[str, Any]) -> str:
    """The description that a request is about."""
    match = re.search(r'^Description: (".*")$', request["messages"][1]["content"], re.MULTILINE)
    return str(json.loads(match[1])) if match else ""


def script(*replies):
    """These replies one after the other, the last one for ever."""
    return lambda request, number: replies[min(number, len(replies) - 1)]


def failure(call):
    with pytest.raises(ScorerError) as failed:
        call(PROMPT, TAGS)
    return failed.value
