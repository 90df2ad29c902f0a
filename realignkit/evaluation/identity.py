"""What numbers depend on beside the pictures: a metric's options, and what it says of itself."""

from __future__ import annotations

from typing import Any

from realignkit.named import Named
from realignkit.provenance import MACHINE, contents, without

YES_OR_NO = "yes_or_no"
"""Which values are verdicts, in what is kept of a metric: how numbers are read, not what they depend on."""


def settings_of(metric: Named) -> dict[str, Any]:
    """What a metric's numbers depend on beside the pictures, as JSON values; where it runs is left out.

    Raises:
        PluginError: it failed to say.
    """
    options = without(metric.options, MACHINE)
    with metric.blame():
        identity = dict(metric.plugin.identity()) if metric.has("identity") else {}
        says = getattr(metric.plugin, "yes_or_no", None)
    settings = {"options": options, "contents": contents(options), "identity": identity}
    return settings if says is None else {**settings, YES_OR_NO: sorted(says)}
