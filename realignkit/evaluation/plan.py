"""Tables II and III: rows (models, or stages) measured on the same prompts and seeds, batched and resumable."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.errors import OptionError
from realignkit.evaluation.measure import Judging
from realignkit.evaluation.models import BASE, Model, raised
from realignkit.evaluation.results import AblationFolder, Measurement, digest
from realignkit.evaluation.runs import slug
from realignkit.files import atomic_write, only_writer
from realignkit.images import png
from realignkit.inputs import check_text
from realignkit.machine import suited_threads
from realignkit.named import Named
from realignkit.realigner import Realigner
from realignkit.registry import Registry
from realignkit.resolve import choose_generator

if TYPE_CHECKING:
    from PIL.Image import Image

Report = Callable[[str, int, int], None]
"""``report(step, done, total)``."""

Draw = Callable[[Realigner, Sequence[str], Sequence[int], Collection[str]], Mapping[str, Sequence["Image"]]]
"""``draw(realigner, prompts, noise seeds, wanted rows)`` -> at least those rows' pictures."""


@dataclass(frozen=True)
class Task:
    """One prompt and seed; ``index`` counts prompts from 1."""

    index: int
    prompt: str
    seed: int


@dataclass(frozen=True)
class Part:
    """Rows that one model draws together.

    Attributes:
        name: for progress.
        model: whose weights are loaded.
        rows: what it draws.
        draw: how.
        run, of: it is number ``run`` of ``of`` models of these rows, and draws the seeds with ``seed % of == run``.
    """

    name: str
    model: Model
    rows: tuple[str, ...]
    draw: Draw
    run: int = 0
    of: int = 1


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        kind: ``rewards`` or ``stages``.
        parts: in the order that they are measured in.
        settings: what the rows' pictures depend on beside the models and the realigner.
        selected: row -> the reward that its pictures were chosen by.
    """

    kind: str
    parts: tuple[Part, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    selected: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, list[Model]]:
        """Row -> its models, in the table's order."""
        found: dict[str, list[Model]] = {}
        for part in self.parts:
            for row in part.rows:
                found.setdefault(row, []).append(part.model)
        return found

    @property
    def most_models(self) -> int:
        """How many seeds it takes at least to ask every model of every row."""
        return max(part.of for part in self.parts)


def noise_seed(seed: int, index: int) -> int:
    """Where the noise of a prompt comes from: prompts that shared it would not be independent pictures."""
    return 100_000 * seed + index - 1


