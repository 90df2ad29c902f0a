from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from realignkit import provenance
from realignkit.provenance import contents, differences, fingerprint, fingerprint_of_image, placeless


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "unet" / "weights.safetensors").write_bytes(b"w" * 100)
    return folder


def test_a_folder_is_known_by_its_contents_wherever_it_lies(tmp_path: Path, model: Path):
    before = fingerprint(model)
    copy = shutil.copytree(model, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert fingerprint(copy) == before
    (copy / "README.md").write_text("a card")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x").write_text("hidden")
    assert fingerprint(copy) == before
    (copy / "unet" / "weights.safetensors").write_bytes(b"v" + b"w" * 99)  # as long as before
    assert fingerprint(copy) != before
    os.rename(model / "unet" / "weights.safetensors", model / "unet" / "other.safetensors")
    assert fingerprint(model) != before


def test_links_and_marks_lead_nowhere_else(model: Path, tmp_path: Path, monkeypatch):
    before = fingerprint(model)
    (model / "unet" / "up").symlink_to(model, target_is_directory=True)
    (model / "gone.json").symlink_to(tmp_path / "nowhere")
    os.mkfifo(model / "pipe")
    assert fingerprint(model) == before
    monkeypatch.chdir(tmp_path)
    (tmp_path / "auto").mkdir()
    assert contents({"separator": "/", "end": ".", "dtype": "auto", "device": str(model)}) == {}


def test_beyond_a_limit_sizes_and_dates_stand_for_contents(model: Path, monkeypatch):
    monkeypatch.setattr(provenance, "READ_UP_TO", 50)
    weights = model / "unet" / "weights.safetensors"
    before, state = fingerprint(model), weights.stat()
    weights.write_bytes(b"v" * 100)
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fingerprint(model) == before
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000_000))
    assert fingerprint(model) != before
    assert provenance.stamps([weights], content=True) != provenance.stamps([weights])


def test_of_a_training_the_weights_count_and_not_its_log(model: Path):
    (model / "training.json").write_text("{}")
    (model / "pytorch_lora_weights.safetensors").write_bytes(b"lora")
    before = fingerprint(model)
    (model / "log.jsonl").write_text("more")
    (model / "checkpoints").mkdir()
    (model / "checkpoints" / "x.safetensors").write_bytes(b"x")
    assert fingerprint(model) == before
    (model / "pytorch_lora_weights.safetensors").write_bytes(b"LORA")
    assert fingerprint(model) != before


def test_options_that_name_what_is_there(model: Path, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    others = {"steps": 3, "revision": None, "companions": {"a": "model"}}
    options = {
        "generator": {"model": str(model), "lora": "model/unet", **others},
        "scorer": {"gpt": {"model": "gpt-4o", "cache_dir": str(model), "template": "x" * 5000, "odd": "a\0b"}},
    }  # fmt: skip
    inside = contents(options)
    assert inside.keys() == {"generator.model", "generator.lora"}
    assert inside["generator.model"] == fingerprint(model)
    named = placeless(options)
    assert named["generator"]["model"] == fingerprint(model)
    assert named["scorer"] == options["scorer"]
    assert options["generator"]["model"] == str(model)


def test_what_differs_is_said_by_contents_where_they_are_known():
    before = {"a": {"model": "/old/place", "share": 0.5}, "contents": {"a.model": "2 files, x"}}
    moved = {"a": {"model": "/new/place", "share": 0.5}, "contents": {"a.model": "2 files, x"}}
    assert differences(before, moved) == []
    changed = {"a": {"model": "/old/place", "share": 0.9}, "contents": {"a.model": "2 files, y"}}
    assert differences(before, changed) == [
        "a.share (0.5 there, 0.9 now)",
        "what is in a.model (2 files, x there, 2 files, y now)",
    ]
    hub = {"a": {"model": "owner/name", "share": 0.5}, "contents": {}}
    assert len(differences(before, hub)) == 2
    earlier = {"a": {"model": "/old/place", "share": 0.5}}  # a record that says nothing of contents
    assert differences(earlier, before) == []
    assert differences(earlier, moved) == ['a.model ("/old/place" there, "/new/place" now)']


def test_what_another_version_wrote_is_said_to_be():
    settings = {"seed": 1, "modulation": {"share": 0.3, "clamp": False}, "scorer": {"lexical": {"kinds": True}}}
    earlier = {"seed": 1, "modulation": {"share": 0.3}, "scorer": {"lexical": {"kinds": True}}}
    wrote = "version of realignkit or of a plugin wrote it"
    assert differences(earlier, settings) == [f"an earlier {wrote}, without modulation.clamp"]
    assert differences(settings, earlier) == [f"a later {wrote}, with modulation.clamp"]
    other = {**earlier, "modulation": {"share": 0.5, "old": 1}}
    assert differences(other, settings) == [
        "modulation.share (0.5 there, 0.3 now)",
        f"another {wrote}, without modulation.clamp and with modulation.old",
    ]
    # What is given now and was not then, and the options of another plugin, are no matter of versions.
    assert differences(settings, {**settings, "candidates": 4}) == ["candidates (null there, 4 now)"]
    assert differences(settings, {**settings, "scorer": {"gpt4": {"model": "x"}}}) == [
        'scorer.gpt4.model (null there, "x" now)',
        "scorer.lexical.kinds (true there, null now)",
    ]


def test_images_are_known_by_their_pixels():
    red, blue = (Image.new("RGB", (4, 3), colour) for colour in ("red", "blue"))
    assert fingerprint_of_image(red) == fingerprint_of_image(red.copy())
    assert fingerprint_of_image(red) != fingerprint_of_image(blue)
    assert fingerprint_of_image(red) != fingerprint_of_image(Image.new("RGB", (3, 4), "red"))


def test_options_are_left_out_at_any_depth():
    options = {
        "device": "cpu",
        "options": {"clip": {"dtype": "bf16", "margin": 0.5}},
        "companions": {"tagger": "micro"},
    }
    assert provenance.without(options, provenance.MACHINE | provenance.COMPANY) == {
        "options": {"clip": {"margin": 0.5}}
    }


def test_a_group_that_is_empty_in_one_record_is_of_no_other_version():
    given, none = {"options": {"options": {"estimator": "soft"}}}, {"options": {"options": {}}}
    assert differences(given, none) == ['options.options.estimator ("soft" there, null now)']
    assert differences(none, given) == ['options.options.estimator (null there, "soft" now)']
    assert differences(none, {"options": {"options": None}}) == ["options.options ({} there, null now)"]
