"""BLIP's answers and their probabilities, as the network's own methods give them one at a time."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from realignkit import ModelError
from realignkit.named import Named
from realignkit.questions import answers, probabilities
from realignkit.testing import check_plugin
from realignkit_plugins.vqa.blip import BlipVQA

QUESTIONS = ["is there a red book?", "what color is the pen?", "pen?", "is there a blue pen?"]


@pytest.fixture
def vqa(blip):
    return BlipVQA(model=blip, device="cpu", batch_size=3, max_new_tokens=6)


def alone(vqa, image, question):
    """What the network's own generate says about one pair, which has no padding."""
    kept = vqa.loaded
    pixels = kept.processor(images=image, return_tensors="pt")["pixel_values"]
    read = kept.tokenizer(question, return_tensors="pt")
    said = kept.network.generate(read.input_ids, pixels, read.attention_mask, max_new_tokens=6, do_sample=False)
    return kept.tokenizer.decode(said[0][1:], skip_special_tokens=True)


def test_answers_are_the_networks_own_whatever_is_in_the_batch(vqa, pictures):
    said = answers(Named("vqa", "blip_vqa", vqa), pictures, QUESTIONS)
    assert said == [alone(vqa, image, question) for image, question in zip(pictures, QUESTIONS, strict=True)]
    assert len(set(said)) > 1


def test_probabilities_are_those_of_the_first_token(vqa, pictures):
    kept = vqa.loaded
    candidates = [["yes", "no"], ["red", "blue book"], ["two"], ["no"]]
    found = probabilities(Named("vqa", "blip_vqa", vqa), pictures, QUESTIONS, candidates)
    for image, question, texts, values in zip(pictures, QUESTIONS, candidates, found, strict=True):
        read = kept.tokenizer(question, return_tensors="pt")
        pixels = kept.processor(images=image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            hidden = kept.network.text_encoder(
                input_ids=read.input_ids, encoder_hidden_states=kept.network.vision_model(pixels).last_hidden_state
            ).last_hidden_state
            start = torch.tensor([[kept.network.decoder_start_token_id]])
            logits = kept.network.text_decoder(input_ids=start, encoder_hidden_states=hidden).logits[0, -1]
        ids = [kept.tokenizer(text, add_special_tokens=False).input_ids[0] for text in texts]
        torch.testing.assert_close(torch.tensor(values), logits.softmax(-1)[ids], rtol=1e-4, atol=1e-6)


def test_spellings_with_one_first_token_count_once(vqa, pictures):
    """The tokenizer reads all four alike; their probabilities must not add up to four times the word's."""
    ((whole, *others),) = vqa.probabilities(pictures[:1], QUESTIONS[:1], [["Yes", "yes", " yes", " Yes", ""]])
    assert whole > 0
    assert others == [0.0] * 4


def test_an_image_with_several_questions_is_looked_at_once(vqa, pictures):
    looked = []
    vqa.loaded.network.vision_model.register_forward_hook(lambda *call: looked.append(len(call[2].last_hidden_state)))
    answers(Named("vqa", "blip_vqa", vqa), [pictures[0], pictures[0], pictures[1]], QUESTIONS[:3])
    assert looked == [2]


def test_a_blip_for_another_task_is_refused(tmp_path, blip):
    hf.BlipForConditionalGeneration(hf.BlipConfig.from_pretrained(blip)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="fine-tuned for this task"):
        _ = BlipVQA(model=str(tmp_path)).loaded
    hf.BertModel(hf.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"a bert checkpoint, not BLIP\. Use one such as Salesforce/blip-vqa-base"):
        _ = BlipVQA(model=str(tmp_path)).loaded


def test_it_keeps_its_contract(vqa):
    check_plugin(vqa)
