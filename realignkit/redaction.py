"""Keeps keys out of what is shown or saved: messages, notes, records, and texts that a service sends back."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, urlsplit

REDACTED = "***"
_PART = 12
"""Characters of a longer secret that may not be shown in a row."""

_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}  # ASCII alone: the length must not change
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")


def redacted(text: str, secrets: Iterable[str]) -> str:
    """``text`` without the secrets, whole or in part, also backwards, percent-encoded, in hexadecimal or in base64.

    Of a secret of twelve characters or more no twelve in a row are left, in any case; a shorter one is taken out
    where it stands as a word of its own.
    """
    plain = text.translate(_LOWER)
    hidden = bytearray(len(text))
    for secret in secrets:
        if not secret:
            continue
        if len(secret) < _PART:
            pattern = "|".join(re.escape(form) for form in (secret, secret[::-1]))
            places: Iterable[tuple[int, int]] = (m.span() for m in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", text))
        else:
            places = _parts(plain, secret)
        for start, stop in places:
            hidden[start:stop] = b"\x01" * (stop - start)
    pieces, at = [], 0
    for match in re.finditer(rb"\x01+", hidden):
        pieces += [text[at : match.start()], REDACTED]
        at = match.end()
    return "".join([*pieces, text[at:]])


def _parts(plain: str, secret: str) -> Iterator[tuple[int, int]]:
    """Where a lower-case text has twelve characters of any form of a secret."""
    forms = {form.translate(_LOWER) for form in _forms(secret) if len(form) >= _PART}
    for part in {form[i : i + _PART] for form in forms for i in range(len(form) - _PART + 1)}:
        start = plain.find(part)
        while start >= 0:
            yield start, start + _PART
            start = plain.find(part, start + 1)


def _forms(secret: str) -> Iterator[str]:
    octets = secret.encode(errors="surrogatepass")
    for form in (secret, quote(octets, safe=""), "".join(f"%{octet:02x}" for octet in octets), octets.hex()):
        yield form
        yield form[::-1]
    for lead in range(3):  # base64 depends on what stands before, up to a multiple of three bytes
        encoded = base64.b64encode(b"\0" * lead + octets).decode().rstrip("=")
        # The characters at the ends also hold bits of the neighbours.
        inner = encoded[(lead * 8 + 5) // 6 : (lead + len(octets)) * 8 // 6]
        yield inner
        yield inner.replace("+", "-").replace("/", "_")


def url_secrets(url: str) -> tuple[str, ...]:
    """What of an address may be a key: user and password, ``;params``, ``?query`` and ``#fragment``."""
    if "://" not in url:
        return ()
    try:
        parts = urlsplit(url)
    except ValueError:
        return ()
    user, at, _ = parts.netloc.rpartition("@")
    _, semicolon, params = parts.path.partition(";")
    texts = [*(user.split(":", 1) if at else ()), params if semicolon else "", parts.query, parts.fragment]
    pieces = [piece for text in texts for piece in (text, *re.split(r"[&;]", text))]
    values = [value for piece in pieces for value in (piece, piece.partition("=")[2])]
    return tuple(dict.fromkeys(value for raw in values for value in (raw, unquote(raw)) if value))


def redacted_urls(text: str) -> str:
    """``text`` with the parts of its addresses that may be keys (see :func:`url_secrets`) taken out."""
    return _URL.sub(lambda match: _redacted_url(match.group()), text)


def _redacted_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    end = min((i for i in map(rest.find, "/?#;") if i >= 0), default=len(rest))
    host, path = rest[:end], rest[end:]
    if "@" in host:
        host = f"{REDACTED}@{host.rpartition('@')[2]}"
    cut = min((i for i in map(path.find, ";?#") if i >= 0), default=len(path))
    tail = path[cut] + REDACTED if path[cut + 1 :] else path[cut:]
    return f"{scheme}://{host}{path[:cut]}{tail}"
