"""Single files of Stable Diffusion 1.x, 2.x and XL in their authors' layout, small and random, without any network."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from realignkit import Realigner
from realignkit.errors import ModelError
from realignkit.registry import default_registry
from realignkit.resolve import choose_generator
from realignkit_plugins.generators import clip_bpe
from realignkit_plugins.generators.single_file import _prediction
from realignkit_plugins.generators.single_file_config import _parts, write_config
from realignkit_plugins.generators.single_file_kinds import family_of
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests.plugins.generators.original import FAMILIES, networks, original
from tests.tiny import build_pipeline

CLASSES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
# As published: stable-diffusion-v1-5, stable-diffusion-2-1 (768 pixels), stable-diffusion-xl-base-1.0.
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "use_linear_projection": False,
        "sample_size": 64,
        "in_channels": 4,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "transformer_layers_per_block": [1, 1, 1, 1],
    },
    "sd2": {
        "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
        "sample_size": 96,
    },
    "sdxl": {
        "block_out_channels": [320, 640, 1280],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "sample_size": 128,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
TEXTS: dict[str, dict[str, tuple[Any, ...]]] = {  # hidden, layers, heads, intermediate, projection, activation
    "sd1": {"text_encoder": (768, 12, 12, 3072, 768, "quick_gelu")},
    "sd2": {"text_encoder": (1024, 23, 16, 4096, 1024, "gelu")},
    "sdxl": {
        "text_encoder": (768, 12, 12, 3072, 768, "quick_gelu"),
        "text_encoder_2": (1280, 32, 20, 5120, 1280, "gelu"),
    },
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def models():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return {family: networks(family) for family in FAMILIES}


@pytest.fixture(scope="module")
def files(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for family, parts in models.items():
        save_file(original(parts, family), folder / f"{family}.safetensors")
    return folder


def load(path: Path, **options: Any) -> Any:
    return StableDiffusionGenerator(model=str(path), device="cpu", **options).pipeline()


def same_weights(pipeline, parts):
    for name, wanted in parts.items():
        found = getattr(pipeline, name).state_dict()
        assert found.keys() == wanted.state_dict().keys()
        assert all(torch.equal(found[key], weight) for key, weight in wanted.state_dict().items()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_networks_are_those_of_the_file(family, files, models, capfd):
    path = files / f"{family}.safetensors"
    generator = StableDiffusionGenerator(model=str(path), device="cpu")
    pipeline = generator.pipeline()
    assert type(pipeline).__name__ == CLASSES[family]
    assert generator.attention_family == "unet"
    assert pipeline.name_or_path == str(path)
    same_weights(pipeline, models[family])
    for name in ("unet", "vae"):  # what no weight tells is as in the model that the file was made of
        wanted, found = models[family][name].config, getattr(pipeline, name).config
        for key in wanted.keys() - {
            "sample_size",
            "_use_default_values",
            "_name_or_path",
            "transformer_layers_per_block",
        }:
            assert json.dumps(found[key]) == json.dumps(wanted[key]), key
    for name in TEXTS[family]:
        wanted, found = models[family][name].config, getattr(pipeline, name).config
        for key in ("num_attention_heads", "hidden_act", "eos_token_id", "projection_dim", "layer_norm_eps"):
            assert getattr(found, key) == getattr(wanted, key), key
    said = capfd.readouterr()
    assert said.out == ""
    assert "it/s" not in said.err
    assert "Some weights" not in said.err


@pytest.mark.parametrize("family", FAMILIES)
def test_it_draws_what_the_networks_draw(family, files, models):
    """Beside a pipeline that is put together by hand of the same networks."""
    import diffusers

    pipeline = load(files / f"{family}.safetensors")
    parts = {**models[family], "scheduler": pipeline.scheduler, "tokenizer": pipeline.tokenizer}
    if family == "sdxl":
        parts["tokenizer_2"] = pipeline.tokenizer_2
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    wanted = getattr(diffusers, CLASSES[family])(**parts)
    wanted.set_progress_bar_config(disable=True)
    draw = {"num_inference_steps": 2, "output_type": "np", "height": 128, "width": 128}
    images = [p("a red book", generator=torch.Generator().manual_seed(1), **draw).images for p in (pipeline, wanted)]
    assert np.allclose(
        *images, atol=1e-4
    )  # a file's weights lie elsewhere in memory, and sums are taken in another order
    assert np.isfinite(images[0]).all()
    assert images[0].std() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_sizes_give_the_published_settings(family):
    """Of full size, without a byte of weights; the numbers of weights are those of the published files."""
    with torch.device("meta"):
        parts = networks(family, full_size=True)
        shapes = {name: tuple(weight.shape) for name, weight in original(parts, family).items()}
    counts = {prefix: sum(name.startswith(prefix) for name in shapes) for prefix in ("model.diff", "first_stage")}
    assert counts == {"model.diff": 1680 if family == "sdxl" else 686, "first_stage": 248}
    assert family_of(shapes, "x") == family
    found = _parts(shapes, family, "v_prediction" if family == "sd2" else "epsilon")
    for key, value in PUBLISHED[family].items():
        assert found["unet"][key] == value, key
    assert found["vae"]["block_out_channels"] == [128, 256, 512, 512]
    assert found["vae"]["scaling_factor"] == (0.13025 if family == "sdxl" else 0.18215)
    keys = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "projection_dim",
        "hidden_act",
    )
    for name, values in TEXTS[family].items():
        assert tuple(found[name][key] for key in keys) == values
    assert (
        found["scheduler"]["_class_name"]
        == {
            "sd1": "PNDMScheduler",
            "sd2": "DDIMScheduler",
            "sdxl": "EulerDiscreteScheduler",
        }[family]
    )


def test_the_tokenizer_is_clips(tmp_path):
    """Ids as OpenAI's tokenizer gives them."""
    from transformers import CLIPTokenizer

    words = clip_bpe.vocabulary()
    assert len(words) == clip_bpe.SIZE
    assert (words["!"], words["the</w>"], words["<|startoftext|>"], words["<|endoftext|>"]) == (0, 518, 49406, 49407)
    clip_bpe.write_tokenizer(tmp_path / "tokenizer", 77)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("Hello  WORLD!").input_ids == [49406, 3306, 1002, 256, 49407]
    padded = tokenizer("cat", padding="max_length").input_ids
    assert (len(padded), padded[-1]) == (77, 49407)
    clip_bpe.write_tokenizer(tmp_path / "open", 77, "!")
    assert CLIPTokenizer.from_pretrained(tmp_path / "open")("cat", padding="max_length").input_ids[-1] == 0


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_ckpt_as_a_trainer_wrote_it(zipped, models, tmp_path):
    weights = original(models["sd1"], "sd1")
    extra = {f"model_ema.{i}": torch.zeros(1) for i in range(200)} | {"first_stage_model.loss.logvar": torch.zeros(1)}
    content = {"state_dict": weights | extra, "global_step": 840000, "epoch": 5}
    torch.save(content, tmp_path / "model.ckpt", _use_new_zipfile_serialization=zipped)
    same_weights(load(tmp_path / "model.ckpt"), models["sd1"])


