"""The settings of the fine stage that ``alignment.py sweep`` compares, and the table of what came of them."""

from __future__ import annotations

from typing import Any

from realignkit import ModulationConfig
from realignkit.evaluation.statistics import HEADER, HOW, compare

PAPER = {**ModulationConfig().model_dump(), "tagger": {"threshold": 0.5}}
_TEXT = {"isolate_phrases": False, "append_missing": False}
_HALF = {**_TEXT, "power": 1.0, "share": 0.5, "cross_weight": 0.8, "self_weight": 0.0}
_NEAR = {**_HALF, "strength": 0.9, "time_scale": "train"}
_VERIFIED = {**_NEAR, "verify": True}
SWEEP: dict[str, dict[str, Any]] = {
    "paper's (p=5, 30 %)": {},
    "paper's, verified": {"verify": True},
    "paper's, text untouched": _TEXT,
    "paper's, text untouched, verified": {**_TEXT, "verify": True},
    "paper's, text untouched, tags from 0.1, verified": {**_TEXT, "verify": True, "tagger": {"threshold": 0.1}},
    "isolation alone": {"cross_weight": 0.0, "self_weight": 0.0, "append_missing": False},
    "p=1, 50 %, w=0.8": _HALF,
    "p=1, 50 %, w=0.8, verified": {**_HALF, "verify": True},
    "from 90 % noise, w=0": {**_NEAR, "cross_weight": 0.0},
    "from 90 % noise, w=0.8": _NEAR,
    "from 90 % noise, w=0.8, verified": _VERIFIED,
    "from 90 % noise, w=0.8, verified, isolated": {**_VERIFIED, "isolate_phrases": True},
    "from 90 % noise, w=0.8, verified, self 0.24": {**_VERIFIED, "self_weight": 0.24},
    "from 90 % noise, w=0.8, verified, tags from 0.1": {**_VERIFIED, "tagger": {"threshold": 0.1}},
    "from 90 % noise, w=0.5, verified": {**_VERIFIED, "cross_weight": 0.5},
    "from 96 % noise, w=0.8, verified": {**_VERIFIED, "strength": 0.96},
    "from 96 % noise, w=0.8, tags from 0.1, verified": {
        **_VERIFIED,
        "strength": 0.96,
        "tagger": {"threshold": 0.1},
    },
    "from 80 % noise, w=0.8, verified": {**_VERIFIED, "strength": 0.8},
}
"""Modulation options over the paper's; under "tagger" and "segmenter" those of the plugins."""
_MICRO = {**_TEXT, "tagger": {"threshold": 0.1}}
_TIMES = {"t / T_train": {"time_scale": "train"}, "t / t_start": {"time_scale": "start"}, "p = 0": {"power": 0.0}}


def _both(settings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        f"{name}{more}": {**_MICRO, **how, "verify": bool(more)}
        for more in ("", ", verified")
        for name, how in settings.items()
    }


STRENGTH = _both({f"{s}, {name}": {"strength": s, **how} for s in (0.4, 0.6, 0.8) for name, how in _TIMES.items()})
CLAMP = _both({"as printed": {}, "clamped": {"clamp": True}})
_WEAK = {"cross_weight": 0.5}
_INSIDE = {"outside_score": 0.0, "self_weight": 0.0}
_AND_TEXT = {**_INSIDE, "text_weight": 1.0}
FLOW = _both(
    {
        "paper's attention": {},
        "w=2": {"cross_weight": 2.0},
        "p=1, 50 %": {"power": 1.0, "share": 0.5},
        "self 0": {"self_weight": 0.0},
        "text to its region": {"text_weight": 1.0},
        "phrases alone, missing ones appended": {"isolate_phrases": True, "append_missing": True},
        "w=0.5": _WEAK,
        "w=0.5, self 0.5": {**_WEAK, "self_weight": 0.5},
        "w=0.25": {"cross_weight": 0.25},
        "w=0.25, p=1, 50 %": {"cross_weight": 0.25, "self_weight": 0.1, "power": 1.0, "share": 0.5},
        "w=0.5, text to its region": {**_WEAK, "text_weight": 0.5},
        "w=0.5, from 90 % noise": {**_WEAK, "strength": 0.9},
        "inside, w=1": _INSIDE,
        "inside, w=0.5": {**_INSIDE, "cross_weight": 0.5},
        "inside, w=2": {**_INSIDE, "cross_weight": 2.0},
        "inside, w=1, p=1, 50 %": {**_INSIDE, "power": 1.0, "share": 0.5},
        "inside, w=1, text to its region": _AND_TEXT,
        "inside, w=1, self 0.1": {**_INSIDE, "self_weight": 0.1},
        "inside and text, w=1": _AND_TEXT,
        "inside and text, w=0.75": {**_AND_TEXT, "cross_weight": 0.75},
        "inside and text, w=1, text 2": {**_AND_TEXT, "text_weight": 2.0},
        "inside and text, w=1, from 90 % noise": {**_AND_TEXT, "strength": 0.9},
        "inside and text, w=1, phrases alone": {**_AND_TEXT, "isolate_phrases": True},
        "inside and text, w=1, 15 %": {**_AND_TEXT, "share": 0.15},
        "from 90 % noise, w=2": {**_AND_TEXT, "strength": 0.9, "cross_weight": 2.0},
        "from 90 % noise, w=1, text 2": {**_AND_TEXT, "strength": 0.9, "text_weight": 2.0},
    }
)
"""Of joint attention, for ``micro_flow``: looks at a few settings, each made after the one before."""
SWEEPS = {"settings": SWEEP, "strength": STRENGTH, "clamp": CLAMP, "flow": FLOW}
AGAINST = {
    **{name: name.replace(how, "t / T_train") for name in STRENGTH for how in list(_TIMES)[1:] if how in name},
    **{name: name.replace("clamped", "as printed") for name in CLAMP if "clamped" in name},
}
"""Settings that are also compared with one another."""


def sweep_summary(rows: list[dict[str, Any]]) -> str:
    """A table over all prompts, one over those with two objects where there are others, one of settings in pairs."""
    parts = {"all": rows, "two objects": [row for row in rows if row["group"] != "three objects"]}
    if len(parts["two objects"]) == len(rows):
        del parts["all"]
    names = [name for sweep in SWEEPS.values() for name in sweep if rows and name in rows[0]]
    tables = []
    for title, some in parts.items():
        pairs = [(name, "base", name) for name in names]
        pairs += [
            (f"{name}, against {AGAINST[name]}", AGAINST[name], name) for name in names if AGAINST.get(name) in names
        ]
        lines = [HEADER.replace("prompts", f"setting ({title})", 1)]
        for label, old, new in pairs if some else ():
            flags = ([bool(row[name]) for row in some] for name in (old, new))
            lines.append(compare(*flags, [row["prompt"] for row in some]).row(label))
        tables.append("\n".join(lines))
    return "\n\n".join([*tables, HOW]) + "\n"
