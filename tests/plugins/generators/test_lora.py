"""Adapters, merged: against W + scale * alpha / r * B A worked out by hand in every format; the rest is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from realignkit.errors import ModelError, OptionError
from realignkit.records import seal
from realignkit_plugins.generators.lora import merge_lora
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests.attention.pixart import pixart_pipeline
from tests.tiny import build_pipeline, shared_pipeline

RANK = 2
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
OUT = "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "encoder.layers.1.self_attn.q_proj"
EVERY = (LAYER, OUT, CONV, TEXT)
Tensors = dict[str, torch.Tensor]


def fresh() -> Any:
    """A pipeline to change."""
    return copy.deepcopy(shared_pipeline())


def weight(pipeline: Any, layer: str) -> torch.Tensor:
    """Of a layer of the text encoder (TEXT) or the U-Net."""
    network = pipeline.text_encoder if layer == TEXT else pipeline.unet
    found: torch.Tensor = network.get_submodule(layer).weight.detach().clone()
    return found


def pair(layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Down (r, in, …) and up (out, r, …) weights that fit a layer, and half precision keeps."""
    shape = weight(shared_pipeline(), layer).shape
    g = torch.Generator().manual_seed(len(layer))
    down = torch.randn(RANK, *shape[1:], generator=g)
    up = torch.randn(shape[0], RANK, *(1 for _ in shape[2:]), generator=g)
    return down.bfloat16().float(), up.bfloat16().float()


def product(layer: str) -> torch.Tensor:
    """``B A``; a convolution's window by window."""
    down, up = pair(layer)
    return torch.einsum("ri...,or->oi...", down, up.flatten(1))


def under(layer: str, down: str, up: str) -> Tensors:
    return dict(zip((down, up), pair(layer), strict=True))


def kohya(layer: str, text: str = "te", alpha: float | None = None, dtype: torch.dtype = torch.float32) -> Tensors:
    key = (f"lora_{text}_text_model_" if layer == TEXT else "lora_unet_") + layer.replace(".", "_")
    found = {
        name: value.to(dtype)
        for name, value in under(layer, f"{key}.lora_down.weight", f"{key}.lora_up.weight").items()
    }
    return found if alpha is None else {**found, f"{key}.alpha": torch.tensor(alpha)}


def diffusers(layer: str, infix: str = "", down: str = "lora_A", up: str = "lora_B") -> Tensors:
    key = ("text_encoder.text_model." if layer == TEXT else "unet.") + layer
    return under(layer, f"{key}.{down}.{infix}weight", f"{key}.{up}.{infix}weight")


def of_old(layer: str) -> Tensors:
    """Of diffusers before it used PEFT: in attention processors, and beside the text encoder's layers."""
    if layer == CONV:
        return {}
    place, _, last = layer.removesuffix(".0").rpartition(".")
    key = f"text_encoder.text_model.{place}.to_q_lora" if layer == TEXT else f"unet.{place}.processor.{last}_lora"
    return under(layer, f"{key}.down.weight", f"{key}.up.weight")


FORMS = {
    "kohya": (lambda n: kohya(n, alpha=3.0), 1.5),
    "kohya, first text encoder": (lambda n: kohya(n, "te1", alpha=1.0), 0.5),
    "kohya without alpha": (kohya, 1.0),
    "kohya in fp16": (lambda n: kohya(n, alpha=1.0, dtype=torch.float16), 0.5),
    "kohya in bf16": (lambda n: kohya(n, alpha=1.0, dtype=torch.bfloat16), 0.5),
    "diffusers": (diffusers, 1.0),
    "diffusers with an adapter's name": (lambda n: diffusers(n, "default_0."), 1.0),
    "diffusers, as realignkit train writes": (lambda n: diffusers(n, down="lora.down", up="lora.up"), 1.0),
    "diffusers, linear layers": (lambda n: diffusers(n, down="lora_linear_layer.down", up="lora_linear_layer.up"), 1.0),
    "diffusers of old": (of_old, 1.0),
    "PEFT": (lambda n: under(n, f"base_model.model.{n}.lora_A.weight", f"base_model.model.{n}.lora_B.weight"), 1.0),
    "PEFT, named": (
        lambda n: under(
            n, f"base_model.model.{n}.lora_A.default.weight", f"base_model.model.{n}.lora_B.default.weight"
        ),
        1.0,
    ),
    "PEFT around diffusers' names": (lambda n: {f"base_model.model.{k}": v for k, v in diffusers(n).items()}, 1.0),
    "bare paths": (lambda n: under(n, f"{n}.lora_A.weight", f"{n}.lora_B.weight"), 1.0),
    "bare paths, alpha": (
        lambda n: {**under(n, f"{n}.lora_down.weight", f"{n}.lora_up.weight"), f"{n}.alpha": torch.tensor(4.0)},
        2.0,
    ),
}


