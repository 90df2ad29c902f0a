"""Many prompts at once: run folders that survive being killed."""

from __future__ import annotations

from realignkit.evaluation.processes import Processes
from realignkit.evaluation.runs import Failure, RunSummary, run_many

__all__ = ["Failure", "Processes", "RunSummary", "run_many"]
