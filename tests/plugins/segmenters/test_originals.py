"""SAM and Grounding DINO in their authors' layout: the same outputs as the converted form, which transformers loads.

The files are made of random models of transformers by the inverse of what the authors' names become, written down here
on its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from realignkit.errors import ModelError
from realignkit_plugins.generators import clip_bpe
from realignkit_plugins.segmenters.grounded_sam import GroundedSamSegmenter
from realignkit_plugins.segmenters.originals import load_grounding_dino, load_sam
from realignkit_plugins.segmenters.sam import BoxMasker
from tests.plugins.segmenters.test_grounded_sam import WORDS, bert_tokenizer, loud

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 60, 3), dtype=np.uint8))
BOXES = torch.tensor([[5.0, 6.0, 40.0, 44.0], [1.0, 1.0, 20.0, 20.0]])
DINO_IMAGE = Image.new("RGB", (64, 64), "red")


def sam() -> Any:
    """Of sizes that are all different, so that none can be mistaken for another."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(1)
    vision = {
        **{"hidden_size": 24, "output_channels": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_dim": 40},
        **{"image_size": 64, "patch_size": 8, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 8},
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 20, "num_attention_heads": 8, "iou_head_hidden_dim": 28}
    network = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        loud(network.eval())
        table = network.shared_image_embedding.positional_embedding
        network.prompt_encoder.shared_embedding.positional_embedding.copy_(table)
    return network


def original_sam(network: Any) -> dict[str, Tensor]:
    names = {
        "vision_encoder.": "image_encoder.",
        ".patch_embed.projection.": ".patch_embed.proj.",
        "image_encoder.layers.": "image_encoder.blocks.",
        ".neck.conv1.": ".neck.0.",
        ".neck.layer_norm1.": ".neck.1.",
        ".neck.conv2.": ".neck.2.",
        ".neck.layer_norm2.": ".neck.3.",
        "mask_embed.conv1.": "mask_downscaling.0.",
        "mask_embed.layer_norm1.": "mask_downscaling.1.",
        "mask_embed.conv2.": "mask_downscaling.3.",
        "mask_embed.layer_norm2.": "mask_downscaling.4.",
        "mask_embed.conv3.": "mask_downscaling.6.",
        "upscale_conv1.": "output_upscaling.0.",
        "upscale_layer_norm.": "output_upscaling.1.",
        "upscale_conv2.": "output_upscaling.3.",
        ".point_embed.": ".point_embeddings.",
        "shared_embedding.positional_embedding": "pe_layer.positional_encoding_gaussian_matrix",
        ".layer_norm": ".norm",
    }
    found = {}
    for name, weight in network.state_dict().items():
        if name.startswith("shared_image_embedding"):
            continue
        for new, old in names.items():
            name = name.replace(new, old)
        if "_mlps." in name or "iou_prediction_head." in name:
            name = name.replace(".layers.0.", ".layers.1.")
            name = name.replace(".proj_in.", ".layers.0.").replace(".proj_out.", ".layers.2.")
        found[name] = weight.clone()
    return found


def dino() -> Any:
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    torch.manual_seed(0)
    swin = {"image_size": 224, "embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    bert = {"vocab_size": 1040, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    sizes = {"num_queries": 12, "encoder_layers": 1, "decoder_layers": 2, "d_model": 32}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 20, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    network = GroundingDinoForObjectDetection(
        GroundingDinoConfig(
            backbone_config=SwinConfig(**swin, out_indices=[2, 3, 4]),
            text_config=BertConfig(**bert, intermediate_size=20, max_position_embeddings=64),
            **sizes,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "sampling_offsets.bias" not in name:
                parameter.add_(
                    torch.randn_like(parameter) * (0.1 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5)
                )
    return network


_DINO = (
    (r"^model\.text_backbone\.", "bert."),
    (r"^model\.text_projection\.", "feat_map."),
    (r"^model\.input_proj_vision\.", "input_proj."),
    (r"^model\.backbone\.conv_encoder\.model\.(?:swin\.)?", "backbone.0."),
    (r"^backbone\.0\.embeddings\.patch_embeddings\.projection\.", "backbone.0.patch_embed.proj."),
    (r"^backbone\.0\.embeddings\.norm\.", "backbone.0.patch_embed.norm."),
    (r"^backbone\.0\.hidden_states_norms\.stage2\.", "backbone.0.norm1."),
    (r"^backbone\.0\.hidden_states_norms\.stage3\.", "backbone.0.norm2."),
    (r"^backbone\.0\.hidden_states_norms\.stage4\.", "backbone.0.norm3."),
    (r"^backbone\.0\.encoder\.", "backbone.0."),
    (r"^(backbone.*)\.layernorm_before\.", r"\1.norm1."),
    (r"^(backbone.*)\.layernorm_after\.", r"\1.norm2."),
    (r"^(backbone.*)\.attention\.o_proj\.", r"\1.attn.proj."),
    (r"^(backbone.*)\.attention\.relative_position_bias\.", r"\1.attn."),
    (r"^(backbone.*)\.attention\.([qkv])_proj\.", r"\1.attn.qkv.\2."),
    (
        r"^model\.encoder\.layers\.(\d+)\.deformable_layer\.self_attn_layer_norm\.",
        r"transformer.encoder.layers.\1.norm1.",
    ),
    (r"^model\.encoder\.layers\.(\d+)\.deformable_layer\.final_layer_norm\.", r"transformer.encoder.layers.\1.norm2."),
    (r"^model\.encoder\.layers\.(\d+)\.deformable_layer\.fc", r"transformer.encoder.layers.\1.linear"),
    (r"^model\.encoder\.layers\.(\d+)\.deformable_layer\.", r"transformer.encoder.layers.\1."),
    (r"^model\.encoder\.layers\.(\d+)\.text_enhancer_layer\.", r"transformer.encoder.text_layers.\1."),
    (r"^(.*text_layers.*)\.layer_norm_before\.", r"\1.norm1."),
    (r"^(.*text_layers.*)\.layer_norm_after\.", r"\1.norm2."),
    (r"^(.*text_layers.*)\.fc", r"\1.linear"),
    (r"^(.*)\.self_attn\.(query|key|value)\.", r"\1.self_attn.in_proj_.\2."),
    (r"^model\.encoder\.layers\.(\d+)\.fusion_layer\.", r"transformer.encoder.fusion_layers.\1."),
    (r"^(.*fusion_layers.*)\.vision_param$", r"\1.gamma_v"),
    (r"^(.*fusion_layers.*)\.text_param$", r"\1.gamma_l"),
    (r"^(.*fusion_layers.*)\.layer_norm_vision\.", r"\1.layer_norm_v."),
    (r"^(.*fusion_layers.*)\.layer_norm_text\.", r"\1.layer_norm_l."),
    (r"^(.*fusion_layers.*)vision_proj\.", r"\1v_proj."),
    (r"^(.*fusion_layers.*)text_proj\.", r"\1l_proj."),
    (r"^model\.decoder\.layer_norm\.", "transformer.decoder.norm."),
    (r"^model\.decoder\.reference_points_head\.", "transformer.decoder.ref_point_head."),
    (r"^model\.decoder\.layers\.", "transformer.decoder.layers."),
    (r"^(transformer\.decoder.*)\.encoder_attn_text_layer_norm\.", r"\1.catext_norm."),
    (r"^(transformer\.decoder.*)\.encoder_attn_text\.(query|key|value)\.", r"\1.ca_text.in_proj_.\2."),
    (r"^(transformer\.decoder.*)\.encoder_attn_text\.", r"\1.ca_text."),
    (r"^(transformer\.decoder.*)\.encoder_attn_layer_norm\.", r"\1.norm1."),
    (r"^(transformer\.decoder.*)\.self_attn_layer_norm\.", r"\1.norm2."),
    (r"^(transformer\.decoder.*)\.final_layer_norm\.", r"\1.norm3."),
    (r"^(transformer\.decoder.*)\.encoder_attn\.", r"\1.cross_attn."),
    (r"^(transformer\.decoder.*)\.fc", r"\1.linear"),
    (r"^model\.query_position_embeddings\.", "transformer.tgt_embed."),
    (r"^model\.encoder_output_bbox_embed\.", "transformer.enc_out_bbox_embed."),
    (r"^model\.", "transformer."),
)


def original_dino(network: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    joined: dict[str, dict[str, Tensor]] = {}
    for name, weight in network.state_dict().items():
        if "swin.layernorm." in name:  # transformers' own, which nothing reads
            continue
        for new, old in _DINO:
            name = re.sub(new, old, name)
        match = re.fullmatch(r"(.*\.(?:in_proj_|qkv))\.(query|key|value|q|k|v)\.(weight|bias)", name)
        if match is None:
            found[name] = weight.clone()
        else:
            joint = match[1] + ("." if match[1].endswith("qkv") else "") + match[3]
            joined.setdefault(joint, {})[match[2][0]] = weight
    found |= {name: torch.cat([parts[part] for part in "qkv"]) for name, parts in joined.items()}
    # What the published files hold besides.
    found["label_enc.weight"] = torch.zeros(3, 4)
    found["bert.embeddings.position_ids"] = torch.arange(64)[None]
    found["bert.pooler.dense.weight"] = torch.zeros(4, 4)
    found["backbone.0.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    return found


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A folder with both models in transformers' form, and their authors' files beside it."""
    folder = tmp_path_factory.mktemp("segmenters")
    from transformers import SamImageProcessorPil
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    network, detector = sam(), dino()
    network.save_pretrained(folder / "sam")
    side = {"height": 64, "width": 64}
    SamImageProcessorPil(size={"longest_edge": 64}, pad_size=side).save_pretrained(folder / "sam")
    torch.save(original_sam(network), folder / "sam_vit_x.pth")
    detector.save_pretrained(folder / "dino")
    GroundingDinoImageProcessorPil().save_pretrained(folder / "dino")
    (folder / "words").mkdir()
    words = bert_tokenizer(folder / "words")
    words.save_pretrained(folder / "dino")
    words.save_pretrained(folder / "words")
    weights = {f"module.{name}": weight for name, weight in original_dino(detector).items()}
    torch.save({"model": weights}, folder / "groundingdino_x.pth")
    return folder


def test_sams_masks_are_those_of_the_converted_form(converted):
    wanted, found = (BoxMasker(str(converted / name)) for name in ("sam", "sam_vit_x.pth"))
    states = [masker.network.state_dict() for masker in (wanted, found)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][name], weight) for name, weight in states[0].items())
    masks = [masker(IMAGE, BOXES) for masker in (wanted, found)]
    assert masks[0].any()
    assert not masks[0].all()
    assert torch.equal(*masks)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        ours, theirs = (getattr(masker.network.config, part).to_dict() for masker in (found, wanted))
        ours.pop("transformers_version", None), theirs.pop("transformers_version", None)
        assert ours == theirs


def test_grounding_dinos_boxes_are_those_of_the_converted_form(converted):
    options = {"box_threshold": 0.0, "text_threshold": 0.0, "device": "cpu"}
    wanted = GroundedSamSegmenter(model=str(converted / "dino"), **options)
    file = str(converted / "groundingdino_x.pth")
    found = GroundedSamSegmenter(model=file, tokenizer=str(converted / "words"), **options)
    answers = [segmenter.detect(DINO_IMAGE, ["a red book", "a yellow pen"]) for segmenter in (wanted, found)]
    assert len(answers[0][0][0])
    for (boxes, scores), (theirs, their_scores) in zip(*answers, strict=True):
        assert torch.equal(boxes, theirs)
        assert torch.equal(scores, their_scores)
    states = [segmenter.loaded.network.state_dict() for segmenter in (wanted, found)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[1][n], w) for n, w in states[0].items() if "swin.layernorm" not in n)


def test_both_files_make_a_segmenter(converted, capfd):
    segmenter = GroundedSamSegmenter(
        model=str(converted / "groundingdino_x.pth"),
        tokenizer=str(converted / "words"),
        sam=str(converted / "sam_vit_x.pth"),
        box_threshold=0.0,
        device="cpu",
    )
    (found,) = segmenter(DINO_IMAGE, [" ".join(WORDS[:3])])
    assert found is None or found[0].shape == (64, 64)
    assert capfd.readouterr() == ("", "")


def refused(call, *told):
    with pytest.raises(ModelError) as caught:
        call()
    for part in told:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "damaged" not in str(caught.value)


def save(path: Path, weights: dict[str, Tensor]) -> str:
    torch.save(weights, path)
    return str(path)


def test_variants_of_sam_name_a_conversion(converted, tmp_path):
    weights = torch.load(converted / "sam_vit_x.pth", weights_only=True)
    two = save(tmp_path / "sam2.pt", {"model": {"sam_mask_decoder.iou_prediction_head.layers.0.weight": torch.ones(1)}})
    refused(lambda: BoxMasker(two), "SAM 2", "facebook/sam2.1-hiera-large")
    mobile = {name: weight for name, weight in weights.items() if "patch_embed" not in name}
    refused(lambda: BoxMasker(save(tmp_path / "mobile_sam.pt", mobile)), "facebook/sam-vit-huge")
    better = {**weights, "mask_decoder.hf_token.weight": torch.ones(1, 16)}
    refused(lambda: BoxMasker(save(tmp_path / "sam_hq.pth", better)), "1 weights that SamModel has no place for")
    half = {name: weight for name, weight in weights.items() if "norm_final_attn.weight" not in name}
    refused(lambda: BoxMasker(save(tmp_path / "half.pth", half)), "no weights for 1 parameters of SamModel")
    plain = {name: weight for name, weight in weights.items() if "rel_pos" not in name}
    refused(lambda: BoxMasker(save(tmp_path / "plain.pth", plain)), "a variant of SAM", "facebook/sam-vit-huge")


def test_other_files_than_grounding_dinos(converted, tmp_path):
    words = str(converted / "words")
    for name in ("sam_vit_x.pth", "sam/model.safetensors"):
        segmenter = GroundedSamSegmenter(model=str(converted / name), tokenizer=words, device="cpu")
        refused(lambda: segmenter.detect(DINO_IMAGE, ["a"]), "IDEA-Research/grounding-dino-tiny")  # noqa: B023
    refused(lambda: load_sam(converted / "groundingdino_x.pth", "x"), "no file of SAM's authors")
    refused(lambda: load_grounding_dino(tmp_path / "none.pth", "none.pth"), "there is no file")


def test_a_tokenizer_of_another_kind_is_refused(converted, tmp_path):
    clip_bpe.write_tokenizer(tmp_path / "clip", 77)
    segmenter = GroundedSamSegmenter(
        model=str(converted / "groundingdino_x.pth"), tokenizer=str(tmp_path / "clip"), device="cpu"
    )
    refused(lambda: segmenter.detect(DINO_IMAGE, ["a"]), "CLIPTokenizer, not the tokenizer of BERT")


def test_a_missing_tokenizer_names_the_option(converted, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    segmenter = GroundedSamSegmenter(model=str(converted / "groundingdino_x.pth"), device="cpu")
    refused(lambda: segmenter.detect(DINO_IMAGE, ["a"]), "option tokenizer", "google-bert/bert-base-uncased")
