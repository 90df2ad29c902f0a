from __future__ import annotations

import math

import pytest
from PIL import Image

from realignkit import VQA, ModelError, OptionError, PluginError, Registry, default_registry, hookimpl
from realignkit.named import Named
from realignkit.questions import answers, has_probabilities, probabilities


class Brightness(VQA):
    """Says of an image whether it is dark, and how sure it is."""

    def __init__(self, said=None, sure=None):
        super().__init__()
        self.said, self.sure, self.asked = said, sure, []

    def __call__(self, images, questions, choices=None):
        self.asked.append((images, questions, choices))
        said = [" yes " if image.convert("L").getpixel((0, 0)) < 128 else "no" for image in images]
        return said if self.said is None else self.said

    def probabilities(self, images, questions, answers):
        dark = [1 - image.convert("L").getpixel((0, 0)) / 255 for image in images]
        rows = [[p if answer == "yes" else 1 - p for answer in each] for p, each in zip(dark, answers, strict=True)]
        return rows if self.sure is None else self.sure


def named(**how):
    return Named("vqa", "brightness", Brightness(**how))


BLACK, WHITE = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), (255, 255, 255))


def test_pairs_are_answered_in_order_without_blanks():
    assert answers(named(), [BLACK, WHITE], ["Is it dark?"] * 2) == ["yes", "no"]
    assert answers(named(), [], []) == []


def test_plugins_get_copies_and_an_image_asked_about_twice_is_one_object():
    vqa = named()
    answers(vqa, [BLACK, WHITE, BLACK], ["dark?", "dark?", "black?"], [["yes", "no"]] * 3)
    ((images, questions, choices),) = vqa.plugin.asked
    assert images[0] is images[2] is not BLACK
    assert images[1] is not images[0]
    assert (questions, choices) == (["dark?", "dark?", "black?"], [["yes", "no"]] * 3)


def test_probabilities_of_each_answer():
    assert probabilities(named(), [BLACK, WHITE], ["dark?"] * 2, [["yes", "no"], ["no"]]) == [[1.0, 0.0], [1.0]]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (["yes"], "1 answers to 2 questions"),
        ([1, 2], "1 is no answer in words"),
        (3, "it returned an int, not an answer for each"),
    ],
)
def test_answers_that_break_the_contract(said, problem):
    with pytest.raises(PluginError, match=f"vqa 'brightness'.*{problem}"):
        answers(named(said=said), [BLACK, WHITE], ["dark?"] * 2)


def test_probabilities_that_break_the_contract():
    with pytest.raises(PluginError, match="one probability per answer"):
        probabilities(named(sure=[[0.5]]), [BLACK], ["dark?"], [["yes", "no"]])
    for sure in (math.nan, 1.1, -0.1):
        with pytest.raises(ModelError, match="vqa 'brightness' gave"):
            probabilities(named(sure=[[sure]]), [BLACK], ["dark?"], [["yes"]])


def test_what_does_not_go_together_is_refused():
    with pytest.raises(OptionError, match="1 images and 2 questions"):
        answers(named(), [BLACK], ["dark?"] * 2)
    with pytest.raises(OptionError, match="do not go together"):
        probabilities(named(), [BLACK], ["dark?"], [])


def test_who_gives_no_probabilities_says_so():
    class Mute(VQA):
        def __call__(self, images, questions, choices=None):
            return ["yes"] * len(images)

    mute = Named("vqa", "mute", Mute())
    assert not has_probabilities(mute)
    with pytest.raises(OptionError, match="vqa 'mute' gives no probabilities"):
        probabilities(mute, [BLACK], ["dark?"], [["yes"]])


def test_one_is_registered_listed_and_made_like_any_plugin(cli):
    class Answering:
        @hookimpl
        def register_vqa(self, register):
            register("brightness", Brightness, "says whether it is dark")

    registry = Registry(discover=False)
    registry.register(Answering())
    assert answers(Named("vqa", "brightness", registry.create("vqa", "brightness")), [BLACK], ["dark?"]) == ["yes"]
    listed = cli("plugins", "--kind", "vqa")
    assert listed.exit_code == 0
    assert all(info.name in listed.output for info in default_registry().infos("vqa"))
