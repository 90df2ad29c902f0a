"""Joint attention of each family's network once more, slow and simple, and what those networks are called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import diffusers
import torch
from diffusers.models.embeddings import apply_rotary_emb

from realignkit.attention.regions import Regions
from tests.attention.flow_pipelines import (
    flux2_transformer,
    flux_transformer,
    qwen_image_transformer,
    sd3_transformer,
    z_image_transformer,
)
from tests.attention.test_processor import TOKENS, example

GRID = (4, 6)
CELLS = GRID[0] * GRID[1]
LATENT = (8, 12)


class Reference:
    """Joint attention one sample, one head, one query at a time, from the equations in the paper's notation."""

    text_first = False

    def __init__(self, regions, config, t, name=""):
        self.regions, self.config, self.t, self.name = regions, config, t, name

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        rows = self.rows(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        out = self.attention(*rows, *self.places(rows[0].shape[2])).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return attn.to_out[0](out) if hasattr(attn, "to_out") else out
        image, text = self.places(out.shape[1])
        added = out[:, text] if getattr(attn, "context_pre_only", False) else attn.to_add_out(out[:, text])
        return attn.to_out[0](out[:, image]), added

    def places(self, length):
        """Of image and of text tokens."""
        first = length - CELLS if self.text_first else 0
        return slice(first, first + CELLS), slice(0, first) if self.text_first else slice(CELLS, length)

    def rows(self, attn, image, text, rotary):
        """Queries, keys and values (B, heads, N, d) of the joint sequence."""
        parts = []
        for states, names in ((image, ("to_q", "to_k", "to_v")), (text, ("add_q_proj", "add_k_proj", "add_v_proj"))):
            if states is not None:
                projected = [getattr(attn, name)(states).unflatten(-1, (attn.heads, -1)) for name in names]
                parts.append(self.normed(attn, *projected, text=states is text))
        parts = parts[::-1] if self.text_first else parts
        return self.turned(*(torch.cat(each, 1) for each in zip(*parts, strict=True)), rotary)

    def normed(self, attn, query, key, value, *, text):
        norms = (attn.norm_added_q, attn.norm_added_k) if text else (attn.norm_q, attn.norm_k)
        return [norms[0](query), norms[1](key), value]

    def turned(self, query, key, value, rotary):
        if rotary is not None:
            query, key = (apply_rotary_emb(each, rotary, sequence_dim=1) for each in (query, key))
        return [each.transpose(1, 2) for each in (query, key, value)]

    def attention(self, Q, K, V, image, text, hidden=None):
        out, offset = torch.zeros_like(Q), self.offset(len(Q))
        hidden = torch.zeros(len(Q), Q.shape[2], dtype=torch.bool) if hidden is None else hidden
        for b in range(len(Q)):
            for h in range(Q.shape[1]):
                sim = Q[b, h] @ K[b, h].T / Q.shape[-1] ** 0.5
                if 0 <= b - offset < len(self.regions):
                    sim = self.modulated(sim, self.regions[b - offset], image, text, hidden[b])
                out[b, h] = sim.masked_fill(hidden[b], -torch.inf).softmax(-1) @ V[b, h]
        return out

    def offset(self, batch):
        """Which sample is the first conditional one."""
        return batch - len(self.regions)

    def modulated(self, sim, item, image, text, hidden):
        config, out = self.config, sim.clone()
        if item.scores.sum() == 0:
            return sim
        masks = item.masks[:, ::2, ::2].flatten(1)
        member = torch.zeros(len(sim), len(masks), dtype=torch.bool)  # of each token in the joint sequence
        member[image], member[text] = masks.T, item.tokens[: text.stop - text.start]
        for q in (*range(image.start, image.stop), *range(text.start, text.stop)):
            inside, of_image = [i for i in range(len(masks)) if member[q, i]], image.start <= q < image.stop
            score = max((item.scores[i].item() for i in inside), default=config.outside_score if of_image else 0.0)
            area = masks[inside[0]].float().mean().item() if inside else 0.0
            for keys in (image, text):
                seen = [k for k in range(keys.start, keys.stop) if not hidden[k]]
                if not seen or (keys == text and not of_image):
                    continue
                weight = config.cross_weight if keys == text else config.self_weight
                weight = weight if of_image else config.text_weight
                a = weight * (self.t / 1000) ** config.power * score * (1 - config.size_weight * area)
                low, high = sim[q, seen].min(), sim[q, seen].max()
                for k in seen:
                    R = any(member[k, i] for i in inside)
                    out[q, k] = sim[q, k] + a * ((high - sim[q, k]) if R else -(sim[q, k] - low))
        return out


class TextFirst(Reference):
    text_first = True


class Flux2Reference(TextFirst):
    def __call__(self, attn, hidden_states, *arguments):
        if not self.name.startswith("single"):
            return super().__call__(attn, hidden_states, *arguments)
        width, image_rotary_emb = attn.inner_dim, arguments[1]
        query, key, value, rest = attn.to_qkv_mlp_proj(hidden_states).split([width, width, width, 12 * width // 2], -1)
        parts = (each.unflatten(-1, (attn.heads, -1)) for each in (query, key, value))
        rows = self.turned(*self.normed(attn, *parts, text=False), image_rotary_emb)
        out = self.attention(*rows, *self.places(rows[0].shape[2])).transpose(1, 2).flatten(2)
        return attn.to_out(torch.cat([out, attn.mlp_act_fn(rest)], -1))


class QwenReference(TextFirst):
    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states,
        encoder_hidden_states_mask=None,
        attention_mask=None,
        image_rotary_emb=None,
    ):
        self.mask = encoder_hidden_states_mask
        return super().__call__(attn, hidden_states, encoder_hidden_states, None, image_rotary_emb)

    def turned(self, query, key, value, rotary):
        turns = torch.cat([rotary[1], rotary[0]])
        return [each.transpose(1, 2) for each in (complex_turn(query, turns), complex_turn(key, turns), value)]

    def attention(self, Q, K, V, image, text, hidden=None):
        hidden = torch.zeros(len(Q), Q.shape[2], dtype=torch.bool)
        if self.mask is not None:
            hidden[:, text] = ~self.mask.bool()
        return super().attention(Q, K, V, image, text, hidden)


def complex_turn(states, turns):
    """Rotary embedding: neighbouring columns of (B, N, heads, d) are complex numbers, turns are (N, d / 2)."""
    pairs = torch.view_as_complex(states.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2).to(states.dtype)


class ZReference(Reference):
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, freqs_cis=None):
        self.hidden = None if attention_mask is None else ~attention_mask
        projected = [each(hidden_states).unflatten(-1, (attn.heads, -1)) for each in (attn.to_q, attn.to_k, attn.to_v)]
        query, key, value = self.normed(attn, *projected, text=False)
        query, key = (
            torch.cat([complex_turn(one[None], turns) for one, turns in zip(each, freqs_cis, strict=True)])
            for each in (query, key)
        )
        rows = [each.transpose(1, 2) for each in (query, key, value)]
        out = self.attention(*rows, *self.places(rows[0].shape[2]), self.hidden)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))

    def places(self, length):
        """Behind the image's 24 tokens there are 8 that fill it up; the regions are of 32 text tokens."""
        if self.name.startswith("context_refiner"):
            return slice(0, 0), slice(0, 0)
        return slice(0, CELLS), slice(32, 32 if self.name.startswith("noise_refiner") else 64)

    def modulated(self, sim, item, image, text, hidden):
        return sim if image.stop == 0 else super().modulated(sim, item, image, text, hidden)

    def offset(self, batch):
        return 0


