"""How often Python looks for garbage while a command starts.

The libraries make some million objects that stay, and with Python's usual settings each search goes through all of
them again: a quarter of the time that importing takes, and again while the program ends.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from realignkit.cli._progress import err

_USUALLY = gc.get_threshold()
_SELDOM = (20_000, 50, 100)


def collect_seldom() -> None:
    """Look for garbage seldom, until :func:`loading` is done."""
    gc.set_threshold(*_SELDOM)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Show that libraries and models are being loaded. What has been loaded is not looked through from then on."""
    with err().status("loading …"):
        yield
    if not gc.get_freeze_count():  # once: what a program loads later may have to go again
        gc.collect(0)
        gc.freeze()
    gc.set_threshold(*_USUALLY)
