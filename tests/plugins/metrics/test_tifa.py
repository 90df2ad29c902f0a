from __future__ import annotations

import json

import pytest

from realignkit import OptionError, PluginError
from realignkit.testing import check_plugin
from realignkit_plugins.metrics.tifa import TIFA
from tests.conftest import ROOT

FOLDER = ROOT / "tests" / "golden" / "tifa"
PROMPT = "a red book and a pen"


@pytest.fixture
def tifa(scripted):
    def make(said=None, **options):
        return TIFA(vqa=scripted, vqa_options={"said": said or {}}, encoder=None, **options)

    return make


def test_each_image_has_its_share_its_types_and_its_questions(tifa, dark, light):
    metric = tifa({"what color is the book?": "Light red.", "is there a pen?": "no"})
    right, wrong = metric.judge_each([dark, light], [PROMPT, PROMPT])
    assert right["tifa"] == pytest.approx(3 / 4)
    assert right["tifa/color"] == 1
    assert right["tifa/object"] == 1 / 2
    assert wrong["tifa"] == 0
    colour = right["details"][1]
    assert colour == {
        "question": "what color is the book?",
        "type": "color",
        "answer": "red",
        "said": "Light red.",
        "choice": "red",
        "right": 1,
    }


def test_a_set_is_the_mean_over_prompts_of_their_questions(tifa, dark, light):
    metric = tifa()
    metric.update([dark, light, light], ["a pen", "a pen", "a red book"])
    values = metric.compute()
    assert values["tifa"] == pytest.approx((0.5 + 0.0) / 2)
    assert values["tifa/object"] == pytest.approx(1 / 3)
    assert values["n"] == 3
    assert values["tifa_stdev"] == pytest.approx(0.5**0.5 / 2)


def test_instances_with_equal_options_merge(tifa, dark, light):
    one, other, both = tifa(), tifa(), tifa()
    one.update([dark], ["a pen"])
    other.update([light], ["a book"])
    both.update([dark, light], ["a pen", "a book"])
    one.merge(other)
    assert one.compute() == both.compute()
    with pytest.raises(PluginError, match="equal options"):
        one.merge(tifa({"x": "y"}))


def test_a_file_of_questions_is_asked_as_it_is_and_agrees_with_the_original(scripted, dark, tmp_path):
    """With its own answers, and its own nearest choices in place of the encoder's."""
    answers = json.loads((FOLDER / "answers.json").read_text())
    expected = json.loads((FOLDER / "expected.json").read_text())
    entries = json.loads((FOLDER / "questions.json").read_text())
    captions = {entry["id"]: entry["caption"] for entry in entries}
    metric = TIFA(vqa=scripted, questions=str(FOLDER / "questions.json"), encoder=None)
    said = {(captions[each["id"]], each["question"]): each for each in answers}

    def judge(caption):
        own = {q: each for (c, q), each in said.items() if c == caption}
        part = TIFA(
            vqa=scripted,
            vqa_options={"said": {q: each["free_form_vqa"] for q, each in own.items()}},
            questions=str(FOLDER / "questions.json"),
        )
        part.__dict__["_nearest"] = lambda text, choices: next(
            each["nearest_choice_if_not_a_choice"]
            for each in own.values()
            if each["free_form_vqa"] == text and each["nearest_choice_if_not_a_choice"] in choices
        )
        (values,) = part.judge_each([dark], [caption])
        return {**values, "prompt": caption}

    repeated = "made_6"  # answered differently the second time, which answers by question cannot say
    records = [judge(caption) for name, caption in captions.items() if name != repeated]
    for record, name in zip(records, [name for name in captions if name != repeated], strict=True):
        assert record["tifa"] == pytest.approx(expected["caption_scores"][name])
    assert metric.can_judge(captions["made_0"])
    assert not metric.can_judge("a text that nobody asks about")


def test_what_cannot_be_asked_about_is_refused(tifa, dark):
    assert not tifa().can_judge("")
    with pytest.raises(OptionError, match="there are no questions about ''"):
        tifa().judge_each([dark], [""])
    with pytest.raises(OptionError, match="2 images but 1 prompts"):
        tifa().judge_each([dark, dark], ["a pen"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "no file of questions"), ("[]", "no list of questions"), ('[{"id": 1}]', "entry 1 .* 'id'")],
)
def test_damaged_files_are_named(tifa, tmp_path, text, problem):
    (tmp_path / "questions.json").write_text(text)
    with pytest.raises(OptionError, match=problem):
        tifa(questions=str(tmp_path / "questions.json")).can_judge("a pen")


def test_captions_are_found_however_their_blanks_are(tifa, tmp_path):
    asked = {"question": "is there a bowl?", "choices": ["yes", "no"], "answer": "yes", "element_type": "object"}
    caption = "a green  bowl "  # as some of the published ones
    (tmp_path / "questions.json").write_text(json.dumps([{"id": "1", "caption": caption, **asked}]))
    metric = tifa(questions=str(tmp_path / "questions.json"))
    assert [metric.can_judge(prompt) for prompt in ("a green bowl", caption, "a bowl")] == [True, True, False]


def test_the_published_name_is_a_file_here_before_it_is_one_elsewhere(tifa, tmp_path, monkeypatch):
    name = "tifa_v1.0_question_answers.json"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / name).write_text("[]")
    monkeypatch.setenv("REALIGNKIT_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"elsewhere.* holds no list of questions"):
        tifa(questions=name).can_judge("a pen")
    (tmp_path / name).write_text((FOLDER / "questions.json").read_text())
    caption = json.loads((FOLDER / "questions.json").read_text())[0]["caption"]
    assert tifa(questions=name).can_judge(caption)


def test_a_file_that_is_not_there_says_where_to_get_it(tifa):
    with pytest.raises(OptionError, match="Yushi-Hu/tifa"):
        tifa(questions="tifa_v1.0_question_answers.json").can_judge("a pen")


def test_what_the_number_depends_on_is_said(tifa, tmp_path):
    assert tifa().identity() == {"vqa": "scripted", "questions": "rules", "encoder": "words"}
    own = tifa(questions=str(FOLDER / "questions.json")).identity()
    assert len(own["questions"]) == 64


def test_weights_that_cannot_be_had_are_told_before_any_work(scripted, tmp_path):
    assert TIFA(vqa=scripted, encoder=None).out_of_reach() == ""
    missing = TIFA(vqa=scripted, encoder=str(tmp_path / "nowhere")).out_of_reach()
    assert "nowhere" in missing


def test_it_keeps_its_contract(tifa):
    check_plugin(tifa())


def test_questions_whose_answer_is_none_of_the_choices_are_counted(tifa, dark, tmp_path, caplog):
    entry = {"id": "1", "caption": "a red book", "element_type": "color", "choices": ["red", "blue"]}
    entries = [
        {**entry, "question": "what color is the book?", "answer": "red"},
        {**entry, "question": "which color is it?", "answer": "crimson"},
    ]
    (tmp_path / "questions.json").write_text(json.dumps(entries))
    metric = tifa({each["question"]: each["answer"] for each in entries}, questions=str(tmp_path / "questions.json"))
    (values,) = metric.judge_each([dark], ["a red book"])
    assert values["tifa"] == 0.5
    (said,) = [record.message for record in caplog.records if "choices" in record.message]
    assert said.startswith("1 of 2 questions of '")
    assert "'which color is it?' ('crimson'): they count as answered wrong" in said
