"""Results as files: the same numbers in each, and hostile texts escaped."""

from __future__ import annotations

import csv
import json

import pytest

from realignkit.study.answers import Answers
from realignkit.study.results import evaluate
from realignkit.study.write import tables_of, write_results
from tests.study.conftest import answer


@pytest.fixture
def written(answered):
    folder, study = answered
    item = next(item for item in study.items if not item.first)
    Answers(folder, study).save([answer(study, item, [(0, 1), 2], of=1)])
    answers = Answers(folder, study).read()
    values = {"tifa": [0.1, 0.9, 0.5]}
    items = [item.model_copy(update={"values": {} if item.first else values}) for item in study.items]
    study = study.model_copy(update={"items": items})
    results = evaluate(study, answers)
    return folder, results, write_results(folder, study, answers, results)


def test_all_forms_say_the_same(written):
    folder, results, (tables, notes, files) = written
    assert [path.name for path in files] == ["report.md", "report.csv", "report.json", "report.html"]
    page = (folder / "report.md").read_text()
    assert "People: 3 answered, 3 of them everything. 0 of 3 (0%) failed a check. 3 are counted." in page
    assert "| system | alignment rank [95 %] | best | fidelity rank [95 %] | best |" in page
    for table in tables:
        for row in table.rows:
            assert f"| {' | '.join(row)} |" in page
    record = json.loads((folder / "report.json").read_text())
    assert record["people"]["answered"] == 3
    rows = list(csv.DictReader((folder / "report.csv").open()))
    placed = {(row["question"], row["of"]): float(row["value"]) for row in rows if row["what"] == "average rank"}
    for judged, again in zip(results.questions, record["questions"], strict=True):
        for each, other in zip(judged.placed, again["placed"], strict=True):
            assert placed[judged.question, each.system] == each.rank == other["rank"]
    html = (folder / "report.html").read_text()
    for note in notes:
        assert note.replace("'", "&#39;") in html
    assert "ours: 1.17" in html
    assert "<script" not in html


def test_agreement_is_shown_where_there_are_metrics(written, answered):
    _, _, (tables, notes, _) = written
    assert tables[-1].title == "agreement with metrics"
    assert [row[1] for row in tables[-1].rows] == ["tifa", "tifa"]
    assert any("Spearman" in note for note in notes)
    folder, study = answered
    without = tables_of(evaluate(study, Answers(folder, study).read()))
    assert [table.title for table in without] == [
        "",
        "Do the systems differ, and do people agree?",
        "alignment, pairs",
        "fidelity, pairs",
    ]


def test_that_rankings_are_no_independent_blocks_is_said(written):
    _, _, (tables, notes, _) = written
    blocks = {row[1] for row in tables[1].rows}
    assert blocks == {"people", "prompts", "rankings (not independent)", "people on a prompt"}
    assert any("p over them is as a rule too small" in note for note in notes)


def test_hostile_texts_are_escaped(answered):
    folder, study = answered
    hostile = "</p><script>alert(1)</script>"
    items = [item.model_copy(update={"prompt": hostile}) for item in study.items]
    study = study.model_copy(update={"items": items, "systems": ["<b>", "a|b", '"c"']})
    answers = Answers(folder, study).read()
    write_results(folder, study, answers, evaluate(study, answers))
    html = (folder / "report.html").read_text()
    assert "<script" not in html
    assert "<b>" not in html.partition("<main>")[2]
