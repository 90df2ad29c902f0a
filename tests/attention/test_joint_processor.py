"""Whole flow transformers under modulation, against a second, slow and simple implementation of the same equations."""

from __future__ import annotations

import inspect
import threading

import pytest
import torch
import torch.nn.functional as F

from realignkit.attention.config import ModulationConfig
from realignkit.attention.joint_processor import AttentionCalls
from realignkit.attention.processor import modulate
from realignkit.errors import ModelError
from realignkit.pipelines import families
from tests.attention.flow_pipelines import flux_transformer
from tests.attention.joint_reference import GRID, LATENT, NETWORKS, Noise, Reference, regions_for
from tests.attention.test_processor import SCHEDULE


@pytest.fixture(scope="module", params=NETWORKS)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def network(family):
    return NETWORKS[family].make()


def inputs(family: str, batch: int, dtype=torch.float32):
    return NETWORKS[family].inputs(Noise(batch, dtype))


@torch.no_grad()
def forward(family, network, arguments, t=SCHEDULE[0]):
    like = next(each for each in arguments.values() if each is not None)
    told = {
        name: torch.full((len(like),), value, dtype=like[0].dtype)
        for name, value in NETWORKS[family].timestep(t).items()
    }
    sample = network(**told, **arguments).sample
    return torch.stack(sample) if isinstance(sample, list) else sample


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
    regions, config = [regions_for(family, "two"), regions_for(family, "unlikely")], ModulationConfig(**options)
    guided = NETWORKS[family].unconditional
    arguments, left_alone = inputs(family, 4 if guided else 2), slice(*(guided or (0, 0)))
    with modulate(network, regions, config, timesteps=SCHEDULE) as state:
        ours = forward(family, network, arguments)
        assert (state.timestep, state.step) == (pytest.approx(SCHEDULE[0]), 0)
    plain = forward(family, network, arguments)
    before = families.attention_processors(network)
    slow = NETWORKS[family].reference
    families.set_attention_processors(network, {name: slow(regions, config, SCHEDULE[0], name) for name in before})
    reference = forward(family, network, arguments)
    families.set_attention_processors(network, before)
    torch.testing.assert_close(ours, reference, rtol=1e-3, atol=5e-5)
    torch.testing.assert_close(ours[left_alone], plain[left_alone], rtol=1e-4, atol=1e-5)
    changed = (ours - plain).abs().flatten(1).amax(1)
    changed[left_alone] = 1
    assert changed.min() > 1e-3  # modulation is no trifle


def test_nothing_to_modulate_is_the_network_itself(family, network):
    arguments = inputs(family, 1)
    plain = forward(family, network, arguments)
    with modulate(network, [regions_for(family, "all unlikely")], timesteps=SCHEDULE):
        assert torch.equal(forward(family, network, arguments), plain)
    with modulate(network, [regions_for(family, "two")], timesteps=SCHEDULE):
        assert torch.equal(forward(family, network, arguments, SCHEDULE[-1]), plain) is False
    assert torch.equal(forward(family, network, arguments), plain)
    assert not network._forward_pre_hooks


def test_past_the_share_the_network_is_plain(family, network):
    arguments = inputs(family, 1)
    late = forward(family, network, arguments, SCHEDULE[-1])
    with modulate(network, [regions_for(family, "two")], timesteps=SCHEDULE) as state:
        assert torch.equal(forward(family, network, arguments, SCHEDULE[-1]), late)
        assert state.step == 4


def test_calls_of_true_guidance_are_left_alone():
    family, network, arguments = "flux", flux_transformer(), inputs("flux", 1)
    other = {**arguments, "encoder_hidden_states": arguments["encoder_hidden_states"] + 1}
    plain = forward("flux", network, other)
    with modulate(network, [regions_for(family, "two")], timesteps=SCHEDULE) as state:
        first = forward("flux", network, arguments)
        assert torch.equal(forward("flux", network, other), plain)
        copied = {**arguments, "encoder_hidden_states": arguments["encoder_hidden_states"].clone()}
        assert torch.equal(first, forward("flux", network, copied))
        assert state.step == 0


def test_another_threads_calls_are_left_alone(family, network):
    arguments, out = inputs(family, 1), []
    plain = forward(family, network, arguments)
    with modulate(network, [regions_for(family, "two")], timesteps=SCHEDULE):
        ours = forward(family, network, arguments)
        thread = threading.Thread(target=lambda: out.append(forward(family, network, arguments)))
        thread.start()
        thread.join()
    assert torch.equal(out[0], plain) and not torch.equal(ours, plain)


