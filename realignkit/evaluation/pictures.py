"""Pictures that exist already, and what they were made for, from the forms in which people have them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from realignkit.arguments import check_text
from realignkit.errors import OptionError, OutputError, PromptError, refuse_address
from realignkit.files import read_lines
from realignkit.images import check_image, image_files, read_image
from realignkit.parsing import parse_json
from realignkit.realignment import RECORD as REALIGNMENT
from realignkit.realignment import is_complete, read_record
from realignkit.records import read_json
from realignkit.tables import TEXT_COLUMNS, Table, decoded, one_line, read_table

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

RECORD, PICTURES = "eval.json", "pictures.jsonl"
"""What an evaluation is of, and the list of its pictures, in its folder."""

Stage = Literal["refined", "coarse"]
_LISTS = (PICTURES, "metadata.jsonl", "metadata.csv", "metadata.tsv")
_FILE_COLUMNS = ("image_path", "file_name", "filename", "image", "file", "path")
_SEVERAL = re.compile(r"[-_]\d{1,3}$")
_RUN = re.compile(r"\d{4,}-.+-s\d+")
_FORMS = (
    "Give a folder of 'realignkit run' or 'realignkit eval', a folder with metadata.jsonl, JSON lines or CSV with "
    "prompt and image_path, a JSON object prompt -> path, or --prompts, by whose ids or numbers the files are called."
)


@dataclass(frozen=True)
class Picture:
    """A picture in a file.

    Attributes:
        id: its name in the list, different from all others'.
        prompt: what it was made for.
        seed: of its noise; None where nobody says.
        path: of the file.
        index: the place of its prompt among the different ones, from 1; in a run's folder that which it has there.
        number: how many pictures before it have the same prompt and seed.
        where: what lists it, to begin a sentence with ("line 3 of 'pictures.jsonl'"); "" where it is drawn.
    """

    id: str
    prompt: str
    seed: int | None
    path: Path
    index: int
    number: int = 0
    where: str = field(default="", compare=False)

    def open(self) -> PILImage:
        """The picture, in RGB.

        Raises:
            OptionError: it cannot be read; the message says where it is listed.
        """
        return self.read()[0]

    def read(self) -> tuple[PILImage, str]:
        """The picture, in RGB, and the SHA-256 of the bytes that it was read from; errors as for :meth:`open`."""
        try:
            return read_image(self.path)
        except OptionError as error:
            raise OptionError(f"{self.where}: {error}" if self.where else str(error)) from error


@dataclass(frozen=True)
class _Entry:
    """What a list says of a picture; ``where`` begins a sentence ("line 3 of 'pictures.jsonl'")."""

    where: str
    prompt: str
    path: Path
    id: str = ""
    seed: int | None = None
    index: int | None = None


def read_pictures(
    source: str | Path,
    prompts: Mapping[str, str] | None = None,
    stage: Stage = "refined",
    say: Callable[[str], None] = lambda text: None,
) -> list[Picture]:
    """The pictures that are meant, in the order of the list; all of them begin as pictures do.

    Args:
        source: one of

            - a folder that ``realignkit run`` wrote: its final pictures, or the coarse ones;
            - a folder that ``realignkit eval`` wrote;
            - a folder with ``metadata.jsonl`` (or ``.csv``, ``.tsv``) or with a ``.txt`` file beside each picture;
            - a folder whose pictures are called by the ids in ``prompts``, or by all their numbers from 0 or 1;
            - JSON lines, CSV or a JSON list of objects: ``prompt``, ``image_path`` and, where known, ``id`` and
              ``seed``;
            - a JSON object: ``{prompt: path}`` or ``{id: path}``; instead of a path a list of them.

            Relative paths are relative to the file.
        prompts: id -> prompt, in their order, for lists that call prompts by their ids.
        stage: of a run's pictures: ``refined``, the final ones, or ``coarse``.
        say: is told which of several columns are taken.

    Raises:
        OptionError: there is no such list, or a picture of it is missing, unreadable or listed twice; file and line are
            named.
        OutputError: a realignment of a run is not finished, damaged, or another version's.
    """
    refuse_address(source)
    path = Path(source).expanduser()
    known = prompts or {}
    entries = list(_of_folder(path, known, stage, say) if path.is_dir() else _of_file(path, known, say))
    if not entries:
        raise OptionError(f"'{source}' lists no pictures. {_FORMS}")
    return _numbered(entries)


def _numbered(entries: Sequence[_Entry]) -> list[Picture]:
    """Entries as pictures: none twice, and each under a name of its own."""
    seen: dict[Path, str] = {}
    prompts_of: dict[str, str] = {}
    for entry in entries:
        try:
            check_text(entry.prompt)
            check_image(entry.path)
        except (OptionError, PromptError) as error:
            raise OptionError(f"{entry.where}: {error}") from None
        place = entry.path.resolve()
        if place in seen:
            raise OptionError(f"{entry.where} lists '{entry.path}' again, after {seen[place]}. Keep one of the two.")
        seen[place] = entry.where
        if entry.id and prompts_of.setdefault(entry.id, entry.prompt) != entry.prompt:
            raise OptionError(
                f"{entry.where} has the id '{entry.id}' of another prompt. Give each prompt an id of its own."
            )
    indices: dict[str, int] = {}
    counts: Counter[tuple[str, int | None]] = Counter()
    several = Counter(entry.id or entry.prompt for entry in entries)
    numbers: Counter[str] = Counter()
    pictures = []
    for entry in entries:
        index = indices.setdefault(entry.prompt, len(indices) + 1) if entry.index is None else entry.index
        key = entry.id or entry.prompt
        numbers[key] += 1
        name = entry.id or f"{index:04d}"
        name = f"{name}-{numbers[key]}" if several[key] > 1 else name
        number = counts[entry.prompt, entry.seed]
        counts[entry.prompt, entry.seed] += 1
        pictures.append(Picture(name, entry.prompt, entry.seed, entry.path, index, number, entry.where))
    if twice := next((name for name, count in Counter(p.id for p in pictures).items() if count > 1), None):
        raise OptionError(f"two pictures would be called '{twice}'. Give each an id of its own.")
    return pictures


def read_runs(folder: str | Path, stage: Stage = "refined") -> list[Picture]:
    """The pictures of a realignment, or of the run's folder that holds several.

    Raises:
        OptionError: the folder holds none.
        OutputError: a realignment is not finished, damaged, or another version's.
    """
    refuse_address(folder)
    path = Path(folder).expanduser()
    entries = list(_of_runs(path, stage)) if path.is_dir() else []
    if not entries:
        why = "holds no realignments" if path.is_dir() else "is no folder" if path.exists() else "is not there"
        raise OptionError(f"'{folder}' {why}. Give a folder that 'realignkit run' has written.")
    return _numbered(entries)


def _of_runs(folder: Path, stage: Stage) -> Iterator[_Entry]:
    if is_complete(folder):
        yield _of_realignment(folder, stage, 1)
        return
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or not _RUN.fullmatch(path.name):
            continue
        if not is_complete(path):
            raise OutputError(
                f"{path} is not finished ({REALIGNMENT} is missing). Run the command that made {folder} again, or "
                f"remove it."
            )
        yield _of_realignment(path, stage, int(path.name.partition("-")[0]))


def _of_folder(folder: Path, prompts: Mapping[str, str], stage: Stage, say: Callable[[str], None]) -> Iterator[_Entry]:
    runs = list(_of_runs(folder, stage))
    if runs:
        yield from runs
    elif (folder / RECORD).is_file():
        yield from _of_evaluation(folder)
    elif any((folder / name).is_file() for name in _LISTS):
        yield from _of_table(next(folder / name for name in _LISTS if (folder / name).is_file()), prompts, say)
    elif _captioned(folder, bool(prompts)):
        from realignkit.refl.data import read_pairs  # which imports torch

        for name, text in read_pairs(folder).pairs:
            yield _Entry(f"'{folder / name}'", text, folder / name)
    elif prompts:
        yield from _of_names(folder, prompts)


def _captioned(folder: Path, otherwise: bool) -> bool:
    """Whether texts beside the pictures say what each shows; any text will do, where prompts come from nowhere else."""
    texts = {path.with_suffix("") for path in folder.rglob("*.txt")}
    return bool(texts) and (not otherwise or any(path.with_suffix("") in texts for path in image_files(folder)))


def _of_names(folder: Path, prompts: Mapping[str, str]) -> Iterator[_Entry]:
    """Pictures that are called by their prompts' ids, or by numbers; ``-2`` or ``_2`` may follow, of several."""
    files = image_files(folder)
    names = [path.stem if path.stem in prompts else _SEVERAL.sub("", path.stem) for path in files]
    texts = {name: prompts[name] for name in names if name in prompts}
    if not texts and all(name.isdecimal() for name in names):
        numbers = {int(name) for name in names}
        first = min(numbers, default=0)
        # One that is missing could shift all others by one, and nobody would see it.
        if first in (0, 1) and numbers == set(range(first, first + len(prompts))):
            in_order = list(prompts.values())
            texts = {name: in_order[int(name) - first] for name in names}
    for path, name in zip(files, names, strict=True):
        if name not in texts:
            raise OptionError(
                f"'{path}' is not called by the id of a prompt, nor are the pictures numbered like all {len(prompts)} "
                f"prompts, from 0 or from 1. Add a metadata.jsonl with file_name and text."
            )
        yield _Entry(f"'{path}'", texts[name], path, name)


