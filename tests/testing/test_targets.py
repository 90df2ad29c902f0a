"""What ``validate`` looks at is found: projects, files, packages, plugins; each problem is one sentence."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest

from realignkit.errors import PluginError
from realignkit.registry import Registry
from realignkit.scaffold import new_project
from realignkit.testing.targets import validate
from tests.testing.test_making import HOOK

MAKE = "\nfrom realignkit import Likelihood, LocalCaption, Scorer\n\nclass make(Scorer):\n    {doc}\n    def __call__(self, prompt, tags):\n        return tuple(LocalCaption(t.name, t.name, Likelihood.CERTAIN) for t in tags)\n"  # noqa: E501
GOOD = HOOK + MAKE.format(doc='"""Certain."""')


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A new project, whose module nobody has imported."""
    name = f"fresh-{tmp_path.name[-12:].strip('_0123456789').replace('_', '-')}x"
    made = new_project(name, "scorer", tmp_path / "project")
    yield made
    sys.modules.pop(next(made.glob("*.py")).stem, None)


def problems(target, registry):
    return [finding.problem for finding in validate(str(target), registry) if finding.problem]


def test_a_new_project_is_right_without_being_installed(project, registry):
    before, path = registry.infos(), list(sys.path)
    found = list(validate(str(project), registry))
    assert [finding.problem for finding in found if finding.problem] == []
    assert [finding.check for finding in found][:4] == ["requires", "loaded", "imported", "made"]
    assert (registry.infos(), sys.path) == (before, path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('dependencies = ["realignkit>=0.2,<1"]', 'dependencies = ["realignkit"]', "does not say which realignkit it"),
        ('"realignkit>=0.2,<1"', '"realignkit>=9"', r"requires realignkit >=9, and this is \d"),
        ("[project.entry-points.realignkit]", "[project.entry-points.realign]", "announces no plugin: its pyproject"),
        (' = "realignkit_fresh', ' = "realignkit_stale', "No module named 'realignkit_stale"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_project(project, registry, old, new, message):
    file = project / "pyproject.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    (only,) = problems(project, registry)
    assert re.search(message, only)


def test_a_name_that_is_taken(project, registry):
    (module,) = project.glob("*.py")
    module.write_text(re.sub(r'"fresh[\w-]*"', '"lexical"', module.read_text()))
    (only,) = problems(project, registry)
    assert (
        "scorer 'lexical' is already registered by realignkit:scorers; rename it or uninstall one of the two." in only
    )


@pytest.mark.parametrize("text", ["", "no = [toml", "[tool]\nx = 1"])
def test_no_project(tmp_path, registry, text):
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(PluginError, match=r"pyproject\.toml does not describe a project: "):
        list(validate(str(tmp_path), registry))


@pytest.mark.parametrize("imported", [False, True])
def test_a_file(tmp_path, registry, monkeypatch, imported):
    """The file itself is read, whatever has been imported by its name; and that is what it was, afterwards."""
    monkeypatch.delitem(sys.modules, "odd_dist", raising=False)
    another = ModuleType("odd_dist")
    if imported:
        monkeypatch.setitem(sys.modules, "odd_dist", another)
    file = tmp_path / "odd_dist.py"
    file.write_text(GOOD)
    assert problems(file, registry) == []
    assert (sys.modules["odd_dist"] is another) == imported
    assert [info for info in registry.infos() if info.source == "odd_dist"] == []
    file.write_text("raise ValueError('of the file')")
    sys.modules.pop("odd_dist") if not imported else None
    (problem,) = problems(file, registry)
    assert "of the file" in problem
    odd = tmp_path / "json.py"
    odd.write_text(GOOD)
    assert "give it another name" in problems(odd, registry)[0]
    with pytest.raises(PluginError, match="there is no file"):
        list(validate(str(tmp_path / "none.py"), registry))


@pytest.mark.parametrize("target", ["odd_dist", "odd_dist_entry", "odd_dist:odd_dist_entry", "odd"])
def test_what_is_installed_by_any_of_its_names(installed, tmp_path, target):
    installed("odd_dist", GOOD)
    metadata = tmp_path / "odd_dist-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text() + "Requires-Dist: realignkit>=0.2,<1\n")
    found = list(validate(target, Registry()))
    assert [finding.problem for finding in found if finding.problem] == []
    assert "scorer 'odd'" in {finding.whose for finding in found}


def test_what_is_skipped_as_broken(installed):
    installed("odd_dist", "import sys; sys.exit(0)")
    (only,) = problems("odd_dist", Registry())
    assert only.startswith("plugin 'odd_dist:odd_dist_entry' is skipped: it ended the program (SystemExit: 0).")


def test_what_there_is_not(registry):
    with pytest.raises(PluginError, match="'nothing' is no folder, no Python file, and nothing that is installed is"):
        list(validate("nothing", registry))


def test_what_is_not_ready_is_said(registry):
    (found,) = validate("lexical", registry, lambda info: "no key: set the environment variable KEY")
    assert found.skipped == "not checked: no key: set the environment variable KEY"