def test_a_hostile_ckpt(models, tmp_path):
    content = {"state_dict": original(models["sd1"], "sd1"), "callbacks": tmp_path}
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(ModelError, match=r"pathlib\..*is refused"):
        load(tmp_path / "model.ckpt")


def test_names_of_older_and_newer_tools(models, tmp_path):
    weights = original(models["sd1"], "sd1")
    old = {name.replace("transformer.text_model.", "transformer."): weight for name, weight in weights.items()}
    new = {name.replace("cond_stage_model.", "conditioner.embedders.0."): weight for name, weight in weights.items()}
    for name, renamed in (("old", old), ("new", new)):
        assert renamed.keys() != weights.keys()
        save_file(renamed, tmp_path / f"{name}.safetensors")
        same_weights(load(tmp_path / f"{name}.safetensors"), models["sd1"])


def test_stable_diffusion_2_written_back_from_diffusers(models, tmp_path):
    """Such files lack the last layer, which nothing reads; small ones say so only by having 23 layers."""
    weights = original(models["sd2"], "sd2")
    prefix = "cond_stage_model.model.transformer.resblocks."
    first = {name.removeprefix(f"{prefix}0."): w for name, w in weights.items() if name.startswith(f"{prefix}0.")}
    weights = {name: weight for name, weight in weights.items() if not name.startswith(prefix)}
    weights |= {f"{prefix}{i}.{name}": weight.clone() for i in range(23) for name, weight in first.items()}
    save_file(weights, tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").text_encoder.config.num_hidden_layers == 23


def test_half_precision_becomes_the_precision_asked_for(models, tmp_path):
    weights = {
        name: weight.half() if weight.is_floating_point() else weight
        for name, weight in original(models["sd1"], "sd1").items()
    }
    save_file(weights, tmp_path / "model.safetensors")
    for dtype, wanted in (("auto", torch.float32), ("bf16", torch.bfloat16)):
        pipeline = load(tmp_path / "model.safetensors", dtype=dtype)
        assert {w.dtype for p in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for w in p.parameters()} == {
            wanted
        }
    assert torch.equal(
        pipeline.unet.conv_in.weight, weights["model.diffusion_model.input_blocks.0.0.weight"].bfloat16()
    )


def prediction(path, **options):
    scheduler = load(path, **options).scheduler.config
    return scheduler.prediction_type, scheduler.get("rescale_betas_zero_snr", False)


def test_what_the_network_predicts(models, files, tmp_path, caplog):
    assert prediction(files / "sd1.safetensors") == ("epsilon", False)
    assert prediction(files / "sd1.safetensors", prediction_type="v_prediction") == ("v_prediction", False)
    assert prediction(files / "sdxl.safetensors") == ("epsilon", False)
    assert caplog.text == ""
    xl = original(models["sdxl"], "sdxl")
    save_file({**xl, "v_pred": torch.tensor(1.0), "ztsnr": torch.tensor(1.0)}, tmp_path / "noob.safetensors")
    assert prediction(tmp_path / "noob.safetensors") == ("v_prediction", True)
    two = original(models["sd2"], "sd2")
    for said, wanted in (("v", "v_prediction"), ("epsilon", "epsilon")):
        save_file(two, tmp_path / "said.safetensors", metadata={"modelspec.prediction_type": said})
        assert prediction(tmp_path / "said.safetensors") == (wanted, False)
    assert caplog.text == ""
    assert prediction(files / "sd2.safetensors", prediction_type="v_prediction")[0] == "v_prediction"
    assert caplog.text == ""
    save_file(two, tmp_path / "silent.safetensors")
    assert prediction(tmp_path / "silent.safetensors")[0] == "epsilon"
    assert "is taken for epsilon. If it draws noise, set generator.prediction_type" in caplog.text


@pytest.mark.parametrize(("spread", "wanted"), [(0.05, "epsilon"), (0.2, "v_prediction")])
def test_stable_diffusion_2_is_judged_by_its_weights(files, spread, wanted):
    """By the last normalisation's bias, which of the published models is small where noise is predicted."""
    bias = torch.linspace(-1, 1, 320)
    telling = {"model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias": spread * bias / bias.std()}
    assert _prediction(files / "sd2.safetensors", telling, "sd2", f"model of {spread}") == wanted
    assert _prediction(files / "sd1.safetensors", telling, "sd1", "model") == "epsilon"


def test_settings_of_the_users(models, tmp_path):
    """For sizes that no published model has: a folder with the settings, here without any weights in it."""
    pipeline = build_pipeline()
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder")}
    save_file(original(parts, "sd1"), tmp_path / "own.safetensors")
    with pytest.raises(ModelError, match=r"width of \[16, 32\].*--set generator.config="):
        load(tmp_path / "own.safetensors")
    pipeline.save_pretrained(tmp_path / "settings")
    for file in (tmp_path / "settings").rglob("*.safetensors"):
        file.unlink()
    found = load(tmp_path / "own.safetensors", config=str(tmp_path / "settings"))
    same_weights(found, parts)
    draw = {"num_inference_steps": 2, "output_type": "np", "height": 32, "width": 32}
    images = [p("a red pen", generator=torch.Generator().manual_seed(1), **draw).images for p in (found, pipeline)]
    assert np.allclose(*images, atol=1e-4)


def test_settings_of_another_model(models, files, tmp_path):
    build_pipeline().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"made for another model: \S+ is 128 × 32 where this one has 64 × 16"):
        load(files / "sd1.safetensors", config=str(tmp_path))


