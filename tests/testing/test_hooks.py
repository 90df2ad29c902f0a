"""Lifecycle hooks are called with what the engine would call them with."""

from __future__ import annotations

import re

import pytest

import realignkit
from realignkit.testing import check_plugin
from tests.testing.conftest import problem


class Right:
    @realignkit.hookimpl
    def before_refine(self, prompt, layout):
        return type(layout)(layout.segments[:1])

    @realignkit.hookimpl
    def after_realign(self, realignment):
        assert realignment.prompt and realignment.coarse.size == (64, 64)

    @realignkit.hookimpl
    def after_train_step(self, state):
        return state.loss < 0


class NeedsOne:
    @realignkit.hookimpl
    def before_refine(self, layout):
        return type(layout)((layout.segments[0],))


class Dots:
    @realignkit.hookimpl
    def after_train_step(self, state):
        print(f"{state.reward:.2f}")


class Counts:
    @realignkit.hookimpl
    def after_train_step(self, state):
        return state.iteration


class Misspelt:
    @realignkit.hookimpl
    def after_realing(self, realignment):
        pass


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (NeedsOne, "hook before_refine of plugin 'NeedsOne' failed: IndexError: tuple index out of range"),
        (Dots, "hook after_train_step of plugin 'Dots' failed: TypeError: unsupported format string"),
        (Counts, "hook after_train_step of plugin 'Counts' broke its contract: it must return True to end the run"),
    ],
)
def test_a_hook_that_breaks_its_contract(plugin, message):
    assert re.search(message, problem(plugin()))


def test_right_hooks():
    check_plugin(Right())
