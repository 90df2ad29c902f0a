"""What people have answered: checked against the study, kept in SQLite, written out and read back.

A row is a person's ranking of one item by one question; a later one takes its place. It is on the disk when
:meth:`Answers.save` returns, and stays there if the program is killed.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from realignkit.errors import DamagedError, OptionError, OutputError, in_one_line
from realignkit.records import Format, Written, as_written, what_is_wrong
from realignkit.study.folder import MOST_SYSTEMS, Item, RandomName, Study, ranked_names

FILE = "answers.sqlite"
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    person TEXT NOT NULL, item TEXT NOT NULL, question TEXT NOT NULL,
    ranking TEXT NOT NULL, shown TEXT NOT NULL, seconds REAL NOT NULL, at TEXT NOT NULL,
    PRIMARY KEY (person, item, question)
);
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Answered(Written):
    """What a person says of an item by a question.

    Attributes:
        ranking: the pictures' names, the best group first; several in a group are ties.
        shown: the pictures' names in the order in which they stood on the page.
        seconds: that the page was there.
    """

    ranking: Annotated[list[list[RandomName]], Field(max_length=MOST_SYSTEMS)]
    shown: Annotated[list[RandomName], Field(max_length=MOST_SYSTEMS)]
    seconds: Annotated[float, Field(ge=0)]


class Answer(Answered):
    """An answer, whose it is and to what, and when it came (ISO 8601)."""

    person: RandomName
    item: str
    question: str
    at: str


class _File(Written):
    """What a file holds that somebody has downloaded from the page without a server."""

    study: RandomName
    answers: list[Answer]


ANSWERS = Format(
    "realignkit.study-answers",
    1,
    "file of answers",
    _File,
    "Ask for the file again.",
    "Give a file that was downloaded from the page of the study.",
)


def check_answer(study: Study, answer: Answer) -> None:
    """Make sure that an answer ranks exactly the pictures of an item of the study.

    Raises:
        OptionError: it does not.
    """
    item = study.item(answer.item)
    if item is None or answer.question not in [question.name for question in study.questions]:
        raise OptionError(f"the study has no item '{answer.item[:20]}' with a question '{answer.question[:20]}'.")
    pictures = sorted(item.pictures)
    if sorted(ranked_names(answer.ranking)) != pictures or sorted(answer.shown) != pictures or [] in answer.ranking:
        raise OptionError(f"the answer to item '{item.id}' does not rank each of its pictures once.")


def now() -> str:
    """This moment, as answers have it."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


