"""What a check finds, in one line."""

from __future__ import annotations

from typing import Any

import pytest

from realignkit.testing import findings


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No check is given up because the machine is slow."""
    monkeypatch.setenv("REALIGNKIT_PLUGIN_TIMEOUT", "3600")


def problems(plugin: Any, kind: str | None = None) -> list[str]:
    return [finding.problem for finding in findings(plugin, kind) if finding.problem]


def problem(plugin: Any, kind: str | None = None) -> str:
    """The one problem of a plugin, which is one line."""
    (only,) = problems(plugin, kind)
    assert "\n" not in only
    assert only.endswith((".", ")")), only
    return only
