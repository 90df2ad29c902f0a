"""JSON and YAML whose numbers are finite and whose nesting has an end."""

from __future__ import annotations

import json

import pytest

from realignkit.parsing import MAX_DEPTH, check_depth, parse_json, parse_yaml


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "9" * 5000, "{", "", "\x00"])
def test_what_is_no_json_or_no_finite_number(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_numbers_stay_what_they_are():
    values = [0, -7, 2**63, 1.5, -1e-300, 1e300, True, None, "NaN"]
    assert parse_json(json.dumps(values)) == values


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_has_an_end(opening, closing):
    inner = "1" if opening != "[" else ""
    assert parse_json(opening * (MAX_DEPTH - 1) + inner + closing * (MAX_DEPTH - 1))
    for levels in (MAX_DEPTH + 1, 900, 100_000):
        with pytest.raises(ValueError, match="levels of nesting"):
            parse_json(opening * levels + inner + closing * levels)


def test_values_have_an_end():
    few = [0] * 1000
    check_depth([few] * 900)
    with pytest.raises(ValueError, match="more than 1000000 values"):
        check_depth([few] * 1100)
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="levels of nesting"):
        check_depth(endless)


def test_a_key_that_is_there_twice_is_refused_where_people_write():
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json('[{"a": 1}, {"a": 2}]', once=True) == [{"a": 1}, {"a": 2}]
    with pytest.raises(ValueError, match="'b' is there twice in one object"):
        parse_json('{"a": {"b": 1, "c": 2, "b": 1}}', once=True)
    with pytest.raises(ValueError, match="'b' is there twice in one object"):
        parse_yaml("a: {c: 1}\nb: 1\nb: 2")
    assert parse_yaml("x: &x {a: 1}\ny: {<<: *x, a: 2}\n") == {"x": {"a": 1}, "y": {"a": 2}}
