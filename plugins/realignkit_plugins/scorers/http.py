"""An HTTP client for services that may misbehave: bounded in size and time whatever they send."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2

T = TypeVar("T")
MAX_BYTES = 4 * 1024 * 1024
"""The largest body that is read; an answer has a few kilobytes."""


class BoundedClient(httpx2.Client):
    """Reads no more than :data:`MAX_BYTES` of a body and for no longer than ``deadline`` seconds.

    A timeout of the library runs anew for every read, so a server that sends a byte now and then would never be
    late. Compressed bodies are refused (none is asked for), since a small one can unpack to any size; redirects are
    not followed, so that a key goes nowhere else.
    """

    def __init__(self, deadline: float) -> None:
        timeout = httpx2.Timeout(deadline, connect=min(deadline, 10.0))
        super().__init__(timeout=timeout, follow_redirects=False, headers={"Accept-Encoding": "identity"})
        self.deadline = deadline

    def send(self, request: httpx2.Request, *, stream: bool = False, **kwargs: Any) -> httpx2.Response:
        """As in the base class, except that the body is always read, within the bounds.

        Raises:
            httpx2.ReadTimeout: it took too long.
            httpx2.RemoteProtocolError: it is too long, or compressed.
        """
        end = time.monotonic() + self.deadline
        response = super().send(request, stream=True, **kwargs)
        try:
            if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
                raise httpx2.RemoteProtocolError("the answer is compressed, which was not asked for", request=request)
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise httpx2.RemoteProtocolError(f"the answer has more than {MAX_BYTES} bytes", request=request)
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout("the answer took too long", request=request)
        finally:
            response.close()
        return httpx2.Response(
            response.status_code, headers=response.headers, content=bytes(body), request=request, history=[]
        )


def within(seconds: float, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread of its own and wait no longer than ``seconds`` for it.

    The last resort against servers that dribble: what is before the body has no bound of its own. The thread ends
    with its connection, and does not keep the process alive.

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
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError
    return done[0]