# --- what the networks are called with --------------------------------------------------------------------------------


@dataclass
class Noise:
    """Of a batch, the same whenever it is asked for."""

    batch: int
    dtype: torch.dtype

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)

    def __call__(self, *shape: int) -> torch.Tensor:
        return torch.randn(self.batch, *shape, generator=self.generator).to(self.dtype)


def sd3_inputs(noise: Noise) -> dict[str, Any]:
    text = noise(TOKENS, 32) * 3
    return {"hidden_states": noise(4, *LATENT), "encoder_hidden_states": text, "pooled_projections": noise(24)}


def flux_inputs(noise: Noise) -> dict[str, Any]:
    text = noise(TOKENS, 32) * 3
    return {
        "hidden_states": noise(CELLS, 16),
        "encoder_hidden_states": text,
        "pooled_projections": noise(16),
        "img_ids": diffusers.FluxPipeline._prepare_latent_image_ids(noise.batch, *GRID, "cpu", noise.dtype),
        "txt_ids": torch.zeros(TOKENS, 3, dtype=noise.dtype),
        "guidance": torch.full((noise.batch,), 3.5),
    }


def flux2_inputs(noise: Noise) -> dict[str, Any]:
    text = noise(TOKENS, 24) * 3
    return {
        "hidden_states": noise(CELLS, 16),
        "encoder_hidden_states": text,
        "img_ids": diffusers.Flux2KleinPipeline._prepare_latent_ids(torch.zeros(noise.batch, 1, *GRID)),
        "txt_ids": diffusers.Flux2KleinPipeline._prepare_text_ids(text),
        "guidance": None,
    }


