"""Metrics over pictures that are there, batch by batch: goes on after a kill, and is shared by several processes."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from realignkit.errors import ImageError, ModelError, OptionError
from realignkit.evaluation.drawing import Drawing
from realignkit.evaluation.folder import EvaluationFolder, Line, State, identity_of
from realignkit.evaluation.identity import settings_of
from realignkit.evaluation.judging import DETAILS, Inquiry
from realignkit.evaluation.pictures import Picture
from realignkit.evaluation.processes import ALONE, Launch
from realignkit.files import only_writer
from realignkit.machine import full_precision, suited_threads
from realignkit.named import DIGITS, Named, weights_digest
from realignkit.records import checksum
from realignkit.refl.distributed import Interruption

if TYPE_CHECKING:
    from PIL.Image import Image

Report = Callable[[str, int, int], None]
"""``report(step, done, total)``."""

KEEP_EVERY = 20.0
"""Seconds between two writings of what metrics of whole sets have seen: so much is looked at again after a kill."""


@dataclass
class _Whole:
    """A metric of whole sets, what it has seen here, and whether that is on the disk."""

    fresh: Any
    seen: list[str] = field(default_factory=list)
    kept: bool = True


class Evaluation:
    """Measures what is missing of a list of pictures; where it draws them, that too.

    Args:
        pictures: in the order that results are in; or what draws them.
        metrics: each under a name of its own.
        out: the folder; made where missing, and what is in it is not measured again.
        labels: prompt -> what tables group it by.
        source: where the pictures come from, in words.
        batch_size: pictures per forward pass. Batches are the same however many processes share them.
        launch: the processes.

    Raises:
        OptionError: there are no pictures or no metrics, or the folder holds results of others.
        OutputError: the folder is being written by somebody else.
    """

    def __init__(
        self,
        pictures: Sequence[Picture] | Drawing,
        metrics: Sequence[Named],
        out: str | Path,
        *,
        labels: Mapping[str, Mapping[str, str]] | None = None,
        source: str = "",
        batch_size: int = 8,
        launch: Launch = ALONE,
    ) -> None:
        self._drawing = pictures if isinstance(pictures, Drawing) else None
        self.pictures = pictures.pictures if isinstance(pictures, Drawing) else list(pictures)
        if not self.pictures or not metrics:
            raise OptionError(f"there are no {'metrics' if self.pictures else 'pictures'} to evaluate with: give some.")
        self.metrics, self.labels = list(metrics), labels or {}
        prompts = list(dict.fromkeys(picture.prompt for picture in self.pictures))
        self._inquiries = {metric.name: Inquiry(metric) for metric in metrics}
        for metric in metrics:
            if not any(self._inquiries[metric.name].knows(prompt) for prompt in prompts):
                raise OptionError(
                    f"{metric.whose} can judge none of {len(prompts)} prompts. Give pictures of prompts that it knows, "
                    f"or another --metric."
                )
        self.batch_size, self.launch = batch_size, launch
        self.results = EvaluationFolder(out, launch.rank)
        self._each = [metric for metric in metrics if metric.has("judge_each") or not metric.has("state")]
        self._whole = {metric.name: _Whole(copy.deepcopy(metric.plugin)) for metric in metrics if metric.has("state")}
        self._hashed: set[str] = set()
        self._record = {
            "pictures": {
                "source": source,
                "count": len(self.pictures),
                "prompts": len(prompts),
                "identity": identity_of(self.pictures),
            },
            "drawn": {} if self._drawing is None else self._drawing.settings,
            "metrics": {metric.name: settings_of(metric) for metric in metrics},
        }

    def __call__(self, report: Report | None = None, say: Callable[[str], None] = lambda text: None) -> None:
        """Measure what is not measured yet. Interrupted, it has lost no more than a batch.

        Args:
            report: is told of progress.
            say: is told what the user should know, a sentence each.

        Raises:
            OptionError: a picture cannot be read, or has no value of a metric.
            PromptError: a prompt that is to be drawn is empty, or too long for the model.
            PluginError: a metric failed.
            ModelError: a model cannot be loaded, or computed NaN.
            OutputError: the folder cannot be written.
        """
        report = report or (lambda step, done, total: None)
        first = self.launch.first
        with only_writer(self.results.folder) if first else contextlib.nullcontext():
            if first:
                self.results.open(self._record)
                self._check_reach()
            self.launch.wait()
            if self._drawing is not None:
                self._drawing(report)
                self._drawing.release()
            if first:
                self._forget_changed(say)
            self.launch.wait()
            self._measure(report)
            for text in (text for inquiry in self._inquiries.values() for text in inquiry.left_out):
                say(text)
            self.launch.wait()
            if first:
                self.results.gather([picture.id for picture in self.pictures])
                record = self.results.existing()
                self.results.write_record({**record, "whole": {**record.get("whole", {}), **self._whole_values()}})

    def _check_reach(self) -> None:
        """Refuse to begin, to draw above all, what a metric could not go on with.

        Raises:
            ModelError: one that is not done has weights that are neither on this machine nor to be had.
        """
        lines = self.results.lines()
        for metric in self.metrics:
            if metric.name in self._whole:
                done = {each for _, ids in self.results.states(metric.name) for each in ids}
            else:
                done = {name for name, line in lines.items() if metric.name in line["values"]}
            if not all(picture.id in done for picture in self.pictures):
                metric.check_reach("Or leave it out.")

    def _forget_changed(self, say: Callable[[str], None]) -> None:
        """Leave out the lines of pictures that are no longer what was measured."""
        lines = self.results.lines()
        changed = [p.id for p in self.pictures if p.id in lines and lines[p.id]["sha256"] != checksum(p.path)[:DIGITS]]
        if changed:
            say(f"{len(changed)} pictures have changed, and are measured again")
            self.results.forget_states()
        self.results.gather([picture.id for picture in self.pictures], without=changed)

    def _measure(self, report: Report) -> None:
        lines = self.results.lines()
        seen = {name: self._seen(name) for name in self._whole}
        for name, inquiry in self._inquiries.items():
            inquiry.heard = any(line["values"].get(name) for line in lines.values())
        batches = [self.pictures[i : i + self.batch_size] for i in range(0, len(self.pictures), self.batch_size)]
        share = batches[self.launch.rank :: self.launch.count]
        total, done, written = sum(map(len, share)), 0, time.monotonic()
        report("pictures", 0, total)
        with suited_threads(), Interruption().watching() as interruption:
            for batch in share:
                each = [m for m in self._each if any(m.name not in lines.get(p.id, _NOTHING)["values"] for p in batch)]
                unseen = {name: [p for p in batch if p.id not in seen[name]] for name in self._whole}
                fresh = bool(each) or any(p.id not in lines for p in batch)
                if fresh or any(unseen.values()):
                    known = {p.id: lines[p.id]["sha256"] for p in batch if p.id in lines}
                    self._take(batch, each, unseen, known, fresh)
                done += len(batch)
                report("pictures", done, total)
                if interruption.wanted or time.monotonic() - written > KEEP_EVERY:
                    self._keep()
                    written = time.monotonic()
                if interruption.wanted:
                    raise KeyboardInterrupt
            self._keep()

    def _seen(self, name: str) -> set[str]:
        """The pictures that a metric of whole sets has seen in any process; what this one's has is restored."""
        whole = self._whole[name]
        if (mine := self.results.own_state(name)) is not None:
            state, whole.seen = mine
            metric = self._named(name)
            with metric.blame():
                metric.plugin.restore(state)
        return {each for _, ids in self.results.states(name) for each in ids}

    def _named(self, name: str) -> Named:
        return next(metric for metric in self.metrics if metric.name == name)

    def _take(
        self,
        batch: Sequence[Picture],
        each: Sequence[Named],
        unseen: Mapping[str, Sequence[Picture]],
        known: Mapping[str, str],
        fresh: bool,
    ) -> None:
        """Look at a batch; if there is anything new to say, its lines are on the disk when this returns."""
        read = {picture.id: picture.read() for picture in batch}
        images = {name: image for name, (image, _) in read.items()}
        hashes = {name: digest[:DIGITS] for name, (_, digest) in read.items()}
        if changed := next((p for p in batch if known.get(p.id, hashes[p.id]) != hashes[p.id]), None):
            raise OptionError(
                f"'{changed.path}' has changed while pictures were judged. Run the same command again: it is then "
                f"measured anew."
            )
        judged = {metric.name: self._judged(metric, batch, images) for metric in each}
        for name, some in unseen.items():
            if some:
                self._update(self._named(name), some, images)
        for metric in self.metrics:
            self._note_weights(metric)
        if fresh:
            self.results.add(
                [self._line(p, hashes[p.id], {name: values[p.id] for name, values in judged.items()}) for p in batch]
            )

    def _judged(
        self, metric: Named, batch: Sequence[Picture], images: Mapping[str, Image]
    ) -> dict[str, dict[str, Any]]:
        """What a metric says of each picture, by id; nothing where it does not know the prompt, or leaves it out."""
        judged: dict[str, dict[str, Any]] = {picture.id: {} for picture in batch}
        inquiry = self._inquiries[metric.name]
        for same in _by_size([p for p in batch if inquiry.knows(p.prompt)], images):
            with _naming(same):
                answers = inquiry.judge_each([images[p.id] for p in same], [p.prompt for p in same])
            judged |= {picture.id: answer for picture, answer in zip(same, answers, strict=True)}
        return judged

    def _update(self, metric: Named, pictures: Sequence[Picture], images: Mapping[str, Image]) -> None:
        whole = self._whole[metric.name]
        known = [p for p in pictures if self._inquiries[metric.name].knows(p.prompt)]
        for same in _by_size(known, images):
            with _naming(same), metric.calling(), full_precision():
                metric.plugin.update([images[p.id].copy() for p in same], [p.prompt for p in same])
        whole.seen += [picture.id for picture in pictures]
        whole.kept = False

    def _keep(self) -> None:
        """Write what metrics of whole sets have seen."""
        for name, whole in self._whole.items():
            if not whole.kept:
                self.results.save_state(name, _state(self._named(name)), whole.seen)
                whole.kept = True

    def _note_weights(self, metric: Named) -> None:
        """Once it has loaded them."""
        if metric.name not in self._hashed and (digest := weights_digest(metric.plugin)):
            self._hashed.add(metric.name)
            self.results.note_weights(metric.name, digest)

    def _line(self, picture: Picture, sha256: str, judged: Mapping[str, Mapping[str, Any]]) -> Line:
        folder = self.results.folder.resolve()
        path = picture.path.resolve()
        line: Line = {name: getattr(picture, name) for name in ("id", "index", "prompt", "seed", "number")}
        line["image"] = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
        line["sha256"] = sha256
        if labels := self.labels.get(picture.prompt):
            line["labels"] = dict(labels)
        line["values"] = {
            name: {key: value for key, value in values.items() if key not in ("n", DETAILS)}
            for name, values in judged.items()
        }
        if details := {name: values[DETAILS] for name, values in judged.items() if DETAILS in values}:
            line["details"] = details
        return line

    def _whole_values(self) -> dict[str, dict[str, float]]:
        """What metrics of whole sets say of all that was seen in any process."""
        return {
            name: joined_values(self._named(name), whole.fresh, self.results.states(name))
            for name, whole in self._whole.items()
        }


