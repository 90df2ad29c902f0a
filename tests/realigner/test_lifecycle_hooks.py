"""What plugins see and change while a prompt is realigned, and who is to blame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import realignkit
from realignkit.errors import PluginError
from realignkit.types import Layout, Segment
from tests import tiny

PROMPT = "a red book and a yellow pen"


class Keep:
    """Keeps the segments that a test selects, and remembers what it was shown."""

    def __init__(self, *names: str) -> None:
        self.names, self.seen = names, list[list[str]]()

    @realignkit.hookimpl
    def before_refine(self, layout: Layout) -> Layout | None:
        self.seen.append([segment.caption.tag for segment in layout])
        return Layout(tuple(segment for segment in layout if segment.caption.tag in self.names))


class Returning:
    def __init__(self, result: Any) -> None:
        self.result = result

    @realignkit.hookimpl
    def before_refine(self, prompt: str, layout: Layout) -> Any:
        return self.result(prompt, layout) if callable(self.result) else self.result


def test_layouts_pass_through_the_plugins_one_after_the_other(registry, realigner):
    later, looks, first = Keep("book"), Returning(None), Keep("book", "desk")
    for name, plugin in (("later", later), ("looks", looks), ("first", first)):  # last registered is called first
        registry.register(plugin, name)
    result = realigner(PROMPT, 7)
    assert sorted(first.seen[0]) == ["book", "desk", "pen"]
    assert sorted(later.seen[0]) == ["book", "desk"]
    assert [segment.caption.tag for segment in result.layout] == ["book"]


def test_plugin_that_takes_every_mask_away(registry, realigner):
    registry.register(Keep("nothing"), "emptier")
    result = realigner(PROMPT, 7)
    assert result.refined is result.coarse and result.conditioning == PROMPT
    assert "before_refine has left no mask" in result.notes[-1]


def test_plugin_can_bring_its_own_layout(registry, make_realigner):
    mask = np.zeros((32, 32), bool)
    mask[:, :10] = True
    registry.register(Returning(lambda prompt, layout: Layout((Segment(tiny.certain("book"), mask),))), "boxes")
    result = make_realigner(options={"tagger": {"threshold": 1.0}})(PROMPT, 7)  # no tags of its own
    assert result.layout.segments[0].area == pytest.approx(10 / 32)
    assert result.refined is not result.coarse
    assert not result.notes


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ("layout", "a str is no Layout"),
        (Layout((Segment(tiny.certain("book"), np.ones((5, 5), bool)),)), r"bool \(32, 32\)"),
        (lambda prompt, layout: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_before_refine_gone_wrong_names_the_plugin(registry, realigner, returned, problem):
    registry.register(Returning(returned), "culprit")
    with pytest.raises(PluginError, match=f"'culprit' .*{problem}"):
        realigner(PROMPT, 7)


def test_after_realign_sees_each_result(registry, realigner):
    class Looks:
        seen: list[Any]

        @realignkit.hookimpl
        def after_realign(self, realignment: Any) -> None:
            self.seen.append(realignment)

    looks = Looks()
    looks.seen = []
    registry.register(looks, "looks")
    results = realigner([PROMPT, "a red book"], 7)
    assert looks.seen == results


def test_after_realign_gone_wrong_names_the_plugin(registry, realigner):
    class Fails:
        @realignkit.hookimpl
        def after_realign(self) -> None:
            raise OSError("disk on fire")

    registry.register(Fails(), "culprit")
    with pytest.raises(PluginError, match="after_realign of plugin 'culprit' failed: OSError: disk on fire"):
        realigner(PROMPT, 7)
