"""Table IV: taggers and scorers asked about pictures, and when a scorer's answer is right.

The paper does not define that, so here it is made exact. An answer succeeds when it parses and

(a) every tag that the prompt names is certain,
(b) its local caption carries every attribute the prompt gives that object and none that it gives to another,
(c) no tag that the prompt does not name is certain,
(d) no local caption names an object that is not the tag.

What was paid for is kept beside the rows and asked once: in ``images/``, ``tags/<tagger>/`` and
``answers/<tagger>/<scorer>/``, a small file per prompt and seed. The rows are counted from them anew each time.
"""

from __future__ import annotations

import json
import re
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit import calls
from realignkit.errors import DamagedError, OptionError, OutputError, RealignKitError
from realignkit.evaluation.measure import Measurer, Report, drawing_settings
from realignkit.evaluation.plan import Part, Plan, asked
from realignkit.evaluation.results import (
    RECORD,
    SCORERS,
    SUCCESS,
    Key,
    Measurement,
    digest,
)
from realignkit.evaluation.runs import Job
from realignkit.files import atomic_write
from realignkit.images import open_image, picture_key, png
from realignkit.named import Named
from realignkit.provenance import COMPANY, contents, digest_of, placeless, without
from realignkit.realigner import Realigner
from realignkit.records import checksum, read_json
from realignkit.types import Expected, Likelihood, LocalCaption, Tag, Truth

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

NOT_CERTAIN = "(a) named, not certain"
ATTRIBUTE_MISSING = "(b) attribute missing"
ATTRIBUTE_OF_ANOTHER = "(b) another's attribute"
NOT_NAMED = "(c) certain, not named"
ANOTHER_OBJECT = "(d) another object"
REASONS = (NOT_CERTAIN, ATTRIBUTE_MISSING, ATTRIBUTE_OF_ANOTHER, NOT_NAMED, ANOTHER_OBJECT)
"""Why an answer that parses can fail, as tables show it."""

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


