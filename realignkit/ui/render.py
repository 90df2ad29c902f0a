"""What the page shows of somebody's work, as HTML. Everything is escaped."""

from __future__ import annotations

import functools
import json
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader
from PIL import Image

from realignkit.images import data_uri
from realignkit.report import overlay
from realignkit.report.changes import what_changed
from realignkit.report.html import environment
from realignkit.report.overlay import SMALL
from realignkit.types import Layout
from realignkit.ui.work import Work

WORDS = {
    "": "Loading the model",
    "generate": "Drawing the first picture",
    "select": "Choosing the best candidate",
    "tag": "Naming the objects",
    "score": "Judging them in the light of the prompt",
    "segment": "Finding them",
    "refine": "Drawing again with each object in place",
    "verify": "Looking whether an object was lost",
}
"""The steps in plain words."""

_CARDS = (("generate", "select"), ("tag", "score"), ("segment",), ("refine", "verify"))


def status(work: Work) -> str:
    """What is being done, how far that is, and what went wrong."""
    job, error = work.job, work.message
    text, running = "Say what the picture should show, and press Draw.", False
    if job is not None and not job.over:
        running = True
        ahead = work.desk.ahead(job) if job.state == "waiting" else 0
        text = f"Waiting: {ahead} before you" if ahead else f"{WORDS.get(job.step, job.step)} …"
    elif job is not None and job.state == "failed":
        text, error = "Nothing new was drawn.", job.error
    elif job is not None and job.state == "cancelled":
        text = "Cancelled. What was there before is kept."
    elif work.version is not None:
        text = f"Done. {what_changed(work.version.realignment)}"
    done, total = (job.done, job.total) if job is not None else (0, 0)
    return _rendered("status", text=text, error=error, running=running, done=done, total=total)


def waiting() -> str:
    """What is said before anything is known."""
    return _rendered("status", text=f"{WORDS['']} …", error="", running=True, done=0, total=0)


def steps(work: Work) -> str:
    """The four steps of figure 2, as far as they are."""
    coarse, version = work.coarse, work.version
    seen = work.draft if work.draft is not None else version.realignment if version is not None else None
    if seen is None and not work.busy:
        return ""
    prompt = version.realignment.prompt if version else work.draft.prompt if work.draft else ""
    small = coarse is not None and coarse.width <= SMALL
    now = work.job.step if work.job is not None and work.busy else None
    captions = [item.caption for item in work.objects]
    placed = Layout(tuple(item for item in work.objects if item.mask.any()))
    layout = overlay(coarse, placed) if coarse is not None and len(placed) else None
    where = ", ".join(f"{item.caption.caption} ({item.caption.likelihood})" for item in placed) or "no object"
    refined = version.realignment.refined if version else None
    cards = [
        (
            "The first picture",
            coarse,
            f"first picture for: {prompt}",
            None,
            "What the model drew from the prompt alone.",
        ),
        ("What is in it", None, "", captions, "The objects, and how likely the prompt makes each."),
        ("Where it is", layout, f"layout: {where}", None, "Solid: certain, dashed: possible, dotted: unlikely."),
        (
            "Drawn again",
            refined,
            f"refined picture for: {prompt}",
            None,
            "From the same noise, with each object in place.",
        ),
    ]
    shown = [
        {
            "title": title, "image": image, "alt": alt, "rows": rows, "text": text,
            "small": small and image is not layout, "now": now in names,
        }
        for (title, image, alt, rows, text), names in zip(cards, _CARDS, strict=True)
    ]  # fmt: skip
    return _rendered("steps", steps=shown)


def candidates(work: Work) -> str:
    """The coarse images that there were to choose among."""
    images = work.draft.candidates if work.draft else ()
    figures = [
        _figure(image, f"candidate {i + 1}", f"Candidate {i + 1}", chosen=i == work.candidate)
        for i, image in enumerate(images)
    ]
    return _rendered("figures", figures=figures) if figures else ""


def compare(work: Work) -> str:
    """Before and after, with a slider, and what is to be said of it."""
    if (version := work.version) is None:
        return ""
    made = version.realignment
    return _rendered(
        "compare",
        before=made.coarse,
        after=made.refined,
        prompt=made.prompt,
        small=made.coarse.width <= SMALL,
        sentence=what_changed(made),
        notes=made.notes,
    )


def versions(work: Work, link: str) -> str:
    """All refinements side by side, each with where it can be had.

    Args:
        work: somebody's.
        link: of a refinement's archive, with ``{number}`` in it.
    """
    figures = [
        _figure(
            version.realignment.refined,
            f"refinement {i + 1}: {version.title}",
            f"{i + 1}: {version.title}" + ("" if version.realignment.accepted else " (not accepted)"),
            chosen=i == work.shown,
            link=link.format(number=i + 1),
        )
        for i, version in enumerate(work.versions)
    ]
    return _rendered("figures", figures=figures) if figures else ""


def editor(work: Work) -> str:
    """What the editor of masks starts from, as JSON: pictures as data URIs; "" where there is nothing to edit."""
    if work.coarse is None or not work.objects:
        return ""
    item = work.objects[work.chosen]
    values = {
        "picture": data_uri(work.coarse),
        "mask": data_uri(Image.fromarray(item.mask).convert("L")),
        "width": work.coarse.width,
        "height": work.coarse.height,
        "index": work.chosen,
        "name": item.caption.caption,
    }
    return json.dumps(values)


def labels(work: Work) -> list[tuple[str, int]]:
    """The objects by name, for a list to choose from."""
    return [
        (f"{item.caption.caption} – {item.caption.likelihood}, {item.area:.0%}" if item.mask.any()
         else f"{item.caption.caption} – {item.caption.likelihood}, no mask", i)
        for i, item in enumerate(work.objects)
    ]  # fmt: skip


def _figure(image: Any, alt: str, text: str, *, chosen: bool, link: str = "") -> dict[str, Any]:
    return {
        "image": image, "alt": alt, "text": text, "chosen": chosen, "link": link, "small": image.width <= SMALL,
    }  # fmt: skip


def _rendered(template: str, **values: Any) -> str:
    return _environment().get_template(f"{template}.html.jinja").render(**values)


@functools.cache
def _environment() -> Environment:
    loaders = [PackageLoader("realignkit.ui"), PackageLoader("realignkit.report")]
    return environment().overlay(loader=ChoiceLoader(loaders))
