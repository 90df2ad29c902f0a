"""KID and CMMD as metrics: of which images, from which rows, in whatever order the images come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realignkit.errors import ModelError, PluginError
from realignkit.testing import check_plugin
from realignkit_plugins.metrics.kernels import draw_rows, gaussian, kernel_distance, squared_mmd
from realignkit_plugins.metrics.kid import CMMD, KID
from realignkit_plugins.metrics.reference import Reference
from tests.plugins.metrics.conftest import folder_of, pictures


@pytest.fixture
def options(reference: Path, recipe: Path) -> dict[str, object]:
    return {"reference": str(reference), "weights": str(recipe), "dims": 64, "device": "cpu", "subset_size": 6}


def test_it_is_the_kernel_distance_of_seeded_subsets(options: dict[str, object], reference: Path) -> None:
    images = pictures(8, 2)
    kid = KID(**options, subsets=9, seed=3)
    kid.update(images, [""] * 8)
    real = Reference(reference, kid.observer, 32).features()
    expected = kernel_distance(kid.all, real, draw_rows(8, 10, 9, 6, 3))
    assert kid.compute() == {"kid": expected.mean, "kid_std": expected.deviation, "n": 8}
    assert expected.deviation > 0
    assert sorted(map(tuple, kid.all)) == sorted(map(tuple, kid.observer.features(images)))
    assert {"subsets", "subset_size", "seed", "reference", "resize", "weights"} <= kid.identity().keys()


def test_fewer_images_than_a_subset_wants_are_warned_of(
    options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    kid = KID(**options)
    kid.update(pictures(6, 2), [""] * 6)
    kid.compute()
    assert caplog.text == ""
    few = KID(**{**options, "subset_size": 1000})
    few.restore(kid.state())
    few.compute()
    assert "kid of 6 images and a reference of 10: subsets have 6 of them in place of subset_size=1000" in caplog.text


def test_the_order_of_coming_plays_no_part(options: dict[str, object]) -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 64)).astype(np.float32)
    numbers = []
    for order in (np.arange(40), random.permutation(40)):
        first, second = KID(**options), KID(**options)
        first.seen, second.seen = [features[order][:7], features[order][7:15]], [features[order][15:]]
        first.merge(second)
        again = KID(**options)
        again.restore(first.state())
        assert again.compute() == first.compute()
        numbers.append(first.compute())
    assert numbers[0] == numbers[1]
    with pytest.raises(PluginError, match="cannot merge another metric into KID"):
        first.merge(KID(**{**options, "subset_size": 7}))


def test_nothing_seen_and_no_numbers(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    kid = KID(**options)
    kid.restore(kid.state())
    with pytest.raises(PluginError, match="needs 2 images at least, and has seen 0"):
        kid.compute()
    monkeypatch.setattr(type(kid.observer), "features", lambda *_: np.full((1, 64), np.nan, np.float32))
    with pytest.raises(ModelError, match="the features of some images are NaN"):
        kid.update(pictures(1, 0), [""])


def test_cmmd_is_a_thousand_times_the_biased_distance_of_clips_features(tmp_path: Path) -> None:
    real, images = pictures(8, 1), pictures(6, 2, tint=60)
    options = {"reference": str(folder_of(real, tmp_path / "real")), "feature_options": {"model": "micro:clip"}}
    cmmd = CMMD(**options)
    cmmd.update(images, [""] * 6)
    features = [cmmd.observer.features(each) for each in (images, real)]
    assert cmmd.compute()["cmmd"] == pytest.approx(1000 * squared_mmd(*features, gaussian(10), biased=True), rel=1e-3)
    assert cmmd.compute()["cmmd"] > 0
    assert cmmd.identity()["sigma"] == 10
    assert CMMD().observer.plugin.options.model == "openai/clip-vit-large-patch14-336"
    same = CMMD(**options)
    same.update(real, [""] * 8)
    assert same.compute()["cmmd"] == pytest.approx(0, abs=1e-3)


def test_it_keeps_its_contract(options: dict[str, object]) -> None:
    check_plugin(KID(**options))