class Answers(Measurer):
    """Draws pictures, has them tagged, and asks scorers about the tags; each step is kept.

    What fails for one tagger or scorer stops no other.

    Args:
        realigner: draws.
        taggers: whose tags are asked about.
        scorers: each is asked alone, without a fallback.
        prompts: the set, which says what is true about its prompts.
        out: the folder.
    """

    def __init__(
        self,
        realigner: Realigner,
        taggers: Sequence[Named],
        scorers: Sequence[Named],
        prompts: Named,
        out: str | Path,
    ) -> None:
        super().__init__(realigner, out)
        self.taggers, self.scorers, self._prompts = taggers, scorers, prompts
        self._rows = {asked(tagger.name, scorer.name): (tagger, scorer) for tagger in taggers for scorer in scorers}
        self._keys: dict[str, str] = {}
        self._tags: dict[Job, tuple[Tag, ...]] | None = None

    @property
    def batch_size(self) -> int:
        """All at once: a scorer is asked as many questions at a time as it can take."""
        return sys.maxsize

    def open(self, plan: Plan, source: str) -> None:
        """See :class:`Measurer`."""
        settings = self.realigner.settings
        made = {"tagger": self.taggers, "scorer": self.scorers}
        options = {kind: {plugin.name: plugin.options for plugin in plugins} for kind, plugins in made.items()}
        known: dict[str, str] = {}
        inside = contents({"generator": settings["generator"], **options}, known)
        images = {"model": settings["plugins"]["generator"]} | {n: settings[n] for n in ("generator", "sampling")}
        # Keys of what is kept: they must stay what they were, or answers would be paid for again.
        self._keys = {"images": _key({**images, "contents": _of("generator", inside)}, known)}
        plugins: dict[str, dict[str, Any]] = {kind: {} for kind in made}
        for kind, by_name in options.items():
            for name, values in by_name.items():
                plugins[kind][name] = {**values, "contents": _of(f"{kind}.{name}", inside)}
                self._keys[f"{kind} {name}"] = _key(plugins[kind][name], known)
        self._convert()
        rows = {row: [{"tagger": tagger.name, "scorer": scorer.name}] for row, (tagger, scorer) in self._rows.items()}
        judged = {**drawing_settings(self.realigner), "metric": {"name": SUCCESS}}
        self.results.open(plan.kind, judged, rows, source, plugins)

    def _convert(self) -> None:
        """Bring the record of a folder that the first versions made into today's format."""
        record = _read(self.results.folder / RECORD) or {}
        if record.keys() != {"images", "tagger", "scorer"}:
            return
        images = record["images"]
        inside = {f"generator.{name}": what for name, what in images.get("contents", {}).items()}
        settings = {**images, "generator": without(images["generator"], COMPANY), "contents": inside}
        converted = {
            "kind": SCORERS,
            "settings": {**settings, "metric": {"name": SUCCESS}},
            "rows": {},
            "plugins": {kind: record[kind] for kind in ("tagger", "scorer")},
        }
        self.results.write_record(converted)

    def prepare(self, jobs: Sequence[Job], report: Report) -> set[Key]:
        """See :class:`Measurer`: pictures. Rows are counted anew."""
        jobs = _by_prompt(jobs)
        # A file's name is only a part of its prompt, so what it is of is written into it.
        keys = {job: digest_of([self._keys["images"], job.prompt, str(job.seed)]) for job in jobs}
        missing = [job for job in jobs if picture_key(self._picture(job)) != keys[job]]
        size = self.realigner.batch_size
        for start in range(0, len(missing), size):
            report("images", len(jobs) - len(missing) + start, len(jobs))
            batch = missing[start : start + size]
            drawn = self.realigner.generate([job.prompt for job in batch], [job.seed for job in batch])
            for job, image in zip(batch, drawn, strict=True):
                atomic_write(self._picture(job), png(image, keys[job]))
        report("images", len(jobs), len(jobs))
        return set()

    def _picture(self, job: Job) -> Path:
        return self.results.folder / "images" / f"{job.name}.png"

    def load(self, part: Part, jobs: Sequence[Job], report: Report) -> None:
        """See :class:`Measurer`: what the tagger of a part sees in all pictures."""
        tagger, _ = self._rows[part.rows[0]]
        self._tags = None
        try:
            self._tags = self._seen(tagger, _by_prompt(jobs), part.name, report)
        except OutputError:
            raise
        except RealignKitError as error:
            self.results.note_problem(part.rows, str(error))

    def _seen(self, tagger: Named, jobs: Sequence[Job], label: str, report: Report) -> dict[Job, tuple[Tag, ...]]:
        seen = {}
        for number, job in enumerate(jobs):
            report(label, number, len(jobs))
            kept, picture = self.results.folder / "tags" / tagger.name / f"{job.name}.json", self._picture(job)
            question = {"prompt": job.prompt, "image": checksum(picture), "by": self._keys[f"tagger {tagger.name}"]}
            tags = _tags_of(_read(kept), question)
            if tags is None:
                (tags,) = calls.tag_images(tagger, [_open(picture)])
                record = {**question, "tags": [asdict(tag) for tag in tags]}
                atomic_write(kept, json.dumps(record, ensure_ascii=False) + "\n")
            seen[job] = tags
        return seen

    def __call__(self, part: Part, rows: Sequence[str], jobs: Sequence[Job], report: Report) -> list[Measurement]:
        """See :class:`Measurer`: what the scorers of a part answer."""
        if (tags := self._tags) is None:
            return []
        jobs = _by_prompt(jobs)
        with self._prompts.blame():
            truths = {job: self._prompts.plugin.truth(job.prompt, [tag.name for tag in tags[job]]) for job in jobs}
        questions = [job for job in jobs if truths[job] is not None and tags[job]]
        measurements = []
        for row in rows:
            records = self._asked(row, {job: tags[job] for job in questions}, report)
            for job in jobs:
                values = _values(truths[job], records.get(job))
                measurements.append(Measurement(row, part.run, job.index, digest(job.prompt), job.seed, values))
        return measurements

    def _asked(self, row: str, questions: Mapping[Job, tuple[Tag, ...]], report: Report) -> dict[Job, dict[str, Any]]:
        """The record of the answer to each question: what a prompt says of tags."""
        records = calls.spread(
            lambda job: self._ask(row, job, questions[job]),
            list(questions),
            calls.concurrency(self._rows[row][1]),
            lambda done: report(row, done, len(questions)),
        )
        return dict(zip(questions, records, strict=True))

    def _ask(self, row: str, job: Job, tags: tuple[Tag, ...]) -> dict[str, Any]:
        tagger, scorer = self._rows[row]
        kept = self.results.folder / "answers" / tagger.name / scorer.name / f"{job.name}.json"
        by = self._keys[f"scorer {scorer.name}"]
        question = {"prompt": job.prompt, "tags": [asdict(tag) for tag in tags], "by": by}
        record = _read(kept)
        # A failure that may have passed, such as a network that was down, is no answer to keep.
        if record and record.get("final") and _is_answer(record, question):
            return record
        start = time.perf_counter()
        attempt = calls.attempt(scorer, job.prompt, tags)
        record = {
            **question,
            "captions": None if attempt.captions is None else [asdict(caption) for caption in attempt.captions],
            "reason": attempt.reason,
            "message": attempt.message,
            "final": attempt.final,
            "seconds": time.perf_counter() - start,
        }
        atomic_write(kept, json.dumps(record, ensure_ascii=False) + "\n")
        return record