class RowAblation:
    """Draws and judges every row's pictures, and keeps what was found.

    Args:
        registry: where plugins are looked up.
        model: the generator, see :func:`realignkit.resolve.choose_generator`.
        realigner: made from ``model``; its generator is replaced by that of each part.
        generator_options: of the generator, the parts' own over them.
        plan: what to measure.
        judging: how.
        prompts: those that the metric cannot judge are left out.
        out: made where missing; what is in it is not made again.
        seeds: each prompt is drawn with each of them; by default as many as it takes to ask every model.
        limit: only the first so many prompts.
        keep_images: write every picture to ``out/images``.
        source: where the prompts come from, for the table.

    Raises:
        PromptError: a prompt is no text.
        OptionError: no prompt that can be judged, or ``out`` holds results that were measured otherwise.
    """

    def __init__(
        self,
        registry: Registry,
        model: str,
        realigner: Realigner,
        plan: Plan,
        judging: Judging,
        prompts: Sequence[str],
        out: str | Path,
        *,
        generator_options: Mapping[str, Any] | None = None,
        seeds: Sequence[int] | None = None,
        limit: int | None = None,
        keep_images: bool = False,
        source: str = "",
    ) -> None:
        self.registry, self.model, self.realigner, self.plan, self.judging = registry, model, realigner, plan, judging
        self._generator_options = dict(generator_options or {})
        able = [prompt for prompt in prompts if judging.can_judge(prompt)]
        self.left_out = len(prompts) - len(able)
        self.prompts = able[:limit]
        for prompt in self.prompts:
            check_text(prompt)
        if not self.prompts:
            raise OptionError(
                f"{judging.metric.whose} can judge none of {len(prompts)} prompts. Give prompts that it knows, or "
                f"another --metric."
            )
        self.seeds = list(dict.fromkeys(seeds if seeds is not None else range(plan.most_models)))
        self.tasks = [
            Task(index, text, seed) for seed in self.seeds for index, text in enumerate(self.prompts, start=1)
        ]
        self.keep_images = keep_images
        self.results = AblationFolder(out)
        settings = {**_drawing(realigner, plan.kind), **judging.settings, **plan.settings}
        rows = {name: [self._record(name, model) for model in models] for name, models in plan.rows.items()}
        with only_writer(self.results.folder):
            self.results.open(plan.kind, settings, rows, source)

    def _record(self, row: str, model: Model) -> dict[str, Any]:
        learnt, chosen = model.record, {"reward": self.plan.selected.get(row)}
        scores = [score.name for score in self.judging.scores]
        not_fair = [raised(record, scores, self.judging.beside) for record in (learnt, chosen)]
        return {**model.record, "raised": sorted({score for some in not_fair for score in some})}

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
        with only_writer(self.results.folder), suited_threads(threads=self.realigner.threads):
            self._measure_missing(report)

    def _measure_missing(self, report: Report) -> None:
        looks = self.judging.settings["features"] is not None
        there = self.results.read(features=looks)
        self._check_prompts(there)
        done = {m.key for m in there if (m.features is not None or not looks) and self._is_kept(m)}
        made_from = digest("\n".join(self.prompts))
        if looks and self.results.reference(made_from) is None:
            report("reference", 0, 1)
            reference = self.judging.reference(self.prompts, self.realigner.batch_size)
            if reference is not None:
                self.results.write_reference(reference, made_from)
            report("reference", 1, 1)
        checked = False
        for part in self.plan.parts:
            mine = [task for task in self.tasks if task.seed % part.of == part.run]
            missing: dict[tuple[str, ...], list[Task]] = {}
            for task in mine:
                rows = tuple(row for row in part.rows if (row, task.index, task.seed) not in done)
                if rows:
                    missing.setdefault(rows, []).append(task)
            left = sum(map(len, missing.values()))
            label = part.name if part.of == 1 else f"{part.name} {part.run + 1}"
            report(label, len(mine) - left, len(mine))
            if not left:
                continue
            self._load(part)
            if not checked:  # all of them before any work; every model of a row reads prompts alike
                for prompt in self.prompts:
                    self.realigner.check_prompt(prompt)
                checked = True
            for rows, tasks in missing.items():
                for start in range(0, len(tasks), self.realigner.batch_size):
                    batch = tasks[start : start + self.realigner.batch_size]
                    self.results.add(self._measure(part, rows, batch))
                    left -= len(batch)
                    report(label, len(mine) - left, len(mine))

    def _is_kept(self, measurement: Measurement) -> bool:
        """Whether a picture is there, where pictures are kept."""
        return not self.keep_images or self._picture(*measurement.key).is_file()

    def _picture(self, row: str, index: int, seed: int) -> Path:
        return self.results.folder / "images" / slug(row) / f"{index:04d}-s{seed}.png"

    def _check_prompts(self, there: Sequence[Measurement]) -> None:
        now = {index: digest(prompt) for index, prompt in enumerate(self.prompts, start=1)}
        if any(now.get(m.index, m.prompt) != m.prompt for m in there):
            raise OptionError(
                f"{self.results.folder} holds results of other prompts, or of these in another order. Use another "
                f"--out."
            )

    def _load(self, part: Part) -> None:
        info = choose_generator(self.registry, self.model)
        generator = info.create(**{**self._generator_options, **part.model.options})
        self.realigner = self.realigner.with_(generator=Named("generator", info.name, generator))

    def _measure(self, part: Part, rows: tuple[str, ...], tasks: Sequence[Task]) -> list[Measurement]:
        prompts = [task.prompt for task in tasks]
        drawn = part.draw(self.realigner, prompts, [noise_seed(task.seed, task.index) for task in tasks], rows)
        found = []
        for row in rows:
            judged = self.judging(drawn[row], prompts, self.realigner.batch_size)
            for task, image, judgement in zip(tasks, drawn[row], judged, strict=True):
                if self.keep_images:
                    atomic_write(self._picture(row, task.index, task.seed), png(image))
                found.append(
                    Measurement(
                        row,
                        part.run,
                        task.index,
                        digest(task.prompt),
                        task.seed,
                        judgement.values,
                        judgement.scores,
                        judgement.features,
                    )
                )
        return found


def _drawing(realigner: Realigner, kind: str) -> dict[str, Any]:
    """What the pictures depend on; of a generator not what merely goes with it."""
    settings = dict(realigner.settings)
    beside = ("companions", "refine_defaults")
    settings["generator"] = {name: value for name, value in settings["generator"].items() if name not in beside}
    if kind == "stages":
        return settings
    return {
        "model": settings["plugins"]["generator"],
        "generator": settings["generator"],
        "sampling": settings["sampling"],
        "contents": {name: told for name, told in settings["contents"].items() if name.startswith("generator.")},
    }


def rewards_plan(rows: Mapping[str, Sequence[Model]]) -> Plan:
    """Table III: the base, and each row's models, which share the seeds among them."""
    parts = [Part("base", BASE, ("base",), _coarse("base"))]
    for name, models in rows.items():
        parts += [Part(name, model, (name,), _coarse(name), i, len(models)) for i, model in enumerate(models)]
    return Plan("rewards", tuple(parts))


def _coarse(row: str) -> Draw:
    def draw(realigner: Realigner, prompts: Sequence[str], seeds: Sequence[int], _: Collection[str]) -> Any:
        return {row: realigner.generate(prompts, seeds)}

    return draw