def check(pipeline: Any, factors: dict[str, float]) -> None:
    """Every layer is as it was, plus its factor times ``B A``."""
    plain = shared_pipeline()
    for name in ("unet", "text_encoder"):
        before = getattr(plain, name).state_dict()
        touched = {f"{layer}.weight" for layer in factors if (layer == TEXT) == (name == "text_encoder")}
        for key, value in getattr(pipeline, name).state_dict().items():
            assert key in touched or torch.equal(value, before[key]), f"{key} changed"
    for layer, factor in factors.items():
        want = weight(plain, layer) + factor * product(layer)
        torch.testing.assert_close(weight(pipeline, layer), want)
        assert not torch.equal(want, weight(plain, layer))


@pytest.mark.parametrize("form", FORMS)
def test_every_format_is_merged_exactly(form: str, tmp_path: Path):
    make, ratio = FORMS[form]
    layers = [layer for layer in EVERY if make(layer)]
    tensors = {key: value for layer in layers for key, value in make(layer).items()}
    save_file(tensors, tmp_path / "style.safetensors")
    pipeline = fresh()
    merge_lora(pipeline, str(tmp_path / "style.safetensors"), scale=0.5)
    check(pipeline, dict.fromkeys(layers, 0.5 * ratio))
    assert type(pipeline.unet.get_submodule(LAYER)) is torch.nn.Linear  # plain layers, which can be modulated


def test_one_by_one_convolutions_and_linear_layers_are_the_same(tmp_path: Path):
    tensors = {key: value[..., None, None] if value.ndim else value for key, value in kohya(LAYER, alpha=1.0).items()}
    save_file(tensors, tmp_path / "a.safetensors")
    pipeline = fresh()
    merge_lora(pipeline, str(tmp_path))
    check(pipeline, {LAYER: 0.5})


def test_a_flipped_bit_in_what_a_training_wrote_is_found(tmp_path: Path):
    file = tmp_path / "pytorch_lora_weights.safetensors"
    sealed = bytearray(seal(save(diffusers(LAYER)), {"iteration": "3"}))
    file.write_bytes(sealed)
    pipeline = fresh()
    merge_lora(pipeline, str(file))
    check(pipeline, {LAYER: 1.0})
    sealed[-2] ^= 1
    file.write_bytes(sealed)
    with pytest.raises(ModelError, match="not what was written"):
        merge_lora(fresh(), str(file))


def test_scale_zero_changes_nothing_but_is_read(tmp_path: Path):
    save_file(kohya(LAYER), tmp_path / "a.safetensors")
    pipeline = fresh()
    merge_lora(pipeline, str(tmp_path), scale=0.0)
    check(pipeline, {})
    save_file({"lora_unet_nowhere.lora_down.weight": torch.ones(1, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="fits no layer"):
        merge_lora(pipeline, str(tmp_path), scale=0.0)


# What settings say: of PEFT beside the weights, of diffusers inside the file.


def peft_folder(folder: Path, layers: tuple[str, ...] = (LAYER,), **settings: Any) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value for layer in layers for key, value in FORMS["PEFT"][0](layer).items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "target_modules": list(layers), **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("settings", "ratio"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / math.sqrt(RANK)),
        ({"alpha_pattern": {"attn2.to_q": 5}}, 2.5),
        ({"r": 16, "rank_pattern": {"attn2.to_q": RANK}}, 3.0),
    ],
)
def test_alpha_is_what_the_settings_say(settings: dict[str, Any], ratio: float, tmp_path: Path):
    folder = peft_folder(tmp_path / "adapter", **settings)
    for given in (folder, f"{folder}/adapter_model.safetensors"):
        pipeline = fresh()
        merge_lora(pipeline, given, scale=2.0)
        check(pipeline, {LAYER: 2 * ratio})


