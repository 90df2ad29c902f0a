"""Captions of COCO's validation pictures, as the field draws them for FID and CLIP score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from realignkit.contracts import Options
from realignkit.tables import decoded
from realignkit_plugins.datafiles import DataFile
from realignkit_plugins.prompts.published import Entry, GivenPath, Limit, PublishedPrompts, text_of

_COUNTS = {2014: 202_654, 2017: 25_014}


class CocoOptions(Options):
    """Which captions."""

    year: Literal[2014, 2017] = Field(2014, description="of the validation set: 40,504 pictures, or 5,000")
    size: int = Field(5000, ge=1, description="how many pictures are drawn, a caption of each")
    seed: int = Field(0, ge=0, description="of the draw")
    path: GivenPath = None
    limit: Limit = None


class CocoCaptions(PublishedPrompts):
    """Captions of COCO's validation set (Lin et al., 2014; CC BY 4.0): a draw of pictures, and of a caption of each.

    A prompt's ``id`` is the number of its picture, by which real pictures are found too. The same seed draws the same
    ones; a larger ``size`` begins with those of a smaller one.
    """

    Options: ClassVar[type[Options]] = CocoOptions
    options: Any

    @property
    def file(self) -> DataFile:
        """``captions_val2014.json``, or of 2017."""
        year = self.options.year
        return DataFile(
            f"captions_val{year}.json",
            f"COCO's list of captions of {year}",
            f"https://cocodataset.org (annotations_trainval{year}.zip)",
        )

    @property
    def count(self) -> int:
        """Captions in the file."""
        return _COUNTS[self.options.year]

    def read(self, path: Path) -> list[Entry]:
        """All captions, by picture, then by their own number."""
        annotations = json.loads(decoded(path))["annotations"]
        ordered = sorted(annotations, key=lambda each: (int(each["image_id"]), int(each["id"])))
        return [Entry(text_of(each["caption"]), {"id": str(int(each["image_id"]))}) for each in ordered]

    def choose(self, entries: list[Entry]) -> list[Entry]:
        """Pictures in a random order, and of each a random caption."""
        by_picture: dict[str, list[Entry]] = {}
        for entry in entries:
            by_picture.setdefault(entry.labels["id"], []).append(entry)
        random = np.random.default_rng(self.options.seed)
        captions = list(by_picture.values())
        order = random.permutation(len(captions))
        places = random.random(len(captions))  # one for every picture, so that a larger draw begins like a smaller one
        chosen = order[: self.options.size].tolist()
        return [captions[number][int(places[number] * len(captions[number]))] for number in chosen]
