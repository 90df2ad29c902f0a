from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from realignkit.heatmap import HeatMap
from realignkit.report import heat_overlay, heat_sheet, write_heat_maps, write_report
from realignkit.report.heatmaps import RAMP
from tests.report.test_html import HOSTILE, read


def peak_at(row, column, size=(8, 8), value=3.0):
    heat = np.zeros(size, dtype=np.float32)
    heat[row, column] = value
    return heat


@pytest.fixture
def mapped(realignment):
    maps = (HeatMap("red", peak_at(3, 2), peak_at(4, 2, value=5.0)), HeatMap(HOSTILE, None, peak_at(3, 5)))
    return replace(realignment, heat_maps=maps, settings={**realignment.settings, "heat_maps": ["red"]})


def brightness(image):
    return np.asarray(image.convert("L"), dtype=float)


def test_bright_is_where_the_map_is_high():
    image = heat_overlay(Image.new("RGB", (64, 64), "green"), peak_at(1, 6))
    assert image.size == (512, 512)
    row, column = np.unravel_index(brightness(image).argmax(), image.size)
    assert (row // 64, column // 64) == (1, 6)


def test_a_map_of_one_value_is_dark_everywhere():
    image = heat_overlay(Image.new("RGB", (512, 512)), np.full((8, 8), 2.0, dtype=np.float32))
    assert brightness(image).max() <= 1


def test_other_proportions_keep_height_and_width_apart():
    image = heat_overlay(Image.new("RGB", (64, 128)), peak_at(14, 1, size=(16, 8)), scale=2)
    assert image.size == (128, 256)
    row, column = np.unravel_index(brightness(image).argmax(), (256, 128))
    assert (row // 16, column // 16) == (14, 1)


def test_the_ramp_rises_in_brightness():
    levels = [Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0)) for colour in RAMP]
    assert levels == sorted(levels)


def test_the_sheet_has_a_row_for_each_word_and_a_column_for_each_stage(mapped):
    one = heat_sheet(replace(mapped, heat_maps=mapped.heat_maps[:1]))
    two = heat_sheet(mapped)
    assert two.width == one.width and two.height > 1.8 * one.height
    with pytest.raises(ValueError, match="at least one"):
        heat_sheet(replace(mapped, heat_maps=()))


def test_files_are_written_by_number_and_stale_ones_go(mapped, tmp_path):
    write_heat_maps(mapped, tmp_path)
    names = {"00-coarse.png", "00-refined.png", "01-refined.png"}
    assert {path.name for path in (tmp_path / "heat_maps").iterdir()} == names
    assert (tmp_path / "heat_maps.png").is_file()
    assert write_heat_maps(replace(mapped, heat_maps=()), tmp_path) == []
    assert not (tmp_path / "heat_maps.png").exists() and not list((tmp_path / "heat_maps").iterdir())


def test_the_report_shows_them_escaped(mapped, tmp_path):
    page = read(write_report(mapped, tmp_path))
    alternatives = [image["alt"] for image in page.all("img") if image["alt"].startswith("heat map")]
    assert alternatives == ["heat map of red before", "heat map of red after", f"heat map of {HOSTILE} after"]
    text = "".join(page.text)
    assert "peak 3" in text and "peak 5" in text and "--heat-maps red" in text
    assert not page.all("script")


def test_without_heat_maps_the_report_says_nothing_of_them(realignment, tmp_path):
    assert "heat" not in write_report(realignment, tmp_path).read_text().lower()
