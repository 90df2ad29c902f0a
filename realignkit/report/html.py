"""Self-contained HTML: one page per realignment, and an index of many. Everything shown is escaped."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from realignkit.errors import REDACTED
from realignkit.files import atomic_write
from realignkit.images import data_uri
from realignkit.realignment import Realignment
from realignkit.report.changes import what_changed
from realignkit.report.heatmaps import TITLES, heat_pictures
from realignkit.report.overlay import SMALL, overlay

REPORT_NAME = "report.html"


def write_report(realignment: Realignment, folder: str | Path) -> Path:
    """Write ``report.html``: before and after, the four steps side by side (figure 9), and all that led to them.

    The page needs no other file, no library and no network.

    Returns:
        The page's path.

    Raises:
        OutputError: the folder cannot be written.
    """
    segments = {segment.caption.tag: segment for segment in realignment.layout}
    captions = {caption.tag: caption for caption in realignment.captions}
    rows = [(tag, captions.get(tag.name), segments.get(tag.name)) for tag in realignment.tags]
    page = (
        environment()
        .get_template("report.html.jinja")
        .render(
            r=realignment,
            rows=rows,
            what_changed=what_changed(realignment),
            layout_image=overlay(realignment.coarse, realignment.layout),
            settings=dict(flatten(realignment.settings)),
            command=command_line(realignment),
            full_command=command_line(realignment, every_setting=True),
            seconds=sum(realignment.timings.values()),
            candidates=candidates(realignment),
            guidance=guidance(realignment),
            heat_pictures=heat_pictures(realignment),
            heat_titles=TITLES,
        )
    )
    path = Path(folder) / REPORT_NAME
    atomic_write(path, page.encode())
    return path


def write_index(folder: str | Path, realignments: Iterable[tuple[str, Realignment]]) -> Path:
    """Write ``index.html`` over many realignments that were saved below ``folder``.

    Args:
        folder: where the index goes.
        realignments: pairs of a subfolder's name and what :meth:`Realignment.save` put there; taken one by one.

    Returns:
        The page's path.

    Raises:
        OutputError: the folder cannot be written.
    """
    entries = [
        {
            "folder": quote(name),
            "prompt": r.prompt,
            "seed": r.seed,
            "small": r.coarse.width <= SMALL,
            "likelihoods": [(s.caption.caption, s.caption.likelihood.value) for s in r.layout],
            "seconds": sum(r.timings.values()),
        }
        for name, r in realignments
    ]
    page = environment().get_template("index.html.jinja").render(entries=entries, report=REPORT_NAME)
    path = Path(folder) / "index.html"
    atomic_write(path, page.encode())
    return path


def candidates(realignment: Realignment) -> dict[str, Any] | None:
    """How many coarse images were chosen among, by which reward, and the seconds that it took beyond drawing one.

    None where there was nothing to choose.
    """
    count = int(realignment.settings.get("candidates", 1))
    if count < 2 or realignment.settings.get("coarse") == "given":
        return None
    spent = realignment.timings.get("generate", 0.0) * (count - 1) / count + realignment.timings.get("select", 0.0)
    return {"count": count, "by": realignment.plugins.get("reward", "a reward"), "seconds": spent}


def guidance(realignment: Realignment) -> dict[str, Any] | None:
    """Which reward guided sampling, and how many times as long drawing took with it; None where nothing did."""
    drawing = sum(realignment.timings.get(step, 0.0) for step in ("generate", "refine"))
    if not drawing or "guide" not in realignment.timings:
        return None
    reward = next(iter(realignment.settings.get("guide_by", {})), "a reward")
    return {"by": reward, "ratio": 1 + realignment.timings["guide"] / drawing}


_REALIGNERS_OWN = ("segment_unlikely", "guide_strength", "guide_share", "guide_margin")


def command_line(realignment: Realignment, *, every_setting: bool = False) -> str:
    """The shell command that asks for the same again, if wanted with every recorded option but secret ones."""
    settings = realignment.settings
    # The settings name the whole chain of scorers, ``plugins`` the one that answered.
    plugins = {**realignment.plugins, **settings.get("plugins", {})}
    words = ["realignkit", "run", realignment.prompt, "--seed", str(realignment.seed)]
    options = {"generator": "--model", "tagger": "--tagger", "scorer": "--scorer", "segmenter": "--segmenter"}
    for kind, option in options.items():
        if name := plugins.get(kind):
            words += [option, name]
    if settings.get("candidates", 1) > 1:
        words += ["--candidates", str(settings["candidates"]), "--select-by", str(plugins.get("reward"))]
    if guide := next(iter(settings.get("guide_by", {})), None):
        words += ["--guide-by", guide]
    if settings.get("heat_maps"):
        words += ["--heat-maps", ",".join(settings["heat_maps"])]
    if settings.get("coarse") == "given":
        words += ["--coarse", "coarse.png"]
    if every_setting:
        groups = {name: settings[name] for name in ("modulation", "sampling") if name in settings}
        single = {name: settings[name] for name in _REALIGNERS_OWN if name in settings}
        # Mappings among a plugin's options (what goes with a model, say) have no place on a command line.
        chosen = {
            kind: {name: value for name, value in settings.get(kind, {}).items() if not isinstance(value, Mapping)}
            for kind in ("generator", "tagger", "segmenter", "reward")
        }
        for name, value in flatten({**groups, "realigner": single, **chosen, "scorer": settings.get("scorer", {})}):
            if value is not None and REDACTED not in str(value):
                words += ["--set", f"{name}={json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(words if realignment.prompt[:1] != "-" else [*words[:2], *words[3:], "--", words[2]])


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Nested mappings as dotted names, the way ``--set`` takes them; empty ones vanish."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@functools.cache
def environment() -> Environment:
    """What templates of pages are rendered with: everything is escaped."""
    environment = Environment(
        loader=PackageLoader("realignkit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    environment.globals["SMALL"] = SMALL
    return environment
