"""The study on the web: the page, its pictures and a place for answers, below an address that nobody can guess.

Needs FastAPI and uvicorn: ``realignkit[study]``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError

from realignkit.errors import OptionError, OutputError
from realignkit.serving import LOOPBACK, serve_app
from realignkit.study.answers import Answer, Answered, Answers, now
from realignkit.study.folder import picture_files, read_study
from realignkit.study.page import policy, served_page

LARGEST = 64 * 1024
"""Bytes of an answer; an honest one has about a thousand."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def make_app(folder: str | Path) -> tuple[FastAPI, str]:
    """The web application of a study, and its token, which stays the same for a folder.

    Raises:
        OutputError: the folder holds no study, or is damaged.
    """
    study = read_study(folder)
    pictures = picture_files(folder, study)
    answers = Answers(folder, study)
    token = answers.about("token", secrets.token_urlsafe(16))
    page = served_page(study)
    headers = {**_HEADERS, "Content-Security-Policy": f"{policy(server=True)}; frame-ancestors 'none'"}

    def known(given: str) -> None:
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(404)

    # No pages of its own about itself, and no redirection, which would tell a right token from a wrong one.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)

    @app.middleware("http")
    async def with_headers(request: Request, respond: Callable[[Request], Any]) -> Response:
        response: Response = await respond(request)
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        return response

    @app.get("/{given}/", dependencies=[Depends(known)])
    def show() -> Response:
        return Response(page, media_type="text/html; charset=utf-8")

    @app.get("/{given}/pictures/{name}.png", dependencies=[Depends(known)])
    def picture(name: str) -> Response:
        if name not in pictures:
            raise HTTPException(404)
        # Not as a file: its date, which would go with it, tells the order in which pictures were written.
        keep = {"Cache-Control": "private, max-age=604800, immutable"}
        return Response(pictures[name].read_bytes(), media_type="image/png", headers=keep)

    @app.put("/{given}/answers/{person}/{item}/{question}", dependencies=[Depends(known)], status_code=204)
    async def save(person: str, item: str, question: str, request: Request) -> None:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LARGEST:
                raise HTTPException(413, "an answer is not that long")
        try:
            said = Answered.model_validate_json(body).model_dump()
            answer = Answer(person=person, item=item, question=question, at=now(), **said)
            await run_in_threadpool(answers.save, [answer])
        except (ValidationError, OptionError):
            raise HTTPException(422, "this is no answer to this study") from None
        except OutputError:
            raise HTTPException(503, "answers cannot be saved now") from None

    return app, token


def serve(
    folder: str | Path, host: str = LOOPBACK, port: int = 8000, ready: Callable[[str], None] = lambda address: None
) -> None:
    """Serve a study until interrupted.

    Args:
        folder: of the study.
        host: the address to listen at. With the default nobody outside this machine gets there.
        port: 0 for any that is free.
        ready: is told the page's address, which has the token, once it can be opened.

    Raises:
        OutputError: the folder holds no study or is damaged, or the port is taken.
    """
    app, token = make_app(folder)
    serve_app(app, host, port, ready, f"/{token}/")
