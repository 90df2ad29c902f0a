"""The models that the page offers, each made at first use."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from realignkit.errors import OptionError

if TYPE_CHECKING:
    from realignkit.realigner import Realigner


class Models:
    """The models that are offered, each made at first use.

    Args:
        makers: by name; the first is the default. Each realigner has a reward to choose candidates by.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Realigner]]) -> None:
        self._makers, self._made, self._making = dict(makers), dict[str, "Realigner"](), threading.Lock()

    @property
    def names(self) -> list[str]:
        """Those that may be chosen."""
        return list(self._makers)

    def warm(self) -> None:
        """Load the default model, so that the first person need not wait for it; what goes wrong is told on use."""
        with contextlib.suppress(Exception):
            self.realigner(self.names[0]).pipeline()

    def realigner(self, name: str) -> Realigner:
        """The realigner of a model.

        Raises:
            OptionError: it is not offered.
            PluginError, ModelError: it cannot be made.
        """
        if name not in self._makers:
            offered = ", ".join(self.names)
            raise OptionError(f"this page offers {offered}, not '{name[:60]}': start it with --model {name[:60]}.")
        with self._making:
            if name not in self._made:
                self._made[name] = self._makers[name]()
            return self._made[name]