def _of_realignment(folder: Path, stage: Stage, index: int) -> _Entry:
    record = read_record(folder)
    prompt, seed = record.get("prompt"), record.get("seed")
    if not isinstance(prompt, str) or not isinstance(seed, int):
        raise OutputError(f"{folder / REALIGNMENT} is damaged (prompt or seed). Make it again with 'realignkit run'.")
    name = "coarse.png" if stage == "coarse" or record.get("accepted") is False else "refined.png"
    return _Entry(f"'{folder}'", prompt, folder / name, folder.name, seed, index)


def _of_evaluation(folder: Path) -> Iterator[_Entry]:
    path = folder / PICTURES
    rows = read_lines(path)[0]
    try:
        count = read_json(folder / RECORD)["pictures"]["count"]
        entries = [
            _Entry(
                f"line {number} of '{path}'", row["prompt"], folder / row["image"], row["id"], row["seed"], row["index"]
            )
            for number, row in enumerate(rows, start=1)
        ]
    except (KeyError, TypeError) as error:
        raise OutputError(f"{folder} is damaged ({error}). Make it again with 'realignkit eval'.") from None
    if len(entries) != count:
        raise OutputError(
            f"{folder} is not finished: {len(entries)} of {count} pictures are measured. Run the same command again."
        )
    yield from entries


