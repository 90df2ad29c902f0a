"""``realignkit ui``: the method to see and to steer, in a browser."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from realignkit.cli._options import (
    MODEL_TO_SEE,
    Isolate,
    ScorerNames,
    SegmenterName,
    SelectBy,
    TaggerName,
    Threads,
    Verbose,
    isolate_plugins,
)
from realignkit.cli._progress import note, out, set_verbosity
from realignkit.cli.run import DEFAULT_ROOT, realigner_of
from realignkit.errors import PluginError

OLDEST = (6, 29)
"""Of gradio's versions, the first that will do."""
OFFERED = (MODEL_TO_SEE, "micro", "micro_flow")
"""The models of the page where none is named: the embedded ones, so that a run of each can be gone on from."""


def ui(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Runs in here can be opened on the page.")
    ] = DEFAULT_ROOT,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model that may be chosen on the page; repeatable, the first one is the default.",
            show_default=", ".join(OFFERED),
        ),
    ] = None,
    tagger: TaggerName = None,
    scorer: ScorerNames = None,
    segmenter: SegmenterName = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option, e.g. modulation.share=0.5; repeatable."),
    ] = None,
    select_by: SelectBy = "caption",
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0: for everybody who reaches this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 7860,
    threads: Threads = None,
    isolate: Isolate = None,
    verbose: Verbose = False,
) -> None:
    """Serve a page on which a prompt is realigned, its layout changed, and the last step repeated. Until Ctrl-C.

    realignkit ui
    """
    set_verbosity(ctx, verbose)
    check_gradio()
    isolate_plugins(ctx, isolate)
    from realignkit.registry import default_registry
    from realignkit.serving import is_loopback
    from realignkit.ui.server import serve

    default_registry()  # before the server's threads are about: it would take them for those of a plugin
    specs = {"tagger": tagger, "scorer": scorer, "segmenter": segmenter}
    options = {"select_by": select_by, "threads": threads}
    makers = {
        name: functools.partial(realigner_of, name, specs, assignments or [], options) for name in model or OFFERED
    }

    def ready(address: str) -> None:
        if not is_loopback(host):
            note("whoever has this address may draw here, and it travels unencrypted; put a proxy with https in front")
        out().print(address, markup=False)

    try:
        serve(makers, folder, host, port, ready)
    except KeyboardInterrupt:
        out().print("stopped", markup=False)


def check_gradio() -> None:
    """Refuse to begin without a gradio that will do.

    Raises:
        PluginError: there is none, or an older one, which pip chooses where Pillow 13 is kept.
    """
    try:
        version = metadata.version("gradio")
    except metadata.PackageNotFoundError:
        raise PluginError("gradio, which the page needs, is not installed: install realignkit[ui].") from None
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise PluginError(
            f"gradio {version} is too old for the page, which needs {needed} or later: pip install 'realignkit[ui]' "
            f"'pillow<13' brings it."
        )
