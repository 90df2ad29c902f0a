"""``realignkit run``: realign a prompt, or a file of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from realignkit.cli._options import (
    MODEL_TO_SEE,
    GuideBy,
    Isolate,
    ModelName,
    ScorerNames,
    SegmenterName,
    SelectBy,
    TaggerName,
    Threads,
    Verbose,
    isolate_plugins,
    read_prompts,
)
from realignkit.cli._progress import (
    EXIT_SOME_FAILED,
    Bars,
    err,
    loading,
    note,
    out,
    print_realignment,
    set_verbosity,
    writes_into,
)
from realignkit.cli.show import print_files
from realignkit.errors import PromptError
from realignkit.machine import suited_threads

if TYPE_CHECKING:
    from realignkit.evaluation import Processes, RunSummary
    from realignkit.realigner import Realigner
    from realignkit.realignment import Realignment

DEFAULT_ROOT = Path("realignments")


def run(
    ctx: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What the picture should show.")] = None,
    model: ModelName = MODEL_TO_SEE,
    seed: Annotated[list[int] | None, typer.Option(help="Start noise; repeatable.", show_default="42")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write.", show_default="realignments/…")
    ] = None,
    tagger: TaggerName = None,
    scorer: ScorerNames = None,
    segmenter: SegmenterName = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. modulation.share=0.5; repeatable."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE|NAME", help="Many prompts: .txt, .csv, .tsv, .jsonl, - or a prompt set; resumes."),
    ] = None,
    coarse: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="Refine this image's content instead of a generated one.")
    ] = None,
    lora: Annotated[
        str | None, typer.Option(metavar="DIR", help="Adapters of the model: what 'realignkit train' has written.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Coarse images per prompt; the best is refined.")] = 1,
    select_by: SelectBy = None,
    guide_by: GuideBy = None,
    heat_maps: Annotated[
        str | None,
        typer.Option(metavar="WORD,WORD", help="Show where the model attends to these words, before and after."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per forward pass.")] = 8,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other results in the folder.")] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Share many prompts among so many processes, each with a model of its own.")
    ] = 1,
    threads: Threads = None,
    isolate: Isolate = None,
    verbose: Verbose = False,
) -> None:
    """Realign PROMPT: coarse image, tags, local captions, masks, refined image, report."""
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    isolate_plugins(ctx, isolate)
    seeds = list(dict.fromkeys(seed or [42]))
    if (prompt is None) == (prompts is None):
        raise typer.BadParameter("give either a PROMPT or --prompts FILE.")
    if coarse is not None and (prompts is not None or len(seeds) > 1):
        raise typer.BadParameter("--coarse goes with one PROMPT and one --seed.")
    from realignkit.registry import default_registry

    texts = [prompt or ""] if prompts is None else read_prompts(default_registry(), prompts)
    if prompts is None and not texts[0].strip():
        raise PromptError("the prompt is empty. Say what the picture should show, e.g. 'a red book'.")
    if (candidates > 1) != (select_by is not None):
        raise typer.BadParameter("--candidates N, at least 2, and --select-by REWARD go together.")

    from realignkit.evaluation.processes import Processes
    from realignkit.evaluation.runs import slug
    from realignkit.images import open_image

    if coarse is not None:
        open_image(coarse)  # what cannot be read shows before minutes of work
    single = prompts is None and len(seeds) == 1
    if folder is None:
        stem = slug(texts[0]) if prompts is None else _stem(prompts)
        folder = DEFAULT_ROOT / (f"{stem}-s{seeds[0]}" if single else stem)
    # An unwritable folder, or one that is in use, shows before minutes of work.
    with writes_into(ctx, folder):
        with loading():
            specs = {"tagger": tagger, "scorer": scorer, "segmenter": segmenter}
            extra = [] if lora is None else [f"generator.lora={json.dumps(lora)}"]
            options = {
                "candidates": candidates,
                "select_by": select_by,
                "guide_by": guide_by,
                "heat_maps": [] if heat_maps is None else heat_maps.split(","),
                "batch_size": batch_size,
                "threads": threads,
            }
            make = functools.partial(realigner_of, model, specs, [*extra, *(assignments or [])], options, isolate)
            realigner = make()
            realigner.check_reach()
            realigner.check_model()
            realigner.check_guide()
            if single:
                realigner.check_prompt(texts[0])
                realigner.check_heat_maps(texts)
        if single:
            _run_one(realigner, texts[0], seeds[0], folder, coarse, overwrite)
        elif _run_many(realigner, texts, seeds, folder, overwrite, Processes(processes, make)).failures:
            raise typer.Exit(EXIT_SOME_FAILED)


def _run_one(realigner: Realigner, prompt: str, seed: int, folder: Path, coarse: Path | None, overwrite: bool) -> None:
    from realignkit.errors import DamagedError
    from realignkit.evaluation.runs import check_matches
    from realignkit.realignment import discard, is_complete
    from realignkit.report import write_extras

    if is_complete(folder) and not overwrite:
        try:
            check_matches(folder, prompt, seed, realigner.settings_for(coarse))
        except DamagedError as error:
            note(f"{folder} is damaged and is made again: {error.reason}")
    with Bars() as bars:
        realignment = cast("Realignment", realigner(prompt, seed, coarse=coarse, progress=bars.step))
    discard(folder)
    write_extras(realignment, folder)
    realignment.save(folder)
    print_realignment(realignment)
    print_files(folder)


def _run_many(
    realigner: Realigner, prompts: list[str], seeds: list[int], folder: Path, overwrite: bool, processes: Processes
) -> RunSummary:
    from realignkit.evaluation import run_many
    from realignkit.report import EXTRA_FILES, write_extras, write_index

    with Bars() as bars:
        summary = run_many(
            realigner,
            prompts,
            folder,
            seeds,
            overwrite=overwrite,
            extras=write_extras,
            extra_files=EXTRA_FILES,
            say=note,
            on_done=lambda done, total: bars.step("prompts", done, total),
            progress=bars.step,
            processes=processes,
        )
    index = write_index(folder, _finished(folder))
    for failure in summary.failures[:5]:
        err().print(
            f"failed: prompt {failure.index}, seed {failure.seed}: {failure.message}", markup=False, style="red"
        )
    if len(summary.failures) > 5:
        err().print(f"… and {len(summary.failures) - 5} more, all in {folder / 'errors.jsonl'}", markup=False)
    out().print(f"{summary.made} made, {summary.skipped} there already, {len(summary.failures)} failed", markup=False)
    for path in (index, folder / "index.jsonl"):
        if path.is_file():  # not where everything failed
            out().print(f"  {path}", markup=False)
    return summary


def _finished(folder: Path) -> Iterator[tuple[str, Realignment]]:
    """The finished realignments below a folder, those of earlier, longer lists too."""
    from realignkit.errors import OutputError
    from realignkit.realignment import Realignment, is_complete

    for path in sorted(folder.iterdir()):
        if path.is_dir() and is_complete(path):
            try:
                yield path.name, Realignment.load(path)
            except OutputError as error:
                note(f"{path.name} is left out of the index: {error}")


def realigner_of(
    model: str,
    specs: dict[str, Any],
    assignments: list[str],
    options: dict[str, Any],
    isolate: Sequence[str] | None = None,
) -> Realigner:
    """A realigner of plugins and ``--set``; ``options``: further arguments of ``Realigner.from_pretrained``.

    ``isolate``: what ``--isolate`` says, for processes that have not been told yet.
    """
    from realignkit.cli._settings import check_guided, known_options, make_realigner, parse
    from realignkit.registry import default_registry

    if isolate:
        from realignkit.isolation.hosted import isolate as isolate_in

        isolate_in(default_registry(), isolate)
    rewards = {"reward": options.get("select_by"), "guide_by": options.get("guide_by")}
    known = known_options(default_registry(), model, {**specs, **rewards})
    settings = parse(assignments, known)
    check_guided(settings, rewards["guide_by"])
    return make_realigner(model, specs, settings, **options)


def _stem(spec: str) -> str:
    """What a folder of a list's results is called."""
    from realignkit.evaluation.runs import slug
    from realignkit.prompts import is_file

    return "prompts" if spec == "-" else Path(spec).stem if is_file(spec) else slug(spec)
