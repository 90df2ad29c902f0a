"""A folder of an evaluation goes on with what it holds, and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realignkit.errors import OptionError
from realignkit.evaluation.folder import EvaluationFolder


def test_a_model_is_told_by_what_is_in_its_folder(tmp_path: Path):
    def record(model: str, known: dict[str, str]) -> dict[str, Any]:
        drawn = {"generator": {"model": model}, "contents": known}
        return {"pictures": {"count": 2}, "drawn": drawn, "metrics": {}}

    folder = EvaluationFolder(tmp_path)
    folder.open(record("runs/a/model", {"generator.model": "15 files, ab"}))
    folder.open(record("moved/model", {"generator.model": "15 files, ab"}))
    with pytest.raises(OptionError, match=r"what is in generator.model \(15 files, ab there, 15 files, cd now\)\. Use"):
        folder.open(record("runs/a/model", {"generator.model": "15 files, cd"}))
    nothing = EvaluationFolder(tmp_path / "nothing")
    nothing.open(record("runs/a/model", {}))
    with pytest.raises(OptionError, match=r"what is in generator.model \(nothing known there, 15 files, ab now\)\."):
        nothing.open(record("runs/a/model", {"generator.model": "15 files, ab"}))
