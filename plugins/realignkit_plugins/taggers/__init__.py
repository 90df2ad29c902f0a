"""Taggers: name the objects in images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register

RECOGNIZE_ANYTHING = "realignkit_plugins.taggers.recognize_anything:RecognizeAnythingTagger"


@hookimpl
def register_taggers(register: Register) -> None:
    """The paper's taggers, their successor, and any image-classification checkpoint."""
    register(
        "image_classification",
        "realignkit_plugins.taggers.image_classification:ImageClassificationTagger",
        "the labels of any (multi-label) image-classification checkpoint of transformers (model=…)",
    )
    register(
        "ram",
        RECOGNIZE_ANYTHING,
        "RAM, the paper's tagger: 4,585 common tags",
        options={
            "model": "xinyu1205/recognize_anything_model",
            "file": "ram_swin_large_14m.pth",
            "architecture": "ram",
        },
        license="MIT",
    )
    register(
        "ram_plus",
        RECOGNIZE_ANYTHING,
        "RAM++: RAM's tags, each recognised by several descriptions",
        options={
            "model": "xinyu1205/recognize-anything-plus-model",
            "file": "ram_plus_swin_large_14m.pth",
            "architecture": "ram_plus",
        },
        license="Apache-2.0",
    )
    register(
        "tag2text",
        RECOGNIZE_ANYTHING,
        "Tag2Text's tagging half: 3,313 common tags; the paper's second tagger",
        options={
            "model": "xinyu1205/recognize_anything_model",
            "file": "tag2text_swin_14m.pth",
            "architecture": "tag2text",
        },
        license="MIT",
    )
    register(
        "florence2",
        "realignkit_plugins.taggers.florence2:Florence2Tagger",
        "Florence-2: a vision-language model that lists (or describes) what it sees; no fixed list of tags",
        license="MIT",
    )
