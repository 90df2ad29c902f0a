from __future__ import annotations

from types import ModuleType

import pytest
from pydantic import Field

from realignkit import hookimpl
from realignkit.contracts import KINDS, Options, Scorer, parse_options
from realignkit.errors import OptionError, PluginError, RealignKitError
from realignkit.registry import Registry, hook_name
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


def test_every_error_is_a_realignkit_error():
    from realignkit import errors

    for name in errors.__dict__:
        if name.endswith("Error"):
            assert issubclass(getattr(errors, name), RealignKitError)
