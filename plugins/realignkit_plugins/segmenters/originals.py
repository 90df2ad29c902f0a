"""SAM and Grounding DINO from the files that their authors published, by renaming the weights.

The names become those of the conversions on the hub, which transformers loads; sizes are read off the weights. What
leaves no trace in them is what all published models share: SAM's decoder has 8 heads, Grounding DINO samples 4 points a
level and its text encoder's heads are 64 wide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit.errors import ModelError
from realignkit_plugins.loading import load_model
from realignkit_plugins.weight_files import read_weights

if TYPE_CHECKING:
    from torch import Tensor

Weights = Mapping[str, "Tensor"]
_Rules = Sequence[tuple[str, str]]

_SAM_RULES: _Rules = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"\.neck\.0\.", ".neck.conv1."),
    (r"\.neck\.1\.", ".neck.layer_norm1."),
    (r"\.neck\.2\.", ".neck.conv2."),
    (r"\.neck\.3\.", ".neck.layer_norm2."),
    (r"\.norm(\d|_)", r".layer_norm\1"),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.point_embeddings\.", ".point_embed."),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"(_mlps\.\d+|iou_prediction_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(_mlps\.\d+|iou_prediction_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(_mlps\.\d+|iou_prediction_head)\.layers\.2\.", r"\1.proj_out."),
)
_ENCODER, _DECODER = r"^transformer\.encoder\.", r"^transformer\.decoder\.layers\.(\d+)\."
_IN_ENCODER, _IN_DECODER = r"model.encoder.layers.\1.", r"model.decoder.layers.\1."
_SWIN = "model.backbone.conv_encoder.model."
_DINO_RULES: _Rules = (
    (r"^bert\.", "model.text_backbone."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"^backbone\.0\.patch_embed\.proj\.", f"{_SWIN}embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", f"{_SWIN}embeddings.norm."),
    # Stages are counted from the embeddings on, norms from the first stage on.
    (r"^backbone\.0\.norm0\.", f"{_SWIN}hidden_states_norms.stage1."),
    (r"^backbone\.0\.norm1\.", f"{_SWIN}hidden_states_norms.stage2."),
    (r"^backbone\.0\.norm2\.", f"{_SWIN}hidden_states_norms.stage3."),
    (r"^backbone\.0\.norm3\.", f"{_SWIN}hidden_states_norms.stage4."),
    (r"^backbone\.0\.", f"{_SWIN}encoder."),
    (rf"^({re.escape(_SWIN)}.*)\.norm1\.", r"\1.layernorm_before."),
    (rf"^({re.escape(_SWIN)}.*)\.norm2\.", r"\1.layernorm_after."),
    (r"\.attn\.relative_position_bias_table$", ".attention.self.relative_position_bias_table"),
    (rf"^({re.escape(_SWIN)}.*)\.attn\.proj\.", r"\1.attention.output.dense."),
    (rf"^({re.escape(_SWIN)}.*)\.attn\.(query|key|value)\.", r"\1.attention.self.\2."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (rf"{_ENCODER}layers\.(\d+)\.self_attn\.", rf"{_IN_ENCODER}deformable_layer.self_attn."),
    (rf"{_ENCODER}layers\.(\d+)\.norm1\.", rf"{_IN_ENCODER}deformable_layer.self_attn_layer_norm."),
    (rf"{_ENCODER}layers\.(\d+)\.norm2\.", rf"{_IN_ENCODER}deformable_layer.final_layer_norm."),
    (rf"{_ENCODER}layers\.(\d+)\.linear", rf"{_IN_ENCODER}deformable_layer.fc"),
    (rf"{_ENCODER}text_layers\.(\d+)\.norm1\.", rf"{_IN_ENCODER}text_enhancer_layer.layer_norm_before."),
    (rf"{_ENCODER}text_layers\.(\d+)\.norm2\.", rf"{_IN_ENCODER}text_enhancer_layer.layer_norm_after."),
    (rf"{_ENCODER}text_layers\.(\d+)\.linear", rf"{_IN_ENCODER}text_enhancer_layer.fc"),
    (rf"{_ENCODER}text_layers\.(\d+)\.", rf"{_IN_ENCODER}text_enhancer_layer."),
    (rf"{_ENCODER}fusion_layers\.(\d+)\.gamma_v$", rf"{_IN_ENCODER}fusion_layer.vision_param"),
    (rf"{_ENCODER}fusion_layers\.(\d+)\.gamma_l$", rf"{_IN_ENCODER}fusion_layer.text_param"),
    (rf"{_ENCODER}fusion_layers\.(\d+)\.", rf"{_IN_ENCODER}fusion_layer."),
    (r"\.fusion_layer\.layer_norm_v\.", ".fusion_layer.layer_norm_vision."),
    (r"\.fusion_layer\.layer_norm_l\.", ".fusion_layer.layer_norm_text."),
    (r"\.fusion_layer\.attn\.(values_|out_)?v_proj\.", r".fusion_layer.attn.\1vision_proj."),
    (r"\.fusion_layer\.attn\.(values_|out_)?l_proj\.", r".fusion_layer.attn.\1text_proj."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    # The decoder attends to itself, the text and the image, and numbers its norms in another order.
    (rf"{_DECODER}norm1\.", rf"{_IN_DECODER}encoder_attn_layer_norm."),
    (rf"{_DECODER}norm2\.", rf"{_IN_DECODER}self_attn_layer_norm."),
    (rf"{_DECODER}norm3\.", rf"{_IN_DECODER}final_layer_norm."),
    (rf"{_DECODER}catext_norm\.", rf"{_IN_DECODER}encoder_attn_text_layer_norm."),
    (rf"{_DECODER}ca_text\.", rf"{_IN_DECODER}encoder_attn_text."),
    (rf"{_DECODER}cross_attn\.", rf"{_IN_DECODER}encoder_attn."),
    (rf"{_DECODER}linear", rf"{_IN_DECODER}fc"),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
    (r"^transformer\.", "model."),
)
_DINO_UNUSED = re.compile(r"(?:^|\.)(?:label_enc|pooler|position_ids|relative_position_index|attn_mask)(?:\.|$)")
"""The training's table of labels, BERT's head, and tables that follow from sizes."""


def load_sam(file: Path, model: str) -> tuple[Any, Any]:
    """``SamModel`` and its image processor from a ``sam_vit_*.pth``.

    Args:
        file: of any format that :func:`realignkit_plugins.weight_files.read_weights` reads.
        model: what the user calls it, for messages.

    Raises:
        ModelError: it is damaged, or no SAM in its authors' layout; the message names the conversion to use.
    """
    from transformers import SamImageProcessorPil, SamModel

    weights = read_weights(file, model)
    if "sam_mask_decoder.iou_prediction_head.layers.0.weight" in weights:
        raise _no_original(
            model, "SAM 2 in its authors' layout", "facebook/sam2.1-hiera-large or another facebook/sam2"
        )
    if "image_encoder.patch_embed.proj.weight" not in weights or "mask_decoder.iou_token.weight" not in weights:
        raise _no_original(model, "no file of SAM's authors (sam_vit_b, _l or _h)", "facebook/sam-vit-huge")
    renamed = {_renamed(name, _SAM_RULES): weight for name, weight in weights.items()}
    renamed = {name: weight for name, weight in renamed.items() if name not in ("pixel_mean", "pixel_std")}
    position = "prompt_encoder.shared_embedding.positional_embedding"
    renamed["shared_image_embedding.positional_embedding"] = renamed[position]  # one table, under two names
    try:
        config = _sam_config(weights)
    except KeyError as error:
        raise _no_original(model, f"a variant of SAM ({error} is missing)", "facebook/sam-vit-huge") from error
    side = config.vision_config.image_size
    processor = SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    return load_model(SamModel, None, model, exact=True, config=config, state_dict=renamed), processor


def load_grounding_dino(file: Path, model: str) -> tuple[Any, Any]:
    """``GroundingDinoForObjectDetection`` and its processor from a ``groundingdino_*.pth``; as :func:`load_sam`."""
    from transformers import GroundingDinoForObjectDetection, GroundingDinoImageProcessorPil

    weights = {name.removeprefix("module."): weight for name, weight in read_weights(file, model).items()}
    if "transformer.level_embed" not in weights or "feat_map.weight" not in weights:
        raise _no_original(model, "no file of Grounding DINO's authors", "IDEA-Research/grounding-dino-tiny")
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if not _DINO_UNUSED.search(name):
            for part, piece in _split(name, weight):
                renamed[_renamed(part, _DINO_RULES)] = piece
    try:
        config = _dino_config(weights)
    except KeyError as error:
        raise _no_original(
            model, f"a variant of Grounding DINO ({error} is missing)", "IDEA-Research/grounding-dino-tiny"
        ) from error
    network = load_model(GroundingDinoForObjectDetection, None, model, exact=True, config=config, state_dict=renamed)
    return network, GroundingDinoImageProcessorPil()


def _split(name: str, weight: Tensor) -> list[tuple[str, Tensor]]:
    """Queries, keys and values, which the authors keep in one matrix."""
    match = re.fullmatch(r"(.*)\.(?:in_proj_|qkv\.)(weight|bias)", name)
    if match is None:
        return [(name, weight)]
    pieces = zip(("query", "key", "value"), weight.chunk(3), strict=True)
    return [(f"{match[1]}.{part}.{match[2]}", piece) for part, piece in pieces]


def _renamed(name: str, rules: _Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _no_original(model: str, what: str, hub: str) -> ModelError:
    return ModelError(f"'{model}' is {what}. Use a conversion on the hub: {hub}.")


def _count(weights: Weights, pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, weights) if match})


def _sam_config(weights: Weights) -> Any:
    from transformers import SamConfig

    width, _, patch, _ = weights["image_encoder.patch_embed.proj.weight"].shape
    grid = weights["image_encoder.pos_embed"].shape[1]
    layers = _count(weights, r"image_encoder\.blocks\.(\d+)\.")
    # A layer sees the whole picture, or windows of it; 2 n - 1 differences of positions tell how wide.
    spans = [(len(weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"]) + 1) // 2 for i in range(layers)]
    hidden = weights["mask_decoder.iou_token.weight"].shape[1]
    inner = weights["mask_decoder.transformer.final_attn_token_to_image.q_proj.weight"].shape[0]
    size = {"image_size": grid * patch, "patch_size": patch}
    return SamConfig(
        vision_config={
            **size,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // weights["image_encoder.blocks.0.attn.rel_pos_h"].shape[1],
            "mlp_dim": len(weights["image_encoder.blocks.0.mlp.lin1.bias"]),
            "output_channels": len(weights["image_encoder.neck.0.weight"]),
            "window_size": min(spans),
            "global_attn_indexes": [i for i, span in enumerate(spans) if span == grid],
            "num_pos_feats": weights["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"].shape[1],
        },
        prompt_encoder_config={
            **size,
            "hidden_size": hidden,
            "mask_input_channels": len(weights["prompt_encoder.mask_downscaling.3.bias"]),
        },
        mask_decoder_config={
            "hidden_size": hidden,
            "mlp_dim": len(weights["mask_decoder.transformer.layers.0.mlp.lin1.bias"]),
            "num_hidden_layers": _count(weights, r"mask_decoder\.transformer\.layers\.(\d+)\."),
            "attention_downsample_rate": hidden // inner,
            "num_multimask_outputs": len(weights["mask_decoder.mask_tokens.weight"]) - 1,
            "iou_head_depth": _count(weights, r"mask_decoder\.iou_prediction_head\.layers\.(\d+)\."),
            "iou_head_hidden_dim": len(weights["mask_decoder.iou_prediction_head.layers.0.bias"]),
        },
    )


def _dino_config(weights: Weights) -> Any:
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    stages = _count(weights, r"backbone\.0\.layers\.(\d+)\.")
    tables = [weights[f"backbone.0.layers.{i}.blocks.0.attn.relative_position_bias_table"] for i in range(stages)]
    window = (math.isqrt(len(tables[0])) + 1) // 2
    embed, _, patch, _ = weights["backbone.0.patch_embed.proj.weight"].shape
    levels, width = weights["transformer.level_embed"].shape
    vocabulary, hidden = weights["bert.embeddings.word_embeddings.weight"].shape

    def heads(layer: str) -> int:
        return len(weights[f"transformer.{layer}.attention_weights.bias"]) // (levels * 4)

    return GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=384 if window == 12 else 224,
            patch_size=patch,
            embed_dim=embed,
            depths=[_count(weights, rf"backbone\.0\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)],
            num_heads=[table.shape[1] for table in tables],
            window_size=window,
            mlp_ratio=len(weights["backbone.0.layers.0.blocks.0.mlp.fc1.bias"]) / embed,
            out_indices=[i + 1 for i in range(stages) if f"backbone.0.norm{i}.weight" in weights],
        ),
        text_config=BertConfig(
            vocab_size=vocabulary,
            hidden_size=hidden,
            num_hidden_layers=_count(weights, r"bert\.encoder\.layer\.(\d+)\."),
            num_attention_heads=max(1, hidden // 64),
            intermediate_size=len(weights["bert.encoder.layer.0.intermediate.dense.bias"]),
            max_position_embeddings=len(weights["bert.embeddings.position_embeddings.weight"]),
            type_vocab_size=len(weights["bert.embeddings.token_type_embeddings.weight"]),
        ),
        d_model=width,
        num_feature_levels=levels,
        num_queries=len(weights["transformer.tgt_embed.weight"]),
        encoder_layers=_count(weights, r"transformer\.encoder\.layers\.(\d+)\."),
        decoder_layers=_count(weights, r"transformer\.decoder\.layers\.(\d+)\."),
        encoder_ffn_dim=len(weights["transformer.encoder.layers.0.linear1.bias"]),
        decoder_ffn_dim=len(weights["transformer.decoder.layers.0.linear1.bias"]),
        encoder_attention_heads=heads("encoder.layers.0.self_attn"),
        decoder_attention_heads=heads("decoder.layers.0.cross_attn"),
    )
