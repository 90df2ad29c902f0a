"""The published tables are what the kept verdicts say, and the documents' are the published ones."""

from __future__ import annotations

import json
import re
from statistics import fmean

import pytest

from tests.conftest import ROOT

RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", "docs/benchmarks.md", "docs/which.md", "docs/explanation/reward-gradients.md")
GAIN = re.compile(r"^[+-][\d.]+ \[.*\]$")
COUNTS = re.compile(r"^\d+ / \d+$")


@pytest.fixture(scope="module")
def tables(script):
    """The script as a module."""
    return script("tables")


@pytest.fixture(scope="module")
def published(tables):
    """File -> what it should hold."""
    return tables.tables()


def rows(text):
    """The cells of a page's tables, a list per line."""
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]


def differences(text):
    """(difference with interval, fixed / broken, p) of a page's tables."""
    found = []
    for cells in rows(text):
        found += [
            (gain, counts, p)
            for gain, counts, p in zip(cells, cells[1:], cells[2:], strict=False)
            if GAIN.match(gain) and COUNTS.match(counts)
        ]
    return found


def same(kept, counted):
    """Whether two files agree; numbers to six digits, as the last ones depend on the processor."""
    number = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
    numbers = [[float(found) for found in number.findall(text)] for text in (kept, counted)]
    return number.sub("", kept) == number.sub("", counted) and numbers[0] == pytest.approx(numbers[1], rel=1e-6)


def test_the_published_tables_are_what_the_verdicts_say(published):
    stale = [str(path.relative_to(ROOT)) for path, text in published.items() if not same(path.read_text("utf-8"), text)]
    assert not stale, "run: python benchmarks/tables.py, and mend the documents"
    with_rows = {path.parent for path in RESULTS.rglob("rows.jsonl.xz")}
    with_rows |= {path.parent.parent for path in RESULTS.rglob("pictures.jsonl.xz")}
    assert with_rows == {path.parent for path in published if path.suffix == ".md"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_documents_say_what_the_tables_say(name, published):
    known = {triple for path, text in published.items() if path.suffix == ".md" for triple in differences(text)}
    shown = differences((ROOT / name).read_text(encoding="utf-8"))
    if name == "README.md":  # its second table has no p
        pairs = {triple[:2] for triple in known}
        assert len(shown) >= 10
        assert [triple for triple in shown if triple not in known and triple[:2] not in pairs] == []
    else:
        assert len(shown) >= 6
        assert [triple for triple in shown if triple not in known] == []


def test_the_trials_of_feedback_are_what_their_verdicts_say():
    kept = json.loads((RESULTS / "feedback-validation.json").read_text(encoding="utf-8"))["rows"]
    section = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8").split("#### In short rounds")[1]
    shown = [found for cells in rows(section.split("(At its own guidance")[0]) if (found := numbers(cells[-5:]))]
    trials = [[name] for name in kept if not name.startswith(("held", "not held"))]
    trials.append([name for name in kept if "control" in name])
    assert len(trials) == 10
    counted = []
    for names in trials:
        values = [share(kept[name], f"two objects, guidance {guidance}") for guidance in (2, 3, 4) for name in names]
        values += [kept[name]["frechet"]["two objects, guidance 4"] for name in names]
        values += [share(kept[name], "three objects, guidance 3") for name in names]
        counted.append([fmean(values[at : at + len(names)]) for at in range(0, len(values), len(names))])
    assert len(shown) == len(counted)
    for row, values in zip(shown, counted, strict=True):
        assert row == pytest.approx(values, abs=0.051)


def numbers(cells):
    return [float(found.group()) for cell in cells if (found := re.search(r"\d+\.\d+", cell))]


def share(row, of):
    return 100 * row["verdicts"][of].count("1") / len(row["verdicts"][of])


def test_no_published_row_contradicts_itself(published):
    count = 0
    for path, text in published.items():
        if path.suffix != ".md":
            continue
        for gain, counts, p in differences(text):
            fixed, broken = map(int, counts.split(" / "))
            value, interval = gain.rstrip("]").split(" [")
            # Each prompt counts the same, and 14 of CC-500's come twice: two pictures more or less may turn a sign.
            assert (float(value) > 0) == (fixed > broken) or abs(fixed - broken) <= 2, (path, gain, counts)
            if interval != "-":
                low, high = map(float, interval.split(", "))
                assert low <= float(value) <= high
                assert (low <= 0 <= high) == (float(p) >= 0.05), (path, gain, p)
            count += 1
    assert count > 100


def test_a_stale_table_is_found_and_mended(tables, published, monkeypatch, capsys, tmp_path):
    (tmp_path / "table.md").write_text("old\n")
    monkeypatch.setattr(tables, "tables", lambda: {tmp_path / "table.md": "new\n"})
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    assert tables.main() == 1
    assert "table.md is stale" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["tables.py"])
    assert tables.main() == 0
    assert (tmp_path / "table.md").read_text() == "new\n"
    monkeypatch.setattr("sys.argv", ["tables.py", "--check"])
    assert tables.main() == 0
