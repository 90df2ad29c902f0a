"""DenseDiffusion's own numbers, reproduced: tokens, maps, sizes, schedule, scores, outputs, cut-off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from safetensors.torch import load_file

from realignkit.attention.config import ModulationConfig
from realignkit.attention.modulation import area_fraction, modulated_similarity, region_matrix, time_weight
from realignkit.attention.processor import ModulatedAttention, ModulatedAttnProcessor
from realignkit.attention.regions import Regions, region_maps, resize_masks
from realignkit.pipelines.phrases import isolate
from realignkit.pipelines.spans import find_span

FOLDER = Path(__file__).parents[1] / "golden" / "densediffusion"
META = json.loads((FOLDER / "meta.json").read_text())
IO = load_file(FOLDER / "io.safetensors")
WEIGHTS = load_file(FOLDER / "checkpoint.safetensors")
SETTINGS = META["config"]
TOLERANCE = {"rtol": META["tolerance"]["rtol"], "atol": META["tolerance"]["atol"]}
LATENT = (SETTINGS["sample_size"],) * 2


def phrase_ids() -> list[list[int]]:
    """Each segment's token ids without start and end."""
    rows, lengths = IO["prompt_ids"][1:].tolist(), IO["prompt_lengths"][1:].tolist()
    return [row[1 : length - 1] for row, length in zip(rows, lengths, strict=True)]


def spans() -> list[slice]:
    text = IO["prompt_ids"][0].tolist()
    found = [find_span(text, ids) for ids in phrase_ids()]
    assert all(found)
    return found


@pytest.fixture(scope="module")
def regions() -> Regions:
    masks = torch.stack([IO[f"binary_matrix_{i}"] for i in range(len(spans()))]).bool()
    tokens = torch.zeros(SETTINGS["max_tokens"], len(masks), dtype=torch.bool)
    for i, span in enumerate(spans()):
        tokens[span, i] = True
    # DenseDiffusion knows no likelihoods: S = 1 everywhere.
    return Regions(tokens, masks, torch.ones(len(masks)))


def test_spans_are_the_originals():
    expected = [(item["start"], item["length"]) for item in META["token_spans"]]
    assert [(span.start, span.stop - span.start) for span in spans()] == expected
    assert [ids == item["ids"] for ids, item in zip(phrase_ids(), META["token_spans"], strict=True)] == [True] * 3


def test_phrase_embeddings_are_replaced():
    text = IO["cond_embeddings"][0]
    for i, span in enumerate(spans()):
        text = isolate(text, span, IO["cond_embeddings"][i + 1], offset=1)
    torch.testing.assert_close(text, IO["text_cond"][1], rtol=0, atol=0)
    torch.testing.assert_close(IO["uncond_embeddings"][0], IO["text_cond"][0], rtol=0, atol=0)


@pytest.mark.parametrize("overlap", ["smaller", "union"])
def test_masks_at_latent_size(regions, overlap):
    masks = resize_masks(regions.masks, LATENT, LATENT, overlap=overlap)
    torch.testing.assert_close(masks.float(), IO["layouts"][:, 0], rtol=0, atol=0)


@pytest.mark.parametrize("side", SETTINGS["map_resolutions"])
@pytest.mark.parametrize("overlap", ["smaller", "union"])
def test_region_maps_and_sizes(regions, side, overlap):
    maps = region_maps([regions], (side, side), LATENT, overlap=overlap)
    length, atol = side * side, META["tolerance"]["atol_maps"]
    cross, own = region_matrix(maps.cells, maps.tokens), region_matrix(maps.cells, maps.cells)
    torch.testing.assert_close(cross.float(), IO[f"creg_map_{length}"], rtol=0, atol=atol)
    torch.testing.assert_close(own.float(), IO[f"sreg_map_{length}"], rtol=0, atol=atol)
    size = 1 - area_fraction(maps.cells)[..., None] * SETTINGS["sizereg"]
    torch.testing.assert_close(size, IO[f"reg_sizes_{length}"], rtol=0, atol=atol)


def test_schedule():
    ours = [time_weight(t, 1.0, ModulationConfig().power) for t in IO["timesteps"].tolist()]
    torch.testing.assert_close(torch.tensor(ours), IO["treg"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", sorted(key.removesuffix(".sim_mod") for key in IO if key.endswith(".sim_mod")))
def test_modulated_similarity(regions, name):
    case = next(case for case in META["cases"] if case["name"] == name)
    raw, expected = IO[f"{name}.sim_raw"], IO[f"{name}.sim_mod"]
    side = int(case["L"] ** 0.5)
    maps = region_maps([regions], (side, side), LATENT)
    cross = case["kind"] == "cross"
    weight = SETTINGS["creg" if cross else "sreg"] * case["treg"]
    half = raw.shape[0] // 2
    ours = modulated_similarity(
        raw[half:],
        region_matrix(maps.cells, maps.tokens if cross else maps.cells),
        weight,
        score=maps.score[..., None],
        area=maps.area[..., None],
    )
    torch.testing.assert_close(ours, expected[half:], **TOLERANCE)
    torch.testing.assert_close(raw[:half], expected[:half], rtol=0, atol=0)  # the unconditional half is left alone


def layer(kind: str) -> Attention:
    prefix = {"self": "attn1.", "cross": "attn2."}[kind]
    attention = Attention(
        query_dim=SETTINGS["query_dim"],
        cross_attention_dim=SETTINGS["cross_attention_dim"] if kind == "cross" else None,
        heads=SETTINGS["heads"],
        dim_head=SETTINGS["dim_head"],
    )
    own = {key.removeprefix(prefix): value for key, value in WEIGHTS.items() if key.startswith(prefix)}
    attention.load_state_dict(own, strict=True)
    return attention.eval()


def attend(regions: Regions, kind: str, hidden: torch.Tensor, step: int, **options) -> torch.Tensor:
    config = ModulationConfig(**options)
    schedule = IO["timesteps"].double()
    state = ModulatedAttention((regions,), config, schedule, len(schedule))
    state.observe(None, (torch.zeros(2, 4, *LATENT), IO["timesteps"][step]), {})
    attention = layer(kind)
    attention.set_processor(ModulatedAttnProcessor(state, AttnProcessor2_0()))
    with torch.no_grad():
        return attention(hidden, encoder_hidden_states=IO["text_cond"] if kind == "cross" else None)


@pytest.mark.parametrize("options", [{}, {"form": "literal"}, {"overlap": "union"}], ids=["fast", "literal", "union"])
@pytest.mark.parametrize("case", META["cases"], ids=lambda case: case["name"])
def test_outputs(regions, case, options):
    out = attend(regions, case["kind"], IO[f"hidden_states_{case['L']}"], case["step"], **options)
    torch.testing.assert_close(out, IO[f"{case['name']}.out"], **TOLERANCE)


def test_output_of_image_shaped_states(regions):
    hidden = IO["hidden_states_64"].transpose(1, 2).reshape(2, -1, 8, 8)
    out = attend(regions, "self", hidden, step=5 // SETTINGS["attention_calls_per_step"])
    torch.testing.assert_close(out, IO["self_4d_count5.out"], **TOLERANCE)
