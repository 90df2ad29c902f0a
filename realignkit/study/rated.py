"""What people said of pictures as a folder of rated pictures, which ``realignkit train`` learns from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from realignkit.errors import OptionError, OutputError
from realignkit.files import atomic_folder, write_lines
from realignkit.study.answers import Answer
from realignkit.study.folder import Study, picture_files
from realignkit.study.results import counted_answers, system_ranks

METADATA = "metadata.jsonl"


def write_rated(
    folder: Path, study: Study, answers: Sequence[Answer], out: Path, question: str | None = None
) -> tuple[int, int]:
    """Copy the pictures that people have ranked, with the average rank of each in ``metadata.jsonl``.

    Args:
        folder: of the study.
        study, answers: what is in it. People who failed a check do not count.
        out: the folder to make; it must not be there, or be empty.
        question: whose ranks; None: the study's first question.

    Returns:
        How many pictures were written, and of how many prompts.

    Raises:
        OptionError: there is no such question, or nobody who counts has answered it.
        OutputError: ``out`` is not empty, or cannot be written.
        DamagedError: a picture of the study is missing.
    """
    names = [each.name for each in study.questions]
    chosen = question or names[0]
    if chosen not in names:
        raise OptionError(f"the study does not ask for '{chosen}'. It asks for: {', '.join(names)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} is not empty. Choose another --out.")
    items = {item.id: item for item in study.items if not item.first}
    ranks: dict[str, list[list[float]]] = {}
    for answer in counted_answers(study, answers):
        if answer.question == chosen and answer.item in items:
            ranks.setdefault(answer.item, []).append(system_ranks(items[answer.item], answer))
    if not ranks:
        raise OptionError(f"nobody who counts has answered the question '{chosen}' yet. Ask somebody first.")
    files, rows = picture_files(folder, study), []
    with atomic_folder(out) as new:
        for name, given in ranks.items():
            item = items[name]
            averages = [sum(each) / len(given) for each in zip(*given, strict=True)]
            for picture, system, rank in zip(item.pictures, study.systems, averages, strict=True):
                shutil.copyfile(files[picture], new / f"{picture}.png")
                row = {"file_name": f"{picture}.png", "prompt": item.prompt, "system": system, "rank": rank}
                rows.append({**row, "people": len(given)})
        write_lines(new / METADATA, rows)
    return len(rows), len(ranks)
