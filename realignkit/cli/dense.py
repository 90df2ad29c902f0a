"""``realignkit dense``: draw a prompt into the user's own layout, at DenseDiffusion's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realignkit.cli._options import MODEL_TO_SEE, ModelName, Threads, Verbose
from realignkit.cli._progress import err, loading, note, out, set_verbosity, writes_into
from realignkit.errors import DamagedError, ModelError, OptionError, OutputError, PromptError
from realignkit.machine import suited_threads

if TYPE_CHECKING:
    from realignkit.attention.dense import RelativeBox

FILES = ("dense.png", "layout.png", "dense.json")


def dense(
    ctx: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What the picture should show.")],
    box: Annotated[
        list[str] | None,
        typer.Option(metavar="PHRASE=L,T,R,B", help="Where a phrase of the prompt is to be, in shares; repeatable."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="PHRASE=FILE", help="The same as a picture that is white inside; repeatable."),
    ] = None,
    model: ModelName = MODEL_TO_SEE,
    seed: Annotated[int, typer.Option(min=0, help="Start noise.")] = 42,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to write.", show_default="realignments/…")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A generator, sampling or modulation option; repeatable."),
    ] = None,
    threads: Threads = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another picture in the folder.")] = False,
    verbose: Verbose = False,
) -> None:
    """Draw PROMPT with each phrase where you say (DenseDiffusion, a baseline): no tagger, scorer or segmenter."""
    set_verbosity(ctx, verbose)
    ctx.with_resource(suited_threads(threads=threads))
    if not prompt.strip():
        raise PromptError("the prompt is empty. Say what the picture should show, e.g. 'a red book'.")
    regions = _regions(box or [], mask or [])

    from realignkit import arguments, resolve
    from realignkit.attention.config import ModulationConfig
    from realignkit.attention.dense import dense_diffusion, dense_layout, dense_modulation
    from realignkit.cli._settings import parse
    from realignkit.contracts import parse_options
    from realignkit.evaluation.runs import slug
    from realignkit.files import atomic_write
    from realignkit.images import png
    from realignkit.named import Named
    from realignkit.pipelines import families
    from realignkit.provenance import contents, versions
    from realignkit.registry import default_registry
    from realignkit.report import overlay

    arguments.check_text(prompt)
    registry = default_registry()
    info = resolve.choose_generator(registry, model)
    known = {
        # No coarse image, and no tagger that could look again.
        "modulation": ModulationConfig.model_fields.keys() - {"strength", "verify"},
        "sampling": resolve.SamplingOptions.model_fields,
        "generator": resolve.option_names(info),
    }
    settings = parse(assignments or [], known)
    generator = info.create(**settings.options["generator"])
    chosen = {**getattr(generator, "sampling_defaults", {}), **settings.sampling}
    sampling: Any = parse_options(resolve.SamplingOptions, chosen, owner="sampling")
    modulation = dense_modulation(settings.modulation)
    if generator.attention_family is None:  # before minutes of loading
        raise ModelError(f"the attention of generator '{info.name}' cannot be re-weighted. Choose another model.")
    folder = folder or Path("realignments") / f"{slug(prompt)}-dense-s{seed}"
    wanted: dict[str, Any] = {
        "prompt": prompt,
        "seed": seed,
        "regions": {phrase: _on_record(region) for phrase, region in regions.items()},
        "model": info.name,
        "generator": Named("generator", info.name, generator, settings.options["generator"]).options,
        "sampling": sampling.model_dump(mode="json"),
        "modulation": modulation.model_dump(mode="json"),
    }
    wanted["contents"] = contents({"generator": wanted["generator"]})
    with writes_into(ctx, folder):
        if not overwrite:
            _check_matches(folder, json.loads(json.dumps(wanted)))
        with loading():
            pipeline = generator.pipeline()
        with err().status("drawing …"):
            layout = dense_layout(regions, families.image_size(pipeline, sampling.width, sampling.height))
            result = dense_diffusion(pipeline, [prompt], [layout], [seed], settings.modulation, **sampling.model_dump())
        record = {**wanted, "notes": list(result.notes[0]), "versions": versions()}
        (image,) = result.images
        (folder / FILES[2]).unlink(missing_ok=True)  # the record of other pictures must not stand beside these
        atomic_write(folder / FILES[0], png(image))
        atomic_write(folder / FILES[1], png(overlay(image, layout)))
        atomic_write(folder / FILES[2], json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    for text in result.notes[0]:
        out().print(f"note: {text}", markup=False)
    for name in FILES:
        out().print(f"  {folder / name}", markup=False)


def _on_record(region: RelativeBox | Path) -> list[float] | str:
    """Where a phrase is to be: a box, or what is in the file of a mask."""
    from realignkit.provenance import fingerprint

    if not isinstance(region, Path):
        return list(region)
    try:
        return fingerprint(region.expanduser())
    except (OSError, ValueError, RuntimeError):  # it is said when it is read
        return str(region)


def _check_matches(folder: Path, wanted: dict[str, Any]) -> None:
    """Make sure that a folder does not hold another picture, whose record can be read.

    Raises:
        OutputError: it does; the message says what differs.
    """
    from realignkit.provenance import differences, in_short
    from realignkit.records import read_json

    try:
        record = read_json(folder / FILES[2])
    except FileNotFoundError:
        return
    except DamagedError as error:
        note(f"{error.reason}; the picture is drawn again")
        return
    if different := differences({name: record[name] for name in wanted if name in record}, wanted):
        raise OutputError(
            f"{folder} does not hold what would be made now: {in_short(different)}. Use another --out, or --overwrite."
        )


def _regions(boxes: list[str], masks: list[str]) -> dict[str, RelativeBox | Path]:
    regions: dict[str, RelativeBox | Path] = {}
    for flag, texts in (("--box", boxes), ("--mask", masks)):
        for text in texts:
            phrase, equals, value = (part.strip() for part in text.partition("="))
            if not (phrase and equals and value):
                example = "'a red book=0.1,0.3,0.5,0.8'" if flag == "--box" else "'a red book=book.png'"
                raise OptionError(f"{flag} takes PHRASE=…, e.g. {flag} {example}, not '{text}'.")
            if phrase in regions:
                raise OptionError(f"'{phrase}' is given twice: one box or mask for each phrase.")
            regions[phrase] = _box(text, value) if flag == "--box" else Path(value)
    if not regions:
        raise OptionError(
            "say where things are to be: --box 'a red book=0.1,0.3,0.5,0.8' or --mask 'a red book=book.png'."
        )
    return regions


def _box(text: str, value: str) -> RelativeBox:
    try:
        left, top, right, bottom = (float(side) for side in value.split(","))
    except ValueError:
        raise OptionError(
            f"--box takes four shares of the image (left, top, right, bottom), e.g. 0.1,0.3,0.5,0.8, not '{text}'."
        ) from None
    return left, top, right, bottom
