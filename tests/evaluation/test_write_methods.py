"""Table I written down: its plot shows what its rows say."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest

from realignkit.evaluation.methods import MethodsTable
from realignkit.evaluation.summary import EVERYTHING, Value
from realignkit.evaluation.write_methods import methods_plot, write_methods

SVG = "{http://www.w3.org/2000/svg}"


def value(metric, name, mean, low=None, high=None, binary=False):
    return Value(metric, name, EVERYTHING, "", mean, low, high, n=8, prompts=8, binary=binary)


@pytest.fixture
def table():
    values = {
        "base": [value("right", "yes", 0.25, 0.1, 0.5, binary=True), value("fid", "fid", 4.0)],
        "a <b> $x$": [
            value("right", "yes", 0.5, 0.3, 0.7, binary=True),
            value("right", "yes/colour", 0.9),
            value("right", "objects", 0.6, 0.5, 0.7),
        ],
        "new": [value("right", "yes", 1.0, 0.8, 1.0, binary=True), value("fid", "fid", 3.0)],
    }
    ranks = {"fidelity": {"base": (2.0, (1.5, 2.5)), "new": (1.0, None)}}
    return MethodsTable(values, {}, {}, "8 prompts.", ranks)


def marks(picture):
    """Name of each value's mark -> its place from left to right."""
    groups = [group for group in ElementTree.fromstring(picture).iter(f"{SVG}g") if "value-" in group.get("id", "")]
    return {group.get("id"): float(group.find(f".//{SVG}use").get("x")) for group in groups}


def test_the_plot_has_each_metrics_first_number_and_peoples_ranks(table):
    picture = methods_plot(table)
    assert methods_plot(table) == picture
    texts = {"".join(text.itertext()).strip() for text in ElementTree.fromstring(picture).iter(f"{SVG}text")}
    assert {"right yes %", "fid", "fidelity rank", "base", "a <b> $x$", "new"} <= texts
    assert "right objects" not in texts
    x = marks(picture)
    assert x.keys() == {"value-0-0", "value-0-1", "value-0-2", "value-1-0", "value-1-2", "value-2-0", "value-2-2"}
    assert (x["value-0-2"] - x["value-0-0"]) / (x["value-0-1"] - x["value-0-0"]) == pytest.approx(3, rel=1e-3)
    assert x["value-1-2"] < x["value-1-0"]


def test_more_than_three_numbers_go_below_one_another(table):
    many = {row: [value(name, name, 0.1, 0.0, 0.2) for name in "abcd"] for row in table.values}
    picture = methods_plot(MethodsTable(many, {}, {}, ""))
    x = marks(picture)
    assert len(x) == 12
    assert x["value-3-0"] == pytest.approx(x["value-0-0"], abs=1)
    axes = [group.get("id") for group in ElementTree.fromstring(picture).iter(f"{SVG}g")]
    assert sum(name is not None and name.startswith("axes_") for name in axes) == 4


def test_without_matplotlib_the_table_is_written_all_the_same(table, tmp_path, monkeypatch):
    names = ["methods.md", "methods.csv", "methods.json", "methods.svg"]
    assert [path.name for path in write_methods(tmp_path, table)] == names
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert [path.name for path in write_methods(tmp_path, table)] == names[:-1]
