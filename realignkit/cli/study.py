"""``realignkit study``: people rank pictures of several systems, blinded."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from realignkit.cli._progress import Command, note, out
from realignkit.errors import OptionError, PluginError

study_app = typer.Typer(no_args_is_help=True, help="Ask people: they rank pictures of several systems, blinded.")

DEFAULT_FOLDER = Path("study")
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that 'realignkit study make' has written.")]


@study_app.callback()
def study() -> None:
    """Ask people: they rank pictures of several systems, blinded."""


@study_app.command(cls=Command)
def make(
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]RUN",
            help="Each system's pictures: a folder of 'run' or 'eval', JSON lines, or JSON prompt -> path.",
            show_default=False,
        ),
    ] = None,
    prompts: Annotated[
        int | None,
        typer.Option("--prompts", min=1, help="How many, drawn from those that all have.", show_default=False),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the study.")] = DEFAULT_FOLDER,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice of prompts and pictures.")] = 0,
    checks: Annotated[
        int | None, typer.Option(min=0, help="Attention checks.", show_default="one for ten prompts")
    ] = None,
    consent: Annotated[
        str | None, typer.Option(help="What people agree to.", show_default="a line that says no names are kept")
    ] = None,
    stage: Annotated[
        str, typer.Option(metavar="refined|coarse", help="Which pictures of a run: after, or before the fine stage.")
    ] = "refined",
    side: Annotated[
        int | None, typer.Option(min=32, metavar="PIXELS", help="Make pictures smaller whose longer side is more.")
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="Write DIR/study.html too: the study in one file, without a server.")
    ] = False,
) -> None:
    """Make a study of pictures that several systems drew for the same prompts.

    realignkit study make base=runs/base ours=runs/ours --prompts 20 --out studies/first
    """
    from realignkit.study.make import CONSENT, StudyOptions, make_study, named_systems

    systems = named_systems(pictures or [])
    if prompts is None:
        raise OptionError("a study needs a number of prompts to ask about: give --prompts N.")
    if stage not in ("refined", "coarse"):
        raise OptionError(f"--stage is refined or coarse, not '{stage}'.")
    options = StudyOptions(
        prompts=prompts,
        seed=seed,
        checks=checks,
        consent=consent or CONSENT,
        stage="coarse" if stage == "coarse" else "refined",
        side=side,
    )
    made = make_study(systems, folder, options, static)
    if made.common < prompts:
        note(f"only {made.common} prompts are common to all systems")
    checking = sum(bool(item.first) for item in made.study.items)
    asked = len(made.study.items) - checking
    out().print(f"{len(made.study.systems)} systems, {asked} prompts, {checking} checks: {folder}", markup=False)
    if made.page is not None:
        size = made.page.stat().st_size / 1e6
        out().print(f"{made.page} ({size:.1f} MB): send it to people, then 'realignkit study import'", markup=False)
    else:
        out().print(f"next: realignkit study serve {folder}", markup=False)


@study_app.command(cls=Command)
def serve(
    folder: Folder = DEFAULT_FOLDER,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0: for everybody who reaches this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
) -> None:
    """Serve a study until Ctrl-C. Whoever has the address may take part; answers are saved as they come.

    realignkit study serve studies/first
    """
    with study_extra():
        from realignkit.serving import is_loopback
        from realignkit.study.server import serve

    def ready(address: str) -> None:
        if not is_loopback(host):
            note("who has this address may answer, and it travels unencrypted; put a proxy with https in front")
        out().print(address, markup=False)

    with contextlib.suppress(KeyboardInterrupt):  # none comes where who started this has it ignored
        serve(folder, host, port, ready)
    out().print(f"stopped; what was answered is in {folder}", markup=False)


@study_app.command("import", cls=Command)
def import_(
    folder: Folder,
    files: Annotated[list[Path], typer.Argument(metavar="FILE …", help="What people downloaded from the page.")],
) -> None:
    """Take in answers from the page without a server. What is there already is not counted twice, and of two answers to
    the same question the later one counts.

    realignkit study import studies/first answers-*.json
    """
    from realignkit.study.answers import Answers
    from realignkit.study.folder import read_study

    answers = Answers(folder, read_study(folder))
    for path in files:
        given, new = answers.import_file(path, note)
        out().print(f"{path}: {given} answers, {new} new", markup=False)


@study_app.command(cls=Command)
def export(
    folder: Folder = DEFAULT_FOLDER,
    file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE|DIR",
            help=".jsonl: a line per answer; .csv: a line per picture; a folder: the pictures with average "
            "ranks, which 'realignkit train' learns from.",
            show_default="JSON lines, printed",
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Into a folder: whose ranks.", show_default="the study's first question"),
    ] = None,
) -> None:
    """Write all answers, with the systems' names.

    realignkit study export studies/first --out answers.csv
    """
    from realignkit.files import atomic_write
    from realignkit.study.answers import Answers
    from realignkit.study.folder import read_study
    from realignkit.study.rated import write_rated
    from realignkit.study.results import answer_records

    if file is not None and file.suffix not in (".jsonl", ".csv", ""):
        raise OptionError(f"answers are written as .jsonl or .csv, not as '{file.name}': choose one of the two.")
    study = read_study(folder)
    answers = Answers(folder, study).read()
    if file is not None and not file.suffix:
        pictures, prompts = write_rated(folder, study, answers, file, question)
        out().print(f"{file}: {pictures} pictures of {prompts} prompts", markup=False)
        return
    records = list(answer_records(study, answers))
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if file is None:
        out().print(lines, end="", markup=False)
    else:
        atomic_write(file, lines if file.suffix == ".jsonl" else _comma_separated(records))
        out().print(f"{file}: {len(records)} answers", markup=False)


@study_app.command(cls=Command)
def report(
    folder: Folder = DEFAULT_FOLDER,
    everybody: Annotated[bool, typer.Option("--everybody", help="Count those too who failed a check.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Average ranks, tests, pairs and agreement with metrics: printed, and as DIR/report.md, .csv, .json and .html.

    realignkit study report studies/first
    """
    from realignkit.cli._evaluations import print_tables
    from realignkit.study.answers import Answers
    from realignkit.study.folder import read_study

    with study_extra():
        import scipy.stats  # noqa: F401 - what the tests are computed with
    from realignkit.study.results import counted_answers, evaluate
    from realignkit.study.write import write_results

    study = read_study(folder)
    answers = Answers(folder, study).read()
    results = evaluate(study, answers, everybody=everybody, seed=seed)
    counted = counted_answers(study, answers, everybody=everybody)
    tables, texts, files = write_results(folder, study, counted, results)
    print_tables(tables, texts, files)


@contextlib.contextmanager
def study_extra() -> Iterator[None]:
    """Say which extra brings what is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise PluginError(f"{error.name}, which studies need, is not installed: install realignkit[study].") from error


def _comma_separated(records: list[Any]) -> str:
    """A line for each picture of each answer."""
    from realignkit.tables import csv_text

    names = ("person", "item", "prompt", "question", "check", "seconds", "at")
    rows = [
        [*(record[name] for name in names), system, rank, record["shown"].index(system) + 1]
        for record in records
        for system, rank in record["ranks"].items()
    ]
    return csv_text([[*names, "system", "rank", "place"], *rows])
