"""Two evaluations side by side: only what was measured alike is compared, and by prompt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realignkit.errors import OptionError
from realignkit.evaluation.compare import compare_folders
from realignkit.evaluation.evaluate import Evaluation
from realignkit.evaluation.join import join_folders
from realignkit.evaluation.pictures import read_pictures
from realignkit.evaluation.statistics import compare
from realignkit.evaluation.summary import summarise
from realignkit.evaluation.write_evaluation import (
    comparison_table,
    facts_of,
    tables_of,
    write_comparison,
    write_metrics,
)
from realignkit.named import Named
from realignkit.registry import default_registry
from tests.evaluation.judges import Redness, Spread

PROMPTS = [f"a red book, number {number}" for number in range(12)]


def measured(folder: Path, shift: int, seeds=(1, 2), prompts=PROMPTS, metrics=(Redness, Spread), **changes) -> Path:
    random, rows = np.random.default_rng(5), []
    (folder / "given").mkdir(parents=True)
    for prompt in prompts:
        for seed in seeds:
            red = int(np.clip(random.integers(60, 200) + shift, 0, 255))
            name = f"{len(rows)}.png"
            Image.new("RGB", (4, 4), (red, 30, 40)).save(folder / "given" / name)
            rows.append({"image_path": name, "prompt": prompt, **({"seed": seed} if seed else {})})
    rows = changes.get("order", list)(rows)
    (folder / "given" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = [Named("metric", cls.__name__.lower(), cls()) for cls in metrics]
    Evaluation(read_pictures(folder / "given"), made, folder / "out", source="made up")()
    return folder / "out"


def test_pictures_are_paired_by_prompt_and_seed_wherever_they_stand(tmp_path: Path):
    before = measured(tmp_path / "a", 0)
    after = measured(tmp_path / "b", 20, order=lambda rows: rows[::-1])
    pair = compare_folders(before, after)
    red, level = (next(c for c in pair.changes if c.name == name) for name in ("red", "colour/red"))
    was = [each.before["values"]["redness"]["red"] for each in pair.pairs]
    now = [each.after["values"]["redness"]["red"] for each in pair.pairs]
    expected = compare([bool(v) for v in was], [bool(v) for v in now], [p.before["prompt"] for p in pair.pairs])
    assert (red.fixed, red.broken, red.p) == (expected.fixed, expected.broken, expected.p)
    assert (red.n, red.prompts) == (24, 12)
    assert red.low * 100 == pytest.approx(expected.low)
    assert level.gain == pytest.approx(20 / 255)
    assert level.fixed is None
    assert level.p == pytest.approx(2 / 2**12)
    assert pair.whole["spread"]["spread"] == pytest.approx((pair.whole["spread"]["spread"][0],) * 2)
    assert pair.notes == ()


def test_the_metric_says_what_is_yes_or_no_and_not_the_pictures(tmp_path: Path):
    class Saying(Redness):
        yes_or_no = ("colour/red",)  # never 0 or 1 here, so it is none either

    pair = compare_folders(*(measured(tmp_path / name, 0, metrics=(Saying,)) for name in ("a", "b")))
    assert {change.name: change.fixed for change in pair.changes} == {"red": None, "colour/red": None}
    for name in ("a", "b"):  # what was measured before metrics said so goes by the pictures
        path = tmp_path / name / "out" / "eval.json"
        record = json.loads(path.read_text())
        assert record["metrics"]["saying"].pop("yes_or_no") == ["colour/red"]
        path.write_text(json.dumps(record))
    pair = compare_folders(tmp_path / "a" / "out", tmp_path / "b" / "out")
    assert {change.name: change.fixed for change in pair.changes} == {"red": 0, "colour/red": None}


def test_numbers_of_whole_sets_are_shown_without_counts_and_without_rounding(tmp_path: Path):
    class Distance(Spread):
        def compute(self):
            return {"distance": 12.34 + float(self.sums[0]) * 1e-12, "below": -1e-10, "n": 24.0}

    folders = [measured(tmp_path / name, shift, metrics=(Distance,)) for name, shift in (("a", 0), ("b", 9))]
    pair = compare_folders(*folders)
    assert set(pair.whole["distance"]) == {"distance", "below"}
    assert pair.whole["distance"]["distance"][0] != pair.whole["distance"]["distance"][1]
    (row, below) = comparison_table(pair).rows
    assert row == ("distance", "distance", "-", "-", "12.34", "12.34", "+0.00", "-", "-")
    assert below[4:7] == ("-1e-10", "-1e-10", "+0.0000000000000")


def test_every_prompt_counts_the_same_however_many_pictures_it_has(tmp_path: Path):
    """Seven prompts, of which the first has three pictures and the others one."""
    uneven = [PROMPTS[0], PROMPTS[0], *PROMPTS[:7]]
    folders = [measured(tmp_path / name, shift, seeds=(1,), prompts=uneven) for name, shift in (("a", 0), ("b", 25))]
    pair = compare_folders(*folders)
    for change in (change for change in pair.changes if change.metric == "redness"):
        for side in ("before", "after"):
            of: dict[str, list[float]] = {}
            for line in (getattr(each, side) for each in pair.pairs):
                of.setdefault(line["prompt"], []).append(line["values"]["redness"][change.name])
            assert getattr(change, side) == pytest.approx(np.mean([np.mean(values) for values in of.values()]))
    level = next(change for change in pair.changes if change.name == "colour/red")
    moved = {}
    for each in pair.pairs:
        moved.setdefault(each.before["prompt"], []).append(each.change("redness", "colour/red"))
    means = [np.mean(some) for some in moved.values()]
    assert level.gain == pytest.approx(np.mean(means))
    assert level.low <= level.gain <= level.high


def test_unknown_seeds_are_paired_in_their_order_and_said(tmp_path: Path):
    pair = compare_folders(measured(tmp_path / "a", 0), measured(tmp_path / "b", 9, seeds=(None, 0)))
    assert len(pair.pairs) == 24
    assert "are paired in their order" in pair.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompts": [*PROMPTS[:-1], "another"]},
            r"other prompts: 1 only in .*a/out \(such as 'a red book, number 11'\) and 1",
        ),
        ({"seeds": (1, 3)}, "other seeds: 1, 2 there, 1, 3 now"),
        ({"metrics": (Spread,), "seeds": (1,)}, "of other seeds: 1, 2 there, 1 now"),
    ],
)
def test_other_prompts_and_seeds_are_refused_with_what_differs(tmp_path: Path, changes, message: str):
    with pytest.raises(OptionError, match=message):
        compare_folders(measured(tmp_path / "a", 0), measured(tmp_path / "b", 0, **changes))


def test_other_weights_templates_and_options_are_refused_with_what_differs(tmp_path: Path):
    before, after = measured(tmp_path / "a", 0), measured(tmp_path / "b", 0)

    def changed(**about):
        record = json.loads((after / "eval.json").read_text())
        record["metrics"]["redness"] |= about
        (after / "eval.json").write_text(json.dumps(record))

    changed(identity={"template": "is it blue?"})
    with pytest.raises(
        OptionError, match=r'not measured alike: metric \'redness\': identity.template \("is it red\?" there'
    ):
        compare_folders(before, after)
    changed(identity={"template": "is it red?"}, weights="a" * 16)
    assert compare_folders(before, after).changes  # only one of them knows its weights
    record = json.loads((before / "eval.json").read_text())
    record["metrics"]["redness"]["weights"] = "b" * 16
    (before / "eval.json").write_text(json.dumps(record))
    with pytest.raises(OptionError, match=r"metric 'redness': the weights \(b{16} there, a{16} now\)"):
        compare_folders(before, after)


def test_what_is_not_finished_or_has_nothing_in_common_is_refused(tmp_path: Path):
    before, after = measured(tmp_path / "a", 0, metrics=(Redness,)), measured(tmp_path / "b", 0, metrics=(Spread,))
    with pytest.raises(OptionError, match="no metric in common: redness and spread"):
        compare_folders(before, after)
    lines = (before / "pictures.jsonl").read_text().splitlines(keepends=True)
    (before / "pictures.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(OptionError, match="a/out is not finished: 23 of 24 pictures are measured"):
        compare_folders(before, before)


def test_metrics_that_have_seen_a_part_of_the_pictures_are_refused(tmp_path: Path):
    folders = [measured(tmp_path / name, 0, prompts=PROMPTS[:3]) for name in ("a", "b")]

    def changed(values):
        path = folders[1] / "pictures.jsonl"
        rows = [json.loads(text) for text in path.read_text().splitlines()]
        rows[2]["values"] = values
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    changed({"redness": {}})  # nothing to say of it
    pair = compare_folders(*folders)
    assert pair.notes == ("metric 'redness' says nothing of one of the two pictures in 1 of 6 pairs",)
    assert {change.n for change in pair.changes} == {5}
    changed({})
    with pytest.raises(OptionError, match=r"b/out is not finished: metric 'redness' has measured 5 of 6 pictures"):
        compare_folders(*folders)
    with pytest.raises(OptionError, match="metric 'redness' has measured 5 of 6"):
        join_folders([folders[1]], tmp_path / "joined", default_registry())
    record = json.loads((folders[0] / "eval.json").read_text())
    del record["whole"]["spread"]
    (folders[0] / "eval.json").write_text(json.dumps(record))
    with pytest.raises(OptionError, match=r"a/out is not finished: metric 'spread' has measured 0 of 6"):
        compare_folders(*folders)


def test_tables_and_files_say_the_same(tmp_path: Path):
    before, after = measured(tmp_path / "a", 0), measured(tmp_path / "b", 60)
    pair = compare_folders(before, after)
    table = comparison_table(pair)
    (red,) = (row for row in table.rows if row[:2] == ("redness", "red"))
    change = next(c for c in pair.changes if c.name == "red")
    assert red[2:4] == ("24", "12")
    assert red[4] == f"{100 * change.before:.1f} %"
    assert red[7] == f"{change.fixed} / {change.broken}"
    files = write_comparison(tmp_path / "both", "One and the other.", pair)
    assert [path.name for path in files] == ["comparison.md", "comparison.csv", "comparison.json"]
    assert "| redness | red | 24 | 12 |" in files[0].read_text()
    record = json.loads(files[2].read_text())
    assert record["changes"][0]["gain"] == pair.changes[0].gain
    assert set(record["whole"]) == {"spread"}

    made = [Named("metric", "redness", Redness()), Named("metric", "spread", Spread())]
    lines = [json.loads(text) for text in (before / "pictures.jsonl").read_text().splitlines()]
    about = json.loads((before / "eval.json").read_text())
    values = summarise(lines, made, about["whole"])
    tables = tables_of(values)
    assert [table.title for table in tables] == ["", "redness by element"]
    assert {row[1] for row in tables[0].rows} == {"red", "asked", "spread"}
    written = write_metrics(tmp_path / "tables", about, values)
    assert {path.name for path in written} >= {"metrics.md", "metrics.csv", "metrics.json"}
    assert "redness: template is it red?." in written[0].read_text()
    assert len(json.loads(written[2].read_text())) == len(values)


def test_both_weights_of_a_metric_are_facts_about_it():
    assert facts_of({"identity": {}, "weights": "a"}) == {"weights": "a"}
    assert facts_of({"identity": {"weights": "b"}, "weights": "a"}) == {"weights": "b", "loaded weights": "a"}
