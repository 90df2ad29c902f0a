"""The rows of guided sampling run from the command line."""

from __future__ import annotations


def test_smoke(smoke):
    printed = smoke("guidance")
    for row in ("base", "guided", "control", "base, best of 2"):
        assert f"| {row} | 2 |" in printed
