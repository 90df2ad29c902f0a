"""What can go wrong, as a small family of exceptions; and texts without the keys that may be in them.

Every message ends with what to do next. Catch :class:`RealignKitError` to catch them all. Keys are kept out of whatever
is shown or saved: messages, notes, records, and texts that a service sends back.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|std::bad_alloc|os error 12\b",
    re.IGNORECASE,
)

REDACTED = "***"
_SECRET_WORDS = ("key", "token", "secret", "password", "credential")
_PART = 12
"""Characters of a longer secret that may not be shown in a row."""

_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}  # ASCII alone: the length must not change
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
"""An address in a text."""
_ADDRESS = re.compile(r"(?:[a-z][a-z0-9+.-]+:/|data:)", re.IGNORECASE)  # a drive has one letter

TELL_AUTHOR = "Choose another one, or tell its author."
"""What users can do about a plugin that fails."""

FOREIGN = (Exception, SystemExit, GeneratorExit)
"""What somebody else's code may raise that is not the user's wish: KeyboardInterrupt is, ``sys.exit`` is not."""


class RealignKitError(Exception):
    """Base class: anything realignkit raises on purpose."""


class PluginError(RealignKitError):
    """A plugin is unknown, unavailable, broken, or broke its contract."""


class ScorerError(PluginError):
    """A scorer has no usable answer.

    Attributes:
        reason: the kind of failure in a word or two ("timeout", "tags"), for statistics.
        final: asking again later will not help; False for what passes, such as a network that is down.
    """

    def __init__(self, message: str, reason: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.reason, self.final = reason, final


class OptionError(RealignKitError):
    """An option has an unknown name or a value out of range."""


class ImageError(OptionError):
    """An image is none that can be looked at, such as one of a size that a network does not take."""


class PromptError(RealignKitError):
    """The prompt is empty, too long for the text encoder, or a phrase cannot be found in it."""


class ModelError(RealignKitError):
    """A checkpoint is missing or damaged, of an unsupported family, or computed NaN."""


class OutputError(RealignKitError):
    """A result could not be written or read back."""


class DamagedError(OutputError):
    """What was written is cut off, incomplete or no longer what it was: only making it again helps.

    Attributes:
        reason: what is wrong, without the advice.
    """

    def __init__(self, reason: str, advice: str = "Make it again.") -> None:
        super().__init__(f"{reason}. {advice}")
        self.reason = reason


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of whatever device, did not suffice."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # torch says so in a RuntimeError when it is the CPU's; safetensors has an error of its own.
    speaks_of_it = isinstance(error, (RuntimeError, OSError)) or type(error).__name__ == "SafetensorError"
    return speaks_of_it and _NO_MEMORY.search(str(error)) is not None


@contextlib.contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn running out of memory into a :class:`ModelError` that says what to do; other errors pass.

    Args:
        what: what was going on, to begin the sentence with ("drawing").
    """
    try:
        yield
    except RealignKitError:
        raise
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise memory_error(what, error) from error


@contextlib.contextmanager
def blame(whose: str, secrets: Iterable[str] = ()) -> Iterator[None]:
    """Turn whatever somebody else's code raises into a :class:`PluginError` that names it; our own errors pass.

    Running out of memory is nobody's fault, and a :class:`ModelError`.

    Args:
        whose: whose code runs, to begin the sentence with (``"tagger 'ram'"``).
        secrets: see :func:`said_by`.
    """
    try:
        with enough_memory(whose):
            yield
    except RealignKitError:
        raise
    except FOREIGN as error:
        raise PluginError(f"{whose} failed: {said_by(type(error).__name__, error, secrets)}. {TELL_AUTHOR}") from error


def breach(whose: str, problem: str) -> PluginError:
    """The error for a plugin that broke its contract."""
    return PluginError(f"{whose} broke its contract: {problem}. {TELL_AUTHOR}")


def in_one_line(error: BaseException, longest: int = 300) -> str:
    """What an error says, on one line: all of it, or as many whole sentences as ``longest`` characters hold."""
    text = " ".join(str(error).split()) or "no details"
    if len(text) > longest:
        end = max(text.rfind(mark, 0, longest) for mark in (". ", "! ", "; "))
        text = text[: end + 1] if end > longest // 3 else text[:longest].rpartition(" ")[0] + " …"
    return text.rstrip(".;")


def said_by(kind: str, error: BaseException, secrets: Iterable[str] = ()) -> str:
    """The kind and the text of an error of somebody else's, as :func:`in_one_line`; the kind alone where it is mute.

    ``secrets``: what may not be shown of it, beside the keys in addresses.
    """
    return f"{kind}: {hidden_in(in_one_line(error), secrets)}" if str(error).strip(" .;\n") else kind


def hidden_in(text: str, secrets: Iterable[str]) -> str:
    """:func:`redacted`, and without the keys in addresses."""
    return redacted(redacted_urls(text), secrets)


def with_article(name: str) -> str:
    """The name of a class as a sentence has it: "an int", "a UNet2DModel", "None"."""
    if name == "NoneType":
        return "None"
    return f"{'an' if name[:1] in 'aeioAEIO' else 'a'} {name}"


def memory_error(what: str, error: BaseException) -> ModelError:
    """What :func:`enough_memory` raises."""
    return ModelError(
        f"{what} needs more memory than there is ({in_one_line(error)}). Take fewer images at once (batch_size) or "
        f"smaller ones (height, width), load the model with fewer bytes a weight or by parts (options dtype and "
        f"offload), or use another device."
    )


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


def secret_name(name: str) -> bool:
    """Whether an option of this name holds a key."""
    return any(word in name.lower() for word in _SECRET_WORDS)


def option_secrets(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The values of secret options, and the keys in the addresses of others."""
    secrets: list[str] = []
    for name, value in options.items():
        if reveal := getattr(value, "get_secret_value", None):  # pydantic's
            secrets.append(str(reveal()))
        elif isinstance(value, str | list | tuple):
            texts = [text for text in ([value] if isinstance(value, str) else value) if isinstance(text, str)]
            secrets += texts if secret_name(name) else [secret for text in texts for secret in url_secrets(text)]
    return tuple(secret for secret in secrets if secret)


def redacted_urls(text: str) -> str:
    """``text`` with the parts of its addresses that may be keys (see :func:`url_secrets`) taken out."""
    return URL.sub(lambda match: _redacted_url(match.group()), text)


def _redacted_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    end = min((i for i in map(rest.find, "/?#;") if i >= 0), default=len(rest))
    host, path = rest[:end], rest[end:]
    if "@" in host:
        host = f"{REDACTED}@{host.rpartition('@')[2]}"
    cut = min((i for i in map(path.find, ";?#") if i >= 0), default=len(path))
    tail = path[cut] + REDACTED if path[cut + 1 :] else path[cut:]
    return f"{scheme}://{host}{path[:cut]}{tail}"


def refuse_address(path: str | Path) -> None:
    """Refuse what is an address (``https://…``, ``data:…``) where a file is meant.

    Raises:
        OptionError: it is one; the message shows none of its parts that may be keys.
    """
    text = str(path)
    if not _ADDRESS.match(text):
        return
    where = redacted_urls(text.replace(":/", "://", 1) if isinstance(path, Path) else text)[:80]
    raise OptionError(f"'{where}' is an address, and nothing is fetched here. Download it, and give the file's path.")
