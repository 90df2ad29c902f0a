"""Single files of Stable Diffusion 1.x, 2.x and XL in their authors' layout, small and random, without any network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from realignkit import Realigner
from realignkit.errors import ModelError
from realignkit.registry import default_registry
from realignkit.resolve import choose_generator
from realignkit_plugins.generators.single_file import _prediction
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests.plugins.generators.original import FAMILIES, TEXTS, load, original, same_weights

pytestmark = pytest.mark.usefixtures("no_network")
CLASSES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


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


@pytest.mark.parametrize(
    "renamed",
    [
        lambda name: f"model.{name}",
        lambda name: f"module.{name}",
        lambda name: f"model.{name}" if name.startswith("model.") else name,
        lambda name: name.replace("model.diffusion_model.", "model.diffusion_model.diffusion_model."),
    ],
    ids=["all of them", "of DataParallel", "the U-Net", "in the middle"],
)
def test_names_with_something_before_them_or_written_twice(renamed, models, tmp_path):
    weights = {renamed(name): weight for name, weight in original(models["sd1"], "sd1").items()}
    save_file(weights, tmp_path / "model.safetensors")
    same_weights(load(tmp_path / "model.safetensors"), models["sd1"])


def test_names_that_would_fall_together_stay_as_they_are(models, tmp_path):
    weights = {f"model.{name}": weight for name, weight in original(models["sd1"], "sd1").items()}
    save_file(weights | {"betas": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="keys begin with 'model', 'betas'"):
        load(tmp_path / "model.safetensors")


def test_a_ckpt_with_its_weights_under_another_name(models, tmp_path):
    torch.save({"ema": original(models["sd1"], "sd1"), "step": 3}, tmp_path / "model.ckpt")
    same_weights(load(tmp_path / "model.ckpt"), models["sd1"])


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


def test_settings_that_are_not_there_are_what_is_blamed(files, tmp_path, monkeypatch, capfd):
    def unreachable(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    for config, told in (
        ("owner/nosuch", "'owner/nosuch' cannot be loaded (it is not on this machine, and the hub cannot be reached)"),
        ("./nosuch", "there is no folder './nosuch'"),
        (str(tmp_path), "no file named model_index.json"),
    ):
        with pytest.raises(ModelError) as caught:
            load(files / "sd1.safetensors", config=config)
        assert str(caught.value).startswith("the option config does not help: ")
        assert told in str(caught.value)
        assert "sd1.safetensors" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_settings_of_a_part_that_are_not_there_are_what_is_blamed(part, files, models, tmp_path):
    load(files / "sd1.safetensors").save_pretrained(tmp_path)
    (tmp_path / part / "config.json").unlink()
    with pytest.raises(ModelError) as caught:
        load(files / "sd1.safetensors", config=str(tmp_path))
    assert str(caught.value) == (
        f"the option config does not help: '{tmp_path}' has no {part}/config.json. Give a folder with the settings of "
        f"every part."
    )


def test_the_command_for_adapters_can_be_pasted(tmp_path):
    path = tmp_path / "my style.safetensors"
    save_file({"unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": torch.zeros(4, 8)}, path)
    with pytest.raises(ModelError) as caught:
        load(path)
    assert f"--set generator.lora='{path}'." in str(caught.value)
