"""Run folders: one sub-folder per prompt and seed, resumed where they were cut off.

A sub-folder with ``realignment.json`` is complete and is made again only if it is damaged; any other is started over.
``index.jsonl`` (one line per finished realignment) and ``errors.jsonl`` (per failure) are rewritten by every run; empty
ones are left out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from realignkit import provenance
from realignkit.arguments import readable
from realignkit.errors import DamagedError, OutputError, RealignKitError
from realignkit.evaluation.processes import Processes
from realignkit.files import make_folder, only_writer, write_lines
from realignkit.realignment import Realignment, discard, is_complete, read_record
from realignkit.records import check_file

if TYPE_CHECKING:
    from realignkit.realigner import Progress, Realigner

logger = logging.getLogger(__name__)

Extras = Callable[["Realignment", Path], None]
"""Writes more files (a report, say) into the folder of a realignment before it counts as complete."""


@dataclass(frozen=True)
class Job:
    """One prompt and seed of a run; ``index`` counts prompts from 1."""

    index: int
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        """The sub-folder: ``0007-a-red-book-s42``."""
        return f"{self.index:04d}-{slug(self.prompt)}-s{self.seed}"


@dataclass(frozen=True)
class Failure:
    """A prompt that could not be realigned, and why."""

    index: int
    prompt: str
    seed: int
    error: str
    message: str


@dataclass(frozen=True)
class RunSummary:
    """What a run did: how many were made now, how many were there already, and what failed."""

    folder: Path
    made: int
    skipped: int
    failures: tuple[Failure, ...]


def slug(text: str, length: int = 40) -> str:
    """A prompt as part of a file name: lower-case letters, digits and hyphens, cut at a word."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    whole = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    cut = whole if len(whole) <= length else whole[: length + 1].rpartition("-")[0] or whole[:length]
    return cut or "prompt"


def check_matches(folder: Path, prompt: str, seed: int, settings: Mapping[str, Any]) -> None:
    """Make sure that a complete folder holds what would be made now.

    Raises:
        DamagedError: what it holds cannot be read.
        OutputError: it holds something else; the message says what differs.
    """
    record = read_record(folder)
    before = {"prompt": record.get("prompt"), "seed": record.get("seed"), **_settings(record)}
    now = {"prompt": prompt, "seed": seed, **json.loads(json.dumps(settings))}
    if different := provenance.differences(before, now):
        raise OutputError(
            f"{folder} does not hold what would be made now: {provenance.in_short(different)}. Use another --out, or "
            f"--overwrite."
        )


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    settings = record.get("settings")
    if not isinstance(settings, dict):
        raise DamagedError("its settings are no object")
    return settings


def is_intact(folder: Path, extras: Extras | None, extra_files: Sequence[str], say: Callable[[str], None]) -> bool:
    """Whether a complete folder can be read back, after making again what can be made from what it holds.

    What cannot be mended is marked incomplete. Either is said.

    Args:
        folder: with a record.
        extras: makes ``extra_files``.
        extra_files: what else must be there.
        say: is told what was wrong.

    Raises:
        OutputError: another version of realignkit wrote it.
    """
    try:
        realignment = Realignment.load(folder)
    except DamagedError as error:
        say(f"{folder.name} is damaged and is made again: {error.reason}")
        discard(folder)
        return False
    try:
        for name in extra_files:
            check_file(folder / name)
    except DamagedError as error:
        say(f"{folder.name} is completed: {error.reason}")
        if extras is not None:
            extras(realignment, folder)
    return True


