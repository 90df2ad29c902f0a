"""The page of a study: one HTML file with its style, its script and what they show; with a server and without.

Nothing is fetched but the pictures, which a page without server has inside. A content security policy lets only this
very style and script run, and what others wrote reaches the page as data, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from realignkit.study.folder import Study, picture_files

_FILES = {"html": ("page.html",), "css": ("page.css",), "js": ("order.js", "page.js")}


def static_page(folder: str | Path, study: Study) -> str:
    """The whole study in one file, whose answers are downloaded.

    Raises:
        DamagedError: a picture is missing.
    """
    encoded = {
        name: f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        for name, path in picture_files(folder, study).items()
    }
    return _page(study, encoded, server=False)


def served_page(study: Study) -> str:
    """The page that sends its answers to where it came from."""
    names = {name: f"pictures/{name}.png" for item in study.items for name in item.pictures}
    return _page(study, names, server=True)


def policy(server: bool) -> str:
    """The content security policy of the page: its own style and script, and its pictures."""
    own = {kind: base64.b64encode(hashlib.sha256(_part(kind).encode()).digest()).decode() for kind in ("css", "js")}
    reach = "img-src 'self' data:; connect-src 'self'" if server else "img-src data:"
    return (
        f"default-src 'none'; style-src 'sha256-{own['css']}'; script-src 'sha256-{own['js']}'; {reach}; "
        f"base-uri 'none'; form-action 'none'"
    )


def _page(study: Study, sources: Mapping[str, str], *, server: bool) -> str:
    # In the order of their names, which are chance's: that of the systems must not be seen.
    data: dict[str, Any] = {
        "id": study.id,
        "server": server,
        "consent": study.consent,
        "questions": [question.model_dump() for question in study.questions],
        "items": [
            {
                "id": item.id,
                "prompt": item.prompt,
                "pictures": [{"name": name, "source": sources[name]} for name in sorted(item.pictures)],
            }
            for item in study.items
        ],
    }
    parts = {
        "POLICY": escape(policy(server)),
        "STYLE": _part("css"),
        "SCRIPT": _part("js"),
        # No text can end the element that it stands in, or begin a comment.
        "DATA": json.dumps(data, ensure_ascii=True).replace("<", "\\u003c").replace(">", "\\u003e"),
    }
    first, *rest = _part("html").split("{{")
    pieces = [first]
    for piece in rest:  # once through: what is put in is not looked at again
        name, _, text = piece.partition("}}")
        pieces += [parts[name], text]
    return "".join(pieces)


def _part(kind: str) -> str:
    return "".join(files("realignkit.study").joinpath(name).read_text(encoding="utf-8") for name in _FILES[kind])
