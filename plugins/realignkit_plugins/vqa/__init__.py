"""Question answerers: what is in an image, by visual question answering models and vision-language models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from realignkit.registry import Register


@hookimpl
def register_vqa(register: Register) -> None:
    """BLIP, as TIFA's authors used it, vision-language models, and chat services that take images."""
    register(
        "blip_vqa",
        "realignkit_plugins.vqa.blip:BlipVQA",
        "short answers by any BlipForQuestionAnswering checkpoint, by default BLIP-VQA base (1.5 GB)",
        license="BSD-3-Clause",
    )
    register(
        "blip_vqa_large",
        "realignkit_plugins.vqa.blip:BlipVQA",
        "the same by BLIP-VQA CapFilt-L, which TIFA calls blip-large",
        options={"model": "Salesforce/blip-vqa-capfilt-large"},
        license="BSD-3-Clause",
    )
    register(
        "lavis_blip2",
        "realignkit_plugins.isolated.lavis:LavisBLIP2",
        "BLIP-2 by its authors' package, salesforce-lavis, in an environment of its own",
        license="MIT (its card); the language model within, OPT, has Meta's own",
    )
    for name, description, options in (
        ("openai_chat", "any service with OpenAI's chat protocol that takes images, local servers included", {}),
        ("gpt4", "OpenAI's GPT-4 class, by default gpt-4o; key from OPENAI_API_KEY", {"model": "gpt-4o"}),
    ):
        service = "realignkit_plugins.vqa.openai_chat:OpenAIChatVQA"
        register(name, service, description, requires=("openai", "httpx2"), extra="gpt4", options=options)
    register(
        "vlm",
        "realignkit_plugins.vqa.vision_language:VisionLanguageVQA",
        "any vision-language model of transformers (Qwen-VL, LLaVA, SmolVLM, BLIP-2 …), by default Qwen3-VL 8B (18 GB)",
        license="Apache-2.0",
    )
