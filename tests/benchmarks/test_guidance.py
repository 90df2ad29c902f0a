"""The rows of guided sampling run from the command line."""

from __future__ import annotations


def test_smoke(smoke):
    printed = smoke("guidance")
    for row in ("base", "guided", "control", "base, best of 2"):
        assert f"| {row} | 2 |" in printed


def test_any_prompts_can_be_measured(smoke, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("prompts") / "mine.txt"
    prompts.write_text("a red book\na red book and a yellow pen\na blue cup\n")
    printed = smoke("guidance", "--prompts", str(prompts), "--row", "base")
    assert printed.startswith("Prompts: mine.txt, 2 different ones")
