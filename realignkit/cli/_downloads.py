"""How large published checkpoints are that are fetched from the hub at first use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

GIGABYTES: Mapping[str, float] = {
    "CIDAS/clipseg-rd64-refined": 0.6,
    "IDEA-Research/grounding-dino-tiny": 0.7,
    "Qwen/Qwen3-VL-8B-Instruct": 18,
    "Salesforce/blip-vqa-base": 1.5,
    "Salesforce/blip-vqa-capfilt-large": 1.5,
    "facebook/sam-vit-huge": 2.6,
    "openai/clip-vit-base-patch32": 0.6,
    "openai/clip-vit-large-patch14-336": 1.7,
    "sentence-transformers/all-mpnet-base-v2": 0.4,
}
"""Of repositories of which always the same is fetched, as docs/models.md has it."""


def with_sizes(repositories: Iterable[str]) -> str:
    """Repositories in a sentence, each with its size where that is known."""
    return " and ".join(f"{name} ({GIGABYTES[name]:g} GB)" if name in GIGABYTES else name for name in repositories)
