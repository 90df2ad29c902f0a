"""Heat maps of words: DAAM's own numbers, and what is recorded while pipelines draw."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file

from realignkit.attention.config import ModulationConfig
from realignkit.attention.heatmaps import (
    Recorder,
    expanded,
    probabilities,
    recording,
    shares,
    token_maps,
    word_map,
    word_positions,
)
from realignkit.attention.sampler import refine
from realignkit.errors import ModelError
from realignkit.pipelines.families import denoiser
from realignkit.pipelines.generate import generate
from realignkit.pipelines.spans import occurrences
from realignkit.types import Layout, Likelihood, LocalCaption, Segment
from tests.attention.pixart import pixart_pipeline

FOLDER = Path(__file__).parents[1] / "golden" / "daam"
META = json.loads((FOLDER / "meta.json").read_text())
IO = load_file(FOLDER / "io.safetensors")
WEIGHTS = load_file(FOLDER / "checkpoint.safetensors")
TOLERANCE = {"rtol": META["tolerance"]["rtol"], "atol": META["tolerance"]["atol"]}
SIDE = META["config"]["map_size"]
TOKENS = len(META["tokens"]) + 2  # start and end
close = partial(torch.testing.assert_close, **TOLERANCE)

FAST = {"num_inference_steps": 4, "height": 16, "width": 16}
PROMPT = "a red book and a dog"


# --- the original's numbers -------------------------------------------------------------------------------------------


def original_layers():
    """The pack's attention layers: name -> layer of diffusers."""
    width, text = META["config"]["query_dim"], META["config"]["cross_attention_dim"]
    layers = {}
    for item in META["config"]["layers"]:
        weights = {
            name.split(".", 2)[2]: tensor
            for name, tensor in WEIGHTS.items()
            if name.startswith(f"layers.{item['index']}.")
        }
        inner = weights["to_q.weight"].shape[0]
        layer = Attention(width, text, heads=item["heads"], dim_head=inner // item["heads"], bias=False)
        layer.load_state_dict(weights)
        layers[f"layer{item['index']}"] = layer.eval()
    return layers


@pytest.fixture(scope="module")
def recorder():
    """What is recorded of every token while the pack's layers compute, under guidance."""
    recorder = Recorder([{str(token): [token] for token in range(TOKENS)}])
    recorder.observe(None, (torch.zeros(2, 4, SIDE, SIDE),), {})
    for name, layer in original_layers().items():
        layer.register_forward_hook(partial(recorder.record, name), with_kwargs=True)
        for step in range(META["config"]["steps"]):
            with torch.no_grad():
                out = layer(IO[f"step{step}.{name}.hidden_states"], encoder_hidden_states=IO["encoder_hidden_states"])
            if step == 0:
                close(out, IO[f"step0.{name}.out"])
    return recorder


def raw_layers(index=None):
    """The pack's own sums: for each layer (heads, tokens, h, w)."""
    return [
        torch.stack(
            [IO[f"raw.factor{item['factor']}.layer{item['index']}.head{head}"] for head in range(item["heads"])]
        )
        for item in META["config"]["layers"]
        if index is None or item["index"] in index
    ]


def test_probabilities_are_the_originals():
    for item in META["config"]["layers"]:
        recorder = Recorder([{str(token): [token] for token in range(TOKENS)}])
        recorder.observe(None, (torch.zeros(2, 4, SIDE, SIDE),), {})
        name = f"layer{item['index']}"
        hidden = IO[f"step0.{name}.hidden_states"]
        recorder.record(
            name, original_layers()[name], (hidden,), {"encoder_hidden_states": IO["encoder_hidden_states"]}, None
        )
        close(recorder.sums[name][0].flatten(-2).transpose(-1, -2), IO[f"step0.{name}.attn_probs_cond"])


def test_sums_over_the_steps_are_the_originals(recorder):
    for summed, raw in zip(recorder.sums.values(), raw_layers(), strict=True):
        close(summed[0], raw)


def test_what_is_recorded_comes_to_the_originals_maps(recorder):
    (maps,) = recorder.maps()
    close(torch.stack([torch.from_numpy(maps[str(token)]) for token in range(TOKENS)]), IO["global"])


@pytest.mark.parametrize(("index", "name"), [(None, "global"), ((0, 2), "global_factors_1_4"), ((1,), "global_layer1")])
def test_token_maps_are_the_originals(index, name):
    close(token_maps(raw_layers(index), (SIDE, SIDE)), IO[name])


def test_the_maps_of_one_head_are_the_originals():
    close(token_maps([layer[1:2] for layer in raw_layers()], (SIDE, SIDE)), IO["global_head1"])


def test_shares_are_the_originals():
    close(shares(IO["global"]), IO["global_normalized"])


def test_words_are_the_originals():
    for number, item in enumerate(META["words"]):
        pieces = [
            p for word in item["word"].split() for p in ({"zorilla": ["zor", "illa</w>"]}.get(word, [f"{word}</w>"]))
        ]
        spans = occurrences(META["tokens"], pieces)
        places = [place + 1 for span in spans for place in range(span.start, span.stop)]
        assert places == item["token_indices"]
        close(word_map(IO["global"], places), IO[f"word{number}"])


def test_a_map_is_stretched_as_the_original_means_it():
    # The original hands (width, height) on where (height, width) is meant: its (40, 28) is of a picture 40 wide.
    heat, size = IO["word0"], tuple(IO["word0_expanded"].shape)
    close(expanded(heat, size), IO["word0_expanded"])
    close(expanded(heat, size, absolute=True), IO["word0_expanded_absolute"])
    close(expanded(heat, size, threshold=0.4), IO["word0_expanded_thr0.4"])


# --- in pipelines -----------------------------------------------------------------------------------------------------


def layout(*captions, size=(16, 16)):
    """Side by side, one upright strip per caption; ``size``: (height, width)."""
    segments = []
    for number, caption in enumerate(captions):
        mask = np.zeros(size, dtype=bool)
        mask[2:, number * size[1] // len(captions) : (number + 1) * size[1] // len(captions) - 1] = True
        segments.append(Segment(LocalCaption(caption.split()[-1], caption, Likelihood.CERTAIN), mask))
    return Layout(tuple(segments))


@pytest.fixture(scope="module")
def pixart():
    return pixart_pipeline()


@pytest.fixture(params=["sd", "sdxl", "pixart"])
def any_pipeline(request):
    """Each kind of pipeline, small."""
    return request.getfixturevalue({"sd": "sd_pipeline", "sdxl": "sdxl_pipeline", "pixart": "pixart"}[request.param])


def same(first, second):
    return all(one.tobytes() == two.tobytes() for one, two in zip(first, second, strict=True))


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_images_stay_the_same_to_the_bit(any_pipeline, guidance_scale):
    sampling = {**FAST, "guidance_scale": guidance_scale}
    prompts, seeds, layouts = [PROMPT, "a cat"], [0, 1], [layout("red book", "a dog"), layout("a cat")]
    plain = generate(any_pipeline, prompts, seeds, **sampling)
    with recording(any_pipeline, ["red", "dog"], prompts) as recorder:
        recorded = generate(any_pipeline, prompts, seeds, **sampling)
    assert same(plain, recorded)
    first, second = recorder.maps()
    assert set(first) == {"red", "dog"} and second == {}
    size = (16 // any_pipeline.vae_scale_factor,) * 2
    assert all(heat.shape == size and heat.dtype == np.float32 and heat.max() > 0 for heat in first.values())

    refined = refine(any_pipeline, prompts, layouts, seeds, **sampling)
    watched = refine(any_pipeline, prompts, layouts, seeds, heat_maps=["red", "cat"], **sampling)
    assert same(refined.images, watched.images)
    assert refined.heat_maps == [{}, {}]
    assert [set(maps) for maps in watched.heat_maps] == [{"red"}, {"cat"}]


def test_maps_do_not_depend_on_the_batch_or_on_what_else_is_asked_for(any_pipeline):
    prompts, seeds = [PROMPT, "a cat and a dog"], [0, 1]
    with recording(any_pipeline, ["red", "dog", "a"], prompts) as together:
        generate(any_pipeline, prompts, seeds, **FAST)
    for prompt, seed, maps in zip(prompts, seeds, together.maps(), strict=True):
        with recording(any_pipeline, ["dog"], [prompt]) as alone:
            generate(any_pipeline, [prompt], [seed], **FAST)
        np.testing.assert_allclose(alone.maps()[0]["dog"], maps["dog"], rtol=2e-4, atol=1e-6)


class Literal:
    """Adds up whole attention matrices of the conditional samples, as the original does: the slow reference."""

    def __init__(self, tokens):
        self.tokens, self.sums = tokens, {}

    def __call__(self, name, layer, args, kwargs, output):
        text = kwargs.get("encoder_hidden_states")
        if text is None:
            return
        query, key = layer.head_to_batch_dim(layer.to_q(args[0])), layer.head_to_batch_dim(layer.to_k(text))
        mask = kwargs.get("attention_mask")
        mask = None if mask is None else layer.prepare_attention_mask(mask, text.shape[1], len(args[0]))
        scores = layer.get_attention_scores(query, key, mask)
        conditional = scores.unflatten(0, (len(args[0]), -1))[-1][..., self.tokens].transpose(-1, -2)
        self.sums[name] = self.sums.get(name, 0) + conditional


@torch.no_grad()
def test_plain_attention_is_recorded_as_it_is(any_pipeline):
    positions = word_positions(any_pipeline, PROMPT, ["red"])["red"]
    network, literal = denoiser(any_pipeline), Literal(list(positions))
    layers = {name: network.get_submodule(name.removesuffix(".processor")) for name in network.attn_processors}
    hooks = [layer.register_forward_hook(partial(literal, name), with_kwargs=True) for name, layer in layers.items()]
    with recording(any_pipeline, ["red"], [PROMPT]) as recorder:
        generate(any_pipeline, [PROMPT], [3], guidance_scale=4.0, **FAST)
    for hook in hooks:
        hook.remove()
    assert recorder.sums.keys() == literal.sums.keys()
    for name, summed in recorder.sums.items():
        torch.testing.assert_close(summed[0].flatten(-2), literal.sums[name], rtol=1e-4, atol=1e-6)


def test_modulated_attention_is_recorded_as_it_is(any_pipeline):
    # With the prompt alone conditioning both, all that differs is the modulation.
    options = {"isolate_phrases": False, "share": 1.0, "power": 0.0}
    maps = {}
    for form, weight in (("fast", 1.0), ("literal", 1.0), ("fast", 1e-9)):
        config = ModulationConfig(form=form, cross_weight=weight, self_weight=0, **options)
        result = refine(any_pipeline, [PROMPT], [layout("red book")], [3], config, heat_maps=["red"], **FAST)
        maps[form, weight] = result.heat_maps[0]["red"]
    np.testing.assert_allclose(maps["fast", 1.0], maps["literal", 1.0], rtol=1e-3, atol=1e-5)
    inside = maps["fast", 1.0][:, : maps["fast", 1.0].shape[1] // 2]
    assert inside.mean() > 1.05 * maps["fast", 1e-9][:, : inside.shape[1]].mean()


def test_other_proportions_have_maps_of_their_own(sd_pipeline):
    size = {"height": 48, "width": 32}
    with recording(sd_pipeline, ["dog"], [PROMPT]) as recorder:
        generate(sd_pipeline, [PROMPT], [0], num_inference_steps=2, **size)
    scale = sd_pipeline.vae_scale_factor
    assert recorder.maps()[0]["dog"].shape == (48 // scale, 32 // scale)


def test_words_of_several_tokens_and_repeated_words(sd_pipeline):
    # "zebra" falls apart into letters; start token first.
    assert word_positions(sd_pipeline, "a red cat and a zebra", ["a", "zebra", "red cat", "dog"]) == {
        "a": (1, 5),
        "zebra": (6, 7, 8, 9, 10),
        "red cat": (2, 3),
    }
    assert word_positions(sd_pipeline, "A RED cat", ["red", "re", ""]) == {"red": (2,)}


def test_words_within_words_are_others(sd_pipeline):
    assert word_positions(sd_pipeline, "a bobcat and a cat", ["cat"]) == {"cat": (7,)}


def hooks(network):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_nothing_is_installed_without_words_and_nothing_stays(sd_pipeline):
    network = denoiser(sd_pipeline)
    before, processors = hooks(network), dict(network.attn_processors)
    for words in ((), ("zebra",)):
        with recording(sd_pipeline, words, [PROMPT]) as recorder:
            assert hooks(network) == before
        assert recorder.maps() == [{}]
    with pytest.raises(RuntimeError, match="stop"), recording(sd_pipeline, ["dog"], [PROMPT]):
        assert hooks(network) > before
        raise RuntimeError("stop")
    assert hooks(network) == before
    assert dict(network.attn_processors) == processors


def test_memory_grows_with_the_tokens_that_are_asked_for(sd_pipeline):
    held = {}
    for words in (["dog"], ["red", "dog"]):
        with recording(sd_pipeline, words, [PROMPT]) as recorder:
            generate(sd_pipeline, [PROMPT], [0], **FAST)
        held[len(words)] = sum(summed.nbytes for summed in recorder.sums.values())
    assert held[2] == 2 * held[1]


def test_other_batches_are_refused(sd_pipeline):
    with (
        pytest.raises(ModelError, match="4 samples, but heat maps are for 1 "),
        recording(sd_pipeline, ["dog"], [PROMPT]),
    ):
        generate(sd_pipeline, [PROMPT, PROMPT], [0, 1], guidance_scale=5.0, **FAST)


def test_other_threads_are_not_recorded(sd_pipeline):
    network = denoiser(sd_pipeline)
    sample, text = torch.zeros(1, 4, 8, 8), torch.zeros(1, 24, 32)
    with torch.no_grad(), recording(sd_pipeline, ["dog"], [PROMPT]) as recorder:
        other = threading.Thread(target=network, args=(sample, 1, text))
        other.start()
        other.join()
        assert not recorder.sums
        network(sample, 1, encoder_hidden_states=text)
    assert recorder.sums


def test_probabilities_of_some_keys_are_those_of_attention():
    torch.manual_seed(0)
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)
    expected = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)[..., [4, 1]].transpose(-1, -2)
    found = probabilities(query, key, [4, 1], torch.nn.functional.scaled_dot_product_attention)
    torch.testing.assert_close(found, expected)


def test_a_network_without_suitable_layers_is_refused():
    recorder = Recorder([{"dog": [1]}])
    layer = Attention(16, 16, heads=2, dim_head=8)
    recorder.observe(None, (torch.zeros(1, 4, 32, 32),), {})
    recorder.record("deep", layer, (torch.zeros(1, 16, 16),), {"encoder_hidden_states": torch.zeros(1, 7, 16)}, None)
    with pytest.raises(ModelError, match="no cross-attention that heat maps can be made of"):
        recorder.maps()