def _of_file(path: Path, prompts: Mapping[str, str], say: Callable[[str], None]) -> Iterator[_Entry]:
    if path.suffix.lower() == ".json":
        text = decoded(path)
        if text.lstrip().startswith("{"):
            yield from _of_object(path, text, prompts)
            return
        if re.match(r'\s*\[\s*"', text):
            raise OptionError(
                f"'{path}' is a list of texts. Give for each picture an object with prompt and image_path, or one "
                f"object prompt -> path."
            )
    elif path.suffix.lower() not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        why = "is no list of pictures" if path.exists() else "is not there"
        raise OptionError(f"'{path}' {why}. {_FORMS}")
    yield from _of_table(path, prompts, say)


def _of_object(path: Path, text: str, prompts: Mapping[str, str]) -> Iterator[_Entry]:
    try:
        parse_json(text)  # for what it refuses
        pairs: list[tuple[str, Any]] = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise OptionError(f"'{path}' is no JSON ({error}).") from error
    if twice := next((key for key, count in Counter(key for key, _ in pairs).items() if count > 1), None):
        raise OptionError(f"'{path}' has '{twice}' twice. Give its pictures as one list.")
    texts = {one_line(prompt): prompt for prompt in prompts.values()}
    by_id = bool(prompts) and not {one_line(key) for key, _ in pairs} <= texts.keys()
    for key, value in pairs:
        where = f"'{key}' in '{path}'"
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise OptionError(f"{where} has no path of a picture, nor a list of them.")
        if by_id and key not in prompts:
            raise OptionError(f"{where} is neither an id nor a prompt of the prompt set. Give the set that it is of.")
        prompt = prompts[key] if by_id else texts.get(one_line(key), one_line(key))
        for name in names:
            yield _Entry(where, prompt, path.parent / name, key if by_id else "")


def _of_table(path: Path, prompts: Mapping[str, str], say: Callable[[str], None]) -> Iterator[_Entry]:
    table = read_table(path)
    files = table.column(None, _FILE_COLUMNS)
    _say_rivals(table, files, _FILE_COLUMNS, "paths of pictures", say)
    lower = {name.lower(): name for name in table.columns}
    id_column, seed_column = lower.get("id"), lower.get("seed")
    texts = None
    if not (prompts and id_column and not lower.keys() & set(TEXT_COLUMNS)):
        texts = table.column(None, TEXT_COLUMNS)
        _say_rivals(table, texts, TEXT_COLUMNS, "prompts", say)
    for line, row in table.rows:
        where = f"{table.unit} {line} of '{path}'"
        name = _cell(row.get(id_column)) if id_column else ""
        if texts is None:
            if name not in prompts:
                raise OptionError(f"{where}: '{name}' is no id of the prompt set. Give the set that it is of.")
            prompt = prompts[name]
        else:
            prompt = table.text(line, row, texts)
        file = table.text(line, row, files)
        if not prompt or not file:
            raise OptionError(f"{where} has no {'prompt' if file else 'path of a picture'}. Fill it in, or remove it.")
        yield _Entry(where, prompt, path.parent / file, name, _seed(where, table, row, seed_column))


def _say_rivals(table: Table, chosen: str, usual: Sequence[str], what: str, say: Callable[[str], None]) -> None:
    """Say so where another column might have been meant, and says something else."""
    for name in table.columns:
        differs = any(_cell(row.get(name)) not in ("", _cell(row.get(chosen))) for _, row in table.rows)
        if name != chosen and name.lower() in usual and differs:
            say(f"'{table.name}' has the columns '{chosen}' and '{name}': '{chosen}' is taken for the {what}")


def _cell(value: Any) -> str:
    return "" if value is None else one_line(str(value))


def _seed(where: str, table: Table, row: Mapping[str, Any], column: str | None) -> int | None:
    text = _cell(row.get(column)) if column else ""
    if text and not text.isdecimal():
        raise OptionError(f"{where} has '{text[:40]}' as its {column}, which is no whole number from 0.")
    return int(text) if text else None
