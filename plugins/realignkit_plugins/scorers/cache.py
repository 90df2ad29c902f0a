"""Answers on disk, keyed by everything that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from realignkit.files import atomic_write

_FORMAT = "realignkit.answer"


class AnswerCache:
    """One small JSON file per question. Damaged files count as absent; no key is ever in it.

    Args:
        folder: made at the first :meth:`put`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, question: Mapping[str, Any]) -> Path:
        """Where the answer to a question (any JSON) belongs."""
        text = json.dumps(question, sort_keys=True, ensure_ascii=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / digest[:2] / f"{digest}.json"

    def get(self, question: Mapping[str, Any]) -> str | None:
        """The answer as it was put, None when it is not known."""
        try:
            record = json.loads(self.path(question).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        right = isinstance(record, dict) and record.get("format") == _FORMAT and record.get("question") == question
        answer = record.get("answer") if right else None
        return answer if isinstance(answer, str) else None

    def put(self, question: Mapping[str, Any], answer: str) -> None:
        """Keep an answer.

        Raises:
            OutputError: the folder cannot be written.
        """
        record = {"format": _FORMAT, "question": question, "answer": answer}
        atomic_write(self.path(question), json.dumps(record, ensure_ascii=True, indent=1) + "\n")
