"""The one engine of the paper's tables: what is missing of a plan is drawn and judged, and kept, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from realignkit.arguments import check_text
from realignkit.errors import OptionError
from realignkit.evaluation.judging import Judging
from realignkit.evaluation.plan import Part, Plan, noise_seed, raised
from realignkit.evaluation.results import (
    AblationFolder,
    Key,
    Measurement,
    different_plugins,
    different_settings,
    digest,
    with_plugins,
)
from realignkit.evaluation.runs import Job, slug
from realignkit.files import atomic_write, only_writer
from realignkit.images import png
from realignkit.machine import suited_threads
from realignkit.named import Named
from realignkit.provenance import COMPANY, without
from realignkit.realigner import Realigner
from realignkit.realigner.options import GUIDE_OPTIONS

Report = Callable[[str, int, int], None]
"""``report(step, done, total)``."""


class Measurer(ABC):
    """Makes the pictures of a plan and finds out about them; ``results`` is the folder in which that is kept.

    Args:
        realigner: draws.
        out: the folder; made where missing, and what is in it is not made again.
    """

    def __init__(self, realigner: Realigner, out: str | Path) -> None:
        self.realigner = realigner
        self.results = AblationFolder(out)

    @property
    def batch_size(self) -> int:
        """How many prompts are measured, and kept, at once."""
        return self.realigner.batch_size

    @property
    def left_out(self) -> Sequence[str]:
        """What nothing was found out about, and why, a sentence each."""
        return ()

    @abstractmethod
    def open(self, plan: Plan, source: str) -> None:
        """Write down what is about to be measured.

        Raises:
            OptionError: ``results`` holds what was measured otherwise.
        """

    @abstractmethod
    def prepare(self, jobs: Sequence[Job], report: Report) -> set[Key]:
        """Make what all parts need; what need not be measured again."""

    @abstractmethod
    def load(self, part: Part, jobs: Sequence[Job], report: Report) -> None:
        """Get ready for a part, of which some of ``jobs`` are missing."""

    @abstractmethod
    def __call__(self, part: Part, rows: Sequence[str], jobs: Sequence[Job], report: Report) -> list[Measurement]:
        """Measure some rows of the part that was loaded last."""


class Ablation:
    """Measures what is missing of a plan.

    Args:
        plan: what to measure.
        measurer: how, and where it is kept.
        prompts: in the order that results number them in.
        seeds: each prompt is drawn with each of them; by default as many as it takes to ask every model.
        source: where the prompts come from, for the table.

    Raises:
        PromptError: a prompt is no text.
        OptionError: no prompt, or the folder holds results that were measured otherwise.
        OutputError: the folder is being written by somebody else.
    """

    def __init__(
        self,
        plan: Plan,
        measurer: Measurer,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int] | None = None,
        source: str = "",
    ) -> None:
        self.plan, self.measurer, self.results = plan, measurer, measurer.results
        if not prompts:
            raise OptionError("there are no prompts: give a file with at least one, or a larger limit.")
        for prompt in prompts:
            check_text(prompt)
        self.seeds = list(dict.fromkeys(seeds if seeds is not None else range(plan.most_models)))
        self.jobs = [Job(index, text, seed) for seed in self.seeds for index, text in enumerate(prompts, start=1)]
        with only_writer(self.results.folder):
            measurer.open(plan, source)

    @property
    def idle(self) -> list[str]:
        """Models that none of the seeds is dealt to, in words."""
        dealt = {(part.of, seed % part.of) for part in self.plan.parts for seed in self.seeds}
        return [f"{part.name} {part.run + 1}" for part in self.plan.parts if (part.of, part.run) not in dealt]

    def __call__(self, report: Report | None = None) -> None:
        """Measure what is not measured yet. Interrupted, it has lost no more than a batch.

        Raises:
            PromptError: a prompt is empty, or too long for the model.
            ModelError: a model cannot be loaded, or computed NaN.
            PluginError: a plugin failed.
            OptionError: the prompts of earlier results were others.
            OutputError: the folder cannot be written.
        """
        report = report or (lambda step, done, total: None)
        with only_writer(self.results.folder), suited_threads(threads=self.measurer.realigner.threads):
            kept = self.measurer.prepare(self.jobs, report)
            for part in self.plan.parts:
                self._measure(part, kept, report)

    def _measure(self, part: Part, kept: set[Key], report: Report) -> None:
        jobs = [job for job in self.jobs if job.seed % part.of == part.run]
        missing: dict[tuple[str, ...], list[Job]] = {}
        for job in jobs:
            if rows := tuple(row for row in part.rows if (row, job.index, job.seed) not in kept):
                missing.setdefault(rows, []).append(job)
        done = len(jobs) - sum(map(len, missing.values()))
        label = part.name if part.of == 1 else f"{part.name} {part.run + 1}"
        report(label, done, len(jobs))
        if missing:
            self.measurer.load(part, jobs, report)
        for rows, some in missing.items():
            for start in range(0, len(some), self.measurer.batch_size):
                batch = some[start : start + self.measurer.batch_size]
                self.results.add(self.measurer(part, rows, batch, report))
                done += len(batch)
                report(label, done, len(jobs))


class Pictures(Measurer):
    """Tables II and III: every row's pictures, drawn as its part says, and judged.

    Args:
        realigner: draws; its generator is replaced by that of each part.
        judging: judges.
        generator: makes one, given the options of a part's model over the user's.
        out: the folder.
        keep_images: write every picture to ``out/images``.
    """

    def __init__(
        self,
        realigner: Realigner,
        judging: Judging,
        generator: Callable[..., Named],
        out: str | Path,
        *,
        keep_images: bool = False,
    ) -> None:
        super().__init__(realigner, out)
        self.judging, self.keep_images = judging, keep_images
        self._generator, self._prompts_checked = generator, False

    @property
    def left_out(self) -> Sequence[str]:
        """See :class:`Measurer`: pictures about which the metric gets no usable answer."""
        return self.judging.inquiry.left_out

    def open(self, plan: Plan, source: str) -> None:
        """See :class:`Measurer`."""
        drawing = drawing_settings(self.realigner, whole=plan.kind == "stages")
        rows = {}
        for name, models in plan.rows.items():
            chosen = {"reward": plan.selected.get(name)}
            rows[name] = [{**model.record, "raised": self._raised(model.record, chosen)} for model in models]
        inside = {"contents": {**drawing["contents"], **self.judging.contents}}
        self.results.open(plan.kind, {**drawing, **self.judging.settings, **plan.settings, **inside}, rows, source)

    def _raised(self, *records: Mapping[str, Any]) -> list[str]:
        scores = [score.name for score in self.judging.scores]
        return sorted({name for record in records for name in raised(record, scores, self.judging.companions)})

    def prepare(self, jobs: Sequence[Job], report: Report) -> set[Key]:
        """See :class:`Measurer`: features of the reference pictures."""
        prompts = {job.index: job.prompt for job in jobs}
        looks = self.judging.settings["features"] is not None
        earlier = self.results.read(features=looks)
        self.judging.inquiry.heard = any(m.values for m in earlier)
        if any(m.index in prompts and digest(prompts[m.index]) != m.prompt for m in earlier):
            raise OptionError(
                f"{self.results.folder} holds results of other prompts, or of these in another order. Use another "
                f"--out."
            )
        made_from = digest("\n".join(prompts.values()))
        if looks and self.results.reference(made_from) is None:
            report("reference", 0, 1)
            reference = self.judging.reference(list(prompts.values()), self.realigner.batch_size)
            if reference is not None:
                self.results.write_reference(reference, made_from)
            report("reference", 1, 1)
        return {m.key for m in earlier if (m.features is not None or not looks) and self._is_kept(m.key)}

    def _is_kept(self, key: Key) -> bool:
        """Whether a picture is there, where pictures are kept."""
        return not self.keep_images or self._path(key).is_file()

    def _path(self, key: Key) -> Path:
        row, index, seed = key
        return self.results.folder / "images" / slug(row) / f"{index:04d}-s{seed}.png"

    def load(self, part: Part, jobs: Sequence[Job], report: Report) -> None:
        """See :class:`Measurer`: the model's weights."""
        self.realigner = self.realigner.with_(generator=self._generator(**part.model.options))
        if not self._prompts_checked:  # all of them before any work; every model of a row reads prompts alike
            for prompt in dict.fromkeys(job.prompt for job in jobs):
                self.realigner.check_prompt(prompt)
            self._prompts_checked = True

    def __call__(self, part: Part, rows: Sequence[str], jobs: Sequence[Job], report: Report) -> list[Measurement]:
        """See :class:`Measurer`."""
        assert part.draw is not None
        prompts = [job.prompt for job in jobs]
        drawn = part.draw(self.realigner, prompts, [noise_seed(job.seed, job.index) for job in jobs], rows)
        measurements = []
        for row in rows:
            judged = self.judging(drawn[row], prompts, self.realigner.batch_size)
            for job, image, judgement in zip(jobs, drawn[row], judged, strict=True):
                if self.keep_images:
                    atomic_write(self._path((row, job.index, job.seed)), png(image))
                measurements.append(
                    Measurement(
                        row,
                        part.run,
                        job.index,
                        digest(job.prompt),
                        job.seed,
                        judgement.values,
                        judgement.scores,
                        judgement.features,
                    )
                )
        return measurements


