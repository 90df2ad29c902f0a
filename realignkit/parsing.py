"""JSON and YAML whose numbers are finite, whose nesting has an end, and whose keys can be had to be there once."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DIGITS = 100
MAX_VALUES = 1_000_000
MAX_DEPTH = 64
"""Most levels of nesting in a file: no record of ours has ten, and what is shown is walked through recursively."""


def parse_json(text: str | bytes, *, once: bool = False) -> Any:
    """``json.loads`` without NaN, infinity and endless nesting.

    Args:
        text: JSON.
        once: whether an object that has a key twice is refused; otherwise the last one counts.

    Raises:
        ValueError: it is no such JSON.
    """
    pairs = _once if once else None
    try:
        values = json.loads(
            text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole, object_pairs_hook=pairs
        )
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels of nesting") from None
    check_depth(values)
    return values


def parse_yaml(text: str) -> Any:
    """What a YAML file holds, plain values alone, without endless nesting and without a key that is there twice.

    Raises:
        ValueError, yaml.YAMLError: it is no such YAML.
    """
    import yaml

    nodes, seen = [yaml.compose(text, yaml.SafeLoader)], set[int]()
    for node in nodes:  # which grows meanwhile
        if node is None or id(node) in seen:  # an alias repeats a node
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            _once([(name, None) for name in names if name != "<<"])
            nodes += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
    values = yaml.safe_load(text)
    check_depth(values)
    return values


def _once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"'{next(key for key in keys if keys.count(key) > 1)}' is there twice in one object")
    return values


def check_depth(values: Any) -> None:
    """Refuse nested lists and mappings of more than :data:`MAX_DEPTH` levels, or more than :data:`MAX_VALUES` values.

    Raises:
        ValueError: there are more.
    """
    level, count = [values], 0
    for _ in range(MAX_DEPTH):
        level = [
            item
            for value in level
            if isinstance(value, dict | list)
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        count += len(level)
        if count > MAX_VALUES:  # a few lines of YAML can refer to themselves into billions
            raise ValueError(f"more than {MAX_VALUES} values")
        if not level:
            return
    raise ValueError(f"more than {MAX_DEPTH} levels of nesting")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no finite number")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_constant(text)


def _whole(text: str) -> int:
    # Python refuses more than some thousand digits with advice for programmers.
    return int(text) if len(text) < MAX_DIGITS else _no_constant(f"{text[:20]}…")


def kind_of(value: Any) -> str:
    """What kind of JSON value it is, in words."""
    kinds = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else kinds[type(value)]
