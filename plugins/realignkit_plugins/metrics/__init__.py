"""Metrics of the field: distances between sets of images, and how well images fit their prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register


@hookimpl
def register_metrics(register: Register) -> None:
    """Of sets of images, and of images with their prompts."""
    register(
        "tifa",
        "realignkit_plugins.metrics.tifa:TIFA",
        "share of questions about the prompt that a question answerer answers right, by type of element",
    )
    register(
        "vqascore",
        "realignkit_plugins.metrics.vqascore:VQAScore",
        "probability of yes, asked whether the image shows its prompt",
    )
    register(
        "soft_tifa",
        "realignkit_plugins.metrics.soft_tifa:SoftTIFA",
        "probabilities of right answers, as arithmetic and geometric mean (GenEval 2), by skill and number of atoms",
    )
