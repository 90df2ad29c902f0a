"""The frozen model's images for L_pre."""

from __future__ import annotations

import json

from PIL import Image

from realignkit.refl.prior import draw_prior


def test_prior_is_drawn_once_and_anew_for_other_settings(tmp_path):
    drawn = []

    def draw(prompts, numbers):
        drawn.extend(zip(prompts, numbers, strict=True))
        return [Image.new("RGB", (4, 4), (number % 256, 0, 0)) for number in numbers]

    def prior(count=3, settings=None, share=slice(0, None, 1)):
        draw_prior(tmp_path / "prior", ["a", "b"], count, 1, settings or {}, draw, share)

    prior()
    assert [prompt for prompt, _ in drawn] == ["a", "b", "a"]
    assert len({number for _, number in drawn}) == 3
    prior()
    assert len(drawn) == 3
    next((tmp_path / "prior").glob("00001-*.png")).unlink()  # as if killed while drawing
    prior()
    assert [prompt for prompt, _ in drawn[3:]] == ["b"]
    prior(settings={"steps": 2})
    assert len(drawn) == 7
    rows = [json.loads(line) for line in (tmp_path / "prior" / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["a", "b", "a"]
    assert all((tmp_path / "prior" / row["file_name"]).is_file() for row in rows)
