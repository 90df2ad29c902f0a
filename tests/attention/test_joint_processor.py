"""Whole flow transformers under modulation, against a second, slow and simple implementation of the same equations."""

from __future__ import annotations

import threading

import diffusers
import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb

from realignkit.attention.config import ModulationConfig
from realignkit.attention.processor import modulate
from realignkit.errors import ModelError
from realignkit.pipelines import families
from tests.attention.flow_pipelines import flux_transformer, sd3_transformer
from tests.attention.test_processor import SCHEDULE, TOKENS, example

GRID = (4, 6)
LATENT = (8, 12)


class Reference:
    """Joint attention one sample, one head, one query at a time, from the equations in the paper's notation."""

    text_first = False

    def __init__(self, regions, config, t):
        self.regions, self.config, self.t = regions, config, t

    def rows(self, attn, image, text, rotary):
        """Queries, keys and values (B, heads, N, d) of the joint sequence."""
        parts = []
        for states, names in ((image, ("to_q", "to_k", "to_v")), (text, ("add_q_proj", "add_k_proj", "add_v_proj"))):
            if states is not None:
                parts.append(self.projected(attn, states, names, text=states is text))
        parts = parts[::-1] if self.text_first else parts
        query, key, value = (torch.cat(each, 1) for each in zip(*parts, strict=True))
        if rotary is not None:
            query, key = (apply_rotary_emb(each, rotary, sequence_dim=1) for each in (query, key))
        return [each.transpose(1, 2) for each in (query, key, value)]

    def projected(self, attn, states, names, text):
        out = [getattr(attn, name)(states).unflatten(-1, (attn.heads, -1)) for name in names]
        norms = (attn.norm_added_q, attn.norm_added_k) if text else (attn.norm_q, attn.norm_k)
        return [*(norm(each) for norm, each in zip(norms, out, strict=False)), out[2]]

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, image_rotary_emb=None):
        Q, K, V = self.rows(attn, hidden_states, encoder_hidden_states, image_rotary_emb)
        image = GRID[0] * GRID[1]
        text = Q.shape[2] - image
        first = text if self.text_first else 0
        out, offset = torch.zeros_like(Q), len(Q) - len(self.regions)
        for b in range(len(Q)):
            for h in range(Q.shape[1]):
                sim = Q[b, h] @ K[b, h].T / Q.shape[-1] ** 0.5
                if b >= offset:
                    order = torch.arange(len(sim)).roll(-first)  # image first
                    turned = self.modulated(sim[order][:, order], self.regions[b - offset], image)
                    back = order.argsort()
                    sim = turned[back][:, back]
                out[b, h] = sim.softmax(-1) @ V[b, h]
        out = out.transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return attn.to_out[0](out) if hasattr(attn, "to_out") else out
        at = slice(first, first + image)
        rest = slice(0, text) if self.text_first else slice(image, None)
        added = out[:, rest] if attn.context_pre_only else attn.to_add_out(out[:, rest])
        return attn.to_out[0](out[:, at]), added

    def modulated(self, sim, item, image):
        config, out = self.config, sim.clone()
        if item.scores.sum() == 0:
            return sim
        masks = item.masks[:, ::2, ::2].flatten(1)
        member = torch.cat([masks.T, item.tokens])[: len(sim)]  # of each token in the joint sequence
        kinds = {"image": slice(0, image), "text": slice(image, len(sim))}
        for q in range(len(sim)):
            inside = [i for i in range(len(masks)) if member[q, i]]
            score = max((item.scores[i].item() for i in inside), default=config.outside_score if q < image else 0.0)
            area = masks[inside[0]].float().mean().item() if inside else 0.0
            for kind, keys in kinds.items():
                if keys.start == keys.stop or (q >= image and kind == "text"):
                    continue
                weight = config.cross_weight if kind == "text" else config.self_weight
                weight = config.text_weight if q >= image else weight
                a = weight * (self.t / 1000) ** config.power * score * (1 - config.size_weight * area)
                low, high = sim[q, keys].min(), sim[q, keys].max()
                for k in range(keys.start, keys.stop):
                    R = any(member[k, i] for i in inside)
                    out[q, k] = sim[q, k] + a * ((high - sim[q, k]) if R else -(sim[q, k] - low))
        return out


class FluxReference(Reference):
    text_first = True


NETWORKS = {"sd3": (sd3_transformer, Reference), "flux": (flux_transformer, FluxReference)}


