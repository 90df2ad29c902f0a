"""Hooks of plugins: held against what is asked of them, and called one after the other."""

from __future__ import annotations

from types import ModuleType

import pytest

from realignkit import hookimpl
from realignkit.errors import PluginError
from realignkit.registry import Registry
from realignkit.types import Layout


def plugin():
    """A plugin module that registers one thing."""
    module = ModuleType("plugin_parrot")
    module.register_scorers = hookimpl(lambda register: register("parrot", dict, "says it again"))
    return module


@pytest.fixture
def registry():
    return Registry(discover=False)


def test_hooks_that_do_not_fit_are_refused(registry):
    module = ModuleType("misfit")

    @hookimpl
    def register_scorers(registrar):
        raise AssertionError("never called")

    module.register_scorers = register_scorers
    with pytest.raises(PluginError, match="misfit"):
        registry.register(module, "misfit")
    assert registry.infos() == []


@pytest.mark.parametrize(
    ("name", "marked", "message"),
    [
        ("register_scorer", True, r"implements 'register_scorer', which is no hook\. Did you mean 'register_scorers'"),
        ("before_refining", True, r"Did you mean 'before_refine'"),
        ("entirely_else", True, r"which is no hook\. Hooks: register_generators"),
        ("register_scorers", False, r"'register_scorers' is not marked as a hook: write @realignkit\.hookimpl"),
        ("register_scorer", False, r"implements no hook.*Did you mean 'register_scorers' by 'register_scorer'"),
        ("helper", False, r"implements no hook of realignkit\. Hooks: "),
    ],
)
def test_a_hook_that_nobody_would_call_is_refused(registry, name, marked, message):
    module = ModuleType("misspelt")

    def hook(register):
        raise AssertionError("never called")

    setattr(module, name, hookimpl(hook) if marked else hook)
    with pytest.raises(PluginError, match=message):
        registry.register(module, "misspelt")
    assert registry.infos() == []
    assert not registry.manager.has_plugin("misspelt")


def test_an_unmarked_hook_beside_a_marked_one_is_refused(registry):
    module = plugin()
    module.register_taggers = lambda register: None
    with pytest.raises(PluginError, match="'register_taggers' is not marked"):
        registry.register(module)


def test_a_hook_may_be_optional(registry):
    module = plugin()
    module.of_a_later_version = hookimpl(optionalhook=True)(lambda register: None)
    registry.register(module)
    assert registry.info("scorer", "parrot")


def test_lifecycle_hooks_are_called_with_what_they_ask_for(registry):
    seen = []

    @hookimpl
    def before_refine(layout):
        seen.append(layout)

    @hookimpl
    def after_realign(realignment):
        seen.append(realignment)

    watcher = ModuleType("watcher")
    watcher.before_refine, watcher.after_realign = before_refine, after_realign
    registry.register(watcher, "watcher")
    layout = Layout()
    registry.hook.before_refine(prompt="a cup", layout=layout)
    registry.hook.after_realign(realignment="done")
    assert seen == [layout, "done"]


def test_each_plugins_hook_is_called_with_what_came_of_the_one_before_and_blamed_by_name(registry):
    def adding(number):
        @hookimpl
        def before_refine(layout):
            if number > 2:
                raise ValueError("too many")
            return layout + number

        module = ModuleType(f"adds {number}")
        module.before_refine = before_refine
        return module

    for number in (1, 2):
        registry.register(adding(number), f"adds {number}")
    totals, seen = [0], []
    for whose, result in registry.call_each("before_refine", lambda: {"prompt": "a cup", "layout": totals[-1]}):
        totals.append(result)
        seen.append((whose, result))
    assert seen == [
        ("hook before_refine of plugin 'adds 2'", 2),  # pluggy's order: the last one first
        ("hook before_refine of plugin 'adds 1'", 3),
    ]
    registry.register(adding(3), "adds 3")
    with pytest.raises(PluginError, match="hook before_refine of plugin 'adds 3' failed: ValueError: too many"):
        list(registry.call_each("before_refine", lambda: {"prompt": "", "layout": 0}))
