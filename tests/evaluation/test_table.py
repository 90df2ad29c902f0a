"""Tables of rows against counts by hand."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from realignkit.errors import OptionError
from realignkit.evaluation.results import AblationFolder, Measurement
from realignkit.evaluation.statistics import wilson
from realignkit.evaluation.table import pair_rows, tabulate
from realignkit.evaluation.write import comma_separated, markdown, svg, write_tables
from realignkit.frechet import frechet_distance

SETTINGS = {"metric": {"name": "oracle"}, "features": "oracle"}
MODELS = [
    {"weights": "a", "seed": 42, "reward": "clip", "reward_weight": 0.001, "iteration": 300, "raised": ["clip"]},
    {"weights": "b", "seed": 43, "reward": "clip", "reward_weight": 0.001, "iteration": 250, "raised": ["clip"]},
]
RECORD = {
    "kind": "rewards",
    "settings": SETTINGS,
    "source": "made up <&>",
    "rows": {
        "clip": MODELS,
        "base": [{"weights": None}],
        "control": [{"weights": "c", "seed": 42, "reward": "clip", "reward_weight": 0.0, "iteration": 100}],
    },
}
PROMPTS, SEEDS = 30, (0, 1)


def verdict(row, index, seed):
    """base: a third right; control: the same but for prompt 1; clip: all that and every fifth prompt, with seed 1."""
    right = index % 3 == 0
    if row == "control" and index == 1:
        right = True
    if row == "clip" and seed == 1 and index % 5 == 0:
        right = True
    return float(right)


def measurements(rows=("base", "control", "clip"), features=True, value=verdict):
    random = np.random.default_rng(0)
    found = []
    for row in rows:
        for seed in SEEDS:
            for index in range(1, PROMPTS + 1):
                vector = random.normal(size=3) + (row == "clip") if features else None
                scores = {"clip": 0.1 * (row == "clip") + 0.01 * seed}
                run = seed % 2 if row == "clip" else 0
                values = {"fully_right": value(row, index, seed), "other": 0.3}
                found.append(Measurement(row, run, index, f"p{index}", seed, values, scores, vector))
    return found


@pytest.fixture
def table():
    return tabulate(RECORD, measurements(), np.random.default_rng(1).normal(size=(200, 3)))


def test_shares_and_differences_are_counts(table):
    assert [row.name for row in table.rows] == ["base", "control", "clip"]
    base, control, clip = table.rows
    assert (base.n, base.prompts, base.seeds) == (60, 30, (0, 1))
    assert base.value == pytest.approx(100 * 20 / 60)
    # Both seeds of a prompt are right, or neither: they tell as much as 30 pictures.
    assert (base.low, base.high) == pytest.approx(tuple(100 * bound for bound in wilson(10, 30)))
    # Multiples of 5 up to 30 that are none of 3: 5, 10, 20, 25; with seed 1 only.
    assert (clip.base.fixed, clip.base.broken, clip.base.n) == (4, 0, 60)
    assert clip.base.gain == pytest.approx(100 * 4 / 60)
    assert clip.base.p == pytest.approx(2 / 2**4)
    assert clip.base.low <= 0 < clip.base.gain <= clip.base.high
    assert (clip.base.prompts, clip.base.before, clip.base.after) == pytest.approx((30, 100 / 3, 40))
    assert (clip.control.fixed, clip.control.broken) == (4, 2)
    assert control.control is None
    assert base.base is None
    # Each training seed on the image seeds that it drew.
    assert [(model.n, model.prompts, model.base.fixed) for model in clip.models] == [(30, 30, 0), (30, 30, 4)]
    assert base.models == ()


def test_scores_and_distances(table):
    base, _, clip = table.rows
    assert clip.scores["clip"].mean == pytest.approx(0.105)
    assert clip.scores["clip"].error == pytest.approx(0)  # every prompt has the same mean, whatever its seeds do
    assert clip.scores["clip"].raised
    assert not base.scores["clip"].raised
    reference = np.random.default_rng(1).normal(size=(200, 3))
    rows = {name: np.stack([m.features for m in measurements() if m.row == name]) for name in ("base", "clip")}
    assert clip.frechet == pytest.approx(frechet_distance(rows["clip"], reference))
    assert clip.relative.value == pytest.approx(clip.frechet / base.frechet)
    assert clip.relative.low > 1  # moved by one in every feature
    assert base.relative is None


def test_only_pairs_are_compared():
    partial = [m for m in measurements() if m.row != "clip" or (m.seed == 1 and m.index > 5)]
    clip = tabulate(RECORD, partial).rows[2]
    assert (clip.n, clip.base.n, clip.base.fixed) == (25, 25, 3)
    assert clip.frechet is None
    alone = tabulate(RECORD, measurements(("clip",))).rows[0]
    assert alone.base is alone.control is None


def test_differences_of_some_pictures_say_which_shares_they_are_of():
    some = [m for m in measurements(features=False) if m.row != "clip" or m.seed == 1]
    line = next(line for line in markdown(tabulate(RECORD, some)).splitlines() if line.startswith("| clip"))
    assert "+13.3 [" in line
    assert "(30 pairs: 33.3 to 46.7) | 4 / 0 |" in line


def test_a_prompt_under_two_numbers_is_one():
    twice = [replace(m, prompt=f"p{m.index % 15}") for m in measurements(features=False)]
    base, _, clip = tabulate(RECORD, twice).rows
    assert (base.n, base.prompts, clip.base.prompts) == (60, 15, 15)
    # 5 and 20, 10 and 25 are the same prompts: two of them moved, by two pictures each.
    assert clip.base.p == pytest.approx(2 / 2**2)


def test_too_few_prompts_have_no_interval_and_the_page_says_so():
    few = [m for m in measurements(features=False) if m.index < 5]
    table = tabulate(RECORD, few)
    page = markdown(table)
    assert "| control | 8 | 4 |" in page
    assert "| +25.0 [-] | 2 / 0 | 1 |" in page
    assert "nan" not in page + comma_separated(table) + svg(table)
    ElementTree.fromstring(svg(table))
    lone = tabulate(RECORD, [m for m in few if m.index == 1])
    assert "| +100.0 [-] | 2 / 0 | - |" in markdown(lone)
    numbers = tabulate(RECORD, measurements(features=False, value=lambda row, i, s: 0.5 + (row == "clip")))
    assert "| +1.000 [-] |" in markdown(numbers)


def test_the_page_names_the_test_and_what_is_counted(table):
    page = markdown(table)
    assert "| row | pictures | prompts | fully right % [95 %] | vs base [95 %] | fixed / broken | sign-flip p |" in page
    assert "sign-flip test by prompt" in page
    assert "all pictures of a training share its luck" in page
    alone = markdown(tabulate(RECORD, measurements(("base", "control"), features=False)))
    assert "| control | 42 | none | 100 | 60 | 30 | 33.3 | 36.7 | +3.3 [" in alone


def test_verdicts_that_are_numbers_have_no_p():
    table = tabulate(RECORD, measurements(features=False, value=lambda row, i, s: i / 40 + 0.1 * (row == "clip")))
    base, _, clip = table.rows
    assert not table.binary
    assert base.value == pytest.approx(np.mean([i / 40 for i in range(1, 31)]))
    assert clip.base.gain == pytest.approx(0.1)
    assert (clip.base.low, clip.base.high) == pytest.approx((0.1, 0.1))
    assert clip.base.p is None
    assert "sign-flip p" not in markdown(table)
    assert "| +0.100 [+0.100, +0.100] |" in markdown(table)


def test_markdown_and_csv_say_the_same(table):
    page = markdown(table)
    line = next(line for line in page.splitlines() if line.startswith("| clip"))
    assert "| 60 | 30 | 40.0 [" in line
    assert "| 4 / 0 |" in line
    assert "| 0.1050* |" in line
    assert "made up" in page
    assert "| clip | 43 | clip | 250 | 30 | 30 | 33.3 | 46.7 |" in page
    assert "| control | 42 | none | 100 |" in page
    rows = {row["row"]: row for row in csv.DictReader(io.StringIO(comma_separated(table)))}
    assert float(rows["clip"]["fully_right"]) == pytest.approx(40.0)
    assert rows["clip"]["vs_base_fixed"] == "4"
    assert rows["base"]["vs_base_fixed"] == ""
    assert float(rows["clip"]["frechet_ratio"]) == pytest.approx(table.rows[2].relative.value)
    assert json.loads(json.dumps(table.rows[2].record()))["base"]["p"] == pytest.approx(0.125)


def test_the_plot_is_in_proportion_and_the_same_each_time(table):
    picture = svg(table)
    assert svg(table) == picture
    root = ElementTree.fromstring(picture)
    space = {"s": "http://www.w3.org/2000/svg", "d": "http://purl.org/dc/elements/1.1/"}
    assert "made up <&>" in root.find(".//d:title", space).text
    texts = {"".join(text.itertext()).strip() for text in root.findall(".//s:text", space)}
    assert {"base (n=60, 30 prompts)", "difference to control, points", "fully right %"} <= texts
    marks = [group for group in root.findall(".//s:g", space) if group.get("id", "").startswith("value-")]
    x = {mark.get("id"): float(mark.find(".//s:use", space).get("x")) for mark in marks}
    assert x.keys() == {"value-0-0", "value-0-1", "value-0-2", "value-1-1", "value-1-2", "value-2-2"}
    values = [row.value for row in table.rows]
    assert (x["value-0-2"] - x["value-0-0"]) / (x["value-0-1"] - x["value-0-0"]) == pytest.approx(
        (values[2] - values[0]) / (values[1] - values[0]), rel=1e-3
    )
    assert x["value-1-2"] > x["value-1-1"]


def test_names_in_the_plot_are_no_markup_and_no_mathematics():
    record = {**RECORD, "rows": {"base": [{"weights": None}], "$x^2$ <b>": [{"weights": None}]}}
    odd = [
        replace(m, row="$x^2$ <b>") if m.row == "clip" else m for m in measurements(("base", "clip"), features=False)
    ]
    root = ElementTree.fromstring(svg(tabulate(record, odd)))
    texts = {"".join(text.itertext()).strip() for text in root.findall(".//{http://www.w3.org/2000/svg}text")}
    assert "$x^2$ <b> (n=60, 30 prompts)" in texts


def test_without_matplotlib_everything_else_is_written(tmp_path, monkeypatch):
    folder = AblationFolder(tmp_path)
    folder.open("rewards", SETTINGS, RECORD["rows"], "mine")
    folder.add(measurements(features=False))
    assert [path.name for path in write_tables(tmp_path)[1]] == ["table.md", "table.csv", "table.json", "plot.svg"]
    (tmp_path / "plot.svg").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert [path.name for path in write_tables(tmp_path)[1]] == ["table.md", "table.csv", "table.json"]
    assert not (tmp_path / "plot.svg").exists()


def test_any_two_rows_can_be_paired():
    found = pair_rows(measurements(), "control", "clip")
    assert (found.difference.fixed, found.difference.broken, found.difference.n) == (4, 2, 60)
    assert found.difference.after - found.difference.before == pytest.approx(found.difference.gain)
    with pytest.raises(OptionError, match=r"no row 'blip'\. Rows: base, control, clip"):
        pair_rows(measurements(), "base", "blip")
    lonely = [m for m in measurements() if (m.row == "base") == (m.seed == 0)]
    with pytest.raises(OptionError, match="share no prompt and seed"):
        pair_rows(lonely, "base", "clip")
