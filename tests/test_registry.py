from __future__ import annotations

import logging
import sys
from types import ModuleType

import pytest
from pydantic import Field

from realignkit import hookimpl
from realignkit.contracts import KINDS, Options, Scorer, parse_options
from realignkit.errors import OptionError, PluginError, RealignKitError
from realignkit.registry import Registry, default_registry, hook_name
from realignkit.types import Likelihood, LocalCaption


class ParrotOptions(Options):
    volume: int = 3


class Parrot(Scorer):
    Options = ParrotOptions

    def __call__(self, prompt, tags):
        return tuple(LocalCaption(tag.name, tag.name, Likelihood.CERTAIN) for tag in tags)


def plugin(kind="scorer", name="parrot", factory=Parrot, description="says it again", **details):
    """A plugin module that registers one thing."""
    module = ModuleType(f"plugin_{name}")

    @hookimpl
    def hook(register):
        register(name, factory, description, **details)

    setattr(module, hook_name(kind), hook)
    return module


@pytest.fixture
def registry():
    return Registry(discover=False)


GOOD = """
import realignkit

@realignkit.hookimpl
def register_scorers(register):
    register("{name}", "{module}:make", "a scorer")

def make(**options):
    return options
"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_registered_and_made(registry, kind):
    registry.register(plugin(kind, "thing", lambda **options: ("made", options)), "somewhere")
    info = registry.info(kind, "thing")
    assert (info.kind, info.name, info.source, info.available) == (kind, "thing", "somewhere", True)
    assert registry.create(kind, "thing", a=1) == ("made", {"a": 1})


def test_options_go_over_presets(registry):
    registry.register(plugin(name="loud", options={"volume": 9}))
    assert registry.create("scorer", "loud").options.volume == 9
    assert registry.create("scorer", "loud", volume=1).options.volume == 1


@pytest.mark.parametrize("options", [{"volume": "much"}, {"colour": "red"}])
def test_bad_options_name_the_plugin_and_its_options(registry, options):
    registry.register(plugin())
    with pytest.raises(OptionError, match=rf"Parrot: {next(iter(options))}.*Its options: volume\."):
        registry.create("scorer", "parrot", **options)


@pytest.mark.parametrize(
    ("option", "example"),
    [
        ("weights", r"""weights='{"name": 1}'"""),
        ("names", r"""names='\["a", "b"\]'"""),
        ("either", r"""either='\["a", "b"\]'"""),
    ],
)
def test_a_text_for_something_with_parts_is_told_that_json_is_wanted(option, example):
    class Parts(Options):
        weights: dict[str, float] = Field({})
        names: list[str] = Field([])
        either: tuple[str, ...] | int = 1

    class Whole(Options):
        parts: Parts = Parts()

    asked = rf"{option}\S*: Input should be .*, not 'car=2'; --set takes JSON for it: "
    with pytest.raises(OptionError, match=asked + example):
        parse_options(Parts, {option: "car=2"}, owner="Parts")
    with pytest.raises(OptionError, match=rf"{asked}parts\.{example}"):
        parse_options(Whole, {"parts": {option: "car=2"}}, owner="Whole")


def test_the_options_class_of_a_plugin(registry):
    registry.register(plugin())
    registry.register(plugin(name="plain", factory=lambda: None))
    assert registry.info("scorer", "parrot").options_model() is ParrotOptions
    assert registry.info("scorer", "plain").options_model() is None


def test_listing_is_by_kind_then_name(registry):
    for kind, name in (("metric", "a"), ("tagger", "z"), ("tagger", "b"), ("generator", "q")):
        registry.register(plugin(kind, name), f"{kind}-{name}")
    assert [(i.kind, i.name) for i in registry.infos()] == [
        ("generator", "q"),
        ("tagger", "b"),
        ("tagger", "z"),
        ("metric", "a"),
    ]
    assert [i.name for i in registry.infos("tagger")] == ["b", "z"]


def test_one_name_may_serve_several_kinds(registry):
    registry.register(plugin("tagger", "micro"), "one")
    registry.register(plugin("segmenter", "micro"), "two")
    assert registry.info("tagger", "micro").source == "one"
    assert registry.info("segmenter", "micro").source == "two"


def test_a_near_name_is_suggested(registry):
    registry.register(plugin(name="lexical"))
    with pytest.raises(PluginError, match=r"no scorer is called 'lexicl'\. Did you mean 'lexical'\? Known: lexical\."):
        registry.info("scorer", "lexicl")
    with pytest.raises(PluginError) as error:
        registry.info("scorer", "gpt9")
    assert "Did you mean" not in str(error.value)


def test_an_unknown_kind_lists_the_kinds(registry):
    with pytest.raises(PluginError, match=r"'scorers' is no kind of plugin.*scorer, segmenter"):
        registry.info("scorers", "lexical")


@pytest.mark.parametrize(
    ("extra", "remedy"),
    [
        ("gpt4", "pip install 'realignkit[gpt4]'"),
        ("somebody-elses>=2", "pip install 'somebody-elses>=2'"),
        (None, "pip install no_such_module_a"),
    ],
)
def test_a_missing_requirement_says_what_to_install(registry, extra, remedy):
    registry.register(plugin(requires=("json", "no_such_module_a"), extra=extra))
    info = registry.info("scorer", "parrot")
    assert not info.available
    assert info.missing == ("no_such_module_a",)
    assert info.remedy == remedy
    with pytest.raises(PluginError) as error:
        registry.create("scorer", "parrot")
    assert str(error.value).endswith(f"Run: {remedy}")


def test_a_satisfied_plugin_needs_no_remedy(registry):
    registry.register(plugin(requires=("json",), extra="gpt4"))
    assert registry.info("scorer", "parrot").remedy == ""


def test_registering_imports_nothing_until_use(registry, installed):
    installed("lazy_target", "raise RuntimeError('imported')")
    registry.register(plugin(factory="lazy_target:Thing"), "lazybones")
    assert registry.infos()[0].available
    with pytest.raises(PluginError, match=r"'parrot' \(from lazybones\) cannot be imported: RuntimeError: imported"):
        registry.create("scorer", "parrot")


def test_a_constructor_that_fails_is_named(registry):
    def broken(**options):
        raise ZeroDivisionError("oh")

    def refuses(**options):
        raise OptionError("not like this")

    registry.register(plugin(name="broken", factory=broken))
    registry.register(plugin(name="refuses", factory=refuses))
    with pytest.raises(PluginError, match="scorer 'broken' could not be made: ZeroDivisionError: oh") as error:
        registry.create("scorer", "broken", colour="red")
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    assert "colour" in str(error.value)
    with pytest.raises(OptionError, match=r"^not like this$"):
        registry.create("scorer", "refuses")


def test_what_a_plugin_raises_is_one_line_without_keys(registry):
    def broken(key, url):
        raise ValueError(f"{key} was refused\nby {url}")

    registry.register(plugin(name="broken", factory=broken))
    with pytest.raises(
        PluginError, match=r"ValueError: \*\*\* was refused by https://\*\*\*@host/x\?\*\*\*\. Check its"
    ):
        registry.create("scorer", "broken", key="hunter2-hunter2", url="https://me:hunter2@host/x?k=hunter2")


@pytest.mark.parametrize("name", ["", "two words", "semi;colon", "../up", 3, None])
def test_odd_names_are_refused(registry, name):
    with pytest.raises(PluginError, match="no plugin name"):
        registry.register(plugin(name=name), "odd")


@pytest.mark.parametrize(
    ("details", "problem"),
    [
        ({"requires": "torch"}, r"requires come in a list, also one: \[one\]"),
        ({"requires": 3}, "requires come in a list"),
        ({"requires": [3]}, "requires takes a list of words, and 3 is none"),
        ({"options": 3}, "options takes a dict"),
        ({"factory": 3}, "factory must be callable or 'module:attribute', got 3"),
        ({"description": 3}, "description must be text, got 3"),
        ({"extra": 3}, "extra must be text, got 3"),
    ],
)
def test_what_is_registered_is_checked(registry, details, problem):
    with pytest.raises(PluginError, match=f"^scorer 'parrot': {problem}"):
        registry.register(plugin(**details))
    assert registry.infos() == []


def test_only_what_can_be_a_plugin_comes_and_goes(registry):
    with pytest.raises(PluginError, match="a module or an object with hooks, not None"):
        registry.register(None)
    for stranger in (None, plugin()):
        with pytest.raises(PluginError, match="is not registered here"):
            registry.unregister(stranger)


def test_a_factory_must_be_callable_or_a_path(registry):
    with pytest.raises(PluginError, match="module:attribute"):
        registry.register(plugin(factory="just_a_module"))


def test_a_taken_name_is_refused_and_nothing_stays(registry):
    registry.register(plugin(name="parrot"), "first")
    both = plugin(name="parrot")
    both.register_taggers = plugin("tagger", "extra").register_taggers
    with pytest.raises(PluginError, match="scorer 'parrot' is already registered by first"):
        registry.register(both, "second")
    assert [(i.kind, i.source) for i in registry.infos()] == [("scorer", "first")]
    # The name of the failed plugin is free again.
    registry.register(plugin(name="other"), "second")
    assert registry.info("scorer", "other").source == "second"


def test_a_plugin_that_registers_a_name_twice_is_refused(registry):
    module = ModuleType("twice")

    @hookimpl
    def register_scorers(register):
        register("same", Parrot, "one")
        register("same", Parrot, "two")

    module.register_scorers = register_scorers
    with pytest.raises(PluginError, match="already registered"):
        registry.register(module)
    assert registry.infos() == []


@pytest.mark.parametrize("stop", [SystemExit(0), SystemExit("bye"), GeneratorExit()])
def test_a_factory_that_ends_the_program_is_named(registry, stop):
    def factory(**options):
        raise stop

    registry.register(plugin(name="quitter", factory=factory))
    with pytest.raises(PluginError, match="scorer 'quitter' could not be made"):
        registry.create("scorer", "quitter")


def test_unregistering_takes_everything_away(registry):
    mine = plugin()
    registry.register(mine, "mine")
    registry.register(plugin(name="yours"), "yours")
    registry.unregister(mine)
    assert [i.name for i in registry.infos()] == ["yours"]
    registry.register(mine, "mine")
    assert len(registry.infos()) == 2


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


def test_every_error_is_a_realignkit_error():
    from realignkit import errors

    for name in errors.__dict__:
        if name.endswith("Error"):
            assert issubclass(getattr(errors, name), RealignKitError)