def test_settings_inside_a_file_of_diffusers(tmp_path: Path):
    from diffusers import StableDiffusionPipeline

    layers = {key.removeprefix("unet."): value for key, value in diffusers(LAYER).items()}
    texts = {key.removeprefix("text_encoder."): value for key, value in diffusers(TEXT).items()}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=layers,
        text_encoder_lora_layers=texts,
        unet_lora_adapter_metadata={"r": RANK, "lora_alpha": 8, "target_modules": [LAYER]},
        text_encoder_lora_adapter_metadata={"r": RANK, "lora_alpha": 1, "target_modules": ["q_proj"]},
    )
    with pytest.raises(ModelError, match="1 of the 2 layers of the text_encoder"):
        merge_lora(fresh(), str(tmp_path))
    pipeline = fresh()
    merge_lora(pipeline, str(tmp_path), partial=True)
    check(pipeline, {LAYER: 4.0, TEXT: 0.5})


def test_one_folder_for_each_component(tmp_path: Path):
    peft_folder(tmp_path / "unet")
    peft_folder(tmp_path / "text_encoder", (TEXT,), lora_alpha=1)
    pipeline = fresh()
    merge_lora(pipeline, str(tmp_path))
    check(pipeline, {LAYER: 3.0, TEXT: 0.5})


