"""Florence-2 as a tagger: a tiny checkpoint in the published layout, taught two pictures, against transformers' own."""

from __future__ import annotations

import math
import re

import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError
from realignkit.testing import check_plugin
from realignkit_plugins.taggers.florence2 import QUESTIONS, Florence2Tagger

WRITTEN = {
    "red": "book<loc_1><loc_2><loc_30><loc_40>pen<loc_5><loc_6><loc_7><loc_8><loc_9><loc_10><loc_11><loc_12>",
    "blue": "a small car<loc_100><loc_101><loc_102><loc_103>book<loc_1><loc_1><loc_3><loc_4>",
}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A folder as ``save_pretrained`` writes it; the network writes WRITTEN about a red and a blue picture."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        BartConfig,
        CLIPImageProcessorPil,
        Florence2Config,
        Florence2ForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    texts = [*QUESTIONS.values(), "book", "pen", "a small car", "The image shows a red book and two pens."]
    raw.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
        extra_special_tokens={"image_token": "<image>"},
    )
    tokenizer.add_tokens([f"<loc_{i}>" for i in range(200)] + ["<od>", "</od>"], special_tokens=True)
    torch.manual_seed(0)
    config = Florence2Config(
        text_config=BartConfig(
            **{"vocab_size": len(tokenizer), "d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
            **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32},
            **{"decoder_ffn_dim": 32, "max_position_embeddings": 128, "dropout": 0.0},
            **{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
            **{"forced_bos_token_id": None, "forced_eos_token_id": 2},
        ).to_dict(),
        vision_config={
            **{"depths": (1, 1, 1, 1), "embed_dim": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2)},
            **{"num_groups": (1, 1, 2, 2), "window_size": 2, "projection_dim": 32, "drop_path_rate": 0.0},
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    network = Florence2ForConditionalGeneration(config)
    processor = CLIPImageProcessorPil(
        size={"height": 64, "width": 64}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor.image_seq_length = 5
    folder = tmp_path_factory.mktemp("florence2")
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    pixels = processor(images=pictures(), return_tensors="pt")["pixel_values"]
    answers = tokenizer([text + "</s>" for text in WRITTEN.values()], padding=True, add_special_tokens=False)
    labels = torch.tensor(answers.input_ids).masked_fill(~torch.tensor(answers.attention_mask).bool(), -100)
    question = tokenizer(QUESTIONS["objects"], add_special_tokens=False).input_ids
    ids = torch.tensor([[config.image_token_id] * 5 + [0, *question, 2]] * 2)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(120):
        loss = network(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
        if float(loss.detach()) < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.2
    network.eval().save_pretrained(folder)
    return folder


def pictures():
    return [Image.new("RGB", (80, 50), colour) for colour in WRITTEN]


@pytest.mark.parametrize("beams", [1, 3])
def test_what_it_writes_is_read_as_tags(taught, beams):
    tagger = Florence2Tagger(model=str(taught), device="cpu", num_beams=beams, max_new_tokens=40)
    red, blue = tagger(pictures())
    assert {tag.name for tag in red} == {"book", "pen"}
    assert {tag.name for tag in blue} == {"a small car", "book"}
    assert all(0.5 < tag.confidence <= 1 for tag in (*red, *blue))
    assert [tag.confidence for tag in red] == sorted((tag.confidence for tag in red), reverse=True)
    (first, *_), _ = Florence2Tagger(model=str(taught), device="cpu", top_k=1, max_new_tokens=40)(pictures())
    assert first.name == red[0].name


def test_the_question_is_the_published_processors(taught):
    from transformers import AutoTokenizer, Florence2Processor

    from realignkit_plugins.loading import image_processor

    tagger = Florence2Tagger(model=str(taught), device="cpu")
    rules = {"description_with_bboxes": {}}  # as in the published processor_config.json
    processor = Florence2Processor(
        image_processor(str(taught)), AutoTokenizer.from_pretrained(taught), post_processor_config=rules
    )
    tokens = {"objects": "<OD>", "regions": "<DENSE_REGION_CAPTION>", "caption": "<DETAILED_CAPTION>"}
    for task, token in tokens.items():
        theirs = processor(images=pictures()[0], text=token, return_tensors="pt")
        asking = Florence2Tagger(model=str(taught), device="cpu", task=task)
        assert asking._question((64, 64)) == theirs["input_ids"][0].tolist()
    ours = tagger.loaded.processor(images=pictures()[:1], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours, theirs["pixel_values"])
    for text in WRITTEN.values():
        parsed = processor.post_process_generation(text=text, task="<OD>", image_size=(80, 50))["<OD>"]["labels"]
        tokens = AutoTokenizer.from_pretrained(taught).tokenize(text)
        assert {name for name, _ in tagger._names(tokens, [0.0] * len(tokens))} == set(parsed)


def test_confidence_is_the_geometric_mean_of_the_tokens_probabilities(taught):
    tagger = Florence2Tagger(model=str(taught), device="cpu", max_new_tokens=40)
    ((tokens, logs), _) = tagger.write(pictures())
    text = "".join(token for token in tokens)
    assert re.match(r"book<loc_1>", text)
    length = next(i for i, token in enumerate(tokens) if token.startswith("<loc_"))
    confidence = {tag.name: tag.confidence for tag in tagger(pictures())[0]}["book"]
    assert confidence == pytest.approx(math.prod(math.exp(log) for log in logs[:length]) ** (1 / length), rel=1e-5)


def test_descriptions_give_the_heads_of_their_phrases(taught):
    tagger = Florence2Tagger(model=str(taught), device="cpu", task="caption")
    tokens = tagger.loaded.tokenizer.tokenize("The image shows a red book and two pens.")
    names = dict(tagger._names([*tokens, "</s>"], [math.log(0.5)] * (len(tokens) + 1)))
    assert {"book", "pen"} <= set(names)
    assert names["book"] == pytest.approx(math.log(0.5))


def test_other_checkpoints_are_refused(tmp_path):
    with pytest.raises(ModelError, match="florence-community"):
        Florence2Tagger(model="micro:tagger", device="cpu")(pictures())
    (tmp_path / "config.json").write_text('{"model_type": "florence2", "vision_config": {"model_type": "davit"}}')
    with pytest.raises(ModelError):
        Florence2Tagger(model=str(tmp_path), device="cpu")(pictures())


def test_it_keeps_its_contract(taught):
    check_plugin(Florence2Tagger(model=str(taught), device="cpu", max_new_tokens=10))