def qwen_image_inputs(noise: Noise) -> dict[str, Any]:
    mask = torch.ones(noise.batch, TOKENS)
    mask[1:, TOKENS - 2 :] = 0  # texts of different lengths
    return {
        "hidden_states": noise(CELLS, 16),
        "encoder_hidden_states": noise(TOKENS, 16) * 3,
        "encoder_hidden_states_mask": mask if noise.batch > 1 else None,
        "img_shapes": [[(1, *GRID)]] * noise.batch,
    }


def z_image_inputs(noise: Noise) -> dict[str, Any]:
    """Of a guided batch the unconditional texts come last, one of them longer than all others."""
    latents, text = noise(8, 1, *LATENT), noise(40, 16) * 3
    lengths = (TOKENS, TOKENS - 2, 40, 7)
    return {"x": list(latents), "cap_feats": [one[:length] for one, length in zip(text, lengths, strict=False)]}


@dataclass(frozen=True)
class Network:
    """One family's.

    Attributes:
        make: a small one.
        reference: its attention once more.
        inputs: what it is called with beside the timestep, of a source of noise.
        timestep: what it is told of a timestep in [0, 1000].
        unconditional: first and last of those samples of a guided batch of four that are; None: not guided in batches.
        tokens: how many of the text there are for the network.
    """

    make: Callable[[], Any]
    reference: type[Reference]
    inputs: Callable[[Noise], dict[str, Any]]
    timestep: Callable[[float], dict[str, float]] = lambda t: {"timestep": t / 1000}
    unconditional: tuple[int, int] | None = None
    tokens: int = TOKENS


NETWORKS = {
    "sd3": Network(sd3_transformer, Reference, sd3_inputs, lambda t: {"timestep": t}, (0, 2)),
    "flux": Network(flux_transformer, TextFirst, flux_inputs),
    "flux2": Network(flux2_transformer, Flux2Reference, flux2_inputs),
    "qwen_image": Network(qwen_image_transformer, QwenReference, qwen_image_inputs),
    "z_image": Network(z_image_transformer, ZReference, z_image_inputs, lambda t: {"t": 1 - t / 1000}, (2, 4), 32),
}


def regions_for(family: str, kind: str) -> Regions:
    """Those of :func:`tests.attention.test_processor.example`, as long as the network's text."""
    item, missing = example(kind, LATENT), NETWORKS[family].tokens - TOKENS
    return replace(
        item,
        tokens=torch.nn.functional.pad(item.tokens, (0, 0, 0, missing)),
        padding=torch.nn.functional.pad(item.padding, (0, missing), value=True),
    )
