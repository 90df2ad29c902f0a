"""Heat maps of a realignment: the value, its file, and how a realigner comes by them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from realignkit import Realigner
from realignkit.errors import DamagedError, ModelError, OptionError, PromptError
from realignkit.evaluation.runs import run_many
from realignkit.heatmap import HEAT_MAPS, HeatMap
from realignkit.realignment import RECORD, Realignment, copied
from realignkit.types import Layout
from tests.attention.flow_pipelines import sd3_pipeline
from tests.tiny import certain

PROMPT = "a red book and a yellow pen"


def heat(seed, size=(3, 4)):
    return np.random.default_rng(seed).random(size, dtype=np.float32)


def made(*heat_maps):
    image = Image.new("RGB", (8, 6), "red")
    return Realignment("a red <b>", 3, image, (), (), Layout(), image, heat_maps=heat_maps)


# --- the value and its file -------------------------------------------------------------------------------------------


def test_heat_maps_are_equal_where_what_they_hold_is():
    one = HeatMap("red", heat(0), heat(1))
    assert one == HeatMap("red", heat(0), heat(1)) and hash(one) == hash(HeatMap("red"))
    for other in (HeatMap("blue", heat(0), heat(1)), HeatMap("red", heat(0)), HeatMap("red", heat(0), heat(2)), "red"):
        assert one != other
    assert repr(HeatMap("red", heat(0))) == "HeatMap('red', coarse=3 x 4, refined=none)"


def test_heat_maps_are_read_back_to_the_bit(tmp_path):
    one = made(HeatMap("red", heat(0), heat(1)), HeatMap("猫 / $x", None, heat(2)), HeatMap("a", heat(3)))
    again = Realignment.load(one.save(tmp_path))
    assert again == one and again.heat_maps == one.heat_maps
    assert again != replace(one, heat_maps=one.heat_maps[:2])


def test_without_heat_maps_a_folder_is_what_it_was(tmp_path):
    made(HeatMap("red", heat(0))).save(tmp_path)
    made().save(tmp_path)
    assert not (tmp_path / HEAT_MAPS).exists()
    assert "heat_maps" not in json.loads((tmp_path / RECORD).read_text())


@pytest.mark.parametrize(
    "arrays",
    [
        {"7.coarse": heat(0)},
        {"0.coarse": heat(0)[0]},
        {"0.coarse": heat(0).astype(np.float64)},
        {"0.coarse": heat(0) * np.float32("nan")},
        None,
    ],
)
def test_damaged_files_are_refused(tmp_path, arrays):
    folder = made(HeatMap("red", heat(0))).save(tmp_path)
    if arrays is None:
        (folder / HEAT_MAPS).write_bytes(b"\x08")
    else:
        save_file(arrays, folder / HEAT_MAPS)
    with pytest.raises(DamagedError, match=r"heat_maps\.safetensors .*Make it again"):
        Realignment.load(folder)
    (folder / HEAT_MAPS).unlink()
    with pytest.raises(DamagedError, match="is missing"):
        Realignment.load(folder)


def test_a_copy_has_maps_of_its_own():
    one = made(HeatMap("red", heat(0)))
    copied(one).heat_maps[0].coarse[:] = 0
    assert one.heat_maps[0].coarse.max() > 0


# --- from the realigner -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("candidates", [1, 3])
def test_images_stay_the_same_to_the_bit(make_realigner, candidates):
    options = {"candidates": candidates, "select_by": "darkness"} if candidates > 1 else {}
    plain = make_realigner(**options)(PROMPT, 7)
    mapped = make_realigner(heat_maps=["red", "yellow", "red "], **options)(PROMPT, 7)
    assert [item.word for item in mapped.heat_maps] == ["red", "yellow"]
    assert all(item.coarse is not None and item.refined is not None for item in mapped.heat_maps)
    assert mapped.settings["heat_maps"] == ["red", "yellow"] and "heat_maps" not in plain.settings
    for stage in ("coarse", "refined"):
        assert getattr(plain, stage).tobytes() == getattr(mapped, stage).tobytes()


def test_maps_of_a_candidate_are_those_of_the_image_that_is_kept(make_realigner):
    chosen = make_realigner(heat_maps=["red"], candidates=3, select_by="darkness", batch_size=2)(
        [PROMPT, PROMPT], [7, 8]
    )
    for realignment in chosen:
        note = next(note for note in realignment.notes if "was kept" in note)
        seed = int(note.partition("(seed ")[2].partition(")")[0])
        alone = make_realigner(heat_maps=["red"])(PROMPT, seed)
        np.testing.assert_allclose(realignment.heat_maps[0].coarse, alone.heat_maps[0].coarse, rtol=1e-3, atol=1e-6)


def test_one_prompt_without_the_word_is_refused_before_any_work(make_realigner):
    realigner = make_realigner(heat_maps=["red", "purple"])
    with pytest.raises(
        PromptError, match=r"no heat map of 'purple', which is not part of 'a red book and a yellow pen'"
    ):
        realigner(PROMPT, [7, 8], progress=lambda *_: pytest.fail("work has begun"))


def test_a_model_that_cannot_be_recorded_is_refused_before_any_work():
    realigner = Realigner.from_pretrained(sd3_pipeline(), tagger="micro", segmenter="micro", heat_maps=["red"])
    coarse = Image.new("RGB", realigner.image_size)
    for given in (None, coarse):
        with pytest.raises(ModelError, match="no heat maps are made of a StableDiffusion3Pipeline"):
            realigner(["a red book"], 7, coarse=[given], progress=lambda *_: pytest.fail("work has begun"))


def test_of_many_prompts_each_has_the_maps_of_its_words(make_realigner):
    first, second = make_realigner(heat_maps=["red", "yellow"])([PROMPT, "a red book"], 7)
    assert [item.word for item in first.heat_maps] == ["red", "yellow"]
    assert [item.word for item in second.heat_maps] == ["red"]
    assert "there is no heat map of 'yellow': the prompt does not contain it" in second.notes


def test_a_run_needs_each_word_in_one_of_its_prompts(make_realigner, tmp_path):
    realigner = make_realigner(heat_maps=["yellow"], batch_size=1)
    summary = run_many(realigner, [PROMPT, "a red book"], tmp_path / "run")
    assert (summary.made, summary.failures) == (2, ())
    with pytest.raises(PromptError, match="'yellow', which is not part of any of the 2 prompts"):
        run_many(realigner, ["a red book", "a book"], tmp_path / "other")


def test_a_given_image_has_maps_of_the_fine_stage_alone(make_realigner):
    image = make_realigner()(PROMPT, 7).coarse
    (item,) = make_realigner(heat_maps=["red"])(PROMPT, 7, coarse=image).heat_maps
    assert item.coarse is None and item.refined is not None


def test_nothing_drawn_has_no_maps_and_says_so(make_realigner):
    image = Image.new("RGB", (16, 16), "black")
    realigner = make_realigner(heat_maps=["red"])
    realigner = realigner.with_(tagger=Blind())
    (result,) = realigner([PROMPT], 7, coarse=[image])
    assert result.heat_maps == ()
    assert "there is no heat map of 'red': neither image was drawn here" in result.notes
    (item,) = realigner(PROMPT, 7).heat_maps
    assert item.coarse is not None and item.refined is None


class Blind:
    def __call__(self, images):
        return [() for _ in images]


def test_the_fine_stage_alone_has_maps_too(make_realigner):
    realigner = make_realigner(heat_maps=["red"])
    layout, _ = realigner.segment(realigner.generate([PROMPT], [7])[0], [certain("book")])
    result = realigner.refine([PROMPT], [layout], [7])
    assert set(result.heat_maps[0]) == {"red"}


@pytest.mark.parametrize("words", ["red", [""], [3], 7])
def test_what_is_no_list_of_words_is_refused(make_realigner, words):
    with pytest.raises(OptionError, match="heat_maps"):
        make_realigner(heat_maps=words)
