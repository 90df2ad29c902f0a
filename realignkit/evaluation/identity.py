"""What numbers depend on beside the pictures: a metric's options, what it says of itself, the weights it has loaded."""

from __future__ import annotations

import hashlib
from typing import Any

from realignkit.machine import networks
from realignkit.named import Named
from realignkit.provenance import MACHINE, contents, without

YES_OR_NO = "yes_or_no"
"""Which values are verdicts, in what is kept of a metric: how numbers are read, not what they depend on."""

DIGITS = 16
"""Of a SHA-256 that are kept."""


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


def weights_digest(plugin: Any) -> str:
    """What stands for the weights of the networks that a plugin has loaded; "" where there are none yet."""
    import torch

    digest = hashlib.sha256()
    tensors = [tensor for network in networks([plugin]) for tensor in network.state_dict().values()]
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b"")
    return digest.hexdigest()[:DIGITS] if tensors else ""