def test_bfloat16(family):
    network = NETWORKS[family].make()
    exact = {}
    for dtype in (torch.float32, torch.bfloat16):
        arguments = inputs(family, 1, dtype)
        network.to(dtype)
        with modulate(network, [regions_for(family, "two")], ModulationConfig(power=0.0), timesteps=SCHEDULE):
            exact[dtype] = forward(family, network, arguments)
        exact[dtype, "plain"] = forward(family, network, arguments)
    assert exact[torch.bfloat16].dtype == torch.bfloat16
    error = (exact[torch.bfloat16] - exact[torch.float32]).abs().mean()
    plain = (exact[torch.bfloat16, "plain"] - exact[torch.float32, "plain"]).abs().mean()
    assert error < 3 * plain


# --- what holds of diffusers ------------------------------------------------------------------------------------------


def test_every_layer_computes_attention_with_one_call(family, network):
    """Fails, and names the layer, when a diffusers computes attention in another way."""
    with modulate(network, [regions_for(family, "two")], timesteps=SCHEDULE) as state:
        forward(family, network, inputs(family, 1))
        assert state.attended
    joint = families.family_of_network(network).joint
    for processor in families.attention_processors(network).values():
        assert families.is_a(processor, *joint.processors)


def test_tokens_stand_where_the_family_says(family, network):
    """Fails when a new diffusers orders, or packs, the sequence in another way."""
    arguments, joint = inputs(family, 1), families.family_of_network(network).joint
    latents, texts = ("x", "cap_feats") if family == "z_image" else ("hidden_states", "encoder_hidden_states")

    def queries(**changes):
        seen = []

        def attend(query, key, value, bias):
            seen.append(query)
            return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)

        with AttentionCalls(attend):
            forward(family, network, {**arguments, **changes})
        return next(each for each in seen if each.shape[2] == max(other.shape[2] for other in seen))[0]

    def moved(**changes):
        return (queries(**changes) - before).abs().amax((0, 2))

    before, told = queries(), NETWORKS[family].timestep(SCHEDULE[0])
    call = joint.call(network, {**arguments, **{name: torch.tensor([value]) for name, value in told.items()}})
    assert call.timestep == pytest.approx(SCHEDULE[0]) and (call.samples, call.grid) == (1, GRID)
    by_text = moved(**{texts: [each + 1 for each in arguments[texts]] if family == "z_image" else arguments[texts] + 1})
    assert by_text[call.text].min() > 1e-4 > 1e-6 > by_text[call.image].max()
    row, column = 1, 2
    changed = arguments[latents][0].clone()
    if changed.shape[-2:] == LATENT:
        changed[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 5
    else:
        changed[row * GRID[1] + column] += 5
    by_image = moved(**{latents: [changed] if family == "z_image" else changed[None]})
    assert by_image.argmax() == call.image.start + row * GRID[1] + column and by_image[call.text].max() < 1e-6


def test_layers_hand_on_what_they_handed_to_the_original(family, network):
    """diffusers drops arguments that the signature of a processor's ``__call__`` does not name."""
    before = families.attention_processors(network)
    with modulate(network, [regions_for(family, "two")], timesteps=SCHEDULE):
        for name, processor in families.attention_processors(network).items():
            assert inspect.signature(processor.__call__) == inspect.signature(before[name].__call__)


def test_what_is_no_single_call_is_refused_by_name(family, network, monkeypatch):
    first = next(iter(families.attention_processors(network).values()))
    inner = type(first).__call__

    def twice(self, *args, **kwargs):
        inner(self, *args, **kwargs)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(type(first), "__call__", twice)
    with (
        modulate(network, [regions_for(family, "two")], timesteps=SCHEDULE),
        pytest.raises(ModelError, match=rf"2 calls of torch's .*{type(first).__name__}"),
    ):
        forward(family, network, inputs(family, 1))


def test_another_attention_is_refused(family, network):
    before = families.attention_processors(network)
    families.set_attention_processors(network, dict.fromkeys(before, Reference([], ModulationConfig(), 0.0)))
    try:
        with pytest.raises(ModelError, match="Reference"), modulate(network, [], timesteps=SCHEDULE):
            pass
    finally:
        families.set_attention_processors(network, before)


def test_another_backend_is_refused():
    network = flux_transformer()
    network.set_attention_backend("_native_math")
    with pytest.raises(ModelError, match="_native_math"), modulate(network, [], timesteps=SCHEDULE):
        pass
