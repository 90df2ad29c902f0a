"""Every loader against a hub on loopback that refuses, breaks off, or is not there: one message each, with advice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from realignkit.errors import ModelError
from realignkit_plugins.failures import explain, loading
from realignkit_plugins.generators.stable_diffusion import StableDiffusionGenerator
from tests.conftest import HANGS
from tests.tiny import build_pipeline

EVERY = (
    *("stable_diffusion", "structure_diffusion", "deepfloyd_if", "promptist", "lora"),
    *("image_classification", "ram", "florence2", "clipseg", "grounding_dino", "sam"),
    *("clip", "blip", "caption", "image_reward", "llama_cpp"),
)
SERVED = ("image_classification", "ram", "clipseg", "stable_diffusion")
ADVICE = {
    "gated": "Accept them at https://huggingface.co/gated/",
    "nobody": "Check the spelling",
    "no network": "Check the network and run again",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.hub", str(folder / "cache"), str(folder)],
        capture_output=True,
        text=True,
        timeout=HANGS,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_loader_was_tried(found):
    assert set(found) == set(EVERY)


@pytest.mark.parametrize("mode", ADVICE)
@pytest.mark.parametrize("loader", EVERY)
def test_a_refusal_says_what_to_do(found, loader, mode):
    answer = found[loader][mode]
    assert answer["type"] == "ModelError", answer
    assert ADVICE[mode] in answer["text"]
    assert "\n" not in answer["text"]


@pytest.mark.parametrize("loader", EVERY)
def test_a_path_that_is_not_there(found, loader):
    answer = found[loader]["no folder"]
    assert answer["type"] in ("ModelError", "ScorerError"), answer
    assert "there is no f" in answer["text"]


@pytest.mark.parametrize("loader", SERVED)
def test_a_download_that_breaks_off_leaves_nothing_half_and_goes_on(found, loader):
    assert found[loader]["drops"]["type"] == "ModelError"
    assert "Run again: it goes on where it stopped" in found[loader]["drops"]["text"]
    assert found[loader]["resumed"] == {"type": "", "text": "loaded", "left": ""}


@pytest.mark.parametrize("loader", SERVED)
def test_a_file_that_is_only_half_there(found, loader):
    answer = found[loader]["short"]
    assert answer["type"] == "ModelError", answer
    assert "hf cache rm model/short/" in answer["text"]


@pytest.mark.parametrize("loader", SERVED)
def test_too_little_memory(found, loader):
    answer = found[loader]["memory"]
    assert answer["type"] == "ModelError", answer
    assert "does not fit into memory" in answer["text"]


@pytest.mark.parametrize("loader", ["stable_diffusion", "clipseg"])
def test_weights_on_the_hub_in_another_form(found, loader):
    for kind, told in (("variant", "as the variant fp16 only"), ("pickles", "its weights are pickles")):
        answer = found[loader][kind]
        assert answer["type"] == "ModelError", answer
        assert told in answer["text"], answer
        assert "\n" not in answer["text"]


def test_whole_numbers_on_the_hub(found):
    answer = found["stable_diffusion"]["whole numbers"]
    assert answer["type"] == "ModelError", answer
    assert "unet/diffusion_pytorch_model.safetensors are quantised to whole numbers (I8)" in answer["text"]


def test_a_pipeline_from_the_hub_goes_by_its_name_there(found):
    assert found["stable_diffusion"]["name"] == {"type": "", "text": "loaded"}


def test_what_is_out_of_reach_is_known_before_it_is_needed(found):
    answers = found["ram"]["reach"]
    assert {name for name, said in answers.items() if not said} == {"good", "gated", "kept", "folder"}
    assert answers["no folder"] == (
        "its checkpoint './no/ram' (option model) cannot be loaded (there is no folder './no/ram'). Check the path, or "
        "give a hub id (owner/name)."
    )
    assert "(it is not on this machine, and the hub cannot be reached)" in answers["one word"]
    assert answers["far"] == (
        "its checkpoint 'far/ram' (option model) cannot be loaded (it is not on this machine, and the hub cannot be "
        "reached). Check the network and run again, or copy the model here and give its folder."
    )
    assert "the hub knows no 'nobody/ram'" in answers["nobody"]
    assert found["sam"]["reach"]["good"] == ""
    assert found["sam"]["reach"]["nobody"].startswith("its checkpoint 'nobody/sam' (option sam) cannot be loaded")


def test_adapters_from_the_hub(found):
    """By repository, by a file of it, and from the cache without network."""
    for given in ("good/lora", "good/lora:other.safetensors", "kept"):
        assert found["lora"][given] == {"type": "", "text": "loaded"}
    answer = found["lora"]["good/lora:none.safetensors"]
    assert answer["type"] == "ModelError"
    assert "none.safetensors" in answer["text"]


def test_one_file_from_the_hub(found):
    for loader, file in (("stable_diffusion", "model"), ("ram", "ram")):
        assert found[loader][f"good/files:{file}.safetensors"] == {"type": "", "text": "loaded"}
    answer = found["stable_diffusion"]["good/files:none.safetensors"]
    assert answer["type"] == "ModelError"
    assert "lacks a file that is needed" in answer["text"]


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_the_hubs_token_is_in_no_message(variable, monkeypatch):
    token = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz"
    monkeypatch.setenv(variable, f"{token}\n")  # a line end too much: no header may have one, and the library quotes it
    error = ValueError(f"Illegal header value b'Bearer {token}\\n'")
    for local in (False, True):
        told = explain("owner/name", error, local)
        assert "Illegal header value" in told
        assert token[:14] not in told


def torch_mismatch():
    with torch.device("meta"):
        network = torch.nn.Sequential(torch.nn.Linear(128, 128))
    network.load_state_dict({"0.weight": torch.zeros(64, 128), "0.bias": torch.zeros(64)})


def missing_package():
    import no_such_package_anywhere  # noqa: F401


def raised(call):
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (raised(torch_mismatch), "it was made for another model: 0.weight is 64 × 128 where this one has 128 × 128"),
        (
            RuntimeError(
                "Error(s) in loading state_dict for X:\n\tsize mismatch for a.bias: copying a param with shape "
                "torch.Size([64]) from checkpoint, the shape in current model is torch.Size([128])."
            ),
            "it was made for another model: a.bias is 64 where this one has 128",
        ),
        (
            ValueError("Cannot load  because b.weight expected shape torch.Size([128]), but got torch.Size([64]). If"),
            "it was made for another model: b.weight is 64 where this one has 128",
        ),
        (raised(missing_package), "it needs no_such_package_anywhere, which is not installed"),
        (
            ImportError("\nXTokenizer requires the SentencePiece library but it was not found in your environment."),
            "it needs SentencePiece, which is not installed). Install it with 'pip install sentencepiece'",
        ),
        (
            ValueError(
                "The checkpoint you load has model type `zebra` but Transformers does not recognize this.\nMore"
            ),
            "a kind that the installed transformers does not know: 'zebra'",
        ),
        (PermissionError(13, "Permission denied", "x"), "Make the file readable"),
        (RuntimeError("could not open\nPermission denied (os error 13)"), "Make the file readable"),
        (MemoryError(), "it does not fit into memory"),
        (RuntimeError("first line:\n  what is really wrong"), "first line: what is really wrong"),
        (KeyError("x"), "complete and of this kind"),
        (NotImplementedError("Cannot copy out of meta tensor; no data!"), "some of its weights are missing"),
        (RuntimeError("PytorchStreamReader failed locating file data.pkl: file not found"), "of this kind"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_what_is_no_damage_is_not_called_so(error, told):
    text = explain("folder", error, True)
    assert told in text
    assert "damaged" not in text
    assert "opy or download it again" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory"),
        json.JSONDecodeError("Expecting value", "{", 1),
        EOFError("Ran out of input"),
    ],
)
def test_damage_is_called_so(error):
    assert "is damaged or only half there" in explain("folder", error, True)


def test_a_long_message_ends_with_a_sentence():
    text = explain("folder", RuntimeError("One thing.\n" + "Another thing is said here. " * 30), True)
    assert len(text) < 500
    assert "said here). Check" in text


def test_a_pipeline_with_weights_of_another_model_or_none(tmp_path, capfd):
    """What the libraries only log is in the sentence, and nothing stands before it."""
    build_pipeline().save_pretrained(tmp_path / "model")
    for part, change, told in (
        ("unet", {"cross_attention_dim": 48}, "made for another model: down_blocks.0"),
        ("text_encoder", {"hidden_size": 64}, "made for another model: "),
    ):
        shutil.copytree(tmp_path / "model", tmp_path / part)
        config = tmp_path / part / part / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
        refused_quietly(tmp_path / part, told, capfd)
    for part, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        folder = tmp_path / f"{part} in part"
        shutil.copytree(tmp_path / "model", folder)
        path = folder / part / f"{file}.safetensors"
        weights = load_file(path)
        gone = next(name for name in weights if name.endswith("norm1.weight"))
        del weights[gone]
        save_file(weights, path, metadata={"format": "pt"})
        refused_quietly(folder, gone, capfd)


def refused_quietly(folder, told, capfd):
    capfd.readouterr()
    with pytest.raises(ModelError) as caught:
        StableDiffusionGenerator(model=str(folder), device="cpu").pipeline()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "damaged" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_word_that_is_neither_here_nor_on_the_hub():
    """A mistyped path, such as that of --lora, is taken for a hub id."""
    from huggingface_hub.errors import RepositoryNotFoundError

    # Without the response that its own constructor wants.
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError, "401 Client Error. Repository Not Found")
    text = explain("tr", error, False)
    assert text.startswith("(it is neither a file nor a folder here, and the hub knows no 'tr',")


def test_one_warning_of_the_libraries_is_not_shown_and_no_other(recwarn: pytest.WarningsRecorder) -> None:
    with loading("model", "owner/name"):
        warnings.warn("The `local_dir_use_symlinks` argument is deprecated and ignored.", UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)
    assert [str(one.message) for one in recwarn] == ["something else"]
