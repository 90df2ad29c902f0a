"""The folder of a study: what is asked, about which pictures, and which system drew each; pictures under random names.

``study.json`` is the key to the study: it alone tells whose a picture is. ``pictures/`` holds the pictures, named by
chance, and ``answers.sqlite`` what people have answered (:mod:`realignkit.study.answers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from realignkit.errors import DamagedError, OutputError
from realignkit.records import Format, Text, Written, as_written

RECORD, PICTURES, PAGE = "study.json", "pictures", "study.html"
NAME = r"^[0-9a-f]{32}$"
"""What chance names: pictures, and people."""

MOST_SYSTEMS = 12
"""As many pictures as a person can put in order."""

RandomName = Annotated[str, Field(pattern=NAME)]


class Question(Written):
    """What pictures are ranked by: the name in tables, and what people are asked."""

    name: Annotated[str, Field(pattern=r"^[a-z]+$")]
    text: Text


class Item(Written):
    """A prompt with a picture of each system.

    Attributes:
        id: as addresses and answers have it.
        prompt: what the pictures were made for; of a check, what to do.
        pictures: the picture of each system, in the order of the systems; of a check, of each number from 1.
        first: of a check, the picture that is to be ranked first; empty otherwise.
        values: what metrics said of each picture, in the same order: ``metric`` or ``metric.value`` -> numbers.
    """

    id: Annotated[str, Field(pattern=r"^\d{1,6}$")]
    prompt: Text
    pictures: Annotated[list[RandomName], Field(min_length=2, max_length=MOST_SYSTEMS)]
    first: Annotated[str, Field(pattern=r"^([0-9a-f]{32})?$")] = ""
    values: dict[str, list[float | None]] = Field(default_factory=dict)


class Study(Written):
    """What ``study.json`` holds, in order: its random id, what is asked, and the items, checks among them."""

    id: RandomName
    consent: Text
    questions: Annotated[list[Question], Field(min_length=1)]
    systems: Annotated[list[Text], Field(min_length=2, max_length=MOST_SYSTEMS)]
    items: Annotated[list[Item], Field(min_length=1)]
    seed: int = 0

    def item(self, name: str) -> Item | None:
        """The item of this id."""
        return next((item for item in self.items if item.id == name), None)


STUDY = Format("realignkit.study", 1, "study", Study, "Make it again.", "Make it again with 'realignkit study make'.")


def read_study(folder: str | Path) -> Study:
    """The study in a folder.

    Raises:
        OutputError: there is none, or it is damaged, another version's, or says two things at once.
    """
    path = Path(folder) / RECORD
    try:
        record = STUDY.read(path)
    except (FileNotFoundError, NotADirectoryError):
        raise OutputError(
            f"{folder} holds no study ({RECORD} is missing). Give the --out folder of 'realignkit study make'."
        ) from None
    values = {name: value for name, value in record.items() if name not in ("format", "version")}
    study = as_written(Study, values, path)
    names = [name for item in study.items for name in item.pictures]
    whole = all(len(item.pictures) == len(study.systems) for item in study.items)
    measured = all(len(row) == len(study.systems) for item in study.items for row in item.values.values())
    named_once = len({*names}) == len(names) and len({item.id for item in study.items}) == len(study.items)
    marked = all(not item.first or item.first in item.pictures for item in study.items)
    if not (whole and measured and named_once and marked):
        raise DamagedError(f"{path} is damaged (its items do not fit its systems)")
    return study


def picture_files(folder: str | Path, study: Study) -> Mapping[str, Path]:
    """The file of each picture of a study: inside its folder, whatever links are there.

    Raises:
        DamagedError: one is missing, or elsewhere.
    """
    place = (Path(folder) / PICTURES).resolve()
    files = {name: place / f"{name}.png" for item in study.items for name in item.pictures}
    if lost := next((path for path in files.values() if not path.is_file() or path.resolve().parent != place), None):
        raise DamagedError(f"{lost} is no file in the study's folder", "Make the study again.")
    return files


def ranked_names(ranking: Sequence[Sequence[str]]) -> list[str]:
    """All names in a ranking, the best first."""
    return [name for group in ranking for name in group]