_NOTHING: Line = {"values": {}}


def joined_values(metric: Named, fresh: Any, states: Sequence[tuple[State, Sequence[str]]]) -> dict[str, float]:
    """The numbers of a metric of whole sets from what it has seen in several processes or folders.

    Args:
        metric: takes it all in.
        fresh: the same metric, which has seen nothing; it is copied.
        states: what each has seen, in the order that they are merged in.

    Raises:
        PluginError: it failed.
        ModelError: it computed NaN or infinity.
    """
    parts = [metric.plugin, *(copy.deepcopy(fresh) for _ in states[1:])]  # what one has loaded serves for all
    with metric.calling(), full_precision():
        for part, (state, _) in zip(parts, states, strict=True):
            part.restore(state)
        for part in parts[1:]:
            parts[0].merge(part)
        values = {name: float(value) for name, value in parts[0].compute().items()}
    if not all(math.isfinite(value) for value in values.values()):
        raise ModelError(f"{metric.whose} computed NaN or infinity. Choose another one.")
    return values


def _state(metric: Named) -> State:
    with metric.blame():
        state = dict(metric.plugin.state())
    if not all(isinstance(name, str) and isinstance(values, np.ndarray | np.number) for name, values in state.items()):
        raise metric.breach("its state is no mapping of names to numpy arrays")
    return state


@contextlib.contextmanager
def _naming(same_size: Sequence[Picture]) -> Iterator[None]:
    """What a metric says of an image, which has no name for it, is said of the picture."""
    try:
        yield
    except ImageError as error:
        more = len(same_size) - 1
        others = f" and {more} other{'s' * (more > 1)} of its size" if more else ""
        raise OptionError(f"'{same_size[0].path}'{others}: {error}") from error


def _by_size(pictures: Sequence[Picture], images: Mapping[str, Image]) -> list[list[Picture]]:
    """Pictures of one size each: networks take those together."""
    groups: dict[tuple[int, int], list[Picture]] = {}
    for picture in pictures:
        groups.setdefault(images[picture.id].size, []).append(picture)
    return list(groups.values())