def test_an_adapter_that_peft_trained_on_a_transformer(tmp_path: Path):
    from peft import LoraConfig, get_peft_model

    layer = "transformer_blocks.1.attn1.to_v"
    pixart_pipeline().save_pretrained(tmp_path / "base")
    network = get_peft_model(
        pixart_pipeline().transformer, LoraConfig(r=RANK, lora_alpha=6, target_modules=["to_q", "to_v"])
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    network.save_pretrained(tmp_path / "adapter")
    generator = StableDiffusionGenerator(model=str(tmp_path / "base"), lora=str(tmp_path / "adapter"), lora_scale=0.5)
    pipeline = generator.pipeline()
    assert generator.attention_family == "pixart"
    module = network.base_model.model.get_submodule(layer)
    want = 0.5 * 3 * module.lora_B["default"].weight @ module.lora_A["default"].weight
    want = want + pixart_pipeline().transformer.get_submodule(layer).weight
    torch.testing.assert_close(pipeline.transformer.get_submodule(layer).weight, want)
    assert type(pipeline.transformer).__name__ == "PixArtTransformer2DModel"


# What cannot be merged exactly, or not in full.

FOREIGN = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 32)}
DEEPER = {"lora_unet_down_blocks_7_attentions_0_proj_in.lora_up.weight": torch.ones(32, 2)}
ALL = {f"unet.{LAYER}.alpha": torch.tensor(1.0), **diffusers(LAYER)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (FOREIGN, ["fits no layer", "text_encoder_2", "1 keys"]),
        (DEEPER, ["fits no layer", "layers that its unet does not have"]),
        ({"transformer.single.proj.lora_A.weight": torch.ones(2, 4)}, ["fits no layer", "of transformer, which"]),
        ({"x.y.lora_A.weight": torch.ones(2, 4)}, ["fits no layer"]),
        ({f"unet.{LAYER}.lora_A.weight": torch.ones(2, 16)}, ["fits no layer", "half of a pair"]),
        ({"emb_params": torch.ones(1, 32)}, ["no LoRA but a textual inversion"]),
        ({"unet.conv_in.weight": torch.ones(1, 32)}, ["no LoRA", "none of its 1 keys"]),
        ({f"unet.{LAYER}.dora_scale": torch.ones(4), **ALL}, ["DoRA"]),
        ({f"base_model.model.{LAYER}.lora_magnitude_vector": torch.ones(4), **ALL}, ["DoRA"]),
        ({"lora_unet_x.hada_w1_a": torch.ones(4, 2)}, ["LoHa"]),
        ({"lora_unet_x.lokr_w1": torch.ones(4, 2)}, ["LoKr"]),
        ({"lora_unet_x.lora_mid.weight": torch.ones(2, 2, 3, 3)}, ["LoCon with a middle weight"]),
        ({f"base_model.model.{LAYER}.ia3_l": torch.ones(4)}, ["IA3"]),
        ({"lora_unet_x.diff": torch.ones(4)}, ["whole weights"]),
        ({"lora_unet_x.oft_blocks": torch.ones(4)}, ["OFT"]),
        ({"lora_unet_x.a1.weight": torch.ones(4)}, ["GLoRA"]),
        ({f"unet.{LAYER}.lora_B.bias": torch.ones(16), **ALL}, ["biases"]),
        ({f"unet.{LAYER}.scalar": torch.ones(1), **ALL}, ["not known here", "scalar"]),
        ({**ALL, **kohya(LAYER)}, ["two adapters", LAYER]),
        ({**ALL, **diffusers(LAYER, "default_1.")}, ["two adapters"]),
        ({**ALL, f"unet.{LAYER}.alpha": torch.tensor(0.0)}, ["alpha = 0.0", LAYER]),
        ({**ALL, f"unet.{LAYER}.alpha": torch.tensor(float("nan"))}, ["alpha = nan"]),
        ({**ALL, f"unet.{LAYER}.lora_A.weight": torch.ones(0, 16)}, ["rank 0", LAYER]),
        ({**ALL, f"unet.{LAYER}.lora_A.weight": torch.tensor(1.0)}, ["rank 0", LAYER]),
        ({**ALL, f"unet.{LAYER}.lora_A.weight": torch.ones(2, 17)}, [LAYER, "[2, 17]", "[16, 16]"]),
        ({**ALL, f"unet.{LAYER}.lora_A.weight": torch.ones(3, 16)}, [LAYER, "[3, 16]"]),
        ({**ALL, f"unet.{LAYER}.lora_A.weight": torch.ones(2, 16).to(torch.int8)}, ["quantised"]),
        ({**ALL, f"unet.{LAYER}.lora_A.weight": torch.full((2, 16), float("inf"))}, [LAYER, "infinite or NaN"]),
        ({**ALL, f"unet.{LAYER}.lora_B.weight": torch.zeros(16, 2)}, ["changes nothing", "zero"]),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused(tensors: Tensors, words: list[str], tmp_path: Path):
    save_file(tensors, tmp_path / "a.safetensors")
    pipeline = fresh()
    for partial in (False, True):  # the option takes what fits, never what does not
        with pytest.raises(ModelError) as caught:
            merge_lora(pipeline, str(tmp_path), partial=partial)
        assert all(word in str(caught.value) for word in (*words, str(tmp_path))), caught.value
        assert "\n" not in str(caught.value)
    check(pipeline, {})


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (FOREIGN, ["2 of its 3 keys", "1 are of text_encoder_2, which it does not have"]),
        (DEEPER, ["2 of its 3 keys", "1 are of layers that its unet does not have", "down_blocks_7"]),
        ({"bundle_emb.me": torch.ones(1, 32)}, ["2 of its 3 keys", "of no adapter", "bundle_emb"]),
        ({f"unet.{OUT}.lora_A.weight": torch.ones(2, 16)}, ["2 of its 3 keys", "half of a pair"]),
        ({"lora_unet_mid.alpha": torch.tensor(1.0)}, ["2 of its 3 keys", "lora_unet_mid.alpha"]),
    ],
)
def test_what_fits_in_part_is_merged_when_asked_for(more: Tensors, words: list[str], tmp_path: Path):
    save_file({**diffusers(LAYER), **more}, tmp_path / "a.safetensors")
    pipeline = fresh()
    with pytest.raises(ModelError, match="lora_partial") as caught:
        merge_lora(pipeline, str(tmp_path))
    assert all(word in str(caught.value) for word in words), caught.value
    check(pipeline, {})
    merge_lora(pipeline, str(tmp_path), partial=True)
    check(pipeline, {LAYER: 1.0})


