"""What an import costs and does, options, and what plugins say of themselves."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field

from realignkit import Likelihood, LocalCaption, Options, Scorer
from realignkit.testing.making import import_problem
from tests.testing.conftest import problem
from tests.testing.test_checks import Echo, module

HOOK = """
import realignkit

@realignkit.hookimpl
def register_scorers(register):
    register("odd", "odd_dist:make", "a scorer")
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit(0)", "cannot be imported: it ended the program (SystemExit: 0)."),
        ("raise ValueError('no')", "cannot be imported: ValueError: no."),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'."),
        ("import os; os._exit(3)", "ends the process that imports it (exit code 3): do nothing at import but define."),
        ("import json\njson.dumps = print", "cannot be imported: it replaced json.dumps, which is put back."),
        ("import torch", "imports torch, and 'realignkit plugins' imports it: put the class into a module of its own"),
        ("print('hello')", "prints while it is imported ('hello'): use logging.getLogger(__name__)"),
        (
            "import threading\nfor _ in range(3): threading.Thread(target=threading.Event().wait).start()",
            "starts 3 threads while it is imported: start them at first use, as daemons.",
        ),
        ("import logging\nlogging.basicConfig(level=0)", "changes how the program logs (logging.basicConfig)"),
    ],
)
def test_what_an_import_does(installed, code, message):
    installed("odd_dist", code + HOOK)
    assert import_problem("odd_dist").startswith(message)


def test_one_that_never_comes_to_an_end(installed, monkeypatch):
    monkeypatch.setenv("REALIGNKIT_PLUGIN_TIMEOUT", "0.5")
    installed("odd_dist", "import threading; threading.Event().wait()")
    assert import_problem("odd_dist").startswith("cannot be imported: it did not finish within 0.5 s.")


def test_a_light_import(installed):
    installed("odd_dist", "import json, re" + HOOK)
    assert import_problem("odd_dist") == ""


class Silent(Scorer):
    def __call__(self, prompt, tags):
        return tuple(LocalCaption(tag.name, tag.name, Likelihood.CERTAIN) for tag in tags)


class Terse(Echo):
    """An option that nobody explains."""

    class Options(Options):
        article: str = "a"


class Loose(Echo):
    """Options of another base."""

    class Options(BaseModel):
        article: str = Field("a", description="what stands before a tag")


class Tolerant(Echo):
    """Takes any option."""

    class Options(Options, extra="allow"):
        article: str = Field("a", description="what stands before a tag")


class Unwell(Echo):
    """A check that says True."""

    def check(self):
        return True


class Pickles(Echo):
    """Comes back without its options."""

    def __reduce__(self):
        return Echo, ()


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Silent(), "scorer 'Silent' has no docstring: say in a line what Silent does."),
        (Terse(), "scorer 'Terse': option 'article' has no description, which 'realignkit plugins' shows: write"),
        (Loose(), "scorer 'Loose': derive its Options from realignkit.Options, which refuses wrong names."),
        (Tolerant(), "it takes options that it does not have: let Options forbid others (extra='forbid')"),
        (Unwell(), "check() must return text, empty where nothing is wrong, not True"),
        (Pickles(article="the"), "pickled and read back it has other options"),
    ],
)
def test_what_a_plugin_says_of_itself(plugin, message):
    assert message in problem(plugin)


def test_loading_weights_while_it_is_made(monkeypatch):
    from realignkit.testing import making

    monkeypatch.setattr(making, "QUICK", -1.0)
    assert "scorer 'echo' takes 0 s to be made: load weights at first use, not in __init__." in problem(
        module(echo=Echo)
    )
