"""The files about the project say what is so."""

from __future__ import annotations

import re
import tomllib

import yaml

from realignkit import __version__
from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PYPROJECT["project"]["license"]
    assert citation["preferred-citation"]["title"] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_hooks_before_a_commit_need_no_network():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [repository["repo"] for repository in hooks["repos"]] == ["local"]
    assert all(hook["language"] == "system" for repository in hooks["repos"] for hook in repository["hooks"])


def test_the_changelog_is_by_release_and_its_headings_exist_once():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [release.partition("\n")[0].split(" ")[0] for release in releases][:2] == [
        "[Unreleased]",
        f"[{__version__}]",
    ]
    for release in releases:
        headings = re.findall(r"^### (.*)$", release, flags=re.MULTILINE)
        assert headings == [name for name in ("Added", "Changed", "Removed", "Fixed", "Security") if name in headings]
