"""``realignkit dense``: files, what is on record, and mistakes on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realignkit.attention.dense import dense_diffusion, dense_layout
from tests.tiny import shared_pipeline

PROMPT = "a red book and a yellow pen"
BOX = "a red book=0,0,0.5,1"


@pytest.fixture
def dense(cli, tmp_path: Path):
    return lambda *arguments: cli("dense", "--model", "tiny", "--out", tmp_path / "out", *arguments)


def test_the_image_is_the_functions_own(dense, tmp_path: Path):
    mask = np.zeros((32, 32), dtype=bool)
    mask[4:20, 16:] = True
    Image.fromarray(mask).save(tmp_path / "pen.png")
    result = dense(PROMPT, "--box", BOX, "--mask", f"a yellow pen={tmp_path / 'pen.png'}", "--seed", 7)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == {"dense.png", "layout.png", "dense.json"}
    layout = dense_layout({"a red book": (0, 0, 0.5, 1), "a yellow pen": mask}, (32, 32))
    # The generator's own default: four steps.
    want = dense_diffusion(shared_pipeline(), [PROMPT], [layout], [7], num_inference_steps=4).images[0]
    assert (np.asarray(Image.open(folder / "dense.png")) == np.asarray(want)).all()
    record = json.loads((folder / "dense.json").read_text())
    assert list(record["regions"]) == ["a red book", "a yellow pen"]
    assert record["regions"]["a red book"] == [0, 0, 0.5, 1]
    assert (record["seed"], record["sampling"]["num_inference_steps"], record["notes"]) == (7, 4, [])


def test_the_originals_values_are_options(dense, tmp_path: Path):
    chosen = {"cross_weight": 1.4, "self_weight": 0.1, "size_weight": 0.25}
    result = dense(PROMPT, "--box", BOX, *(f"--set=modulation.{name}={value}" for name, value in chosen.items()))
    assert result.exit_code == 0, result.output
    layout = dense_layout({"a red book": (0, 0, 0.5, 1)}, (32, 32))
    sampling = {"num_inference_steps": 4}
    want = dense_diffusion(shared_pipeline(), [PROMPT], [layout], [42], chosen, **sampling).images[0]
    drawn = np.asarray(Image.open(tmp_path / "out" / "dense.png"))
    assert (drawn == np.asarray(want)).all()
    usual = dense_diffusion(shared_pipeline(), [PROMPT], [layout], [42], **sampling).images[0]
    assert (drawn != np.asarray(usual)).any()
    record = json.loads((tmp_path / "out" / "dense.json").read_text())["modulation"]
    assert {name: record[name] for name in chosen} == chosen


def test_another_picture_is_not_overwritten(dense, tmp_path: Path):
    assert dense(PROMPT, "--box", BOX).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for change, difference in (
        (
            ["--box", "a red book=0,0,1,1"],
            "regions.a red book ([0.0, 0.0, 0.5, 1.0] there, [0.0, 0.0, 1.0, 1.0] now)",
        ),
        (["--box", BOX, "--seed", "9"], "seed (42 there, 9 now)"),
        (["--box", BOX, "--set", "num_inference_steps=3"], "sampling.num_inference_steps (4 there, 3 now)"),
    ):
        refused = dense(PROMPT, *change)
        assert refused.exit_code == 2
        assert f"{difference}. Use another --out, or --overwrite." in " ".join(refused.stderr.split())
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert dense(PROMPT, "--box", BOX).exit_code == 0  # the same again
    assert dense(PROMPT, "--box", BOX, "--seed", "9", "--overwrite").exit_code == 0
    assert json.loads((tmp_path / "out" / "dense.json").read_text())["seed"] == 9
    (tmp_path / "out" / "dense.json").write_text("{")
    drawn = dense(PROMPT, "--box", BOX)
    assert drawn.exit_code == 0
    assert "the picture is drawn again" in " ".join(drawn.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([PROMPT], "say where"),
        ([" ", "--box", BOX], "prompt is empty"),
        (["a red \udcff book", "--box", BOX], "broken character"),
        ([PROMPT, "--box", "a red book"], "PHRASE="),
        ([PROMPT, "--box", "a red book=0,0,1"], "four shares"),
        ([PROMPT, "--box", "a red book=0,0,2,1"], "shares of the image"),
        ([PROMPT, "--box", BOX, "--mask", "a red book=x.png"], "twice"),
        ([PROMPT, "--mask", "a red book=nowhere.png"], "cannot be read"),
        ([PROMPT, "--box", "a blue dog=0,0,1,1"], "not part of"),
        ([PROMPT, "--box", BOX, "--set", "strength=0.5"], "no option 'strength'"),
        ([PROMPT, "--box", BOX, "--set", "modulation.size_weight=2"], "size_weight: Input should be less than"),
        ([PROMPT, "--box", BOX, "--model", "tiny-transformer"], "cannot be re-weighted"),
    ],
)
def test_mistakes_leave_nothing_behind(dense, tmp_path: Path, arguments, message):
    result = dense(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
