"""What one realignment saw and made, on disk a folder that is complete or recognisably not, and read back exactly.

A folder holds ``coarse.png``, ``refined.png``, ``masks/00.png`` … (1 bit, in the layout's order), heat maps if any, and
``realignment.json``, which is written last: a folder that has it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field, JsonValue

from realignkit.arguments import as_path
from realignkit.errors import DamagedError, OutputError
from realignkit.files import atomic_write, make_folder, writing
from realignkit.heatmap import HEAT_MAPS, HeatMap, read_heat_maps, write_heat_maps
from realignkit.images import data_uri, png, side_by_side
from realignkit.layout import Layout, Likelihood, LocalCaption, Segment, Tag, copied_layout, segment_problem
from realignkit.records import Share, Text, Written, as_written, read_json

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

RECORD = "realignment.json"
FORMAT = "realignkit.realignment"
VERSION = 1

_AGAIN = "Make it again with 'realignkit run'."


@dataclass(frozen=True, eq=False, repr=False)
class Realignment:
    """Everything one realignment saw and made. :meth:`save` and :meth:`load` round-trip.

    Two are equal where all they hold is, pixel by pixel; how long they took aside.

    Attributes:
        prompt, seed: what was asked for.
        coarse: the image before refinement, RGB.
        tags, captions, layout: the results of the tag, score and segment steps.
        refined: the image after refinement, RGB; the coarse image itself when there was nothing to modulate.
        accepted: False where ``modulation.verify`` found that the refined image has lost an object; see :attr:`image`.
        conditioning: the text that the refined image was conditioned on.
        plugins: which plugin did each step (kind -> name); ``scorer`` is the one that answered.
        notes: recorded fallbacks, in words ("no mask for 'desk' …").
        timings: seconds per step.
        settings: every option that the result depends on.
        versions: versions of realignkit and of the libraries below it.
        heat_maps: where the network attended to words that were asked for.
    """

    prompt: str
    seed: int
    coarse: PILImage
    tags: tuple[Tag, ...]
    captions: tuple[LocalCaption, ...]
    layout: Layout
    refined: PILImage
    conditioning: str = ""
    plugins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    accepted: bool = True
    heat_maps: tuple[HeatMap, ...] = ()

    @property
    def image(self) -> PILImage:
        """The picture to use, RGB: the refined one, or the coarse one where the refined one was not accepted."""
        return self.refined if self.accepted else self.coarse

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Realignment):
            return NotImplemented
        same = (
            getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name not in (*_IMAGES, "timings")
        )
        return all(same) and all(_same_pixels(getattr(self, name), getattr(other, name)) for name in _IMAGES)

    def __hash__(self) -> int:
        return hash((self.prompt, self.seed, self.tags, self.captions))

    def __repr__(self) -> str:
        width, height = self.coarse.size
        prompt = self.prompt if len(self.prompt) <= 60 else f"{self.prompt[:59]}…"
        fate = "coarse image kept" if not self.accepted or _same_pixels(self.coarse, self.refined) else "refined"
        return (
            f"<Realignment of {prompt!r}, seed {self.seed}: {width} x {height}, {len(self.tags)} tags, "
            f"{len(self.layout)} segments, {fate}>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: both images, the local captions and the notes."""
        verdict = "" if self.accepted else " (not accepted)"
        figures = "".join(
            f'<figure style="display:inline-block;margin:0 8px 0 0"><img alt="{caption}" style="min-width:192px" '
            f'src="{data_uri(image)}"><figcaption>{caption}</figcaption></figure>'
            for image, caption in ((self.coarse, "coarse"), (self.refined, f"refined{verdict}"))
        )
        rows = "".join(
            f"<tr><td>{escape(c.tag)}</td><td>{escape(str(c.likelihood))}</td><td>{escape(c.caption)}</td></tr>"
            for c in self.captions
        )
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return (
            f"<div><p><b>{escape(self.prompt)}</b> (seed {self.seed})</p>{figures}"
            f"<table><tr><th>tag</th><th>likelihood</th><th>local caption</th></tr>{rows}</table>"
            f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
        )

    def _repr_png_(self) -> bytes:
        return png(side_by_side(self.coarse, self.refined))

    def save(self, folder: str | Path) -> Path:
        """Write ``realignment.json``, the images, ``masks/*.png`` and heat maps into ``folder``, each file atomically.

        Raises:
            OutputError: the folder cannot be written, the settings are no JSON, or a segment is not of the image.
            OptionError: this is no path.
        """
        folder = as_path("folder", folder)
        for segment in self.layout:
            if problem := segment_problem(segment, self.coarse.size):
                raise OutputError(f"this realignment cannot be saved: {problem}.")
        record = _encode(self, folder)  # first, so that a bad setting leaves the folder as it was
        make_folder(folder)
        discard(folder)
        atomic_write(folder / "coarse.png", png(self.coarse.convert("RGB")))
        atomic_write(folder / "refined.png", png(self.refined.convert("RGB")))
        for index, segment in enumerate(self.layout):
            atomic_write(_mask_path(folder, index), png(Image.fromarray(segment.mask.astype(np.bool_))))
        write_heat_maps(folder, self.heat_maps)
        atomic_write(folder / RECORD, record)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Realignment:
        """Read back what :meth:`save` wrote.

        Raises:
            DamagedError: the folder is damaged.
            OutputError: it holds no complete realignment, or another version of realignkit wrote it.
            OptionError: this is no path.
        """
        folder = as_path("folder", folder)
        record = as_written(_Record, read_record(folder), folder / RECORD, _AGAIN)
        layout = tuple(
            Segment(item.caption.made(), np.array(_read(_mask_path(folder, index), "1", record.size)), item.confidence)
            for index, item in enumerate(record.layout)
        )
        return cls(
            prompt=record.prompt,
            seed=record.seed,
            coarse=_read(folder / "coarse.png", "RGB", record.size),
            tags=tuple(Tag(tag.name, tag.confidence) for tag in record.tags),
            captions=tuple(caption.made() for caption in record.captions),
            layout=Layout(layout),
            refined=_read(folder / "refined.png", "RGB", record.size),
            conditioning=record.conditioning,
            plugins=record.plugins,
            notes=tuple(record.notes),
            timings=record.timings,
            settings=record.settings.model_dump(exclude_unset=True),
            versions=record.versions,
            accepted=record.accepted,
            heat_maps=read_heat_maps(folder, record.heat_maps, _AGAIN),
        )


