"""A procedural world of coloured objects: images, captions, masks and ground truth from a seed."""

from __future__ import annotations

from .captions import Noise, caption, phrase, phrases, plain
from .scenes import IMAGE_SIZE, Rendering, Scene, Split, Thing, render, sample_scene, scene
from .vocabulary import BACKGROUNDS, COLOURS, EXTRA_NOUNS, NOUNS, TAGS, held_out

__all__ = [
    *("BACKGROUNDS", "COLOURS", "EXTRA_NOUNS", "IMAGE_SIZE", "NOUNS", "TAGS"),
    *("Noise", "Rendering", "Scene", "Split", "Thing"),
    *("caption", "held_out", "phrase", "phrases", "plain", "render", "sample_scene", "scene"),
]
