"""Every hook, with its contract in the docstring.

A plugin is a module (or object) with functions of these names marked ``@realignkit.hookimpl``, announced
by an entry point of the group ``realignkit``. Implement as many as you like; arguments you do not need can
be left out (pluggy passes by name).

*Registering hooks* hand over a name, where the plugin lives, and one line about it. Nothing is imported
until somebody uses the plugin, so listing plugins stays fast and needs none of their dependencies::

    @realignkit.hookimpl
    def register_scorers(register):
        register("echo", "my_package.echo:EchoScorer", "every tag is certain; its caption is the tag")

``register(name, factory, description, *, requires=(), extra=None, options=None)``:

- ``factory``: ``"module:attribute"`` or a callable; called with the options as keyword arguments;
- ``requires``: import names it needs; ``extra``: the ``realignkit[extra]`` (or any pip requirement) that brings
  them, for the message a user sees;
- ``options``: presets, so that one class can serve several names.

*Lifecycle hooks* let a plugin look at, or change, what passes through.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from realignkit.realignment import Realignment
    from realignkit.registry import Register
    from realignkit.types import Layout, TrainState

hookspec = pluggy.HookspecMarker("realignkit")
hookimpl = pluggy.HookimplMarker("realignkit")


@hookspec
def register_generators(register: Register) -> None:
    """Register text-to-image models: :class:`realignkit.contracts.Generator`."""


@hookspec
def register_rewards(register: Register) -> None:
    """Register rewards: :class:`realignkit.contracts.Reward`."""


@hookspec
def register_taggers(register: Register) -> None:
    """Register taggers: :class:`realignkit.contracts.Tagger`."""


@hookspec
def register_scorers(register: Register) -> None:
    """Register scorers: :class:`realignkit.contracts.Scorer`."""


@hookspec
def register_segmenters(register: Register) -> None:
    """Register segmenters: :class:`realignkit.contracts.Segmenter`."""


@hookspec
def register_metrics(register: Register) -> None:
    """Register metrics: :class:`realignkit.contracts.Metric`."""


@hookspec
def register_prompts(register: Register) -> None:
    """Register prompt sets: :class:`realignkit.contracts.PromptSet`."""


@hookspec
def before_refine(prompt: str, layout: Layout) -> Layout | None:
    """Called with each image's layout just before re-sampling.

    Return a layout to use instead, or None to leave it. With several plugins each sees what the one
    before it returned (the order is pluggy's: last registered first, ``tryfirst``/``trylast`` to change it).
    """


@hookspec
def after_realign(realignment: Realignment) -> None:
    """Called with each finished realignment, before it is returned. Look, log, copy; it is frozen."""


@hookspec
def after_train_step(state: TrainState) -> bool | None:
    """Called after each optimizer step of a fine-tuning run, in its main process. Look, log, plot.

    Return True to end the run after this step: it is validated and saved as if it were the last.
    """
