"""Rows of Table I, as they are read."""

from __future__ import annotations

import pytest

from realignkit.errors import OptionError
from realignkit.evaluation.methods import SHIPPED, chosen_methods, read_methods


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_rows_that_come_with_the_package_name_plugins_that_exist(path):
    from realignkit.registry import default_registry

    methods = read_methods(path.stem)
    known = {info.name for info in default_registry().infos("generator")}
    assert {method.model for method in methods.values()} <= known
    assert all(method.made_by for method in methods.values() if method.lora)


def test_the_published_rows_are_the_papers_nine():
    assert list(read_methods("published")) == [
        "SD-1.5", "SDXL", "DeepFloyd-IF", "PixArt-alpha", "ImageReward",
        "DenseDiffusion", "Promptist", "StructureDiffusion", "RealignDiff",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold 'rows:' alone"),
        ("rows: {}", "holds no rows"),
        ("rows: [a]", "must hold 'rows:' alone"),
        ("rows: {a: {model: micro}}\nseeds: 3", "must hold 'rows:' alone"),
        ("rows: {a: }", "row 'a': model"),
        ("rows: {a: {model: micro, fines: true}}", "fines"),
        ("rows: {a: {model: micro, settings: {}}}", "guide_by, set, download"),
        ("rows: {a: {model: micro, fine: sparse}}", "fine"),
        ("rows: {a: {model: micro, candidates: 4}}", "go together"),
        ("rows: {1: {model: micro}}", "is no text"),
        ("rows: {A b: {model: micro}, a-b: {model: micro}}", "several rows would be written to a-b"),
        ("rows: [", "cannot read the rows"),
    ],
)
def test_a_file_of_rows_that_is_none_is_told(tmp_path, text, said):
    path = tmp_path / "rows.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=said.replace("(", r"\(")):
        read_methods(path)


def test_rows_are_left_out_by_name():
    methods = read_methods("published")
    assert list(chosen_methods(methods, ["SDXL"])) == [name for name in methods if name != "SDXL"]
    with pytest.raises(OptionError, match="there is no row 'sdxl'"):
        chosen_methods(methods, ["sdxl"])
    with pytest.raises(OptionError, match="no row is left"):
        chosen_methods(methods, list(methods))
