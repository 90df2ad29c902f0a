"""The page on the web: mounted, with the runs to be had from it, and nothing else of this machine.

Needs gradio: ``realignkit[ui]``.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.errors import OptionError
from realignkit.ui.desk import Desk
from realignkit.ui.models import Models
from realignkit.ui.work import Everybody, Work

if TYPE_CHECKING:
    from fastapi import FastAPI

    from realignkit.realigner import Realigner

LARGEST = "64mb"
"""Of a file that is sent here."""

_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow",
    "Content-Security-Policy": _POLICY,  # what the page shows and asks for is from here
}


def make_app(makers: Mapping[str, Callable[[], Realigner]], folder: Path, *, anywhere: bool = False) -> FastAPI:
    """The web application.

    Args:
        makers: the models that may be chosen, by name; the first is the default.
        folder: whose run folders may be opened.
        anywhere: whether it is reached by other names than this machine's loopback ones.
    """
    quiet()
    import gradio as gr
    from fastapi import FastAPI, HTTPException, Request, Response
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    from realignkit.ui.archive import Runs, archive, name_of
    from realignkit.ui.page import HERE, make_page

    models, desk = Models(makers), Desk()
    everybody = Everybody(lambda: Work(models, desk))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def with_headers(request: Request, respond: Callable[[Request], Any]) -> Response:
        response: Response = await respond(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.get("/runs/{key}/{number}.zip")
    def download(key: str, number: int) -> Response:
        try:
            versions = everybody.work(key).versions
            realignment = versions[number - 1].realignment if 0 < number <= len(versions) else None
        except OptionError:
            realignment = None
        if realignment is None:
            raise HTTPException(404)
        name = f"{name_of(realignment, number)}.zip"
        sent = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return Response(archive(realignment, number), media_type="application/zip", headers=sent)

    if not anywhere:  # a name that leads here from elsewhere is somebody's trick
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", "testserver"])
    font = ["system-ui", "sans-serif"]  # of the reader's machine: gradio's own would be fetched
    theme = gr.themes.Base(font=font, font_mono=["ui-monospace", "monospace"])
    page = make_page(everybody, models, Runs(folder))
    page.has_launched = (
        True  # until then gradio takes any file of this machine that a visitor names for one that was sent
    )
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        allowed_paths=[],
        blocked_paths=[str(folder.resolve())],
        show_error=False,
        max_file_size=LARGEST,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=theme,
        css=_css(HERE),
    )
    threading.Thread(target=models.warm, name="realignkit-ui-warm", daemon=True).start()
    return app


def serve(
    makers: Mapping[str, Callable[[], Realigner]],
    folder: Path,
    host: str,
    port: int,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page until interrupted; what people send here meanwhile is gone afterwards.

    Args:
        makers, folder: see :func:`make_app`.
        host: the address to listen at.
        port: 0 for any that is free.
        ready: is told the page's address once it can be opened.

    Raises:
        OutputError: the port is taken.
    """
    from realignkit.serving import is_loopback, serve_app

    with tempfile.TemporaryDirectory(prefix="realignkit-ui-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        serve_app(make_app(makers, folder, anywhere=not is_loopback(host)), host, port, ready)


def quiet() -> None:
    """Before gradio is imported: it asks nobody on the network, and tells nobody."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _css(here: Path) -> str:
    from realignkit.report.html import environment

    slider = environment().get_template("slider.css.jinja").render()
    return f"{(here / 'page.css').read_text(encoding='utf-8')}\n{slider}"