def test_settings_of_another_family(models, files, tmp_path):
    load(files / "sdxl.safetensors").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"label_emb\S+ does not go with its settings"):
        load(files / "sd1.safetensors", config=str(tmp_path))


@pytest.mark.parametrize("shape", [(4,), (32, 32)])
@pytest.mark.parametrize("name", ["input_blocks.0.0.weight", "input_blocks.1.0.out_layers.3.weight", "out.2.weight"])
def test_a_weight_of_an_odd_shape(name, shape, models, tmp_path):
    weights = original(models["sd1"], "sd1") | {f"{UNET}{name}": torch.zeros(shape)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "model.safetensors")
    assert "Error" not in str(caught.value)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "told"),
    [
        ("model.diffusion_model.middle_block.1.proj_out.weight", "some of its weights are missing"),
        ("first_stage_model.decoder.mid.attn_1.q.weight", "some of its weights are missing"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "no weights for 1 parts of the text_encoder"),
        ("model.diffusion_model.input_blocks.1.", "is not built as Stable Diffusion"),
        ("first_stage_model.", "holds a U-Net without VAE"),
        ("cond_stage_model.", "holds a U-Net without text encoder"),
    ],
)
def test_a_file_that_lacks_something(gone, told, models, tmp_path):
    weights = {name: w for name, w in original(models["sd1"], "sd1").items() if not name.startswith(gone)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=told) as caught:
        load(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)


