"""Results of a study as tables: Markdown, CSV, JSON, and a page with the pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realignkit.evaluation.statistics import Interval, shown_gain, shown_p
from realignkit.evaluation.write_evaluation import ShownTable, records_csv, tables_page
from realignkit.files import atomic_write
from realignkit.report.gallery import Card, Section, write_gallery
from realignkit.study.answers import Answer
from realignkit.study.folder import Study, picture_files
from realignkit.study.ranking import Friedman, known, mean_ranks
from realignkit.study.results import Judged, People, Results, rank_table

REPORT = "report"
"""What the files are called, but for their endings."""

SHOWN = 24
"""Prompts on the page."""

HOW = (
    "Rank 1 is the best, and ties share the mean of their ranks. Intervals are 95 %, by a bootstrap that draws both "
    "people and prompts anew: as each comes back, rankings are no observations of their own. Of a difference below 0, "
    "the first system is ranked better; with many pairs, some intervals miss the truth.",
    "Friedman's test takes its blocks for independent. Rankings are not, and its p over them is as a rule too small. "
    "Over people (their ranks averaged over prompts and ranked again) it is about other people and these prompts; over "
    "prompts, about these people and other prompts. W is Kendall's, from 0 (no agreement) to 1; of people on a prompt "
    "it is the mean over prompts.",
)
PER_PROMPT = "people on a prompt"
AGREEING = (
    "Agreement of a metric is Spearman's rank correlation with people's ranks, 1 where both have one order: among "
    "the systems' pictures for a prompt, averaged over prompts, and of the systems' means."
)


def write_results(
    folder: str | Path, study: Study, answers: Sequence[Answer], results: Results
) -> tuple[list[ShownTable], list[str], list[Path]]:
    """Write ``report.md``, ``.csv``, ``.json`` and ``.html`` into a study's folder.

    Args:
        folder: of the study.
        study: what was asked.
        answers: those that are counted.
        results: that came of them.

    Returns:
        The tables, paragraphs that go with them, and the files.

    Raises:
        OutputError: they cannot be written, or a picture of the study is missing.
    """
    path, tables, about = Path(folder) / REPORT, tables_of(results), people_sentence(results.people)
    notes = [*HOW, *([AGREEING] if any(judged.agreements for judged in results.questions) else [])]
    texts = {
        "md": tables_page([about], tables, "\n\n".join(notes)),
        "csv": records_csv(list(_records(results))),
        "json": json.dumps(asdict(results), indent=1, ensure_ascii=False) + "\n",
    }
    files = [atomic_write(path.with_suffix(f".{ending}"), text) for ending, text in texts.items()]
    sections = [_pictures(Path(folder), study, answers, results)]
    files.append(write_gallery(path.with_suffix(".html"), "What people say", [about, *notes], tables, sections))
    return tables, [about, *notes], files


def people_sentence(people: People) -> str:
    """How many there were, and how many failed a check."""
    share = people.share_failed
    failed = f"{people.failed} of {people.checked} ({share:.0%})" if share is not None else "none of none"
    return (
        f"People: {people.answered} answered, {people.finished} of them everything. {failed} failed a check. "
        f"{people.counted} are counted."
    )


def tables_of(results: Results) -> list[ShownTable]:
    """Average ranks, tests, pairs by question, and agreement with metrics where there are some."""
    tables = [_average_ranks(results), _tests(results)]
    for judged in results.questions:
        rows = tuple((p.one, p.other, _signed(p.difference, p.interval)) for p in judged.pairs)
        headings = ("system", "less", "difference of average ranks [95 %]")
        tables.append(ShownTable(f"{judged.question}, pairs", headings, rows))
    agreements = tuple(
        (
            judged.question,
            agreement.metric,
            _signed(agreement.within, agreement.interval),
            str(agreement.prompts),
            "-" if agreement.systems is None else f"{agreement.systems:+.2f}",
        )
        for judged in results.questions
        for agreement in judged.agreements
    )
    if agreements:
        names = ("question", "metric", "within a prompt [95 %]", "prompts", "of systems")
        tables.append(ShownTable("agreement with metrics", names, agreements))
    return tables


def _average_ranks(results: Results) -> ShownTable:
    """The last two columns of Table I."""
    headings = ["system"]
    for judged in results.questions:
        headings += [f"{judged.question} rank [95 %]", "best"]
    rows = [
        (system, *(cell for j in results.questions for cell in (_rank(j, place), f"{j.placed[place].first:.0%}")))
        for place, system in enumerate(results.systems)
    ]
    return ShownTable("", tuple(headings), tuple(rows))


def _rank(judged: Judged, place: int) -> str:
    placed = judged.placed[place]
    return f"{placed.rank:.2f} [{_shown(placed.interval)}]"


def _shown(interval: Interval) -> str:
    return "-" if interval is None else f"{interval[0]:.2f}, {interval[1]:.2f}"


def _tests(results: Results) -> ShownTable:
    headings = ("question", "blocks", "n", "Friedman's chi2", "df", "p", "Kendall's W")
    rows: list[tuple[str, ...]] = []
    for judged in results.questions:
        for blocks, test in _blocks(judged):
            chi2 = "-" if test.chi2 is None else f"{test.chi2:.2f}"
            w = "-" if test.w is None else f"{test.w:.3f}"
            rows.append((judged.question, blocks, str(test.blocks), chi2, str(test.df), shown_p(test.p), w))
        w = "-" if judged.w is None else f"{judged.w:.3f}"
        rows.append((judged.question, PER_PROMPT, str(judged.prompts), "-", "-", "-", w))
    return ShownTable("Do the systems differ, and do people agree?", headings, tuple(rows))


def _blocks(judged: Judged) -> tuple[tuple[str, Friedman], ...]:
    return (
        ("people", judged.by_person),
        ("prompts", judged.by_prompt),
        ("rankings (not independent)", judged.by_answer),
    )


def _signed(value: float | None, interval: Interval) -> str:
    low, high = interval or (None, None)
    return shown_gain(value, low, high, 2)


def _records(results: Results) -> Iterator[dict[str, Any]]:
    """All numbers, one a line: what it is, of which question and of what, with its interval."""
    for judged in results.questions:
        for what, of, value, interval, n, p in _numbers(judged):
            low, high = interval or (None, None)
            yield {
                "question": judged.question, "what": what, "of": of, "value": value, "low": low, "high": high, "n": n,
                "p": p,
            }  # fmt: skip


def _numbers(judged: Judged) -> Iterator[tuple[str, str, float | None, Interval, int, float | None]]:
    for placed in judged.placed:
        yield "average rank", placed.system, placed.rank, placed.interval, judged.answers, None
        yield "share best", placed.system, placed.first, None, judged.answers, None
    for pair in judged.pairs:
        yield "difference", f"{pair.one} - {pair.other}", pair.difference, pair.interval, judged.answers, None
    for blocks, test in _blocks(judged):
        yield "Friedman's chi2", blocks, test.chi2, None, test.blocks, test.p
        yield "Kendall's W", blocks, test.w, None, test.blocks, None
    yield "mean Kendall's W", PER_PROMPT, judged.w, None, judged.prompts, None
    for agreement in judged.agreements:
        yield (
            "agreement within prompts",
            agreement.metric,
            agreement.within,
            agreement.interval,
            agreement.prompts,
            None,
        )
        yield "agreement of systems", agreement.metric, agreement.systems, None, agreement.prompts, None


def _pictures(folder: Path, study: Study, answers: Sequence[Answer], results: Results) -> Section:
    """Prompts with their pictures, the best one first by the first question."""
    files, question = picture_files(folder, study), results.questions[0].question
    ranks = rank_table(study, answers, question)
    cards = []
    for place, item in enumerate(item for item in study.items if not item.first):
        if not known(ranks)[:, place].any():
            continue
        means = mean_ranks(ranks[:, place : place + 1]).tolist()
        order = sorted(range(len(means)), key=means.__getitem__)
        pictures = tuple((f"{study.systems[s]}: {means[s]:.2f}", files[item.pictures[s]]) for s in order)
        cards.append(Card(item.prompt, f"{int(known(ranks)[:, place].sum())} people", pictures))
    heading = f"Pictures, the best one first by {question}"
    return Section(heading + (f" (the first {SHOWN} prompts)" if len(cards) > SHOWN else ""), tuple(cards[:SHOWN]))
