"""The image encoder against transformers' Swin, at shapes that the golden data does not have."""

from __future__ import annotations

import pytest
import torch
from transformers import SwinConfig, SwinModel

from realignkit_plugins.taggers.swin import SwinTransformer


def translated(theirs: SwinModel) -> dict[str, torch.Tensor]:
    """Weights of transformers' Swin under the published names."""
    names = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.norm": "patch_embed.norm",
        "encoder.": "",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "layernorm": "norm",
        "attention.o_proj": "attn.proj",
        "attention.relative_position_bias.": "attn.",
    }
    weights, parts = {}, {}
    for key, tensor in theirs.state_dict().items():
        name = key
        for old, new in names.items():
            name = name.replace(old, new)
        for i, kind in enumerate("qkv"):
            if (spelling := f"attention.{kind}_proj.") in name:
                parts.setdefault(name.replace(spelling, "attn.qkv."), [None] * 3)[i] = tensor
                name = ""
        if name:
            weights[name] = tensor
    return weights | {name: torch.cat(three) for name, three in parts.items()}


@pytest.mark.parametrize(
    ("size", "patch", "window", "depths", "heads"),
    [(64, 4, 4, (2, 2, 2), (2, 4, 8)), (56, 2, 7, (2, 3), (1, 4)), (32, 4, 2, (1, 2, 1), (4, 2, 2))],
)
def test_equals_transformers(size, patch, window, depths, heads):
    torch.manual_seed(0)
    config = SwinConfig(
        image_size=size, patch_size=patch, embed_dim=16, depths=list(depths), num_heads=list(heads), window_size=window
    )
    theirs = SwinModel(config, add_pooling_layer=False).eval()
    for parameter in theirs.parameters():  # every weight must matter, the biases too
        torch.nn.init.normal_(parameter, std=0.3)
    ours = SwinTransformer(size, patch, 16, depths, heads, window).eval()
    ours.load_state_dict(translated(theirs))
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        want, got = theirs(x).last_hidden_state, ours(x)
    torch.testing.assert_close(got[:, 1:], want, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(got[:, 0], want.mean(1), rtol=1e-4, atol=2e-4)