def test_weights_without_a_place(models, tmp_path):
    weights = original(models["sd1"], "sd1") | {"model.diffusion_model.extra.0.weight": torch.zeros(2)}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"1 of the .* weights of its UNet2DConditionModel have no place"):
        load(tmp_path / "model.safetensors")


UNET = "model.diffusion_model."
FIRST = {f"{UNET}input_blocks.0.0.weight": (32, 4, 3, 3)}
XL = {**FIRST, f"{UNET}label_emb.0.0.weight": (8, 8)}
KINDS = {
    "kohya": ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 8)}, "generator.lora="),
    "peft": ({"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": (4, 8)}, "is adapters"),
    "lokr": ({"lycoris_unet_mid_block.lokr_w1": (4, 8)}, "is adapters"),
    "controlnet": ({"control_model.time_embed.0.weight": (8, 8)}, "is a ControlNet"),
    "controlnet of diffusers": ({"controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3)}, "is a ControlNet"),
    "vae": ({"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}, "is a VAE alone"),
    "vae of a checkpoint": ({"first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3)}, "is a VAE alone"),
    "embedding": ({"emb_params": (4, 768)}, "is an embedding"),
    "embedding of XL": ({"clip_l": (4, 768), "clip_g": (4, 1280)}, "is an embedding"),
    "embedding of diffusers": ({"<cat-toy>": (768,)}, "is an embedding"),
    "flux": ({"double_blocks.0.img_attn.qkv.weight": (8, 8)}, "is a FLUX model"),
    "flux of comfy": ({f"{UNET}double_blocks.0.img_attn.qkv.weight": (8, 8)}, "is a FLUX model"),
    "sd3": ({f"{UNET}joint_blocks.0.context_block.attn.qkv.weight": (8, 8)}, "is a Stable Diffusion 3 model"),
    "unet of diffusers": ({"down_blocks.0.resnets.0.conv1.weight": (8, 8, 3, 3)}, "has model_index.json"),
    "unet": ({"input_blocks.0.0.weight": (8, 4, 3, 3)}, "is a U-Net alone"),
    "text encoder": ({"text_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}, "is a text encoder alone"),
    "language model": ({"model.layers.0.mlp.up_proj.weight": (8, 8)}, "is a language model"),
    "motion": ({"down_blocks.0.motion_modules.0.proj_in.weight": (8, 8)}, "AnimateDiff"),
    "ip-adapter": ({"image_proj.proj.weight": (8, 8), "ip_adapter.1.to_k_ip.weight": (8, 8)}, "is an IP-Adapter"),
    "sam": ({"image_encoder.pos_embed": (1, 8, 8, 8), "mask_decoder.iou_token.weight": (1, 8)}, "segmenter.sam"),
    "upscaler": ({"conv_first.weight": (64, 3, 3, 3), "body.0.weight": (1, 1, 1, 1)}, "the first of its 2 weights"),
    "inpainting": ({f"{UNET}input_blocks.0.0.weight": (32, 9, 3, 3)}, "inpaints"),
    "pix2pix": ({f"{UNET}input_blocks.0.0.weight": (32, 8, 3, 3)}, "edits images"),
    "depth": ({f"{UNET}input_blocks.0.0.weight": (32, 5, 3, 3)}, "depth map"),
    "playground": ({**XL, "edm_mean": (4,)}, "is Playground 2.5"),
    "refiner": ({**XL, "conditioner.embedders.0.model.ln_final.bias": (8,)}, "is the refiner"),
    "unet of a checkpoint": (FIRST, "holds a U-Net without text encoder and VAE"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_whole_model_is_named(kind, tmp_path):
    shapes, told = KINDS[kind]
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    with pytest.raises(ModelError, match=told) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"'{path}' ")
    assert "\n" not in text
    assert "damaged" not in text
    assert "{" not in text


def test_a_file_by_its_bare_name_is_a_model(files, monkeypatch):
    monkeypatch.chdir(files)
    info = choose_generator(default_registry(), "sd1.safetensors")
    assert info.options["model"] == "sd1.safetensors"
    realigner = Realigner.from_pretrained(
        "sd1.safetensors",
        tagger="micro",
        segmenter="micro",
        options={"generator": {"device": "cpu"}},
        sampling={"num_inference_steps": 1, "height": 64, "width": 64},
    )
    (image,) = realigner.generate(["a red book"], [1])
    assert image.size == (64, 64)


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="there is no file"):
        load(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    info = choose_generator(default_registry(), "model.safetensors")
    with pytest.raises(ModelError, match="there is no file"):
        info.create(device="cpu").pipeline()


def test_a_preset_for_a_folder_does_not_stand_in_the_way(files):
    """``sdxl`` asks for the variant fp16, which a file does not have."""
    generator = default_registry().create("generator", "sdxl", model=str(files / "sdxl.safetensors"), device="cpu")
    assert type(generator.pipeline()).__name__ == "StableDiffusionXLPipeline"


def test_the_settings_are_a_folder_of_diffusers(models, tmp_path):
    shapes = {name: tuple(weight.shape) for name, weight in original(models["sdxl"], "sdxl").items()}
    write_config(tmp_path, shapes, "sdxl", "epsilon", zero_snr=False, model="x")
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert {name for name in index if not name.startswith("_")} == {
        *("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"),
        "force_zeros_for_empty_prompt",
    }
    shutil.rmtree(tmp_path / "tokenizer")
