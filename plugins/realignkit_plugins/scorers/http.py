"""An HTTP client for services that may misbehave: bounded in size and time whatever they send."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2

T = TypeVar("T")
MAX_BYTES = 4 * 1024 * 1024
"""The largest body that is read, unpacked; an answer has a few kilobytes."""

_KEPT_HEADERS = ("retry-after",)


class UnreadableReplyError(Exception):
    """A reply that is too long, or packed in a way that cannot be undone; asking again does not help."""


class BoundedClient(httpx2.Client):
    """Reads no more than :data:`MAX_BYTES` of a body, and is done with a request when its read timeout is over.

    A timeout of the library runs anew for every read, so a server that sends a byte now and then, of its head or its
    body, would never be late: here it is the time for the whole request. Redirects are not followed, so that a key
    goes nowhere else. Every request has a connection of its own, which can be cut when the time is over.

    Args:
        clean: takes out of a reply what must not go any further, such as the key that it was asked with.
    """

    def __init__(self, clean: Callable[[str], str]) -> None:
        super().__init__(
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            limits=httpx2.Limits(max_keepalive_connections=0),
        )
        self._clean = clean

    def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs: Any) -> httpx2.Response:
        """As in the base class, except that the body is always read, within the bounds, and cleaned.

        Raises:
            httpx2.ReadTimeout: it took too long.
            UnreadableReplyError: it is too long, or compressed in an unknown way.
        """
        opened: list[Any] = []

        def watch(event: str, details: dict[str, Any]) -> None:
            if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
                opened.append(details["return_value"])

        request.extensions = {**request.extensions, "trace": watch}
        send = super().send

        def exchange() -> httpx2.Response:
            response = send(request, stream=True, **kwargs)
            try:
                body = _body(response)
            finally:
                response.close()
            return self._cleaned(response, body)

        limit = request.extensions.get("timeout", {}).get("read") or 60.0
        try:
            return within(limit, exchange, lambda: _cut(opened))
        except TimeoutError:
            raise httpx2.ReadTimeout("the answer took too long", request=request) from None

    def _cleaned(self, response: httpx2.Response, body: bytes) -> httpx2.Response:
        text = httpx2.Response(
            200, headers={"Content-Type": response.headers.get("content-type", "")}, content=body
        ).text
        with contextlib.suppress(ValueError, RecursionError):
            text = json.dumps(json.loads(text), ensure_ascii=False)  # a "\\u0073" hides nothing
        headers = {name: self._clean(response.headers[name]) for name in _KEPT_HEADERS if name in response.headers}
        kind = response.headers.get("content-type", "").partition(";")[0]
        return httpx2.Response(
            response.status_code,
            headers={**headers, "content-type": self._clean(kind.partition(";")[0])},
            content=self._clean(text).encode(errors="replace"),
            request=response.request,
            history=[],
        )


def _body(response: httpx2.Response) -> bytes:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise UnreadableReplyError(f"the reply is compressed ({encoding[:20]}), which was not asked for")
    unpack = zlib.decompressobj(wbits=47) if encoding not in ("", "identity") else None  # gzip or zlib, as it comes
    body = bytearray()
    for chunk in response.iter_raw():
        room = MAX_BYTES + 1 - len(body)
        try:
            body += unpack.decompress(chunk, room) if unpack else chunk
        except zlib.error:
            raise UnreadableReplyError("the reply is compressed, and damaged") from None
        if len(body) > MAX_BYTES:
            raise UnreadableReplyError(f"the reply has more than {MAX_BYTES} bytes")
    return bytes(body)


def _cut(opened: list[Any]) -> None:
    for stream in opened:
        with contextlib.suppress(OSError, AttributeError):  # not there, or closed already
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def within(seconds: float, work: Callable[[], T], abandon: Callable[[], None]) -> T:
    """Run ``work`` in a thread of its own and wait no longer than ``seconds`` for it; then ``abandon`` it.

    Whatever a server does, and even where the operating system has no bound (looking up a name), the caller goes on.

    Raises:
        TimeoutError: it is not done; otherwise whatever ``work`` raises.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # handed to the caller, who is waiting for it
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="realignkit-request")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        abandon()
        raise TimeoutError
    if failed:
        raise failed[0]
    return done[0]
