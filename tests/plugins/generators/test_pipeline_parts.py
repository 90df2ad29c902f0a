"""Folders of pipelines with parts that are missing, empty or of another model: said at loading, in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from realignkit.errors import ModelError
from realignkit.registry import default_registry
from realignkit_plugins.generators.pipeline_parts import check_fit
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests.attention.pixart import pixart_pipeline
from tests.tiny import build_pipeline


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    build_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "pipeline"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        StableDiffusionGenerator(model=str(folder), device="cpu").pipeline()
    text = str(caught.value)
    assert str(folder) in text
    assert "Error" not in text
    return text


def change(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def plain_files(tokenizer: Path) -> None:
    """The words and merges of a tokenizer in files of their own, as most published folders have them."""
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "unet", "vae", "scheduler"])
def test_a_part_without_a_folder_is_named(part: str, folder: Path) -> None:
    shutil.rmtree(folder / part)
    assert f"(it has no {part}/). Copy or download it again" in refusal(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_without_weights_is_named(part: str, folder: Path) -> None:
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ModelError, match=rf"{part}"):
        StableDiffusionGenerator(model=str(folder), device="cpu").pipeline()


def test_a_tokenizer_without_words(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert "has no vocabulary: it knows 2 tokens, none of them a word. Copy or download tokenizer/" in refusal(folder)


@pytest.mark.parametrize("gone", ["vocab.json", "merges.txt"])
def test_half_a_tokenizer(gone: str, folder: Path) -> None:
    plain_files(folder / "tokenizer")
    StableDiffusionGenerator(model=str(folder), device="cpu").pipeline()
    (folder / "tokenizer" / gone).unlink()
    assert "(its tokenizer has one of vocab.json and merges.txt without the other). Copy" in refusal(folder)


def test_a_pointer_in_place_of_the_words(folder: Path) -> None:
    plain_files(folder / "tokenizer")
    (folder / "tokenizer" / "vocab.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\n")
    assert "(tokenizer/vocab.json is a Git LFS pointer of a few lines, not the file that it" in refusal(folder)


@pytest.mark.parametrize("index", [[1, 2], {}, {"unet": ["diffusers", "UNet2DConditionModel"]}])
def test_an_index_that_names_no_pipeline(index: Any, folder: Path) -> None:
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "its model_index.json names no pipeline" in refusal(folder)


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
def test_an_index_that_gives_no_part(part: str, folder: Path) -> None:
    change(folder / "model_index.json", **{part: [None, None]})
    assert f"(its model_index.json gives no {part}, which a StableDiffusionPipeline needs)" in refusal(folder)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("StableDiffusionDepth2ImgPipeline", "it is a StableDiffusionDepth2ImgPipeline, which diffusers does not list"),
        ("StableDiffusionUpscalePipeline", "it is a StableDiffusionUpscalePipeline, which diffusers does not list"),
        ("OwnPipeline", "names a OwnPipeline, which the installed diffusers does not know"),
    ],
)
def test_pipelines_of_another_kind(kind: str, told: str, folder: Path) -> None:
    change(folder / "model_index.json", _class_name=kind)
    text = refusal(folder)
    assert told in text
    assert text.endswith("Use a text-to-image checkpoint.")


def test_parts_that_do_not_fit_are_told_at_loading(folder: Path) -> None:
    unet = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config({**unet, "cross_attention_dim": 48}).save_pretrained(folder / "unet")
    assert "do not fit together: its unet reads texts of width 48, and its text encoder makes 32" in refusal(folder)


def with_unet(pipeline: Any, **settings: Any) -> None:
    known = {name: value for name, value in pipeline.unet.config.items() if not name.startswith("_")}
    pipeline.unet = UNet2DConditionModel(**{**known, **settings})


def more_latents(pipeline: Any) -> None:
    pipeline.vae = AutoencoderKL.from_config({**pipeline.vae.config, "latent_channels": 16})


def fewer_words(pipeline: Any) -> None:
    pipeline.text_encoder.config.vocab_size = 20
    pipeline.text_encoder = CLIPTextModel(pipeline.text_encoder.config)


MISFITS = {
    "texts": (lambda p: with_unet(p, cross_attention_dim=48), "reads texts of width 48, and its text encoder makes 32"),
    "latents": (more_latents, "its unet reads 4 channels, and its vae makes 16"),
    "outputs": (lambda p: with_unet(p, out_channels=8), "its unet reads 4 channels and predicts 8"),
    "words": (fewer_words, "tokens, the model only 20. Use parts of the same model"),
    "classes": (lambda p: with_unet(p, num_class_embeds=5), "wants the label of a class beside the prompt"),
    "prediction": (lambda p: p.scheduler.register_to_config(prediction_type="foo"), "the prediction_type 'foo'"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_parts_that_do_not_fit(misfit: str) -> None:
    pipeline = build_pipeline()
    check_fit(pipeline, "unet", "mine")
    spoil, told = MISFITS[misfit]
    spoil(pipeline)
    with pytest.raises(ModelError, match="'mine") as caught:
        check_fit(pipeline, "unet", "mine")
    assert told in str(caught.value)


def test_parts_that_fit() -> None:
    """Inpainting networks are told of where they are drawn with; PixArt predicts a variance too."""
    pipeline = build_pipeline()
    with_unet(pipeline, in_channels=9)
    check_fit(pipeline, "unet", "mine")
    check_fit(pixart_pipeline(), "transformer", "mine")


def with_vae(folder: Path, vae: object) -> StableDiffusionGenerator:
    return StableDiffusionGenerator(model=str(folder), vae=str(vae), device="cpu")


@pytest.fixture
def finer(folder: Path, tmp_path: Path) -> Path:
    """An autoencoder of the same latents and twice the size."""
    config = AutoencoderKL.load_config(folder / "vae")
    widths = config["block_out_channels"]
    blocks = {name: [*config[name], config[name][-1]] for name in ("down_block_types", "up_block_types")}
    vae = AutoencoderKL.from_config({**config, **blocks, "block_out_channels": [*widths, widths[-1]]})
    vae.save_pretrained(tmp_path / "finer")
    return tmp_path / "finer"


def test_another_vae_decodes(folder: Path, finer: Path) -> None:
    shutil.rmtree(folder / "vae")  # nothing of it is read
    pipeline = with_vae(folder, finer).pipeline()
    assert torch.equal(pipeline.vae.decoder.conv_in.weight, AutoencoderKL.from_pretrained(finer).decoder.conv_in.weight)
    assert not pipeline.vae.training
    size = pipeline.unet.config.sample_size * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    image = pipeline("a red book", num_inference_steps=1).images[0]
    assert image.size == (size, size)


def without_weights(vae: Path) -> None:
    (vae / "diffusion_pytorch_model.safetensors").unlink()


def as_pickle(vae: Path) -> None:
    weights = vae / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), vae / "diffusion_pytorch_model.bin")
    weights.unlink()


def less_of_it(vae: Path) -> None:
    weights = load_file(vae / "diffusion_pytorch_model.safetensors")
    weights.pop("decoder.conv_out.weight")
    save_file(weights, vae / "diffusion_pytorch_model.safetensors")


def quantised(vae: Path) -> None:
    weights = load_file(vae / "diffusion_pytorch_model.safetensors")
    whole = {name: w.to(torch.int8) if name.endswith("conv_out.weight") else w for name, w in weights.items()}
    save_file(whole, vae / "diffusion_pytorch_model.safetensors")


SPOILT_VAES = {
    "no weights": (without_weights, "the vae '{}' cannot be loaded"),
    "a pickle": (as_pickle, "(its weights are pickles, which can run code and are not read"),
    "missing": (less_of_it, "'{}' holds no weights for 1 parameters of AutoencoderKL (decoder.conv_out.weight"),
    "quantised": (quantised, "'{}' cannot be used: the weights of "),
    "settings": (lambda vae: (vae / "config.json").write_text("{"), "the vae '{}' cannot be loaded"),
    "no settings": (
        lambda vae: (vae / "config.json").unlink(),
        "'{}' has no config.json. Give a folder or hub id of an AutoencoderKL alone",
    ),
    "another kind": (lambda vae: change(vae / "config.json", _class_name="VQModel"), "'{}' is a VQModel, no "),
    "latents": (lambda vae: change(vae / "config.json", latent_channels=16), "the vae '{}' cannot be loaded"),
}


@pytest.mark.parametrize("spoilt", SPOILT_VAES)
def test_another_vae_is_as_safe_as_the_model(spoilt: str, folder: Path, finer: Path) -> None:
    spoil, told = SPOILT_VAES[spoilt]
    spoil(finer)
    with pytest.raises(ModelError) as caught:
        with_vae(folder, finer).pipeline()
    assert told.format(finer) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_vae_has_to_fit(folder: Path, finer: Path) -> None:
    AutoencoderKL.from_config({**AutoencoderKL.load_config(finer), "latent_channels": 16}).save_pretrained(finer)
    with pytest.raises(ModelError, match="its unet reads 4 channels, and its vae makes 16") as caught:
        with_vae(folder, finer).pipeline()
    assert f"the parts of '{folder}' and '{finer}' do not fit together" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "own"),
    [("scaling_factor", 0.695, 0.18215), ("shift_factor", 0.1, None), ("latents_mean", [0.5] * 4, None)],
)
def test_another_vae_decodes_the_same_latents(name: str, value: object, own: object, folder: Path, finer: Path) -> None:
    change(finer / "config.json", **{name: value})
    with pytest.raises(ModelError) as caught:
        with_vae(folder, finer).pipeline()
    assert str(caught.value) == (
        f"'{finer}' decodes other latents than '{folder}' draws: its {name} is {value}, that of the model's own vae "
        f"{own}. Set the option vae to null, with which the model's own is used."
    )


def test_a_shift_of_zero_is_none(folder: Path, finer: Path) -> None:
    change(finer / "config.json", shift_factor=0.0)
    assert with_vae(folder, finer).pipeline().vae.config.shift_factor == 0.0


def test_the_embedded_decoder_is_for_models_of_its_latents(folder: Path, tmp_path: Path) -> None:
    registry = default_registry()
    with pytest.raises(ModelError, match=r"'micro:vae_256' decodes other latents than .*: its scaling_factor is "):
        registry.create("generator", "micro_256", model=str(folder), device="cpu").pipeline()
    original = registry.create("generator", "micro_256", model=str(folder), device="cpu", vae=None).pipeline()
    assert original.vae.config.scaling_factor == AutoencoderKL.load_config(folder / "vae")["scaling_factor"]
    registry.create("generator", "micro", device="cpu").pipeline().save_pretrained(tmp_path / "trained")
    trained = registry.create("generator", "micro_256", model=str(tmp_path / "trained"), device="cpu").pipeline()
    assert trained.vae.config.sample_size == 256


@pytest.mark.parametrize("vae", ["micro:base", "micro:nope", "nowhere/at/all", "vae.safetensors"])
def test_what_is_no_vae(vae: str, folder: Path) -> None:
    with pytest.raises(ModelError, match=r"'(micro:)?[\w/.]+'.*\. "):
        with_vae(folder, vae).pipeline()


def test_another_vae_only_where_an_autoencoderkl_is(folder: Path, finer: Path) -> None:
    change(folder / "model_index.json", vae=["diffusers", "AutoencoderKLQwenImage"])
    with pytest.raises(ModelError, match="has the vae AutoencoderKLQwenImage, and another can only stand for an"):
        with_vae(folder, finer).pipeline()