def drawing_settings(realigner: Realigner, *, whole: bool = False) -> dict[str, Any]:
    """What pictures depend on, as JSON values; of a generator not what merely goes with it.

    Args:
        realigner: draws them.
        whole: those of the fine stage, too.
    """
    settings = dict(realigner.settings)
    settings["generator"] = without(settings["generator"], COMPANY)
    if whole:
        return settings
    return {
        "model": settings["plugins"]["generator"],
        "generator": settings["generator"],
        "sampling": settings["sampling"],
        **{name: settings[name] for name in ("guide_by", *GUIDE_OPTIONS) if name in settings},
        "contents": {
            name: is_in for name, is_in in settings["contents"].items() if name.startswith(("generator.", "guide_by."))
        },
    }


def join(folders: Sequence[str | Path], out: str | Path) -> int:
    """Write into one what several processes measured, each with seeds (or rows) of its own.

    Args:
        folders: with results that were measured in the same way, of the same prompts in the same order; what two of
            them have must be the same.
        out: a new folder, or one that an earlier join has written, which is replaced.

    Returns:
        How many pictures' results there are.

    Raises:
        OptionError: the folders do not go together, or ``out`` holds results of its own.
        OutputError: a folder holds no ablation, is damaged, or ``out`` cannot be written.
    """
    parts = [AblationFolder(folder) for folder in folders]
    records = [part.existing() for part in parts]
    target = AblationFolder(out)
    with only_writer(target.folder):
        record = target.record()
        if record is not None and "joined" not in record:
            raise OptionError(f"{target.folder} holds an ablation of its own. Give another --out.")
        rows, plugins = _joined_records(parts, records)
        measurements = _joined_measurements(parts)
        kept = sorted(measurements.values(), key=lambda m: (list(rows).index(m.row), m.seed, m.index))
        target.write_record({**records[0], "rows": rows, "plugins": plugins, "joined": len(parts)})
        target.replace(kept)
        references = [reference for part in parts if (reference := part.reference()) is not None]
        if references:
            target.write_reference(max(references, key=len))
        return len(kept)