_IMAGES = ("coarse", "refined")


def _same_pixels(one: PILImage, other: PILImage) -> bool:
    return one.size == other.size and one.convert("RGB").tobytes() == other.convert("RGB").tobytes()


def copied(realignment: Realignment) -> Realignment:
    """A realignment with pixels, masks and records of its own, to hand out."""
    return replace(
        realignment,
        coarse=realignment.coarse.copy(),
        refined=realignment.refined.copy(),
        layout=copied_layout(realignment.layout),
        plugins=dict(realignment.plugins),
        timings=dict(realignment.timings),
        settings=deepcopy(realignment.settings),
        heat_maps=deepcopy(realignment.heat_maps),
        versions=dict(realignment.versions),
    )


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a finished realignment."""
    return (folder / RECORD).is_file()


def discard(folder: Path) -> None:
    """Mark a folder incomplete, and remove what an earlier, perhaps killed, writer left of its masks and heat maps.

    Raises:
        OutputError: the old files cannot be removed.
    """
    with writing(folder):
        for pattern in (RECORD, HEAT_MAPS, "masks/*.png", ".*.tmp", "masks/.*.tmp"):  # the record before all else
            for stale in folder.glob(pattern):
                stale.unlink(missing_ok=True)


def _mask_path(folder: Path, index: int) -> Path:
    # By number, never by a name from the record: a record from elsewhere must not point outside its folder.
    return folder / "masks" / f"{index:02d}.png"


class _Caption(Written):
    tag: Text
    caption: Text
    likelihood: Likelihood

    def made(self) -> LocalCaption:
        return LocalCaption(self.tag, self.caption, self.likelihood)


class _Tag(Written):
    name: Text
    confidence: Share


class _Segment(Written):
    caption: _Caption
    confidence: Share


class _Settings(Written):
    """What is relied on of the settings; there is more."""

    model_config = ConfigDict(extra="allow")

    candidates: int = Field(1, ge=1)
    coarse: Literal["generated", "given"] = "generated"
    plugins: dict[str, str] = Field(default_factory=dict)
    modulation: dict[str, JsonValue] = Field(default_factory=dict)
    sampling: dict[str, JsonValue] = Field(default_factory=dict)


class _Record(Written):
    format: str
    version: int
    prompt: Text
    seed: int = Field(ge=0, lt=2**63)
    size: tuple[int, int]
    tags: list[_Tag]
    captions: list[_Caption]
    layout: list[_Segment]
    conditioning: str
    plugins: dict[str, str]
    notes: list[str]
    timings: dict[str, Annotated[float, Field(ge=0)]]
    settings: _Settings
    versions: dict[str, str]
    accepted: bool = True
    heat_maps: list[Text] = Field(default_factory=list)


def _encode(realignment: Realignment, folder: Path) -> str:
    record = {
        "format": FORMAT,
        "version": VERSION,
        "prompt": realignment.prompt,
        "seed": realignment.seed,
        "size": list(realignment.coarse.size),
        "tags": [{"name": tag.name, "confidence": tag.confidence} for tag in realignment.tags],
        "captions": [_caption_record(caption) for caption in realignment.captions],
        "layout": [
            {"caption": _caption_record(segment.caption), "confidence": segment.confidence}
            for segment in realignment.layout
        ],
        "conditioning": realignment.conditioning,
        "plugins": dict(realignment.plugins),
        "notes": list(realignment.notes),
        "timings": dict(realignment.timings),
        "settings": dict(realignment.settings),
        "versions": dict(realignment.versions),
        "accepted": realignment.accepted,
        **({"heat_maps": [item.word for item in realignment.heat_maps]} if realignment.heat_maps else {}),
    }
    try:
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"cannot write {folder / RECORD}: {error}. Settings and numbers must be finite JSON values."
        ) from error


def _caption_record(caption: LocalCaption) -> dict[str, str]:
    return {"tag": caption.tag, "caption": caption.caption, "likelihood": caption.likelihood.value}


def read_record(folder: Path) -> dict[str, Any]:
    """The JSON of a finished realignment, checked for format and version, images left alone.

    Raises:
        DamagedError: it cannot be read, or is no realignment's.
        OutputError: there is none, or another version of realignkit wrote it.
    """
    path = folder / RECORD
    try:
        record = read_json(path, _AGAIN)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OutputError(
            f"{folder} holds no complete realignment ({RECORD} is missing). "
            f"Give a folder that 'realignkit run' has written, or run it again."
        ) from error
    if record.get("format") != FORMAT:
        raise DamagedError(f"{path} is no realignment", "Give a folder that 'realignkit run' has written.")
    if record.get("version") != VERSION:
        raise OutputError(
            f"{path} has format version {record.get('version')!r}; this realignkit reads version {VERSION}. "
            f"Read it with the realignkit that wrote it ({_writer(record)}), or make it again."
        )
    return record


def _writer(record: Mapping[str, Any]) -> str:
    versions = record.get("versions")
    return str(versions.get("realignkit", "unknown")) if isinstance(versions, dict) else "unknown"


def _read(path: Path, mode: str, size: tuple[int, int]) -> PILImage:
    try:
        with Image.open(path) as image:
            if image.size != size:
                raise ValueError(f"it has {image.width} x {image.height} pixels, the record {size[0]} x {size[1]}")
            return image.convert(mode)
    except Exception as error:  # Pillow raises many kinds for damaged files (also SyntaxError, struct.error)
        raise DamagedError(f"{path} is missing or damaged ({error})", _AGAIN) from error
