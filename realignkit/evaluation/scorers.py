"""Table IV: taggers by scorers, how often the answer is right and why not. Every step is kept and resumed.

The folder holds ``images/``, ``tags/<tagger>/``, ``answers/<tagger>/<scorer>/`` (one small file per prompt and seed),
``ablation.json`` (what it was made with), and the results, ``table.json`` and ``table.md``.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit import calls
from realignkit.contracts import Plugin, PromptSet
from realignkit.errors import DamagedError, OptionError, OutputError, PluginError, RealignKitError
from realignkit.evaluation.runs import Job
from realignkit.evaluation.statistics import share_interval
from realignkit.evaluation.success import problems
from realignkit.evaluation.tables import Cell, markdown, row
from realignkit.files import atomic_write, only_writer
from realignkit.images import as_seen, picture_key, png
from realignkit.inputs import check_text
from realignkit.named import Named
from realignkit.provenance import contents, differences, digest_of, listed, placeless
from realignkit.realigner import Realigner
from realignkit.records import checksum, read_json
from realignkit.registry import Registry
from realignkit.resolve import make
from realignkit.types import Likelihood, LocalCaption, Tag

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Report = Callable[[str, int, int], None]
"""``report(step, done, total)``."""


class Nothing(Plugin):
    """Stands where an image is all that is wanted."""

    def __call__(self, *arguments: Any) -> Any:
        """Not meant to be called."""
        raise NotImplementedError


class ScorerAblation:
    """Makes the images, has them tagged, asks the scorers, and counts.

    Args:
        registry: where plugins are looked up.
        model: as for :meth:`Realigner.from_pretrained`.
        taggers, scorers: names; each scorer is asked alone, without a fallback.
        prompts: also says what is true about them.
        out: made where missing; what is in it is not made again.
        seeds: each prompt is drawn with each of them.
        limit: only the first so many prompts.
        options: kind ("generator", "tagger", "scorer") -> option -> value.
        sampling: over the model's defaults.
        batch_size: images per forward pass.

    Raises:
        PluginError, OptionError: an unknown or unavailable plugin, an unknown option.
        PromptError: a prompt is no text.
        OutputError: ``out`` holds an ablation with other images, or is being written by somebody else.
    """

    def __init__(
        self,
        registry: Registry,
        model: str,
        taggers: Sequence[str],
        scorers: Sequence[str],
        prompts: PromptSet,
        out: str | Path,
        *,
        seeds: Sequence[int] = (42,),
        limit: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        sampling: Mapping[str, Any] | None = None,
        batch_size: int = 8,
    ) -> None:
        options = options or {}
        self.taggers = _make(registry, "tagger", taggers, options.get("tagger", {}))
        self.scorers = _make(registry, "scorer", scorers, options.get("scorer", {}))
        nothing: Any = Nothing()
        own = {"generator": options.get("generator", {})}
        self._realigner = Realigner.from_pretrained(
            model,
            tagger=nothing,
            scorer=nothing,
            segmenter=nothing,
            registry=registry,
            options=own,
            sampling=sampling,
            batch_size=batch_size,
        )
        self._prompts = Named("prompts", type(prompts).__name__, prompts)
        texts = calls.texts_of(self._prompts)[:limit]
        if not texts:
            raise OptionError("there are no prompts: give a file with at least one, or a larger limit.")
        for text in texts:
            check_text(text)
        self.jobs = [Job(index, text, seed) for index, text in enumerate(texts, start=1) for seed in seeds]
        self.out = Path(out)
        with only_writer(self.out):
            self._check_settings()

    def _check_settings(self) -> None:
        settings = self._realigner.settings
        made = {"tagger": self.taggers, "scorer": self.scorers}
        options = {
            "generator": settings["generator"],
            **{kind: {plugin.name: plugin.options for plugin in plugins} for kind, plugins in made.items()},
        }
        known: dict[str, str] = {}
        inside = contents(options, known)
        images = {"model": settings["plugins"]["generator"]} | {n: settings[n] for n in ("generator", "sampling")}
        wanted: dict[str, Any] = {"images": {**images, "contents": _of("generator", inside)}}
        for kind in made:
            wanted[kind] = {n: {**own, "contents": _of(f"{kind}.{n}", inside)} for n, own in options[kind].items()}
        wanted = json.loads(json.dumps(wanted))
        self._keys = {
            "images": digest_of([json.dumps(placeless(wanted["images"], known), sort_keys=True)]),
            **{
                f"{kind} {name}": digest_of([json.dumps(placeless(own, known), sort_keys=True)])
                for kind in made
                for name, own in wanted[kind].items()
            },
        }
        path = self.out / "ablation.json"
        there = _read(path) or {}
        different = differences(there.get("images", wanted["images"]), wanted["images"])
        for kind in made:
            before = there.get(kind, {})
            different += [
                f"options of {kind} '{name}': {text}"
                for name, own in wanted[kind].items()
                for text in differences(before.get(name, own), own)
            ]
            wanted[kind] = {**before, **wanted[kind]}
        if different:
            raise OutputError(f"{self.out} was made otherwise: {listed(different)}. Use another --out.")
        atomic_write(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")

    def __call__(self, report: Report | None = None) -> list[Cell]:
        """Do what is not done yet, and count. What fails for one tagger or scorer stops no other.

        Raises:
            ModelError: no images can be made.
            OutputError: the folder cannot be written.
        """
        with only_writer(self.out):
            return self._fill(report or (lambda step, done, total: None))

    def _fill(self, report: Report) -> list[Cell]:
        images = self._images(report)
        cells = []
        for tagger in self.taggers:
            try:
                tags = self._tags(tagger, images, report)
            except OutputError:
                raise
            except RealignKitError as error:
                cells += [Cell(tagger.name, scorer.name, problem=str(error)) for scorer in self.scorers]
                continue
            cells += [self._cell(tagger.name, scorer, tags, report) for scorer in self.scorers]
        atomic_write(self.out / "table.json", json.dumps([row(cell) for cell in cells], indent=2) + "\n")
        atomic_write(self.out / "table.md", markdown(cells, self._prompts.plugin.source))
        return cells

    def _images(self, report: Report) -> list[Path]:
        paths = [self.out / "images" / f"{job.name}.png" for job in self.jobs]
        # A file's name is only a part of its prompt, so what it is of is written into it.
        keys = [digest_of([self._keys["images"], job.prompt, str(job.seed)]) for job in self.jobs]
        todo = [i for i, (path, key) in enumerate(zip(paths, keys, strict=True)) if picture_key(path) != key]
        size = self._realigner.batch_size
        for start in range(0, len(todo), size):
            report("images", len(paths) - len(todo) + start, len(paths))
            batch = todo[start : start + size]
            made = self._realigner.generate([self.jobs[i].prompt for i in batch], [self.jobs[i].seed for i in batch])
            for i, image in zip(batch, made, strict=True):
                atomic_write(paths[i], png(image, keys[i]))
        report("images", len(paths), len(paths))
        return paths

    def _tags(self, tagger: Named, images: Sequence[Path], report: Report) -> list[tuple[Tag, ...]]:
        found = []
        for number, (job, path) in enumerate(zip(self.jobs, images, strict=True)):
            report(f"tags {tagger.name}", number, len(images))
            kept = self.out / "tags" / tagger.name / f"{job.name}.json"
            seen = {"prompt": job.prompt, "image": checksum(path), "by": self._keys[f"tagger {tagger.name}"]}
            tags = _tags_of(_read(kept), seen)
            if tags is None:
                (tags,) = calls.tag_images(tagger, [_open(path)])
                record = {**seen, "tags": [asdict(tag) for tag in tags]}
                atomic_write(kept, json.dumps(record, ensure_ascii=False) + "\n")
            found.append(tags)
        return found

    def _cell(self, tagger: str, scorer: Named, tags: Sequence[tuple[Tag, ...]], report: Report) -> Cell:
        with self._prompts.blame():
            truths = [
                self._prompts.plugin.truth(job.prompt, [tag.name for tag in own])
                for job, own in zip(self.jobs, tags, strict=True)
            ]
        questions = [i for i, truth in enumerate(truths) if truth is not None and tags[i]]
        answers = calls.spread(
            lambda i: self._ask(tagger, scorer, self.jobs[i], tags[i]),
            questions,
            calls.concurrency(scorer),
            lambda done: report(f"{tagger} x {scorer.name}", done, len(questions)),
        )
        reasons: Counter[str] = Counter()
        verdicts: list[bool] = []
        for i, record in zip(questions, answers, strict=True):
            truth = truths[i]
            assert truth is not None
            wrong: tuple[str, ...] = (f"no answer: {record['reason']}",)
            if record["captions"] is not None:
                wrong = problems([_caption(caption) for caption in record["captions"]], truth)
            verdicts.append(not wrong)
            reasons.update(wrong)
        asked = [self.jobs[i].prompt for i in questions]
        known = [truth for truth in truths if truth is not None]
        return Cell(
            tagger,
            scorer.name,
            images=len(tags),
            asked=len(questions),
            prompts=len(set(asked)),
            successes=sum(verdicts),
            interval=share_interval(verdicts, asked),
            reasons=dict(sorted(reasons.items())),
            objects=sum(truth.objects for truth in known),
            found=sum(truth.found for truth in known),
            seconds=sum(record["seconds"] for record in answers),
        )

    def _ask(self, tagger: str, scorer: Named, job: Job, tags: tuple[Tag, ...]) -> dict[str, Any]:
        kept = self.out / "answers" / tagger / scorer.name / f"{job.name}.json"
        question = {
            "prompt": job.prompt,
            "tags": [asdict(tag) for tag in tags],
            "by": self._keys[f"scorer {scorer.name}"],
        }
        record = _read(kept)
        # A failure that may have passed, such as a network that was down, is no answer to keep.
        if record and record.get("final") and _is_answer(record, question):
            return record
        start = time.perf_counter()
        found = calls.attempt(scorer, job.prompt, tags)
        record = {
            **question,
            "captions": None if found.captions is None else [asdict(caption) for caption in found.captions],
            "reason": found.reason,
            "message": found.message,
            "final": found.final,
            "seconds": time.perf_counter() - start,
        }
        atomic_write(kept, json.dumps(record, ensure_ascii=False) + "\n")
        return record


def _make(registry: Registry, kind: str, names: Sequence[str], options: Mapping[str, Any]) -> tuple[Named, ...]:
    infos = [registry.info(kind, name) for name in dict.fromkeys(names)]
    if not infos:
        raise OptionError(f"name at least one {kind}.")
    if unusable := [info.remedy for info in infos if not info.available]:
        raise PluginError(f"not installed: {', '.join(unusable)}.")
    return make(infos, options)


def _caption(record: Mapping[str, str]) -> LocalCaption:
    return LocalCaption(record["tag"], record["caption"], Likelihood(record["likelihood"]))


def _of(owner: str, inside: Mapping[str, str]) -> dict[str, str]:
    """What is in the files of one plugin's options."""
    return {name.removeprefix(f"{owner}."): told for name, told in inside.items() if name.startswith(f"{owner}.")}


def _tags_of(record: dict[str, Any] | None, seen: Mapping[str, str]) -> tuple[Tag, ...] | None:
    """Tags that are on record for what was seen; None where there are none, or they are damaged."""
    if record is None or any(record.get(name) != value for name, value in seen.items()):
        return None
    try:
        return tuple(Tag(str(tag["name"]), float(tag["confidence"])) for tag in record["tags"])
    except (KeyError, TypeError, ValueError):
        return None


def _is_answer(record: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    """Whether a record holds a whole answer to a question."""
    if any(record.get(name) != value for name, value in question.items()):
        return False
    try:
        float(record["seconds"])
        tuple(map(_caption, record["captions"] or ()))
        return record["captions"] is not None or isinstance(record["reason"], str)
    except (KeyError, TypeError, ValueError):
        return False


def _open(path: Path) -> PILImage:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return as_seen(image)[0]
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise DamagedError(f"{path} is damaged ({error})", "Run the same command again.") from error


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is none or it is damaged: it will be made again."""
    try:
        return read_json(path)
    except (OSError, DamagedError):
        return None