@pytest.fixture(scope="module", params=NETWORKS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def network(family):
    return NETWORKS[family][0]()


def inputs(family: str, batch: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)

    def noise(*shape):
        return torch.randn(batch, *shape, generator=generator).to(dtype)

    text = noise(TOKENS, 32) * 3
    if family == "sd3":
        return {"hidden_states": noise(4, *LATENT), "encoder_hidden_states": text, "pooled_projections": noise(24)}
    return {
        "hidden_states": noise(GRID[0] * GRID[1], 16),
        "encoder_hidden_states": text,
        "pooled_projections": noise(16),
        "img_ids": diffusers.FluxPipeline._prepare_latent_image_ids(batch, *GRID, "cpu", dtype),
        "txt_ids": torch.zeros(TOKENS, 3, dtype=dtype),
        "guidance": torch.full((batch,), 3.5),
    }


@torch.no_grad()
def forward(family, network, arguments, t=SCHEDULE[0]):
    dtype = arguments["hidden_states"].dtype
    timestep = torch.full((len(arguments["hidden_states"]),), t if family == "sd3" else t / 1000, dtype=dtype)
    return network(timestep=timestep, **arguments).sample


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"form": "literal"},
        {"cross_weight": 0.0, "self_weight": 1.0},
        {"power": 1.0, "outside_score": 0.0},
        {"text_weight": 0.8},
        {"text_weight": 0.8, "form": "literal", "self_weight": 0.0},
    ],
)
def test_network_equals_recomputation(family, network, options):
    regions, config = [example("two", LATENT), example("unlikely", LATENT)], ModulationConfig(**options)
    unconditional = 2 if family == "sd3" else 0
    arguments = inputs(family, 2 + unconditional)
    with modulate(network, regions, config, timesteps=SCHEDULE) as state:
        ours = forward(family, network, arguments)
        assert (state.timestep, state.step) == (pytest.approx(SCHEDULE[0]), 0)
    plain = forward(family, network, arguments)
    before = network.attn_processors
    network.set_attn_processor(NETWORKS[family][1](regions, config, SCHEDULE[0]))
    reference = forward(family, network, arguments)
    network.set_attn_processor(before)
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=5e-5)
    torch.testing.assert_close(ours[:unconditional], plain[:unconditional], rtol=1e-4, atol=1e-5)
    changed = (ours - plain)[unconditional:].abs().flatten(1).amax(1)
    assert changed.min() > 1e-3  # modulation is no trifle


def test_nothing_to_modulate_is_the_network_itself(family, network):
    arguments = inputs(family, 1)
    plain = forward(family, network, arguments)
    with modulate(network, [example("all unlikely", LATENT)], timesteps=SCHEDULE):
        assert torch.equal(forward(family, network, arguments), plain)
    with modulate(network, [example("two", LATENT)], timesteps=SCHEDULE):
        assert torch.equal(forward(family, network, arguments, SCHEDULE[-1]), plain) is False
    assert torch.equal(forward(family, network, arguments), plain)
    assert not network._forward_pre_hooks


def test_past_the_share_the_network_is_plain(family, network):
    arguments = inputs(family, 1)
    late = forward(family, network, arguments, SCHEDULE[-1])
    with modulate(network, [example("two", LATENT)], timesteps=SCHEDULE) as state:
        assert torch.equal(forward(family, network, arguments, SCHEDULE[-1]), late)
        assert state.step == 4


def test_calls_of_true_guidance_are_left_alone():
    network, arguments = flux_transformer(), inputs("flux", 1)
    other = {**arguments, "encoder_hidden_states": arguments["encoder_hidden_states"] + 1}
    plain = forward("flux", network, other)
    with modulate(network, [example("two", LATENT)], timesteps=SCHEDULE) as state:
        first = forward("flux", network, arguments)
        assert torch.equal(forward("flux", network, other), plain)
        copied = {**arguments, "encoder_hidden_states": arguments["encoder_hidden_states"].clone()}
        assert torch.equal(first, forward("flux", network, copied))
        assert state.step == 0


def test_another_threads_calls_are_left_alone(family, network):
    arguments, out = inputs(family, 1), []
    plain = forward(family, network, arguments)
    with modulate(network, [example("two", LATENT)], timesteps=SCHEDULE):
        ours = forward(family, network, arguments)
        thread = threading.Thread(target=lambda: out.append(forward(family, network, arguments)))
        thread.start()
        thread.join()
    assert torch.equal(out[0], plain) and not torch.equal(ours, plain)


def test_bfloat16(family):
    network = NETWORKS[family][0]()
    exact = {}
    for dtype in (torch.float32, torch.bfloat16):
        arguments = inputs(family, 1, dtype)
        network.to(dtype)
        with modulate(network, [example("two", LATENT)], ModulationConfig(power=0.0), timesteps=SCHEDULE):
            exact[dtype] = forward(family, network, arguments)
        exact[dtype, "plain"] = forward(family, network, arguments)
    assert exact[torch.bfloat16].dtype == torch.bfloat16
    error = (exact[torch.bfloat16] - exact[torch.float32]).abs().mean()
    plain = (exact[torch.bfloat16, "plain"] - exact[torch.float32, "plain"]).abs().mean()
    assert error < 3 * plain


# --- what holds of diffusers ------------------------------------------------------------------------------------------


def test_every_layer_computes_attention_with_one_call(family, network):
    """Fails, and names the layer, when a diffusers computes attention in another way."""
    with modulate(network, [example("two", LATENT)], timesteps=SCHEDULE) as state:
        forward(family, network, inputs(family, 1))
        assert state.attended
    joint = families.family_of_network(network).joint
    for processor in network.attn_processors.values():
        assert families.is_a(processor, *joint.processors)


def test_what_is_no_single_call_is_refused_by_name(family, network, monkeypatch):
    first = next(iter(network.attn_processors.values()))
    inner = type(first).__call__

    def twice(self, *args, **kwargs):
        inner(self, *args, **kwargs)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(type(first), "__call__", twice)
    with (
        modulate(network, [example("two", LATENT)], timesteps=SCHEDULE),
        pytest.raises(ModelError, match=rf"2 calls of torch's .*{type(first).__name__}"),
    ):
        forward(family, network, inputs(family, 1))


def test_another_attention_is_refused(family, network):
    before = network.attn_processors
    network.set_attn_processor(Reference([], ModulationConfig(), 0.0))
    try:
        with pytest.raises(ModelError, match="Reference"), modulate(network, [], timesteps=SCHEDULE):
            pass
    finally:
        network.set_attn_processor(before)


def test_another_backend_is_refused():
    network = flux_transformer()
    network.set_attention_backend("_native_math")
    with pytest.raises(ModelError, match="_native_math"), modulate(network, [], timesteps=SCHEDULE):
        pass