def run_many(
    realigner: Realigner,
    prompts: Sequence[str],
    out: str | Path,
    seeds: Sequence[int] = (42,),
    *,
    overwrite: bool = False,
    extras: Extras | None = None,
    extra_files: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
    on_done: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> RunSummary:
    """Realign every prompt with every seed into sub-folders of ``out``; call again to resume.

    Args:
        realigner: its ``batch_size`` is how much is lost at most when the run is killed.
        prompts: numbered from 1 in this order; the order must stay the same between runs.
        out: made where missing.
        seeds: each prompt is realigned with each of them.
        overwrite: make everything again, whatever is there.
        extras: see :data:`Extras`.
        extra_files: the files that ``extras`` makes; where one is missing or damaged, they are made again.
        say: is told of each folder that was damaged and is made again; by default a warning in the log.
        on_done: called with (finished or failed, all) after each batch.
        progress: the realigner's own, for the steps of the current batch; not called with several processes.
        processes: share the batches, with realigners made like ``realigner``; by default there is this process alone.
            Results do not depend on it.

    Returns:
        What was made, skipped and what failed: one bad prompt does not stop the others. Only what can be read back
        from the disk counts as made.

    Raises:
        OutputError: ``out`` cannot be written, is being written by somebody else, or holds results of other prompts or
            settings.
        ModelError: the model cannot be used for any prompt, or a process was ended by the system.
        PromptError: no prompt contains a word that there are to be heat maps of.
    """
    jobs = [Job(index, prompt, seed) for index, prompt in enumerate(prompts, start=1) for seed in seeds]
    if len(set(jobs)) < len(jobs):
        raise OutputError("a seed is given twice, which would be written to one folder. Give each seed once.")
    with only_writer(out) as out:
        _clear_the_way(out, jobs, realigner.settings_for(None), overwrite)
        heard = say or logger.warning
        todo = [
            job
            for job in jobs
            if not (is_complete(out / job.name) and is_intact(out / job.name, extras, extra_files, heard))
        ]
        skipped, failures = len(jobs) - len(todo), list[Failure]()
        if todo:
            realigner.check_reach()  # these fail for all prompts or for none
            realigner.check_model()
            if realigner.heat_maps:  # a prompt that cannot be read fails by itself
                realigner.check_heat_maps([text for text in prompts if text == readable(text)])
        try:
            size = realigner.batch_size
            batches = [todo[start : start + size] for start in range(0, len(todo), size)]
            work = functools.partial(_make_batch, out=out, extras=extras)
            if processes is not None and min(processes.count, len(batches)) > 1:
                finished = processes.run(work, batches)
            else:
                finished = (work(realigner, batch, progress=progress) for batch in batches)
            done = skipped
            for failed_jobs, count in finished:
                failures += failed_jobs
                done += count
                if on_done is not None:
                    on_done(done, len(jobs))
            failures.sort(key=lambda failure: (failure.index, failure.seed))
            failed = {(failure.index, failure.seed) for failure in failures}
            for job in todo:
                if (job.index, job.seed) not in failed and (error := _missing(out / job.name)) is not None:
                    failures.append(_failure(job, error))
        finally:  # also when interrupted: the summary tells what there is
            _write_lines(out / "errors.jsonl", [asdict(failure) for failure in failures])
            _write_lines(out / "index.jsonl", [_summary(out, job) for job in jobs if is_complete(out / job.name)])
        return RunSummary(out, len(todo) - len(failures), skipped, tuple(failures))


def _make_batch(
    realigner: Realigner, jobs: Sequence[Job], *, out: Path, extras: Extras | None, progress: Progress | None = None
) -> tuple[list[Failure], int]:
    """Make a batch's folders: what failed, and how many jobs there were."""
    failures = []
    for job, result in _attempt(realigner, jobs, progress):
        if isinstance(result, RealignKitError):
            failures.append(_failure(job, result))
            continue
        folder = make_folder(out / job.name)
        discard(folder)  # before the extras: they are not made from what was there
        if extras is not None:
            extras(result, folder)
        result.save(folder)
    return failures, len(jobs)


def _failure(job: Job, error: RealignKitError) -> Failure:
    # What is wrong with a prompt may be that no file takes it.
    return Failure(job.index, readable(job.prompt), job.seed, error=type(error).__name__, message=str(error))


def _missing(folder: Path) -> OutputError | None:
    """Why what was just written cannot be read back; None if it can."""
    try:
        Realignment.load(folder)
    except OutputError as error:
        return error
    return None


def _clear_the_way(out: Path, jobs: Sequence[Job], settings: Mapping[str, Any], overwrite: bool) -> None:
    expected = {job.name: job for job in jobs}
    places = {(f"{job.index:04d}", str(job.seed)) for job in jobs}
    for folder in sorted(out.iterdir()):
        match = re.fullmatch(r"(\d{4,})-.+-s(\d+)", folder.name)
        if not match or not is_complete(folder):
            continue
        job = expected.get(folder.name)
        if overwrite and job is not None:
            discard(folder)
        elif job is not None:
            with contextlib.suppress(DamagedError):  # it is made again
                check_matches(folder, job.prompt, job.seed, settings)
        elif match.groups() in places:  # same number and seed, another prompt: the list has changed
            if not overwrite:
                raise OutputError(f"{folder} is of another list of prompts. Use another --out, or --overwrite.")
            shutil.rmtree(folder)


def _attempt(
    realigner: Realigner, jobs: Sequence[Job], progress: Progress | None
) -> Iterator[tuple[Job, Realignment | RealignKitError]]:
    try:
        results = realigner([job.prompt for job in jobs], [job.seed for job in jobs], progress=progress)
    except OutputError:
        raise
    except RealignKitError as error:
        if len(jobs) == 1:
            yield jobs[0], error
            return
        for job in jobs:  # one of them spoilt the batch: find out which
            yield from _attempt(realigner, [job], progress)
        return
    yield from zip(jobs, cast("list[Realignment]", results), strict=True)


def _summary(out: Path, job: Job) -> dict[str, Any]:
    record = read_record(out / job.name)
    return {
        **asdict(job),
        "folder": job.name,
        "captions": record["captions"],
        "segments": len(record["layout"]),
        "scorer": record["plugins"].get("scorer"),
        "notes": record["notes"],
        "seconds": sum(record["timings"].values()),
    }


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        write_lines(path, rows)
    else:  # no file says the same as an empty one, and worries nobody
        path.unlink(missing_ok=True)
