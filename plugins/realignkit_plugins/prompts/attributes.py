"""Prompt sets of objects with attributes: ABC-6K and CC-500 (Feng et al., 2023), and ViLG-300."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from realignkit.contracts import Options
from realignkit.tables import decoded, lines, read_table
from realignkit_plugins.datafiles import DataFile
from realignkit_plugins.prompts.published import Entry, GivenPath, Limit, PublishedPrompts, text_of

_STRUCTURED = "https://github.com/weixi-feng/Structured-Diffusion-Guidance"
_SPLIT_SEED = 300


class ABC6K(PublishedPrompts):
    """ABC-6K (Feng et al., 2023): 3,217 captions with two colours, each followed by itself with the colours swapped."""

    count: ClassVar[int] = 6434
    file: ClassVar[DataFile] = DataFile(
        "ABC-6K.txt",
        "ABC-6K",
        _STRUCTURED,
        sha256=("47fa3ec1a839e6b74bb4f8e3746b454c8a8fb469cef66effddd172473f0f507b",),
    )

    def read(self, path: Path) -> list[Entry]:
        """A prompt a line."""
        texts = [text_of(line) for line in lines(decoded(path))]
        return [Entry(text, {"wording": ("caption", "swapped")[place % 2]}) for place, text in enumerate(texts)]


class CC500(PublishedPrompts):
    """CC-500 (Feng et al., 2023): two objects with a colour each; 602 prompts as published, 588 different ones."""

    count: ClassVar[int] = 602
    file: ClassVar[DataFile] = DataFile(
        "CC-500.txt",
        "CC-500",
        _STRUCTURED,
        sha256=("b36a39e83459508e1676372902f2becdb48f977ed13868600e6e27e26b301777",),
    )

    def read(self, path: Path) -> list[Entry]:
        """A prompt a line."""
        return [Entry(text_of(line)) for line in lines(decoded(path))]


class ViLG300Options(Options):
    """Which part of ViLG-300."""

    split: Literal["all", "train", "test"] = Field(
        "all", description="all 300 prompts, or the 240 to train on and the 60 to test on, always the same ones"
    )
    path: GivenPath = None
    limit: Limit = None


class ViLG300(PublishedPrompts):
    """ViLG-300 (Feng et al., 2023, ERNIE-ViLG 2.0): 300 prompts in 16 categories; half are DrawBench's."""

    Options: ClassVar[type[Options]] = ViLG300Options
    options: Any
    count: ClassVar[int] = 300
    file: ClassVar[DataFile] = DataFile(
        "ViLG-300.csv",
        "ViLG-300",
        "https://github.com/PaddlePaddle/ERNIE (Research/ERNIE-ViLG2/data)",
        sha256=("e9df8402c8b7f64cb1935a7b658ff1b0675d371bb692dc4223125942c9fcf223",),
    )

    def read(self, path: Path) -> list[Entry]:
        """Columns ``Prompt``, and in Chinese the prompt again, its category and its source."""
        table = read_table(path)
        return [
            Entry(
                text_of(row["Prompt"]),
                {"category": _CATEGORIES.get(row["类别"].strip(), row["类别"].strip()), "source": row["来源"].strip()},
            )
            for _, row in table.rows
        ]

    def choose(self, entries: list[Entry]) -> list[Entry]:
        """The split: by a permutation with a fixed seed; each part stays in the file's order."""
        if self.options.split == "all":
            return entries
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(entries))
        training = set(order[: len(entries) * 4 // 5].tolist())
        return [entry for place, entry in enumerate(entries) if (place in training) == (self.options.split == "train")]


_CATEGORIES = {
    "颜色": "colours",
    "计数": "counting",
    "位置": "positions",
    "描述": "descriptions",
    "矛盾": "conflicting",
    "反事实": "counterfactual",
    "地理类": "geography",
    "不同视角": "views",
    "不同风格": "styles",
    "不同时间/场景": "times and scenes",
    "单物+属性描述": "one object with attributes",
    "多物+属性描述+关系描述": "objects with attributes and relations",
    "拟人化动物/卡通形象": "personified animals and cartoons",
    "DALL-E图像生成器": "DALL-E",
    "Reddit论坛": "Reddit",
    "加里·马库斯等人。": "Gary Marcus et al.",
}
