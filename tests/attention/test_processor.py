"""Whole U-Nets under modulation, against a second, slow and simple implementation of the same equations."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    IPAdapterAttnProcessor2_0,
    SlicedAttnProcessor,
)

from realignkit.attention.config import ModulationConfig
from realignkit.attention.processor import modulate
from realignkit.attention.regions import Regions
from realignkit.errors import ModelError

TOKENS = 10
SCHEDULE = [900.0, 700.0, 500.0, 300.0, 100.0]


def example(kind: str, latent: tuple[int, int]) -> Regions:
    """Layouts whose masks have the latents' size and do not overlap."""
    height, width = latent
    tokens, masks = torch.zeros(TOKENS, 2, dtype=torch.bool), torch.zeros(2, height, width, dtype=torch.bool)
    if kind == "none":
        return Regions.none(TOKENS)
    tokens[1:4, 0], tokens[5:7, 1] = True, True
    masks[0, : height // 2, : width // 2], masks[1, height // 2 :, 2:] = True, True
    padding = torch.arange(TOKENS) >= 8
    scores = {"two": [2.0, 0.5], "unlikely": [1.0, 0.0], "all unlikely": [0.0, 0.0]}[kind]
    return Regions(tokens, masks, torch.tensor(scores), padding)


class Reference:
    """Attention one sample, one head, one query at a time, from the equations in the paper's notation."""

    def __init__(self, regions: list[Regions], config: ModulationConfig, t: float, latent: tuple[int, int], n: int = 1):
        self.regions = [item for item in regions for _ in range(n)]
        self.config, self.t, self.latent = config, t, latent

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        cross = encoder_hidden_states is not None
        context = encoder_hidden_states if cross else hidden_states
        Q, K, V = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        offset = len(Q) - len(self.regions)
        out = torch.zeros_like(Q)
        d = Q.shape[-1] // attn.heads
        for b in range(len(Q)):
            for h in range(attn.heads):
                part = slice(h * d, (h + 1) * d)
                sim = Q[b, :, part] @ K[b, :, part].T / d**0.5
                if b >= offset:
                    sim = self.modulated(sim, self.regions[b - offset], cross)
                out[b, :, part] = sim.softmax(-1) @ V[b, :, part]
        return attn.to_out[0](out)

    def modulated(self, sim, item, cross):
        config = self.config
        lam = (config.cross_weight if cross else config.self_weight) * (self.t / 1000) ** config.power
        touched = item.scores.sum() > 0
        suppressing = config.suppress_unlikely and cross
        if not touched and not suppressing:
            return sim
        factor = int((self.latent[0] * self.latent[1] / len(sim)) ** 0.5 + 0.5)
        masks = item.masks[:, ::factor, ::factor].flatten(1)
        shown = [k for k in range(sim.shape[1]) if not (cross and config.mask_padding and item.padding[k])]
        out = sim.clone()
        for q in range(len(sim)):
            inside = [i for i in range(len(masks)) if masks[i, q]]
            S = (item.scores[inside[0]].item() if inside else config.outside_score) if touched else 0.0
            area = masks[inside[0]].float().mean().item() if inside else 0.0
            low, high = sim[q, shown].min(), sim[q, shown].max()
            for k in range(sim.shape[1]):
                if k not in shown:
                    out[q, k] = -float("inf")
                    continue
                R = any((item.tokens[k, i] if cross else masks[i, k]) for i in inside)
                B = {"area": area, "none": 0.0, "similarity": (sim[q, k] - low) / (high - low)}[config.size_term]
                down = suppressing and any(item.tokens[k, i] and item.scores[i] == 0 for i in inside)
                a = lam * (1 - config.size_weight * B) * (1.0 if down else S)
                a = min(max(a, 0.0), 1.0) if config.clamp else a
                out[q, k] = sim[q, k] + a * ((high - sim[q, k]) if R and not down else -(sim[q, k] - low))
        return out


def inputs(unet, batch: int, latent: tuple[int, int], dtype=torch.float32) -> dict[str, object]:
    generator = torch.Generator().manual_seed(7)
    arguments: dict[str, object] = {
        "sample": torch.randn(batch, 4, *latent, generator=generator).to(dtype),
        "encoder_hidden_states": torch.randn(batch, TOKENS, 32, generator=generator).to(dtype) * 2,
    }
    if unet.config.addition_embed_type == "text_time":
        embeds, ids = torch.randn(batch, 16, generator=generator), torch.ones(batch, 6)
        arguments["added_cond_kwargs"] = {"text_embeds": embeds.to(dtype), "time_ids": ids.to(dtype)}
    return arguments


@torch.no_grad()
def forward(unet, t: float, arguments: dict[str, object]) -> torch.Tensor:
    return unet(timestep=torch.tensor(t), **arguments).sample


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def unet(request, make_unet):
    return make_unet(request.param)


CASES = {
    "one prompt, no guidance": (["two"], 1, False, (8, 8), {}),
    "batch with guidance": (["two", "none", "unlikely"], 1, True, (4, 4), {}),
    "images per prompt": (["two", "all unlikely"], 2, True, (4, 4), {}),
    "not square": (["two"], 1, True, (4, 6), {}),
    "literal": (["two", "none"], 1, True, (4, 4), {"form": "literal"}),
    "similarity": (["two"], 1, True, (4, 4), {"size_term": "similarity"}),
    "half the size term": (["unlikely"], 1, True, (4, 4), {"size_weight": 0.5, "power": 1.0}),
    "half the size term, similarity": (["two"], 1, True, (4, 4), {"size_term": "similarity", "size_weight": 0.5}),
    "no size term": (["unlikely"], 1, True, (4, 4), {"size_term": "none", "power": 1.0}),
    "cross only": (["two"], 1, True, (4, 4), {"self_weight": 0.0}),
    "self only": (["two"], 1, True, (4, 4), {"cross_weight": 0.0, "self_weight": 1.0}),
    "suppress": (["unlikely", "all unlikely"], 1, True, (4, 4), {"suppress_unlikely": True}),
    "outside untouched": (["two"], 1, True, (4, 4), {"outside_score": 0.0, "power": 1.0}),
    "padding": (["two"], 1, True, (4, 4), {"mask_padding": True}),
    "clamped": (["two"], 1, True, (4, 4), {"clamp": True, "power": 0.0}),
    "clamped, literal": (["two"], 1, True, (4, 4), {"clamp": True, "power": 0.0, "form": "literal"}),
    "clamped, similarity": (["two"], 1, True, (4, 4), {"clamp": True, "power": 0.0, "size_term": "similarity"}),
    "clamped, suppress": (
        ["unlikely"],
        1,
        True,
        (4, 4),
        {"clamp": True, "cross_weight": 2.0, "suppress_unlikely": True},
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_unet_equals_recomputation(unet, case):
    kinds, repeats, guided, latent, options = CASES[case]
    regions, config = [example(kind, latent) for kind in kinds], ModulationConfig(**options)
    arguments = inputs(unet, len(kinds) * repeats * (1 + guided), latent)
    with modulate(unet, regions, config, timesteps=SCHEDULE, num_images_per_prompt=repeats):
        ours = forward(unet, SCHEDULE[0], arguments)
    plain = forward(unet, SCHEDULE[0], arguments)
    before = unet.attn_processors
    unet.set_attn_processor(Reference(regions, config, SCHEDULE[0], latent, repeats))
    reference = forward(unet, SCHEDULE[0], arguments)
    unet.set_attn_processor(before)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=2e-5)
    half = len(ours) // 2 if guided else 0
    torch.testing.assert_close(ours[:half], plain[:half], rtol=1e-5, atol=1e-5)  # the unconditional half
    assert (ours[half] - plain[half]).abs().max() > 1e-3  # and modulation is no trifle


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(make_unet, dtype):
    unet, latent = make_unet("sd"), (8, 8)
    regions, config = [example("two", latent)], ModulationConfig(power=1.0)
    with modulate(unet, regions, config, timesteps=SCHEDULE):
        exact = forward(unet, 900.0, inputs(unet, 2, latent))
    plain = forward(unet, 900.0, inputs(unet, 2, latent))
    unet.to(dtype)
    noise = (forward(unet, 900.0, inputs(unet, 2, latent, dtype)) - plain).abs().max()
    with modulate(unet, regions, config, timesteps=SCHEDULE):
        half = forward(unet, 900.0, inputs(unet, 2, latent, dtype))
    assert half.dtype == dtype
    # Modulation adds no more error than the precision costs anyway.
    assert (half - exact).abs().max() < 3 * noise
    assert (exact[1] - plain[1]).abs().max() > 10 * noise


@pytest.mark.parametrize(
    ("kind", "t", "options"),
    [
        ("none", 900.0, {}),
        ("all unlikely", 900.0, {}),
        ("two", 900.0, {"cross_weight": 0.0, "self_weight": 0.0}),
        ("two", 700.0, {"share": 0.2}),  # step 1 of 5 is the first past 20 %
        ("two", 900.0, {"share": 0.0}),
        ("two", 0.0, {"share": 1.0}),  # lambda_0 = 0
    ],
)
def test_identity_is_exact(unet, kind, t, options):
    arguments = inputs(unet, 2, (8, 8))
    with modulate(unet, [example(kind, (8, 8))], ModulationConfig(**options), timesteps=SCHEDULE):
        ours = forward(unet, t, arguments)
    assert torch.equal(ours, forward(unet, t, arguments))


@pytest.mark.parametrize("counted", [False, True])
def test_only_the_first_share_of_steps_is_modulated(unet, counted):
    arguments = inputs(unet, 2, (8, 8))
    known = {"num_inference_steps": 5} if counted else {"timesteps": torch.tensor(SCHEDULE)}
    config = ModulationConfig(share=0.5, power=0.0)
    with modulate(unet, [example("two", (8, 8))], config, **known) as state:
        changed = []
        for step, t in enumerate(SCHEDULE):
            ours = forward(unet, t, arguments)
            assert (state.step, state.timestep) == (step, t)
            changed.append(ours)
    differs = [not torch.equal(a, forward(unet, t, arguments)) for a, t in zip(changed, SCHEDULE, strict=True)]
    assert differs == [True, True, True, False, False]  # steps 0, 1, 2 < 2.5


def slice_it(unet):
    unet.set_attn_processor(SlicedAttnProcessor(slice_size=1))
    return unet


def use_plain_products(unet):
    unet.set_attn_processor(AttnProcessor())
    return unet


def fuse(unet):
    unet.fuse_qkv_projections()
    return unet


def compile_in_place(unet):
    unet.compile(backend="eager", fullgraph=True)
    return unet


def compile_blocks(unet):
    for block in unet.down_blocks:
        block.compile(backend="eager")
    return unet


def compile_forward(unet):
    unet.forward = torch.compile(unet.forward, backend="eager")
    return unet


WAYS = [
    slice_it,
    use_plain_products,
    fuse,
    compile_in_place,
    compile_blocks,
    compile_forward,
    lambda unet: torch.compile(unet, backend="eager"),
]


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_networks_made_fast_or_small_are_modulated_all_the_same(make_unet, family, way):
    """Also when they have run before, so that compiled code is there; past the share they are their plain selves."""
    regions, config = [example("two", (8, 8))], ModulationConfig(share=0.5, power=1.0)
    arguments, plain = inputs(make_unet(family), 2, (8, 8)), make_unet(family)
    with modulate(plain, regions, config, timesteps=SCHEDULE):
        wanted = [forward(plain, t, arguments) for t in (SCHEDULE[0], SCHEDULE[-1])]
    unet = way(make_unet(family))
    before = unet.attn_processors
    untouched = forward(unet, SCHEDULE[0], arguments)
    with modulate(unet, regions, config, timesteps=SCHEDULE):
        found = [forward(unet, t, arguments) for t in (SCHEDULE[0], SCHEDULE[-1])]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
    assert (found[0] - untouched).abs().max() > 1e-3
    torch.testing.assert_close(forward(unet, SCHEDULE[0], arguments), untouched)
    assert unet.attn_processors == before


def test_a_network_that_bypasses_its_processors_is_refused(make_unet):
    """As one does whose forward replays a recording: it would draw plain images without a word."""
    unet = make_unet("sd")
    arguments = inputs(unet, 2, (8, 8))
    recorded = forward(unet, 900.0, arguments)
    unet.forward = lambda *_, **__: recorded
    before = unet.attn_processors
    with modulate(unet, [example("two", (8, 8))], timesteps=SCHEDULE), pytest.raises(ModelError, match="processors"):
        unet(timestep=torch.tensor(900.0), **arguments)
    assert unet.attn_processors == before and not unet._forward_hooks
    with modulate(unet, [example("none", (8, 8))], timesteps=SCHEDULE):  # nothing is to be modulated
        unet(timestep=torch.tensor(900.0), **arguments)


def test_everything_is_restored_even_after_an_error(unet):
    processors = {name: AttnProcessor() if i % 2 else AttnProcessor2_0() for i, name in enumerate(unet.attn_processors)}
    unet.set_attn_processor(dict(processors))
    with pytest.raises(RuntimeError, match="boom"), modulate(unet, [example("two", (8, 8))], timesteps=SCHEDULE):
        assert unet.attn_processors != processors
        raise RuntimeError("boom")
    assert unet.attn_processors == processors  # the very objects
    assert not unet._forward_pre_hooks


def test_wrong_batch_is_refused(unet):
    with modulate(unet, [example("two", (8, 8))], timesteps=SCHEDULE), pytest.raises(ModelError, match="3 samples"):
        forward(unet, 900.0, inputs(unet, 3, (8, 8)))


def test_wrong_text_length_is_refused(unet):
    arguments = inputs(unet, 2, (8, 8))
    arguments["encoder_hidden_states"] = arguments["encoder_hidden_states"][:, :-1]
    with modulate(unet, [example("two", (8, 8))], timesteps=SCHEDULE), pytest.raises(ModelError, match="text tokens"):
        forward(unet, 900.0, arguments)


def test_adapters_are_refused(unet):
    before = unet.attn_processors
    name = next(name for name in before if "attn2" in name)
    unet.set_attn_processor({**before, name: IPAdapterAttnProcessor2_0(16, 32)})
    with pytest.raises(ModelError, match="IPAdapterAttnProcessor2_0"), modulate(unet, [], timesteps=SCHEDULE):
        pass
    unet.set_attn_processor(before)


def test_schedule_is_needed_for_the_share(unet):
    with pytest.raises(ValueError, match="timesteps"), modulate(unet, [example("two", (8, 8))]):
        pass