class Answers:
    """The answers in a study's folder. Each call is a connection of its own, so that threads and processes may mix.

    Raises:
        OutputError: the file is damaged, none of ours, or cannot be written.
    """

    def __init__(self, folder: str | Path, study: Study) -> None:
        self.path, self.study = Path(folder) / FILE, study
        with self._connected() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_TABLES)
        if self.about("study", study.id) != study.id:
            raise OutputError(f"{self.path} holds the answers of another study. Move it out of the folder.")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self.path, timeout=30)
            try:
                connection.execute("PRAGMA synchronous=FULL")  # an answer that was thanked for is on the disk
                with connection:
                    yield connection
            finally:
                connection.close()
        except sqlite3.OperationalError as error:
            raise OutputError(
                f"cannot use {self.path}: {error}. See that the folder can be written and has space."
            ) from error
        except sqlite3.DatabaseError as error:
            raise DamagedError(f"{self.path} cannot be read ({error})", "Move it out of the folder.") from error

    def about(self, name: str, value: str) -> str:
        """A note that is kept beside the answers: what was there first, the given one where there was none."""
        with self._connected() as connection:
            connection.execute("INSERT INTO about VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
            row = connection.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def save(self, answers: Iterable[Answer]) -> int:
        """Add answers, all or none; those that a person has given again take the place of the earlier ones.

        Returns:
            How many are new.

        Raises:
            OptionError: one does not go with the study.
            OutputError: they cannot be written.
        """
        rows = []
        for answer in answers:
            check_answer(self.study, answer)
            ranking, shown = json.dumps(answer.ranking), json.dumps(answer.shown)
            rows.append((answer.person, answer.item, answer.question, ranking, shown, answer.seconds, answer.at))
        with self._connected() as connection:
            before = _count(connection)
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            return _count(connection) - before

    def read(self) -> list[Answer]:
        """All answers, person by person in the order in which they came.

        Raises:
            DamagedError: one does not go with the study.
        """
        with self._connected() as connection:
            rows = connection.execute(
                "SELECT person, item, question, ranking, shown, seconds, at FROM answers "
                "ORDER BY min(at) OVER (PARTITION BY person), person, CAST(item AS INTEGER), question"
            ).fetchall()
        try:
            answers = [
                Answer(
                    person=person, item=item, question=question, ranking=json.loads(ranking), shown=json.loads(shown),
                    seconds=seconds, at=at,
                )
                for person, item, question, ranking, shown, seconds, at in rows
            ]  # fmt: skip
            for answer in answers:
                check_answer(self.study, answer)
        except (ValueError, TypeError, OptionError) as error:
            why = what_is_wrong(error) if isinstance(error, ValidationError) else in_one_line(error)
            raise DamagedError(f"{self.path} holds what is no answer ({why})", "Move it out of the folder.") from error
        return answers

    def import_file(self, path: Path, say: Callable[[str], None] = lambda text: None) -> tuple[int, int]:
        """Take in a file that somebody has downloaded from the page. Of two answers to the same, the later one counts.

        Args:
            path: of the file.
            say: is told of answers that take the place of others, and of those that are left out.

        Returns:
            How many answers it holds, and how many of them are new.

        Raises:
            OptionError: there is no such file, it is of another study, or an answer does not go with the study.
            OutputError: it is damaged, or no file of answers.
        """
        try:
            record = ANSWERS.read(path)
        except (FileNotFoundError, NotADirectoryError):
            raise OptionError(f"'{path}' is not there. Give the file that was downloaded from the page.") from None
        values = {name: value for name, value in record.items() if name not in ("format", "version")}
        given = as_written(_File, values, path, ANSWERS.damaged)
        if given.study != self.study.id:
            raise OptionError(f"'{path}' has answers to another study. Give the folder of that one.")
        if undated := [answer.at for answer in given.answers if _moment(answer) is None]:
            raise DamagedError(
                f"{path} has an answer that came at '{undated[0][:40]}', which is no time", ANSWERS.damaged
            )
        kept = {_key(answer): answer for answer in self.read()}
        taken: dict[_Key, Answer] = {}
        older = 0
        for answer in given.answers:
            before = taken.get(_key(answer)) or kept.get(_key(answer))
            if before is None or (_moment(before) or _LONG_AGO) <= (_moment(answer) or _LONG_AGO):
                taken[_key(answer)] = answer
            else:
                older += 1
        try:
            new = self.save(taken.values())
        except OptionError as error:
            raise OptionError(f"'{path}': {error}") from None
        if replaced := sum(key in kept and kept[key] != answer for key, answer in taken.items()):
            say(f"{path}: {replaced} answers take the place of earlier ones")
        if older:
            say(f"{path}: {older} answers are older than those that are there, and are left out")
        return len(given.answers), new


def passed(item: Item, answer: Answer) -> bool | None:
    """Whether a check was passed: its picture alone is first; None where the item is no check."""
    return answer.ranking[0] == [item.first] if item.first else None


_Key = tuple[str, str, str]
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _key(answer: Answer) -> _Key:
    """Whose answer it is, and to what: there is one of each."""
    return answer.person, answer.item, answer.question


def _moment(answer: Answer) -> datetime | None:
    """When it came; None where that is no time, or one of an unknown zone."""
    try:
        moment = datetime.fromisoformat(answer.at)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
