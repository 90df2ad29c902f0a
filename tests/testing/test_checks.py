"""What can be checked: a plugin that is made, or everything that a module registers."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from pydantic import Field

from realignkit import Likelihood, LocalCaption, Options, Reward, Scorer, Segmenter, Tag, Tagger, hookimpl
from realignkit.errors import OptionError, PluginError
from realignkit.testing import check_plugin, findings
from realignkit.testing.checks import finding_of
from tests.testing.conftest import problem, problems


class Echo(Scorer):
    """Every tag is certain."""

    class Options(Options):
        article: str = Field("a", description="what stands before a tag")

    def __call__(self, prompt, tags):
        return tuple(LocalCaption(tag.name, f"{self.options.article} {tag.name}", Likelihood.CERTAIN) for tag in tags)


def module(**registered):
    """A module that registers scorers by name."""
    made = ModuleType("echoing")

    @hookimpl
    def register_scorers(register):
        for name, factory in registered.items():
            register(name, factory, "every tag is certain")

    made.register_scorers = register_scorers
    return made


def test_every_check_is_told_with_its_time():
    told = list(findings(Echo()))
    assert [finding.check for finding in told][:2] == ["documented", "answers"]
    assert not any(finding.problem or finding.skipped for finding in told)
    assert all(finding.whose == "scorer 'Echo'" and finding.seconds >= 0 for finding in told)


def test_a_module_is_all_that_it_registers():
    check_plugin(module(echo=Echo))
    whose = {finding.whose for finding in findings(module(echo=Echo, other=Echo))}
    assert whose == {"plugin 'echoing'", "scorer 'echo'", "scorer 'other'"}


def test_all_problems_are_told_a_line_each():
    class Silent(Echo):
        """Nothing to say."""

        def __call__(self, prompt, tags):
            return ()

    with pytest.raises(PluginError) as error:
        check_plugin(module(one=Silent, two=Silent))
    one, two = str(error.value).splitlines()
    assert one == "scorer 'one' broke its contract: the answer leaves out 'book', 'pen', 'desk'."
    assert two.startswith("scorer 'two' ")


def test_a_plugin_of_no_class_of_ours_says_its_kind():
    def echo(prompt, tags):
        return Echo()(prompt, tags)

    check_plugin(echo, "scorer")
    with pytest.raises(OptionError, match=r"function is of no kind that is known, nor has it hooks\. .*kind=…"):
        check_plugin(echo)
    with pytest.raises(OptionError, match="'scorers' is no kind of plugin"):
        check_plugin(echo, "scorers")
    with pytest.raises(OptionError, match=r"takes a plugin that is made: Echo\(\)"):
        check_plugin(Echo)


def test_what_registering_goes_wrong_with():
    assert "is already registered by" in problem(doubled())
    assert "it implements no hook of realignkit" in problem(ModuleType("empty"))
    assert problem(module(**{"two words": Echo})).startswith("plugin 'echoing': 'two words' is no plugin name")


def doubled():
    made = ModuleType("doubled")

    @hookimpl
    def register_scorers(register):
        register("echo", Echo, "")
        register("echo", Echo, "")

    made.register_scorers = register_scorers
    return made


class Slow(Echo):
    """Takes its time."""


class Needy(Echo):
    """Cannot be made without a path."""

    class Options(Options):
        path: str = Field(description="a file")


def test_what_cannot_be_made_as_it_is_is_skipped():
    told = list(findings(module(needy=Needy)))
    assert [finding.skipped for finding in told if finding.skipped] == ["not checked: it needs path with each use"]
    assert problems(module(needy=Needy)) == []


def test_what_is_not_installed_is_skipped():
    made = ModuleType("distant")

    @hookimpl
    def register_scorers(register):
        register("distant", Echo, "", requires=["no_such_module_anywhere"], extra="distant>=1")

    made.register_scorers = register_scorers
    assert [finding.skipped for finding in findings(made)][-1] == "not checked. Run: pip install 'distant>=1'"


def test_ending_the_program_is_a_problem():
    class Quits(Echo):
        """Ends the program."""

        def __init__(self, **options):
            sys.exit(0)

    assert "scorer 'quits' could not be made: SystemExit: 0" in problem(module(quits=Quits))


# --- how it is said ---------------------------------------------------------------------------------------------------


class Text(Echo):
    """One word for all."""

    def __call__(self, prompt, tags):
        return "certain"


class Silence(Echo):
    """Forgets to return."""

    def __call__(self, prompt, tags):
        pass


class Other(Echo):
    """Wants other arguments."""

    def __call__(self, tags):
        return ()


class Raises(Echo):
    """Knows some prompts."""

    def __call__(self, prompt, tags):
        return {"a cup": ()}[prompt]


class Changes(Echo):
    """Makes everything unsure."""

    def __call__(self, prompt, tags):
        for tag in tags:
            object.__setattr__(tag, "confidence", 0.0)
        return super().__call__(prompt, tags)


class Nothing(Tagger):
    """Forgets to return."""

    def __call__(self, images):
        pass


class Map(Tagger):
    """Tags by name."""

    def __call__(self, images):
        return [{"red": 0.5} for _ in images]


class Mask(Segmenter):
    """Forgets to return."""

    def __call__(self, image, phrases):
        pass


class Colours(Reward):
    """Knows some prompts."""

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3)) * torch.tensor([{"red": 1.0}[prompt] for prompt in prompts])


class Undocumented(Scorer):
    class Options(Options):
        weight: float = 1.0
        scale: float = 1.0

    def __call__(self, prompt, tags):
        return ()


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Text, r"it returned a str, not a local caption for each tag\.$"),
        (Silence, r"it returned None, not a local caption for each tag\.$"),
        (Other, r"broke its contract: it is called with \(prompt, tags\), and takes \(tags\)\.$"),
        (Raises, r"KeyError: .*test_checks\.py, line \d+: any prompt and any tags should be answered\.$"),
        (Changes, r"it changes the tags that it is handed: make others \(dataclasses\.replace\)\.$"),
        (Nothing, r"it returned None, not tags for each image\.$"),
        (Map, r"it returned a dict, not a tuple of tags, for an image\.$"),
        (Mask, r"it returned None, not \(mask, confidence\) or None for each phrase\.$"),
        (Colours, r"KeyError: .*test_checks\.py, line \d+: any picture and any prompt must get a number\.$"),
        (Undocumented, r"has no docstring: .* options 'weight', 'scale' have no description"),
    ],
)
def test_what_was_returned_or_raised_is_said(plugin, message):
    assert re.search(message, problems(plugin())[0])


def test_what_fails_outside_of_the_plugin_is_one_line_without_keys():
    def fails():
        raise LookupError("nothing at\nhttps://me:hunter2@host/x")

    found = finding_of("scorer 'x'", "made", fails)
    assert found.problem == "scorer 'x' failed: LookupError: nothing at https://***@host/x."


def test_a_tagger_may_use_numbers_of_numpy_and_name_a_tag_twice():
    class Generous(Tagger):
        """Twice the same."""

        def __call__(self, images):
            return [(Tag("red", np.float32(0.5)), Tag("red", np.float32(0.4))) for _ in images]

    check_plugin(Generous())