def _joined_records(
    parts: Sequence[AblationFolder], records: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows and plugins of all folders, which must have been measured in the same way."""
    first, plugins, rows = records[0], dict[str, Any](), dict[str, Any]()
    for part, record in zip(parts, records, strict=True):
        before, now = ({"kind": r["kind"], **r["settings"]} for r in (first, record))
        different = different_settings(before, now) + different_plugins(plugins, record.get("plugins", {}))
        if different:
            names = ", ".join(text.partition(" (")[0] for text in different[:3])
            raise OptionError(
                f"{part.folder} was measured otherwise than {parts[0].folder}; different: {names}. They cannot be "
                f"joined."
            )
        plugins = with_plugins(plugins, record.get("plugins", {}))
        for name, models in record["rows"].items():
            if rows.setdefault(name, models) != models:
                raise OptionError(f"{part.folder} measured other models as row '{name}'. Join only what goes together.")
    return rows, plugins


def _joined_measurements(parts: Sequence[AblationFolder]) -> dict[Key, Measurement]:
    """What all folders have, which must agree."""
    measurements: dict[Key, Measurement] = {}
    prompts: dict[int, str] = {}
    for part in parts:
        for measurement in part.read():
            if prompts.setdefault(measurement.index, measurement.prompt) != measurement.prompt:
                raise OptionError(f"{part.folder} measured other prompts. Join only what goes together.")
            twin = measurements.setdefault(measurement.key, measurement)
            if twin.line() != measurement.line():
                raise OptionError(
                    f"{part.folder} found something else than another folder for row '{measurement.row}', prompt "
                    f"{measurement.index}, seed {measurement.seed}. Remove one of the two."
                )
    return measurements
