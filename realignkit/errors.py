"""What can go wrong, as a small family of exceptions.

Every message ends with what to do next. Catch :class:`RealignKitError` to catch them all.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator

_NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|std::bad_alloc|os error 12\b",
    re.IGNORECASE,
)


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
def blame(whose: str) -> Iterator[None]:
    """Turn whatever somebody else's code raises into a :class:`PluginError` that names it; our own errors pass.

    Running out of memory is nobody's fault, and a :class:`ModelError`.

    Args:
        whose: whose code runs, to begin the sentence with (``"tagger 'ram'"``).
    """
    try:
        with enough_memory(whose):
            yield
    except RealignKitError:
        raise
    except FOREIGN as error:
        raise PluginError(
            f"{whose} failed: {type(error).__name__}: {error}. Choose another one, or tell its author."
        ) from error


def breach(whose: str, problem: str) -> PluginError:
    """The error for a plugin that broke its contract."""
    return PluginError(f"{whose} broke its contract: {problem}. Choose another one, or tell its author.")


def in_one_line(error: BaseException, longest: int = 300) -> str:
    """What an error says, on one line: all of it, or as many whole sentences as ``longest`` characters hold."""
    text = " ".join(str(error).split()) or "no details"
    if len(text) > longest:
        end = max(text.rfind(mark, 0, longest) for mark in (". ", "! ", "; "))
        text = text[: end + 1] if end > longest // 3 else text[:longest].rpartition(" ")[0] + " …"
    return text.rstrip(".;")


def memory_error(what: str, error: BaseException) -> ModelError:
    """What :func:`enough_memory` raises."""
    return ModelError(
        f"{what} needs more memory than there is ({in_one_line(error)}). Take fewer images at once (batch_size) or "
        f"smaller ones (height, width), load the model with fewer bytes a weight or by parts (options dtype and "
        f"offload), or use another device."
    )