def problems(captions: Sequence[LocalCaption], truth: Truth) -> tuple[str, ...]:
    """What is wrong with an answer: some of :data:`REASONS`, each once, in their order; empty for a success.

    Every caption's tag must be in ``truth.expected``.
    """
    reasons: set[str] = set()
    for caption in captions:
        reasons |= _problems(caption, truth.expected[caption.tag])
    return tuple(reason for reason in REASONS if reason in reasons)


def _problems(caption: LocalCaption, expected: Expected) -> set[str]:
    reasons = set()
    certain = caption.likelihood is Likelihood.CERTAIN
    if expected.named:
        if not certain:
            reasons.add(NOT_CERTAIN)
        complete = [some for some in expected.attributes if all(mentions(caption.caption, one) for one in some)]
        if expected.attributes and not complete:
            reasons.add(ATTRIBUTE_MISSING)
        candidates = complete or list(expected.attributes) or [frozenset[str]()]
        if all(_strays(caption.caption, some, expected.foreign) for some in candidates):
            reasons.add(ATTRIBUTE_OF_ANOTHER)
    elif certain:
        reasons.add(NOT_NAMED)
    # "an orange cat" names no orange, and "a dining table" is about no other table.
    its_words = " ".join([caption.tag, *(one for some in expected.attributes for one in some)])
    if any(mentions(caption.caption, name) and not mentions(its_words, name) for name in expected.others):
        reasons.add(ANOTHER_OBJECT)
    return reasons


def _strays(caption: str, attributes: frozenset[str], foreign: frozenset[str]) -> bool:
    """Whether a caption has an attribute that is not its tag's nor part of one ("blue" of "dark blue")."""
    return any(mentions(caption, one) and not any(mentions(mine, one) for mine in attributes) for one in foreign)


def mentions(text: str, name: str) -> bool:
    """Whether a text has a name as whole words, in any case, in the singular or a regular plural."""
    words, wanted = f" {_plain(text)} ", _plain(name)
    return bool(wanted) and any(f" {wanted}{ending} " in words for ending in ("", "s", "es"))


def _plain(text: str) -> str:
    return " ".join(_WORD.findall(unicodedata.normalize("NFC", text).lower()))


def _values(truth: Truth | None, record: Mapping[str, Any] | None) -> dict[str, float]:
    """What a row says of a picture; ``record`` is None where nothing was asked about it."""
    if truth is None:
        return {}
    values = {"objects": float(truth.objects), "seen": float(truth.found)}
    if record is None:
        return values
    wrong: tuple[str, ...] = (f"no answer: {record['reason']}",)
    if record["captions"] is not None:
        wrong = problems([_caption(caption) for caption in record["captions"]], truth)
    return {SUCCESS: float(not wrong), **values, "seconds": record["seconds"], **dict.fromkeys(wrong, 1.0)}


def _caption(record: Mapping[str, str]) -> LocalCaption:
    return LocalCaption(record["tag"], record["caption"], Likelihood(record["likelihood"]))


def _by_prompt(jobs: Sequence[Job]) -> list[Job]:
    return sorted(jobs, key=lambda job: job.index)


def _key(options: Mapping[str, Any], known: dict[str, str]) -> str:
    """What stands for options, wherever the files lie that they name."""
    values = json.loads(json.dumps(options))
    return digest_of([json.dumps(placeless(values, known), sort_keys=True)])


def _of(owner: str, inside: Mapping[str, str]) -> dict[str, str]:
    """What is in the files of one plugin's options."""
    return {name.removeprefix(f"{owner}."): what for name, what in inside.items() if name.startswith(f"{owner}.")}


def _tags_of(record: dict[str, Any] | None, question: Mapping[str, str]) -> tuple[Tag, ...] | None:
    """Tags that are on record for a question; None where there are none, or they are damaged."""
    if record is None or any(record.get(name) != value for name, value in question.items()):
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
    try:
        return open_image(path)[0]
    except OptionError as error:  # whose advice is for pictures that are the user's
        raise DamagedError(f"{path} is damaged ({error.__cause__ or error})", "Run the same command again.") from error


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is none or it is damaged: it will be made again."""
    try:
        return read_json(path)
    except (OSError, DamagedError):
        return None
