"""The registry finds what is installed, ours and others', and says what of it does not load."""

from __future__ import annotations

import logging
import sys

import pytest

from realignkit.errors import PluginError
from realignkit.registry import Registry, default_registry

GOOD = """
import realignkit

@realignkit.hookimpl
def register_scorers(register):
    register("{name}", "{module}:make", "a scorer")

def make(**options):
    return options
"""


def test_installed_plugins_are_found_with_their_distribution(installed):
    installed("good_dist", GOOD.format(name="good-one", module="good_dist"))
    registry = Registry()
    assert registry.info("scorer", "good-one").source == "good_dist:good_dist_entry"
    assert registry.create("scorer", "good-one", a=1) == {"a": 1}


@pytest.mark.parametrize(
    ("code", "value", "error"),
    [
        ("raise RuntimeError('torn')", None, "RuntimeError: torn"),
        ("import no_such_module_b", None, "No module named 'no_such_module_b'"),
        ("def broken(:", None, "SyntaxError"),
        ("", "broken_dist:absent", "AttributeError"),
        ("", "no_such_module_c", "No module named 'no_such_module_c'"),
        (GOOD.format(name="bad name", module="broken_dist"), None, "no plugin name"),
    ],
)
def test_a_broken_plugin_is_named_and_skipped(installed, caplog, code, value, error):
    installed("broken_dist", code, value)
    installed("good_dist", GOOD.format(name="good-one", module="good_dist"))
    with caplog.at_level(logging.WARNING):
        registry = Registry()
    assert error in registry.broken["broken_dist:broken_dist_entry"]
    assert "broken_dist:broken_dist_entry" in caplog.text
    assert registry.info("scorer", "good-one")
    with pytest.raises(PluginError, match=r"Skipped as broken: .*broken_dist:broken_dist_entry"):
        registry.info("scorer", "nothing-like-it")


def test_which_of_two_plugins_gets_a_name_does_not_depend_on_the_order_of_files(installed):
    installed("zz_dist", GOOD.format(name="contested", module="zz_dist"))
    installed("aa_dist", GOOD.format(name="contested", module="aa_dist"))
    registry = Registry()
    assert registry.info("scorer", "contested").source == "aa_dist:aa_dist_entry"
    assert "already registered by aa_dist:aa_dist_entry" in registry.broken["zz_dist:zz_dist_entry"]


def test_a_plugin_that_wants_a_name_of_ours_is_skipped_and_not_we(installed):
    installed("aa_dist", GOOD.format(name="lexical", module="aa_dist"))
    registry = Registry()
    assert registry.info("scorer", "lexical").source == "realignkit:scorers"
    refused = "scorer 'lexical' is already registered by realignkit:scorers; rename it or uninstall one of the two."
    assert registry.broken == {"aa_dist:aa_dist_entry": refused}


def test_a_package_that_is_half_removed_and_has_no_name_stops_nothing(installed, tmp_path):
    installed("good_dist", GOOD.format(name="good-one", module="good_dist"))
    (tmp_path / "good_dist-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\n")
    assert Registry().info("scorer", "good-one").source == "good_dist_entry"


@pytest.mark.parametrize(
    ("code", "value", "said"),
    [
        ("import no_such_module_b", None, "Install the package that brings it, or uninstall the plugin."),
        ("", "no_such_module_c", "Its entry point names a module that is not there: install the package again"),
        ("", "no_such_package.module", "Its entry point names a module that is not there"),
        ("def broken(:", None, "Tell its author, or uninstall it."),
        ("", "broken_dist:absent", "Tell its author, or uninstall it."),
    ],
)
def test_what_could_not_be_imported_ends_with_what_to_do(installed, code, value, said):
    installed("broken_dist", code, value)
    assert f". {said}" in Registry().broken["broken_dist:broken_dist_entry"]


PARTS = """
import realignkit

class Names(realignkit.Tagger):
    def __call__(self, images):
        return [() for _ in images]

@realignkit.hookimpl
def register_scorers(register):
    register("absent", "parts_dist:Absent", "")
    register("gone", "no_such_module_d:Scorer", "")
    register("other", "parts_dist:Names", "")
    register("made-by", "parts_dist:make", "")
    register("elsewhere", "parts_dist_far.scorer:Scorer", "")

def make(**options):
    return options
"""


def test_what_can_be_seen_to_be_wrong_without_an_import(installed):
    installed("parts_dist", PARTS)
    registry = Registry()
    faults = {info.name: info.fault for info in registry.infos() if info.source == "parts_dist:parts_dist_entry"}
    assert faults == {
        "absent": "parts_dist has no class 'Absent'",
        "gone": "there is no module 'no_such_module_d'",
        "other": "Names is a tagger, no scorer",
        "made-by": "",
        "elsewhere": "",
    }
    with pytest.raises(PluginError, match=r"scorer 'other' \(from parts.*cannot be used: Names is a tagger, no scorer"):
        registry.create("scorer", "other")


LAZY = """
import realignkit

def __getattr__(name):
    if name != "Lazy":
        raise AttributeError(name)
    class Lazy(realignkit.Tagger):
        def __call__(self, images):
            return [() for _ in images]
    globals()["made"] = True
    return Lazy

@realignkit.hookimpl
def register_scorers(register):
    register("lazy", "lazy_dist:Lazy", "")
"""


def test_a_module_that_makes_its_classes_when_asked_is_not_asked(installed):
    installed("lazy_dist", LAZY)
    info = Registry().info("scorer", "lazy")
    assert info.fault == ""
    assert not hasattr(sys.modules["lazy_dist"], "made")
    with pytest.raises(PluginError, match="cannot be used: Lazy is a tagger, no scorer"):
        info.resolve()


def test_the_first_party_plugins_load():
    registry = default_registry()
    assert registry is default_registry()
    assert not [source for source in registry.broken if source.startswith("realignkit:")]
    for kind, name in (
        ("generator", "micro"),
        ("tagger", "micro"),
        ("segmenter", "micro"),
        ("scorer", "lexical"),
    ):
        info = registry.info(kind, name)
        assert info.available
        assert info.description


def test_every_first_party_plugin_keeps_the_contract_of_the_listing():
    for info in default_registry().infos():
        assert info.description == info.description.strip()
        assert "\n" not in info.description
        assert info.available or info.remedy.startswith("pip install")
        assert info.fault == ""
        if info.available:
            assert callable(info.resolve())