def test_whom_a_file_says_it_is_for(tmp_path: Path):
    save_file(DEEPER, tmp_path / "a.safetensors", metadata={"modelspec.architecture": "flux-1-dev/lora\n"})
    with pytest.raises(ModelError, match=r"made for flux-1-dev/lora[.]"):
        merge_lora(fresh(), str(tmp_path))


def test_layers_that_the_settings_name_and_the_file_lacks(tmp_path: Path):
    folder = peft_folder(tmp_path, target_modules=["to_q"])
    with pytest.raises(ModelError, match="1 of the 14 layers of the unet") as caught:
        merge_lora(fresh(), folder)
    assert "lora_partial" in str(caught.value)
    pipeline = fresh()
    merge_lora(pipeline, folder, partial=True)
    check(pipeline, {LAYER: 3.0})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"r": 8}, ["rank 2", "say 8", LAYER]),
        ({"use_dora": True}, ["DoRA"]),
        ({"use_qalora": True}, ["use_qalora"]),
        ({"lora_bias": True}, ["lora_bias"]),
        ({"peft_type": "LOHA"}, ["LOHA"]),
        ({"init_lora_weights": "pissa_niter_16"}, ["pissa_niter_16"]),
    ],
)
def test_settings_that_mean_something_else(settings: dict[str, Any], words: list[str], tmp_path: Path):
    folder = peft_folder(tmp_path, **settings)
    with pytest.raises(ModelError) as caught:
        merge_lora(fresh(), folder, partial=True)
    assert all(word in str(caught.value) for word in words), caught.value


def test_what_half_precision_cannot_hold(tmp_path: Path):
    save_file({key: value * 1e-5 for key, value in diffusers(LAYER).items()}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"lost in rounding to torch[.]bfloat16"):
        merge_lora(fresh().to(torch.bfloat16), str(tmp_path))
    pipeline = fresh().to(torch.float16)
    save_file({key: value * 300 for key, value in diffusers(LAYER).items()}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="infinite"):
        merge_lora(pipeline, str(tmp_path))
    save_file(diffusers(LAYER), tmp_path / "a.safetensors")
    merge_lora(pipeline, str(tmp_path), scale=0.25)
    want = (weight(shared_pipeline(), LAYER).half().float() + 0.25 * product(LAYER)).half()
    torch.testing.assert_close(weight(pipeline, LAYER), want, atol=2**-10, rtol=2**-10)  # the last bit


def test_the_option_of_generators(tmp_path: Path):
    build_pipeline().save_pretrained(tmp_path / "base")
    save_file({**diffusers(LAYER), **FOREIGN}, tmp_path / "a.safetensors")
    options = {"model": str(tmp_path / "base"), "device": "cpu", "lora": str(tmp_path / "a.safetensors")}
    with pytest.raises(ModelError, match="lora_partial=true"):
        StableDiffusionGenerator(**options).pipeline()
    check(StableDiffusionGenerator(**options, lora_scale=0.5, lora_partial=True).pipeline(), {LAYER: 0.5})
    with pytest.raises(OptionError, match="lora_scale"):
        StableDiffusionGenerator(lora_scale=float("nan"))


def test_what_peft_half_wrote(tmp_path: Path):
    """A file cut off between two tensors: whole pairs are there, and settings that name more."""
    from peft import LoraConfig, get_peft_model

    network = get_peft_model(fresh().unet, LoraConfig(r=RANK, target_modules=["to_q", "to_k"]))
    network.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = {key: torch.ones_like(value) for key, value in load_file(file).items()}
    save_file(dict(list(tensors.items())[: len(tensors) // 2]), file)
    with pytest.raises(ModelError, match=r"14 of the 28 layers of the unet that its settings name"):
        merge_lora(fresh(), str(tmp_path))
