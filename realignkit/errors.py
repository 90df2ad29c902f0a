"""What can go wrong, as a small family of exceptions.

Every message ends with what to do next. Catch :class:`RealignKitError` to catch them all.
"""

from __future__ import annotations


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
