"""The prompt sets of published benchmarks: DrawBench, PartiPrompts, TIFA v1.0 and GenEval 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from realignkit.tables import TEXT_COLUMNS, decoded, lines, read_table
from realignkit_plugins.datafiles import DataFile
from realignkit_plugins.prompts.published import Entry, PublishedPrompts, text_of


class DrawBench(PublishedPrompts):
    """DrawBench (Saharia et al., 2022): 200 prompts in eleven categories; the sheet, saved as ``DrawBench.csv``."""

    count: ClassVar[int] = 200
    file: ClassVar[DataFile] = DataFile(
        "DrawBench.csv", "DrawBench", "https://imagen.research.google (the sheet that it links, saved as CSV)"
    )

    def read(self, path: Path) -> list[Entry]:
        """Columns ``Prompts`` and ``Category``."""
        table = read_table(path)
        prompts, categories = table.column(None, TEXT_COLUMNS), table.column(None, ("category",))
        return [
            Entry(table.text(line, row, prompts), {"category": table.text(line, row, categories)})
            for line, row in table.rows
            if table.text(line, row, prompts)
        ]


class PartiPrompts(PublishedPrompts):
    """PartiPrompts, P2 (Yu et al., 2022): 1,632 prompts by category and by challenge; Apache 2.0."""

    count: ClassVar[int] = 1632
    file: ClassVar[DataFile] = DataFile(
        "PartiPrompts.tsv",
        "PartiPrompts",
        "https://github.com/google-research/parti",
        sha256=("fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",),
        hub="datasets/nateraw/parti-prompts:PartiPrompts.tsv",
    )

    def read(self, path: Path) -> list[Entry]:
        """Prompt, Category, Challenge, Note; quotation marks in it are the prompts' own."""
        header, *rows = (line.split("\t") for line in lines(decoded(path)))
        if header[:3] != ["Prompt", "Category", "Challenge"]:
            raise ValueError(f"its columns are {', '.join(header)}")
        return [Entry(text_of(row[0]), {"category": row[1].strip(), "challenge": row[2].strip()}) for row in rows]


class TifaPrompts(PublishedPrompts):
    """The text inputs of TIFA v1.0 (Hu et al., 2023): 4,081, of COCO, DrawBench, PartiPrompts and PaintSkill."""

    count: ClassVar[int] = 4081
    file: ClassVar[DataFile] = DataFile(
        "tifa_v1.0_text_inputs.json",
        "TIFA v1.0's list of texts",
        "https://github.com/Yushi-Hu/tifa (tifa_v1.0)",
        sha256=("650281d508b056ac9782bc84d5493626424ee851a8778af90b9db554cfbc1a0f",),
    )

    def read(self, path: Path) -> list[Entry]:
        """A list of objects with ``id`` and ``caption``; an id begins with where the caption is from."""
        items = json.loads(decoded(path))
        return [
            Entry(text_of(item["caption"]), {"id": str(item["id"]), "source": str(item["id"]).partition("_")[0]})
            for item in items
        ]


class GenEval2(PublishedPrompts):
    """GenEval 2 (2025): 800 prompts, a hundred each of 3 to 10 atoms; CC BY-NC 4.0."""

    count: ClassVar[int] = 800
    file: ClassVar[DataFile] = DataFile(
        "geneval2_data.jsonl",
        "GenEval 2's list of prompts",
        "https://github.com/facebookresearch/GenEval2",
        sha256=("09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43",),
    )

    def read(self, path: Path) -> list[Entry]:
        """Objects with ``prompt`` and ``atom_count``, a line each; their questions are for a metric."""
        items = [json.loads(line) for line in lines(decoded(path)) if line.strip()]
        return [Entry(text_of(item["prompt"]), {"atom_count": str(int(item["atom_count"]))}) for item in items]
