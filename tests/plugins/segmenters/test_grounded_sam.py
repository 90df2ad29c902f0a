"""Grounded-SAM on small random checkpoints in the published layout, against transformers' own processors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError
from realignkit.testing import check_plugin
from realignkit_plugins.segmenters.grounded_sam import GroundedSamSegmenter
from realignkit_plugins.segmenters.sam import BoxMasker

SIDE = 64
WORDS = ("a", "red", "book", "and", "yellow", "pen", "desk", "sign")
MOST_TOKENS = 24
MASK_DECODER = {"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16}


def bert_tokenizer(folder: Path) -> Any:
    """BERT's, with its own ids for the tokens that part phrases: the network knows them by number."""
    from transformers import BertTokenizer

    vocabulary = [f"[unused{i}]" for i in range(1040)]
    for i, token in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}.items():
        vocabulary[i] = token
    vocabulary[200 : 200 + len(WORDS)] = WORDS
    path = folder / "vocab.txt"
    path.write_text("\n".join(vocabulary) + "\n")
    return BertTokenizer(str(path))


def build_detector() -> Any:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=SIDE, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
    )
    text = BertConfig(
        vocab_size=1040,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    network = GroundingDinoForObjectDetection(
        GroundingDinoConfig(
            backbone_config=backbone,
            text_config=text,
            num_queries=12,
            encoder_layers=1,
            decoder_layers=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            d_model=32,
            max_text_len=MOST_TOKENS,
        )
    ).eval()
    with torch.no_grad():  # untrained, its boxes all lie in one place, whatever the image
        network.model.text_projection.weight.mul_(3)
        for head in (*network.bbox_embed, network.model.encoder_output_bbox_embed):
            for layer in head.layers:
                torch.nn.init.normal_(layer.weight, std=0.4)
    return network


def build_sam() -> Any:
    from transformers import SamConfig, SamModel

    torch.manual_seed(1)
    network = SamModel(
        SamConfig(
            vision_config={
                "hidden_size": 16,
                "output_channels": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": SIDE,
                "patch_size": 8,
                "window_size": 4,
                "global_attn_indexes": [1],
                "num_pos_feats": 8,
                "mlp_dim": 16,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 4},
            mask_decoder_config=MASK_DECODER,
        )
    ).eval()
    return loud(network)


def build_sam2() -> Any:
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(2)
    network = Sam2Model(
        Sam2Config(
            vision_config={
                "backbone_config": {
                    "model_type": "sam2_hiera_det_model",
                    "hidden_size": 8,
                    "num_attention_heads": 1,
                    "image_size": [SIDE, SIDE],
                    "blocks_per_stage": [1, 1, 2, 1],
                    "embed_dim_per_stage": [8, 16, 32, 64],
                    "num_attention_heads_per_stage": [1, 2, 4, 8],
                    "window_size_per_stage": [8, 4, 4, 2],
                    "window_positional_embedding_background_size": [2, 2],
                    "global_attention_blocks": [3],
                },
                "backbone_channel_list": [64, 32, 16, 8],
                "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
                "fpn_hidden_size": 16,
            },
            prompt_encoder_config={"hidden_size": 16, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 4},
            mask_decoder_config=MASK_DECODER,
        )
    ).eval()
    return loud(network)


def loud(network: Any) -> Any:
    """Weights large enough that masks have edges, and differ from box to box."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and ("mask_decoder" in name or "prompt_encoder" in name):
                torch.nn.init.normal_(parameter, std=0.5)
            elif parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.fixture(scope="module")
def detector() -> Any:
    return build_detector()


@pytest.fixture(scope="module")
def detector_folder(detector: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import GroundingDinoImageProcessorPil

    folder = tmp_path_factory.mktemp("detector")
    detector.save_pretrained(folder)
    bert_tokenizer(folder).save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 72, "longest_edge": 120}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import SamImageProcessorPil

    folder = tmp_path_factory.mktemp("sam")
    build_sam().save_pretrained(folder)
    SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return str(folder)


def picture(height: int = 48, width: int = 72) -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def segmenter(detector_folder: str, sam_folder: str, **options: Any) -> GroundedSamSegmenter:
    return GroundedSamSegmenter(model=detector_folder, sam=sam_folder, device="cpu", **options)


# --- the detector ---------------------------------------------------------------------------------------------------


def test_boxes_are_those_of_transformers_own_processor(detector: Any, detector_folder: str):
    from transformers import AutoTokenizer, GroundingDinoImageProcessorPil, GroundingDinoProcessor

    image = picture()
    processor = GroundingDinoProcessor(
        GroundingDinoImageProcessorPil.from_pretrained(detector_folder), AutoTokenizer.from_pretrained(detector_folder)
    )
    inputs = processor(images=image, text=[["a red book"]], return_tensors="pt")
    with torch.no_grad():
        outputs = detector(**inputs)
    outputs.logits[..., [0, *range(4, MOST_TOKENS)]] = -math.inf  # start, full stop, end: words of no phrase
    threshold = float(outputs.logits[0].sigmoid().amax(-1).median())
    (want,) = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=threshold, target_sizes=[(image.height, image.width)]
    )
    assert 3 < len(want["boxes"]) < 12
    order = want["scores"].argsort(descending=True)
    # An overlap of more than 1 there is not: nothing is suppressed.
    ours = segmenter(detector_folder, "unused", box_threshold=threshold, text_threshold=0, nms_threshold=1)
    ((boxes, scores),) = ours.detect(image, ["a red book"])
    size = torch.tensor([image.width, image.height] * 2)
    torch.testing.assert_close(scores, want["scores"][order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(boxes, want["boxes"][order].clamp(torch.zeros(4), size), rtol=1e-3, atol=1e-2)


def test_phrases_share_captions_and_long_lists_take_several(detector: Any, detector_folder: str):
    """24 tokens hold five phrases of three words and their full stops: twelve phrases take three passes."""
    ours = segmenter(detector_folder, "unused", box_threshold=0, text_threshold=0, nms_threshold=1, exclusive=False)
    phrases = [f"a {colour} {noun}" for colour in ("red", "yellow") for noun in ("book", "pen", "desk", "sign", "and")]
    phrases += ["", "a Red book?!", "red. book", "a " * 60]
    calls: list[torch.Tensor] = []
    ours.loaded.network.register_forward_pre_hook(
        lambda _, __, inputs: calls.append(inputs["input_ids"]), with_kwargs=True
    )
    found = ours.detect(picture(), phrases)
    assert [len(boxes) for boxes, _ in found] == [12] * 10 + [0] + [12] * 3
    assert all(call.shape[1] <= MOST_TOKENS for call in calls)
    ids = [call[0].tolist() for call in calls]
    assert [i for call in ids for i in call].count(1012) == 13  # a full stop behind each but the empty one
    a, red, book = (200 + WORDS.index(word) for word in ("a", "red", "book"))
    assert ids[0][:6] == [101, a, red, book, 1012, a]
    assert [1012, red, book, 1012] in [call[i : i + 4] for call in ids for i in range(len(call))]


def queries(rows: list[dict[int, float]], tokens: int = 9) -> torch.Tensor:
    """A detector's answer, made by hand: for each query the probabilities of some tokens."""
    out = torch.zeros(len(rows), tokens)
    for query, row in enumerate(rows):
        for token, probability in row.items():
            out[query, token] = probability
    return out


BOOK, PEN = slice(1, 4), slice(5, 8)  # "[CLS] a red book . a yellow pen . [SEP]"
BOXES = torch.tensor(
    [[0.0, 0, 10, 10], [1, 0, 10, 10], [30, 0, 40, 10], [0, 30, 10, 40], [30, 30, 40, 40], [60, 0, 70, 10]]
)
ANSWERS = [
    {3: 0.6, 2: 0.3},  # a book
    {3: 0.5},  # the same again: its box overlaps the first one's by 0.9
    {3: 0.4, 7: 0.22},  # another book, faintly a pen
    {7: 0.9},  # a pen
    {3: 0.24, 7: 0.21},  # nothing sure enough
    {4: 0.95},  # a full stop: no phrase's word
]


def test_thresholds_and_suppression_on_a_hand_made_answer():
    (books, book_scores), (pens, pen_scores) = GroundedSamSegmenter().select(queries(ANSWERS), BOXES, [BOOK, PEN])
    assert books.tolist() == BOXES[[0, 2]].tolist()
    assert book_scores.tolist() == pytest.approx([0.6, 0.4])
    assert pens.tolist() == BOXES[[3]].tolist()
    assert pen_scores.tolist() == pytest.approx([0.9])


def test_a_box_may_count_for_several_phrases():
    shared = GroundedSamSegmenter(exclusive=False).select(queries(ANSWERS), BOXES, [BOOK, PEN])
    assert shared[1][0].tolist() == BOXES[[3, 2]].tolist()
    strict = GroundedSamSegmenter(exclusive=False, text_threshold=0.23).select(queries(ANSWERS), BOXES, [BOOK, PEN])
    assert strict[1][0].tolist() == BOXES[[3]].tolist()


def test_options_are_the_thresholds():
    lax = GroundedSamSegmenter(box_threshold=0.2, nms_threshold=0.95).select(queries(ANSWERS), BOXES, [BOOK, PEN])
    assert lax[0][0].tolist() == BOXES[[0, 1, 2, 4]].tolist()
    nothing = GroundedSamSegmenter(box_threshold=0.99).select(queries(ANSWERS), BOXES, [BOOK, PEN])
    assert [len(boxes) for boxes, _ in nothing] == [0, 0]


# --- from boxes to masks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 72), (64, 64), (90, 30)])
def test_masks_are_those_of_transformers_own_processor(sam_folder: str, size: tuple[int, int]):
    from transformers import SamImageProcessorPil, SamProcessor

    image = picture(*size)
    boxes = torch.tensor([[2.0, 3, 20, 25], [10, 1, 29, 40], [0, 0, size[1], size[0]]])
    processor, network = SamProcessor(SamImageProcessorPil.from_pretrained(sam_folder)), build_sam()
    inputs = processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
    with torch.no_grad():
        outputs = network(
            pixel_values=inputs["pixel_values"],
            input_boxes=inputs["input_boxes"].float(),
            multimask_output=False,
        )
    (want,) = processor.image_processor.post_process_masks(
        outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    got = BoxMasker(sam_folder)(image, boxes)
    assert got.shape == (3, *size) and got.dtype == torch.bool
    assert (got != want[:, 0]).float().mean() < 0.002  # a pixel may sit on the edge
    assert 0.02 < got.float().mean() < 0.98 and (got[0] != got[1]).any(), "the boxes must matter for this test"


def test_sam2_stretches_to_a_square(tmp_path: Path):
    """Against a plain use of Sam2Model, with the pixels prepared by Pillow."""
    network = build_sam2()
    network.save_pretrained(tmp_path)
    published = '{"image_processor_type": "Sam2ImageProcessorFast", "size": {"height": 64, "width": 64}}'
    (tmp_path / "preprocessor_config.json").write_text(published)
    image = picture(48, 72)
    boxes = torch.tensor([[2.0, 3, 20, 25], [10, 1, 60, 40]])
    masker = BoxMasker(str(tmp_path))
    pixels = masker._processor(images=image)["pixel_values"]
    square = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    want = torch.from_numpy((square - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).permute(2, 0, 1)[None].float()
    assert (pixels - want).abs().max() < 1.01 / 255 / 0.224  # rounding of a byte
    with torch.no_grad():
        scaled = boxes * torch.tensor([SIDE / 72, SIDE / 48] * 2)
        logits = network(pixel_values=pixels, input_boxes=scaled[None], multimask_output=False).pred_masks[0]
    expected = torch.nn.functional.interpolate(logits, (48, 72), mode="bilinear")[:, 0] > 0
    got = masker(image, boxes)
    assert got.shape == (2, 48, 72)
    assert (got != expected).float().mean() < 0.002
    assert 0.02 < got.float().mean() < 0.98


# --- the whole ------------------------------------------------------------------------------------------------------


def test_instances_of_a_phrase_are_united(detector_folder: str, sam_folder: str):
    image = picture()
    ours = segmenter(detector_folder, sam_folder, box_threshold=0.0, nms_threshold=0.9)
    phrases = ["a red book", "pen", "a red book", "the desk"]
    answers = ours(image, phrases)
    unique = [phrases[i] for i in (0, 1, 3)]
    several = 0
    for phrase, (boxes, scores) in zip(unique, ours.detect(image, unique), strict=True):
        union = np.zeros((image.height, image.width), dtype=bool)
        for box in boxes:
            union |= BoxMasker(sam_folder)(image, box[None])[0].numpy()
        answer = answers[phrases.index(phrase)]
        if not union.any():
            assert answer is None
            continue
        several += len(boxes) > 1
        assert answer is not None
        mask, confidence = answer
        assert mask.dtype == np.bool_ and mask.shape == union.shape
        assert (mask != union).mean() < 0.002
        assert confidence == pytest.approx(float(scores.max()))
    assert several
    if answers[0] is not None and answers[2] is not None:
        assert (answers[0][0] == answers[2][0]).all()


def test_not_found(detector_folder: str, sam_folder: str):
    assert segmenter(detector_folder, sam_folder, box_threshold=1.0)(picture(), ["a pen", "book"]) == [None, None]
    assert segmenter(detector_folder, sam_folder)(picture(), []) == []
    assert segmenter(detector_folder, sam_folder)(picture(), ["?"]) == [None]


def test_the_realigner_goes_on_without_what_is_not_found(detector_folder: str, sam_folder: str, make_realigner: Any):
    unseeing = segmenter(detector_folder, sam_folder, box_threshold=1.0)
    result = make_realigner(segmenter=unseeing)("a red book and a yellow pen", 7)
    assert len(result.layout) == 0 and result.refined is result.coarse
    assert any("no mask for" in note for note in result.notes)


def test_bad_checkpoints(detector_folder: str, sam_folder: str, tmp_path: Path):
    with pytest.raises(ModelError, match="no folder"):
        segmenter(str(tmp_path / "nowhere"), sam_folder)(picture(), ["pen"])
    with pytest.raises(ModelError, match="cannot be loaded"):
        segmenter(str(tmp_path), sam_folder)(picture(), ["pen"])
    with pytest.raises(ModelError, match="not Grounding DINO"):
        segmenter(sam_folder, sam_folder)(picture(), ["pen"])
    with pytest.raises(ModelError, match="neither SAM nor SAM 2"):
        segmenter(detector_folder, detector_folder, box_threshold=0)(picture(), ["pen"])
    broken = build_sam()
    with torch.no_grad():
        broken.vision_encoder.patch_embed.projection.bias.fill_(math.nan)
    for file in Path(sam_folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="NaN"):
        segmenter(detector_folder, str(tmp_path), box_threshold=0)(picture(), ["pen"])


def test_it_keeps_its_contract(detector_folder: str, sam_folder: str) -> None:
    check_plugin(segmenter(detector_folder, sam_folder))
