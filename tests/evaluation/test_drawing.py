from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from realignkit.evaluation.drawing import Drawing
from tests.refl.rewards import Darkness

PROMPTS = ["a red book and a yellow pen", "a red book", "a yellow pen"]
SAMPLING = {"num_inference_steps": 2}


def pixels(drawing: Drawing) -> list[np.ndarray]:
    return [np.asarray(Image.open(picture.path)) for picture in drawing.pictures]


def test_pictures_are_those_of_each_stage_and_are_drawn_once(make_realigner, tmp_path, monkeypatch):
    realigner = make_realigner(sampling=SAMPLING, batch_size=2)
    coarse = Drawing(realigner, PROMPTS, [1, 2], tmp_path / "coarse")
    coarse()
    assert [(p.id, p.seed, p.index) for p in coarse.pictures][:3] == [
        ("0001-a-red-book-and-a-yellow-pen-s100000", 100_000, 1),
        ("0001-a-red-book-and-a-yellow-pen-s200000", 200_000, 1),
        ("0002-a-red-book-s100001", 100_001, 2),
    ]
    assert len({p.seed for p in coarse.pictures}) == len(coarse.pictures)  # no two share their noise
    (expected,) = realigner.generate(["a red book"], [100_001])
    assert np.abs(pixels(coarse)[2].astype(int) - np.asarray(expected)).max() <= 2
    fine = Drawing(realigner, PROMPTS[:1], [1], tmp_path / "fine", fine=True)
    fine()
    assert np.array_equal(pixels(fine)[0], np.asarray(realigner(PROMPTS[0], 100_000).image))
    monkeypatch.setattr(type(realigner), "generate", lambda *_: pytest.fail("they are there"))
    Drawing(realigner, PROMPTS, [1, 2], tmp_path / "coarse")()


def test_the_best_of_several_candidates(make_realigner, tmp_path):
    realigner = make_realigner(sampling=SAMPLING, batch_size=2, candidates=3, select_by=Darkness())
    drawing = Drawing(realigner, PROMPTS[:1], [1], tmp_path)
    drawing()
    plain = Drawing(make_realigner(sampling=SAMPLING), PROMPTS[:1], [1], tmp_path / "plain")
    plain()
    assert pixels(drawing)[0].mean() <= pixels(plain)[0].mean()
    assert drawing.settings["candidates"] == 3
    assert drawing.settings != plain.settings


def test_guided_pictures_are_others_than_plain_ones(make_realigner, tmp_path):
    plain = Drawing(make_realigner(sampling=SAMPLING), PROMPTS[:1], [1], tmp_path)
    plain()
    before = pixels(plain)[0]
    guided = Drawing(make_realigner(sampling=SAMPLING, guide_by="colour"), PROMPTS[:1], [1], tmp_path)
    assert guided.settings["guide_by"] == {"colour": {}}
    assert not {"guide_by", "guide_strength"} & plain.settings.keys()
    guided()
    assert (pixels(guided)[0] != before).any()


def test_a_lost_or_other_picture_is_drawn_again_with_its_batch(make_realigner, tmp_path):
    realigner = make_realigner(sampling=SAMPLING, batch_size=2)
    drawing = Drawing(realigner, PROMPTS, [1], tmp_path)
    drawing()
    before = pixels(drawing)
    drawing.pictures[1].path.unlink()
    Image.new("RGB", (8, 8)).save(drawing.pictures[2].path)
    Drawing(realigner, PROMPTS, [1], tmp_path)()
    assert all(np.array_equal(one, other) for one, other in zip(before, pixels(drawing), strict=True))
