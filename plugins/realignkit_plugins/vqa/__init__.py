"""Question answerers: what is in an image, by visual question answering models and vision-language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from realignkit.registry import Register


@hookimpl
def register_vqa(register: Register) -> None:
    """BLIP, as TIFA's authors used it."""
    register(
        "blip_vqa",
        "realignkit_plugins.vqa.blip:BlipVQA",
        "short answers by any BlipForQuestionAnswering checkpoint, by default BLIP-VQA base (1.5 GB)",
    )
    register(
        "blip_vqa_large",
        "realignkit_plugins.vqa.blip:BlipVQA",
        "the same by BLIP-VQA's larger checkpoint",
        options={"model": "Salesforce/blip-vqa-capfilt-large"},
    )
