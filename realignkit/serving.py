"""A web application served from this machine, to this machine alone unless somebody says otherwise. Needs uvicorn."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from realignkit.errors import OutputError

LOOPBACK = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine gets to an address."""
    return host in (LOOPBACK, "localhost", "::1")


def serve_app(app: Any, host: str, port: int, ready: Callable[[str], None], path: str = "/") -> None:
    """Serve an application until interrupted.

    Args:
        app: an ASGI application.
        host: the address to listen at.
        port: 0 for any that is free.
        ready: is told the page's address once it can be opened.
        path: of the page.

    Raises:
        OutputError: the port is taken.
    """
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OutputError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}. Give another --port or --host."
        ) from error
    anywhere = host in ("0.0.0.0", "::")
    shown = socket.gethostname() if anywhere else f"[{host}]" if ":" in host else host
    with listening:
        ready(f"http://{shown}:{listening.getsockname()[1]}{path}")
        # No log of requests: it would hold what addresses tell, and who came from where.
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])
