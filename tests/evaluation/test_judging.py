"""Judges of pictures: rewards in full precision, reference pictures from a folder."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from realignkit.errors import OptionError, PluginError
from realignkit.evaluation.judging import Judging, judge_each
from realignkit.hookspecs import hookimpl
from realignkit.named import Named
from realignkit.registry import default_registry
from tests.evaluation.test_measure import Brightness, Streaming


class Here:
    @hookimpl
    def register_metrics(self, register):
        register("brightness", Brightness, "")
        register("streaming", Streaming, "")


def test_scores_are_float32_wherever_they_run():
    judging = Judging(default_registry(), "micro_oracle", scores=["micro_clip", "micro_clip:1,micro_blip:2"])
    one, several = (score.plugin for score in judging.scores)
    assert one.options.dtype == "fp32"
    assert [part.plugin.options.dtype for part, _ in several.parts] == ["fp32", "fp32"]


def test_a_folder_of_reference_pictures(registry, tmp_path):
    registry.register(Here(), "here")
    for i in range(3):
        Image.new("RGB", (9, 7), (60 * i, 10, 200)).save(tmp_path / f"{i}.png")
    judging = Judging(registry, "brightness", reference=tmp_path)
    assert judging.reference([], 2) == pytest.approx(np.array([[60 * i, 10, 200] for i in range(3)]) / 255, rel=1e-6)
    assert "3 pictures" in judging.settings["reference"]
    with pytest.raises(OptionError, match="neither metric 'streaming' nor a --score"):
        Judging(registry, "streaming", reference=tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(OptionError, match="holds 0 pictures"):
        Judging(registry, "brightness", reference=tmp_path / "none")
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(OptionError, match=r"1\.png"):
        Judging(registry, "brightness", reference=tmp_path).reference([], 2)


class Detailed(Streaming):
    details: object = ()

    def judge_each(self, images, prompts):
        return [{"right": 1, "right/color": 0.5, "details": self.details} for _ in images]


def test_a_metrics_details_are_no_values_and_stay_as_they_are(registry):
    image, metric = Image.new("RGB", (4, 4)), Detailed()
    metric.details = [{"question": "what colour?", "right": True}]
    named = Named("metric", "detailed", metric)
    assert judge_each(named, [image], ["a"]) == [{"right": 1.0, "right/color": 0.5, "details": metric.details}]
    metric.details = "no list"
    with pytest.raises(PluginError, match="metric 'detailed' broke its contract: its details are no list of dicts"):
        judge_each(named, [image], ["a"])


def test_a_metric_of_whole_sets_alone_is_not_asked_about_single_pictures():
    class OfSets(Streaming):
        def state(self):
            return {}

    with pytest.raises(OptionError, match="metric 'sets' says nothing of single pictures"):
        judge_each(Named("metric", "sets", OfSets()), [Image.new("RGB", (4, 4))], ["a"])
