"""Every plugin of ours that can work without network keeps its contract, and all of them are imported lightly.

Those on small random weights are checked beside their other tests.
"""

from __future__ import annotations

import tomllib

import pytest

from realignkit.registry import default_registry
from realignkit.testing.checks import of_registered
from realignkit.testing.making import check_documented, import_problem
from tests.conftest import ROOT

OURS = [info for info in default_registry().infos() if info.source.startswith("realignkit:")]
OFFLINE = [info for info in OURS if info.name == "lexical" or info.name.partition("_")[0] == "micro"]


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setenv("REALIGNKIT_PLUGIN_TIMEOUT", "3600")


@pytest.mark.parametrize("info", OFFLINE, ids=lambda info: f"{info.kind}-{info.name}")
def test_those_that_work_offline(info):
    findings = list(of_registered(info))
    assert [finding.problem or finding.skipped for finding in findings if finding.problem or finding.skipped] == []
    assert len(findings) > 5


@pytest.mark.parametrize("info", [info for info in OURS if info not in OFFLINE], ids=lambda i: f"{i.kind}-{i.name}")
def test_the_others_say_what_they_do_and_take(info):
    from realignkit.named import Named

    if info.available:
        cls = info.resolve()
        made = cls.__new__(cls)  # not made, as some need an option; what is documented is the class
        model = info.options_model()
        made.options = model.model_construct() if model else None
        check_documented_class(Named(info.kind, info.name, made))


def check_documented_class(plugin):
    plugin.plugin.check = plugin.plugin.out_of_reach = str
    check_documented(plugin)


def test_entry_points_are_imported_lightly():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    problems = {value: import_problem(value) for value in project["entry-points"]["realignkit"].values()}
    assert problems == dict.fromkeys(problems, "")
