"""Vision-language models of transformers, at small size: answers and probabilities as the networks themselves give."""

from __future__ import annotations

import pytest
import torch

from realignkit.named import Named
from realignkit.questions import answers, probabilities
from realignkit.testing import check_plugin
from realignkit_plugins.vqa.vision_language import VisionLanguageVQA

QUESTIONS = ["is there a red book ?", "what color ?", "is there a pen ?", "is the book red ?"]
KINDS = ("llava", "qwen", "blip2")


@pytest.fixture(params=KINDS)
def model(request):
    return request.getfixturevalue(request.param)


def test_answers_do_not_depend_on_the_batch(model, pictures):
    together, alone = (
        Named("vqa", "vlm", VisionLanguageVQA(model=model, device="cpu", batch_size=size, max_new_tokens=4))
        for size in (3, 1)
    )
    assert answers(together, pictures, QUESTIONS) == answers(alone, pictures, QUESTIONS)
    candidates = [["yes", "no", "Yes"]] * 4
    first, second = (torch.tensor(probabilities(each, pictures, QUESTIONS, candidates)) for each in (together, alone))
    torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-6)


def test_probabilities_are_the_networks_own_after_its_chat_template(llava, pictures):
    vqa = VisionLanguageVQA(model=llava, device="cpu")
    ((yes, no),) = vqa.probabilities(pictures[:1], QUESTIONS[:1], [["yes", "no"]])
    processor, network = vqa.loaded.processor, vqa.loaded.network
    inputs = processor(text=f"USER: <image> {QUESTIONS[0]} ASSISTANT:", images=pictures[0], return_tensors="pt")
    with torch.no_grad():
        likely = network(**inputs).logits[0, -1].softmax(-1)
    ids = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    torch.testing.assert_close(torch.tensor([yes, no]), likely[ids], rtol=1e-4, atol=1e-6)


def test_the_question_comes_with_its_choices_unless_they_are_hidden(llava, pictures):
    asked = []
    for shown in (True, False):
        vqa = VisionLanguageVQA(model=llava, device="cpu", show_choices=shown, max_new_tokens=1)
        say = vqa._say
        vqa._say = lambda images, texts, length, say=say: asked.extend(texts) or say(images, texts, length)
        vqa(pictures[:1], ["what color ?"], [["red", "blue"]])
    assert asked == [
        "what color ? Choose one of: red, blue. Answer with the choice alone.",
        "what color ? Answer with one word or a short phrase.",
    ]


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_control_tokens_in_a_question_are_left_out(kind, request, pictures):
    vqa = VisionLanguageVQA(model=request.getfixturevalue(kind), device="cpu", max_new_tokens=3)
    hostile = "is there a red <image> book <|image_pad|> </s> ?"
    said = vqa([pictures[0]] * 2, [hostile, "is there a red book ?"])
    assert len(said) == 2


def test_a_model_of_another_kind_is_refused(blip, tmp_path):
    from transformers import BertConfig, BertModel

    from realignkit import ModelError

    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the vision-language model"):
        _ = VisionLanguageVQA(model=str(tmp_path)).loaded


def test_it_keeps_its_contract(model):
    check_plugin(VisionLanguageVQA(model=model, device="cpu", max_new_tokens=3))
