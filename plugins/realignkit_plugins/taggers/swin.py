"""The Swin transformer (Liu et al., arXiv:2103.14030) with the key names of its published checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

LAYER_NORM_EPS = 1e-5
MLP_RATIO = 4
OTHER_REGION = -100.0
"""Added to the attention between tokens that the cyclic shift made neighbours (the published value, not -inf)."""


class SwinTransformer(nn.Module):
    """Image encoder: patches, stages of (shifted) window attention, and a pooled token in front.

    Takes pixels (B, 3, S, S), normalised; gives float (B, 1 + N, width): the mean of the N final tokens, then the
    tokens themselves, row by row.

    Args:
        image_size: S.
        patch_size: side of a patch, in pixels.
        embed_dim: width of the first stage; each next one has twice the width and half the resolution.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: side of an attention window, in tokens.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        embed_dim: int,
        depths: tuple[int, ...],
        num_heads: tuple[int, ...],
        window_size: int,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(patch_size, embed_dim)
        last = len(depths) - 1
        self.layers = nn.ModuleList(
            Stage(
                embed_dim << i,
                image_size // (patch_size << i),
                depth,
                heads,
                window_size,
                merge=i < last,
            )
            for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True))
        )
        self.norm = nn.LayerNorm(embed_dim << last, LAYER_NORM_EPS)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode images; see the class."""
        x = self.patch_embed(pixels)
        for layer in self.layers:
            x = layer(x)
        tokens = self.norm(x).flatten(1, 2)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1)


class PatchEmbedding(nn.Module):
    """Pixels (B, 3, S, S) to tokens (B, H, W, C)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)
        self.norm = nn.LayerNorm(width, LAYER_NORM_EPS)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed."""
        return self.norm(self.proj(pixels).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks at one resolution, every second one shifted; then, but for the last stage, merging of 2 x 2 tokens."""

    def __init__(self, width: int, resolution: int, depth: int, heads: int, window: int, merge: bool) -> None:
        super().__init__()
        # A window as large as the picture is the picture: nothing to shift then.
        shift = window // 2 if resolution > window else 0
        window = min(window, resolution)
        self.blocks = nn.ModuleList(
            Block(width, resolution, heads, window, shift if i % 2 else 0) for i in range(depth)
        )
        self.downsample = PatchMerging(width) if merge else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C) to (B, H / 2, W / 2, 2 C), or of the same shape in the last stage."""
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)


class PatchMerging(nn.Module):
    """2 x 2 neighbouring tokens to one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, LAYER_NORM_EPS)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge. Going down a column first is the order of the published weights."""
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class Block(nn.Module):
    """Window attention and an MLP, each behind a norm and beside a residual."""

    def __init__(self, width: int, resolution: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width, LAYER_NORM_EPS)
        self.mlp = MLP(width)
        mask = shift_mask(resolution, window, shift) if shift else None
        # Computed, never loaded: files carry it for the size that they were trained at.
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, H, W, C), same shape out."""
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        _, height, width, channels = x.shape
        w, s = self.window, self.shift
        if s:
            x = x.roll((-s, -s), (1, 2))
        x = x.unflatten(1, (height // w, w)).unflatten(3, (width // w, w))  # B, rows, w, columns, w, C
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)  # B, windows, tokens, C
        x = self.attn(x, self.mask)
        x = x.reshape(-1, height // w, width // w, w, w, channels).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return x.roll((s, s), (1, 2)) if s else x


class WindowAttention(nn.Module):
    """Attention inside windows with a learned bias for each relative position."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_position_index(window), persistent=False)
        self.index: Tensor
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, windows, n, C), mask (windows, 1, n, n) or None; same shape out."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1)
        if mask is not None:
            bias = bias + mask.to(bias.dtype)
        x = scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(x.transpose(2, 3).flatten(3))


class MLP(nn.Module):
    """Two linear layers and an exact GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        return self.fc2(gelu(self.fc1(x)))


def relative_position_index(window: int) -> Tensor:
    """Which row of the bias table two tokens of a window share: int64 (n, n), n = window²."""
    # On the CPU even where the network is built without memory (the meta device): it is no weight.
    side = torch.arange(window, device="cpu")
    place = torch.cartesian_prod(side, side).reshape(-1, 2)
    down, right = (place[:, None] - place[None] + window - 1).unbind(-1)
    return down * (2 * window - 1) + right


def shift_mask(resolution: int, window: int, shift: int) -> Tensor:
    """0 between tokens that are neighbours in the picture, -100 between those that the shift put together.

    Returns:
        float (windows, 1, n, n), n = window².
    """
    side = torch.arange(resolution, device="cpu")
    band = (side >= resolution - window).long() + (side >= resolution - shift).long()
    region = band[:, None] * 3 + band[None]
    parts = region.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)
    apart = parts[:, None, :, None] != parts[:, None, None, :]
    return apart.float() * OTHER_REGION
