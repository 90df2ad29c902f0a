"""What the commands that evaluate share: what options name, measuring it, and how results are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.cli._progress import Bars, note, out, print_table, print_usage
from realignkit.errors import OptionError

if TYPE_CHECKING:
    from realignkit.evaluation.compare import EvaluationPair, Pair
    from realignkit.evaluation.drawing import Drawing
    from realignkit.evaluation.folder import Line
    from realignkit.evaluation.pictures import Picture
    from realignkit.evaluation.processes import Launch
    from realignkit.evaluation.write_evaluation import ShownTable
    from realignkit.named import Named
    from realignkit.registry import PluginInfo, Registry
    from realignkit.report.gallery import Card, Section

PAGE = "report.html"
SHOWN = 8
"""Pictures of each kind on a page."""


class EvaluationBench:
    """What is looked up from the options.

    Args:
        model: a generator's name; None where the pictures exist.
        prompts: a file or a prompt set; None: the pictures say what they are of.
        metrics: by name; none: the model's companion.
        steps: tagger, scorer and segmenter, the ``reward`` that candidates are chosen by, and ``guide_by``; what is
            left out is the model's companion.
        launch: the processes.
        companions: what names of metrics mean; None: with this model.
    """

    def __init__(
        self,
        model: str | None,
        prompts: str | None,
        metrics: Sequence[str],
        steps: Mapping[str, str | None],
        launch: Launch,
        companions: Mapping[str, str] | None = None,
    ) -> None:
        from realignkit import resolve
        from realignkit.registry import default_registry

        self.registry: Registry = default_registry()
        self.model, self.launch = model, launch
        self.steps = {"tagger": None, "scorer": None, "segmenter": None, "reward": None, **steps}
        generator = None if model is None else resolve.choose_generator(self.registry, model)
        if companions is None:
            companions = {} if generator is None else resolve.companions_of(generator)
        self.companions: Mapping[str, str] = companions
        names = list(metrics) or [name for kind, name in self.companions.items() if kind == "metric"]
        if not names:
            known = ", ".join(info.name for info in self.registry.infos("metric"))
            raise OptionError(f"give --metric: what is the score? Known: {known}.")
        self._asked = {name: metric_info(self.registry, name, self.companions) for name in names}
        self.infos = list({info.name: info for info in self._asked.values()}.values())
        self.prompts: Named | None = None
        self.texts: list[str] = []
        self.labels: list[dict[str, str]] = []
        self.source = prompts or ""
        if prompts is not None:
            self._read(prompts)

    def _read(self, spec: str) -> None:
        from realignkit.calls import texts_of
        from realignkit.prompts import labels_of, prompt_set

        self.prompts = prompt_set(self.registry, spec)
        self.texts, self.labels = texts_of(self.prompts), labels_of(self.prompts)
        if (summary := getattr(self.prompts.plugin, "summary", "")) and self.launch.first:
            note(summary)

    @property
    def by_id(self) -> dict[str, str]:
        """Id -> prompt, in their order; a set without ids has none that a list could name."""
        numbered = enumerate(zip(self.texts, self.labels, strict=True), start=1)
        return {label.get("id", f"#{number}"): text for number, (text, label) in numbered}

    @property
    def by_prompt(self) -> dict[str, dict[str, str]]:
        """Prompt -> what the set says of it."""
        return {text: label for text, label in zip(self.texts, self.labels, strict=True) if label}

    def settings(self, assignments: Sequence[str]) -> Any:
        """What ``--set`` says."""
        from dataclasses import replace

        from realignkit.cli._settings import known_options, parse
        from realignkit.rewards import option_names_of

        known = {} if self.model is None else known_options(self.registry, self.model, self.steps)
        options = option_names_of([*self.infos, *(replace(info, name=name) for name, info in self._asked.items())])
        return parse(assignments, {**known, "metric": options})

    def metrics(self, settings: Any) -> tuple[Named, ...]:
        """Made from their names; nothing is loaded."""
        from realignkit.errors import PluginError
        from realignkit.resolve import make

        if unusable := [info.remedy for info in self.infos if not info.available]:
            raise PluginError(f"not installed: {', '.join(unusable)}.")
        return make(self.infos, {self._meant(name): value for name, value in settings.options["metric"].items()})

    def _meant(self, option: str) -> str:
        """An option of a metric under the name of what its own stands for: ``tifa.vqa`` may be ``micro_tifa.vqa``."""
        owner, _, name = option.rpartition(".")
        return f"{self._asked[owner].name}.{name}" if owner in self._asked else option

    def existing(self, source: Path, stage: Any) -> list[Picture]:
        """Pictures that exist; says where they and the prompt set do not cover each other."""
        from realignkit.evaluation.pictures import read_pictures

        pictures = read_pictures(source, self.by_id, stage, note if self.launch.first else lambda text: None)
        noises = {picture.seed for picture in pictures}
        count = len({picture.prompt for picture in pictures})
        if None not in noises and len(noises) < count and self.launch.first:
            note(
                f"{count} prompts share {len(noises)} start noise{'s' * (len(noises) != 1)}: their pictures are no "
                f"independent ones, and intervals by prompt may be too narrow. 'realignkit eval --model' gives each "
                f"prompt noise of its own"
            )
        if self.texts and self.launch.first:
            prompts, known = {picture.prompt for picture in pictures}, set(self.texts)
            if without := len(known - prompts):
                note(f"{without} of {len(known)} prompts of '{self.source}' have no picture")
            if others := len(prompts - known):
                note(f"{others} prompts of the pictures are none of '{self.source}': they are in no group")
        return pictures

    def drawing(
        self, settings: Any, chosen: Mapping[str, Any], folder: Path, *, seeds: list[int], fine: bool, limit: int | None
    ) -> Drawing:
        """What draws the prompts."""
        from realignkit.cli._settings import make_realigner
        from realignkit.evaluation.drawing import Drawing

        assert self.model is not None
        steps = {kind: spec for kind, spec in self.steps.items() if kind not in ("reward", "guide_by")}
        realigner = make_realigner(self.model, steps, settings, **chosen)
        seeds = list(dict.fromkeys(seeds))
        return Drawing(realigner, self.texts[:limit], seeds, folder, fine=fine, launch=self.launch)


def metric_info(registry: Registry, spec: str, companions: Mapping[str, str]) -> PluginInfo:
    """A metric by name; a weighted sum of rewards, such as ``caption:1,clip:0.5``, is a metric too."""
    from dataclasses import replace

    from realignkit.resolve import parse_weights, rewards_in

    if ":" not in spec and "," not in spec:
        return registry.info("metric", companions.get(f"reward:{spec}", spec))
    names, weights = rewards_in(spec, companions), parse_weights(spec)
    info = registry.info("metric", "reward")
    reward = ",".join(f"{names[name]}:{weight:g}" for name, weight in weights.items())
    return replace(info, name=spec, options={**info.options, "reward": reward})


def stem_of(source: str, prompts: str | None) -> str:
    """What the folder is called by default."""
    from realignkit.evaluation.runs import slug

    stem = slug(Path(source).stem)
    return stem if prompts is None else f"{stem}-{slug(Path(prompts).stem)}"


def measure(
    bench: EvaluationBench,
    metrics: Sequence[Named],
    pictures: Sequence[Picture] | Drawing,
    source: str,
    folder: Path,
    batch_size: int,
) -> None:
    """Measure what is missing in a folder, with a bar for each step."""
    from realignkit.evaluation.evaluate import Evaluation

    with Bars(shown=bench.launch.first) as bars:
        evaluation = Evaluation(
            pictures,
            metrics,
            folder,
            labels=bench.by_prompt,
            source=source,
            batch_size=batch_size,
            launch=bench.launch,
        )
        evaluation(bars.step, note)
    print_usage(metrics)


def show_metrics(folder: Path, metrics: Sequence[Named]) -> None:
    """Sum up a folder, write its tables and its page, and print what is over all pictures."""
    from realignkit.evaluation.write_evaluation import INTERVALS

    tables, files, silent = write_results(folder, metrics)
    print_tables(tables, [INTERVALS], [*files, folder / "pictures.jsonl"])
    for text in silent:
        note(text)


def write_results(folder: Path, metrics: Sequence[Named]) -> tuple[list[ShownTable], list[Path], list[str]]:
    """The tables of a folder, the files that they and its page are written to, and what metrics are silent about."""
    from realignkit.evaluation.folder import EvaluationFolder
    from realignkit.evaluation.summary import silences, summarise
    from realignkit.evaluation.write_evaluation import INTERVALS, tables_of, write_metrics
    from realignkit.report.gallery import write_gallery

    results = EvaluationFolder(folder)
    record, lines = results.existing(), list(results.lines().values())
    values = summarise(lines, metrics, record.get("whole", {}))
    silent = silences(lines, metrics)
    files = write_metrics(folder, record, values, silent)
    tables = tables_of(values)
    about = [f"{record['pictures']['source']}: {len(lines)} pictures.", *(f"{text}." for text in silent), INTERVALS]
    sections = [section for metric in metrics for section in _extremes(folder, lines, metric)]
    files.append(write_gallery(folder / PAGE, "Evaluation", about, tables, sections))
    return tables, files, silent


def show_comparison(folder: Path, before: Path, after: Path, pair: EvaluationPair) -> None:
    """Write the tables and the page of a comparison, and print it."""
    from realignkit.evaluation.write_evaluation import PAIRED, comparison_table, write_comparison
    from realignkit.report.gallery import write_gallery

    about = f"Before: {before.name}. After: {after.name}."
    files = write_comparison(folder, about, pair)
    table = comparison_table(pair)
    sections = [section for change in _deciding(pair) for section in _moved(before, after, pair, *change)]
    files.append(write_gallery(folder / PAGE, "Comparison", [about, *pair.notes, PAIRED], [table], sections))
    for text in pair.notes:
        note(text)
    print_tables([table], [PAIRED], files)


def print_tables(tables: Sequence[ShownTable], texts: Sequence[str], files: Sequence[Path]) -> None:
    """Print tables, how to read them, and where they are."""
    for table in tables:
        if table.title:
            out().print(f"\n{table.title}", markup=False)
        print_table(table.headings, table.rows)
    for text in texts:
        out().print(text, style="dim", markup=False)
    out().print("\n".join(f"  {path}" for path in files), markup=False)
    names = {path.name for path in files}
    if names & {"metrics.md", "methods.md"} and not names & {"metrics.svg", "methods.svg"}:
        note("there is no plot: install realignkit[plots]")


def _extremes(folder: Path, lines: Sequence[Line], metric: Named) -> list[Section]:
    """The best and the worst pictures by a metric's first value."""
    from realignkit.report.gallery import Section

    judged = [line for line in lines if line["values"].get(metric.name)]
    if not judged:
        return []
    name = next(iter(judged[0]["values"][metric.name]))
    higher = bool(getattr(metric.plugin, "higher_is_better", True))
    # Of equals, such as yes and no, the metric's other values say more.
    ranked = sorted(judged, key=lambda line: list(line["values"][metric.name].values()), reverse=higher)
    if ranked[0]["values"][metric.name] == ranked[-1]["values"][metric.name]:
        return []  # all are alike
    count = min(SHOWN, len(ranked) // 2)
    kinds = {"Best": ranked[:count], "Worst": ranked[::-1][:count]}
    heading = _heading(metric.name, name)
    return [
        Section(f"{kind} by {heading}", tuple(_card(folder, line, metric.name) for line in some))
        for kind, some in kinds.items()
    ]


def _heading(metric: str, name: str) -> str:
    return metric if name == metric else f"{metric} ({name})"


def _card(folder: Path, line: Line, metric: str) -> Card:
    from realignkit.report.gallery import Card

    return Card(line["prompt"], _said(line, metric), (("", folder / line["image"]),))


def _said(line: Line, metric: str) -> str:
    """What a metric says of a picture, in short."""
    numbers = [f"{name} {value:.4g}" for name, value in line["values"][metric].items() if "/" not in name]
    wrong = [
        f"{detail.get('question')} {detail.get('said', detail.get('answer'))}"
        for detail in line.get("details", {}).get(metric, [])
        if detail.get("right") in (False, 0)
    ]
    return "; ".join([", ".join(numbers), *wrong[:3]])


def _deciding(pair: EvaluationPair) -> list[tuple[str, str]]:
    """Each metric's first value."""
    first: dict[str, str] = {}
    for change in pair.changes:
        first.setdefault(change.metric, change.name)
    return list(first.items())


def _moved(before: Path, after: Path, pair: EvaluationPair, metric: str, name: str) -> list[Section]:
    """The pictures that gained and lost most."""
    from realignkit.report.gallery import Card, Section

    moved: list[tuple[float, Pair]] = []
    for each in pair.pairs:
        if (change := each.change(metric, name)) is not None and change:
            moved.append((change, each))
    moved.sort(key=lambda item: item[0])

    def card(change: float, each: Pair) -> Card:
        pictures = (("before", before / each.before["image"]), ("after", after / each.after["image"]))
        values = [line["values"][metric][name] for line in (each.before, each.after)]
        return Card(each.after["prompt"], f"{name} {values[0]:.4g} → {values[1]:.4g} ({change:+.4g})", pictures)

    up = [card(*item) for item in moved[::-1][:SHOWN] if item[0] > 0]
    down = [card(*item) for item in moved[:SHOWN] if item[0] < 0]
    headings = {f"{_heading(metric, name)} rose most": up, f"{_heading(metric, name)} fell most": down}
    return [Section(heading, tuple(cards)) for heading, cards in headings.items() if cards]
