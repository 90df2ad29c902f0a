"""The ascent on latents runs from the command line, and its pictures keep their pixels."""

from __future__ import annotations


def test_smoke(smoke):
    printed = smoke("ascent")
    assert printed.count("\n| 0.") == 2
    assert "caption, 2 wrong pictures, 2 steps" in printed
