"""JSON read as what it should be."""

from __future__ import annotations

import json

import pytest
from pydantic import Field

from realignkit.errors import DamagedError
from realignkit.records import MAX_DEPTH, Share, Text, Written, as_written, check_depth, parse_json, read_json


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


@pytest.mark.parametrize("content", [b"[1]", b'"text"', b"null", b"\xff\xfe{}", b"", b'{"a": NaN}'])
def test_a_file_that_is_no_object_is_damaged(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DamagedError, match=r"record\.json .*\. Draw it again\.$"):
        read_json(tmp_path / "record.json", "Draw it again.")


def test_a_byte_order_mark_is_seen_through(tmp_path):
    (tmp_path / "record.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": "\u00e9"}).encode())
    assert read_json(tmp_path / "record.json") == {"a": "\u00e9"}


def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "record.json")


class Thing(Written):
    name: Text
    share: Share = 0.5
    sizes: tuple[int, int] = (1, 1)
    count: int = Field(1, ge=1)
    done: bool = False


@pytest.mark.parametrize(
    ("record", "place"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": " "}, "name"),
        ({"name": 1}, "name"),
        ({"name": "x", "share": "0.5"}, "share"),
        ({"name": "x", "share": 1.01}, "share"),
        ({"name": "x", "share": float("nan")}, "share"),
        ({"name": "x", "sizes": [1]}, "sizes"),
        ({"name": "x", "sizes": [1, 2.5]}, "sizes.1"),
        ({"name": "x", "count": True}, "count"),
        ({"name": "x", "done": "false"}, "done"),
        ({"name": "x", "other": 1}, "other"),
    ],
)
def test_the_first_value_that_is_wrong_is_named(tmp_path, record, place):
    with pytest.raises(DamagedError, match=rf"record\.json is damaged \({place}"):
        as_written(Thing, record, tmp_path / "record.json")


def test_what_was_written_is_read(tmp_path):
    thing = as_written(Thing, {"name": "x", "share": 1, "sizes": [3, 4]}, tmp_path / "record.json")
    assert (thing.name, thing.share, thing.sizes, thing.done) == ("x", 1.0, (3, 4), False)
