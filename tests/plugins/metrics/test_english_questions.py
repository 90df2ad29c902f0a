from __future__ import annotations

from realignkit_plugins.metrics.english_questions import questions_about
from realignkit_plugins.metrics.tifa_questions import ELEMENT_TYPES


def asked(prompt):
    return {each.question: (each.answer, each.element_type) for each in questions_about(prompt)}


def test_objects_colours_materials_attributes_numbers_and_places():
    assert asked("two brown dogs to the left of an old wooden bench in a park") == {
        "are there dogs?": ("yes", "animal/human"),
        "how many brown dogs are there?": ("2", "counting"),
        "what color are the dogs?": ("brown", "color"),
        "are the dogs brown?": ("yes", "color"),
        "is there a bench?": ("yes", "object"),
        "is the bench old?": ("yes", "attribute"),
        "is the bench wooden?": ("yes", "material"),
        "is there a park?": ("yes", "location"),
        "are the dogs to the left of the bench?": ("yes", "spatial"),
        "is the bench in the park?": ("yes", "spatial"),
    }


def test_objects_of_one_name_are_told_apart_by_their_attributes():
    assert asked("a red book and a blue book") == {
        "is there a red book?": ("yes", "object"),
        "is there a blue book?": ("yes", "object"),
    }
    assert asked("a red and a blue car") == {
        "is there a red car?": ("yes", "object"),
        "is there a blue car?": ("yes", "object"),
    }


def test_what_is_ruled_out_must_not_be_there():
    assert asked("a bench without people")["are there people?"] == ("no", "animal/human")


def test_the_right_answer_is_among_the_choices_and_types_are_known():
    for prompt in ("nine red apples", "a black cat on the grass", "a man with a pizza"):
        for each in questions_about(prompt):
            assert each.answer in each.choices
            assert len(set(each.choices)) == len(each.choices)
            assert each.element_type in ELEMENT_TYPES
            assert each.caption == prompt


def test_food_and_nothing():
    assert asked("a dog with a pizza")["is there a pizza?"] == ("yes", "food")
    assert questions_about("") == questions_about("12 !?") == []
