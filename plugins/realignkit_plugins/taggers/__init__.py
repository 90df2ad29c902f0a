"""Taggers: name the objects in images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.registry import Register


@hookimpl
def register_taggers(register: Register) -> None:
    """Any image-classification checkpoint."""
    register(
        "image_classification",
        "realignkit_plugins.taggers.image_classification:ImageClassificationTagger",
        "the labels of any (multi-label) image-classification checkpoint of transformers (model=…)",
    )
