"""``realignkit plugins NAME`` and ``realignkit plugins validate``."""

from __future__ import annotations

import functools
import json

from realignkit import hookimpl
from realignkit.registry import Registry, default_registry


def test_a_name_alone_shows_every_plugin_of_that_name(cli):
    done = cli("plugins", "quadrants")
    assert done.exit_code == 0, done.output
    assert "tagger quadrants: names quadrants by brightness" in done.stdout
    assert "segmenter quadrants: finds quadrants by brightness" in done.stdout
    assert "how sure a tag must be" in done.stdout


def test_a_kind_may_stand_before_it(cli):
    done = cli("plugins", "tagger", "quadrants")
    assert done.exit_code == 0, done.output
    assert done.stdout == cli("plugins", "show", "tagger", "quadrants").stdout
    assert "segmenter" not in done.stdout


def test_a_near_name_is_suggested(cli):
    done = cli("plugins", "quadrant")
    assert done.exit_code == 2
    assert (
        "no plugin is called 'quadrant'. Did you mean 'quadrants'? 'realignkit plugins' lists them all." in done.stderr
    )


def test_package_version_and_licence_are_shown(cli):
    shown = cli("plugins", "scorer", "lexical").stdout
    assert "from realignkit:scorers, package realignkit " in shown
    assert "licence" not in shown

    class Licensed:
        @hookimpl
        def register_taggers(self, register):
            register("licensed", "tests.tiny:QuadrantTagger", "", license="CreativeML OpenRAIL-M")

    plugin = Licensed()
    default_registry().register(plugin, "licensed")
    try:
        assert "licence of its checkpoint: CreativeML OpenRAIL-M" in cli("plugins", "licensed").stdout
    finally:
        default_registry().unregister(plugin)


def test_what_is_broken_is_said_once(installed, monkeypatch, caplog, cli):
    installed("torn_dist", "raise RuntimeError('torn')")
    monkeypatch.setattr("realignkit.registry.default_registry", functools.cache(Registry))
    done = cli("plugins")
    assert done.exit_code == 0, done.output
    assert (done.output + caplog.text).count("torn_dist:torn_dist_entry") == 1


def test_a_class_that_is_not_there_is_not_available(cli):
    class Absent:
        @hookimpl
        def register_scorers(self, register):
            register("absent", "tests.tiny:NoSuchScorer", "")

    plugin = Absent()
    default_registry().register(plugin, "absent")
    try:
        listed = json.loads(cli("plugins", "--kind", "scorer", "--json").stdout)["plugins"]
        (record,) = [record for record in listed if record["name"] == "absent"]
        assert (record["available"], record["remedy"]) == (False, "tests.tiny has no class 'NoSuchScorer'")
        assert "has no class" in " ".join(cli("plugins", "--kind", "scorer").stdout.split())
    finally:
        default_registry().unregister(plugin)


def test_validate_says_what_is_wrong_and_fails(cli):
    done = cli("plugins", "validate", "tiny")
    assert done.exit_code == 1, done.output
    assert "tagger 'quadrants' has no docstring: say in a line what QuadrantTagger does." in done.stdout
    assert "scorer 'distant'" in done.stdout and "not checked. Run: pip install 'distant-thing>=1'" in done.stdout
    assert "found something" in done.stderr


def test_validate_for_machines(cli):
    done = cli("plugins", "validate", "lexical", "--json")
    assert done.exit_code == 0, done.output
    findings = json.loads(done.stdout)
    assert {finding["whose"] for finding in findings} == {"scorer 'lexical'"}
    assert not any(finding["problem"] for finding in findings)


def test_validate_downloads_nothing(cli):
    done = cli("plugins", "validate", "ram")
    assert done.exit_code == 0, done.output
    assert "not checked: downloads xinyu1205/recognize_anything_model from the hub" in done.stdout
    assert "1 could not be made here" in done.stderr


def test_validate_needs_something_that_is_there(cli):
    done = cli("plugins", "validate", "nothing-of-this-name")
    assert done.exit_code == 2
    assert "nothing that is installed is called so" in done.stderr
