"""FID is the arithmetic of the originals on Inception's features, streamed, resumed and shared among processes."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from realignkit.errors import OptionError, PluginError
from realignkit.frechet import frechet_distance
from realignkit.testing import check_plugin
from realignkit_plugins.metrics.fid import FID
from realignkit_plugins.metrics.inception import inception_from
from realignkit_plugins.metrics.kid import KID
from realignkit_plugins.metrics.resizing import network_input
from tests.plugins.metrics import inception as golden
from tests.plugins.metrics.conftest import folder_of, pictures

PROMPTS = [""] * 1000


def small(reference: Path, recipe: Path, **options) -> FID:
    """By the first 64 features, which take milliseconds."""
    return FID(**{"reference": str(reference), "weights": str(recipe), "dims": 64, "device": "cpu", **options})


@pytest.mark.parametrize("resize", ["clean", "pytorch", "tensorflow"])
def test_it_is_the_distance_of_inceptions_features(resize: str, reference: Path, recipe: Path) -> None:
    images, real = pictures(8, 2), pictures(10, 1)
    network = inception_from(golden.weights(), "recipe.pth")
    a, b = (network.features(network_input(each, resize), 64).numpy() for each in (images, real))
    fid = small(reference, recipe, resize=resize, batch_size=3)
    fid.update(images[:3], PROMPTS[:3])
    fid.update(images[3:], PROMPTS[:5])
    values = fid.compute()
    assert values == {"fid": pytest.approx(frechet_distance(a, b), rel=1e-4), "n": 8}
    assert values["fid"] > 0


def test_killed_and_shared_it_gives_the_same(reference: Path, recipe: Path) -> None:
    images = pictures(8, 2)
    whole = small(reference, recipe, batch_size=2)
    whole.update(images, PROMPTS[:8])
    killed = small(reference, recipe, batch_size=2)
    killed.update(images[:4], PROMPTS[:4])
    state = load(save(killed.state()))
    again = small(reference, recipe, batch_size=2)
    again.restore(state)
    again.update(images[4:], PROMPTS[:4])
    assert again.compute() == whole.compute()  # to the bit
    first, second = small(reference, recipe), small(reference, recipe)
    first.update(images[::2], PROMPTS[:4])
    second.update(images[1::2], PROMPTS[:4])
    first.merge(second)
    first.merge(small(reference, recipe))  # which has seen nothing
    assert first.compute()["fid"] == pytest.approx(whole.compute()["fid"], rel=1e-5)
    assert first.compute()["n"] == 8
    with pytest.raises(PluginError, match="cannot merge another metric into FID"):
        first.merge(small(reference, recipe, resize="pytorch"))


def test_memory_does_not_grow_with_the_number_of_images(reference: Path, recipe: Path) -> None:
    """What is kept is n, a sum and an outer sum; nothing else is left after a thousand further batches."""
    fid, random = small(reference, recipe), np.random.default_rng(0)

    def see(batches: int) -> int:
        for _ in range(batches):
            fid._take(random.normal(size=(8, 64)).astype(np.float32))
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        few, many = see(50), see(1000)
    finally:
        tracemalloc.stop()
    assert fid.moments.n == 8400
    assert many - few < 64 * 64 * 8
    assert {name: value.shape for name, value in fid.state().items()} == {"n": (1,), "sum": (64,), "outer": (64, 64)}


def test_the_number_says_what_it_depends_on(reference: Path, recipe: Path, tmp_path: Path) -> None:
    identity = small(reference, recipe).identity()
    assert identity.keys() == {"features", "dims", "resize", "weights", "reference"}
    assert json.loads(json.dumps(identity)) == identity
    moved = folder_of(pictures(10, 1), tmp_path / "elsewhere")
    assert small(moved, recipe).identity() == identity
    others = [
        small(reference, recipe, resize="pytorch"),
        small(reference, recipe, dims=192),
        small(folder_of(pictures(10, 9), tmp_path / "others"), recipe),
    ]
    assert all(other.identity() != identity for other in others)


def test_few_images_are_warned_of(reference: Path, recipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    fid = small(reference, recipe)
    with pytest.raises(PluginError, match="FID is about a set: it needs 2 images at least, and has seen 0"):
        fid.compute()
    fid.update(pictures(5, 3), PROMPTS[:5])
    fid.compute()
    assert "fid of 5 images: below 2048 it is biased upwards" in caplog.text
    assert "take kid" in caplog.text


def test_what_it_cannot_do_without(
    recipe: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OptionError, match=r"FID compares with real pictures: give reference="):
        FID(weights=str(recipe)).update(pictures(2, 0), PROMPTS[:2])
    with pytest.raises(OptionError, match=r"there is no reference '.*nowhere'. Give a folder of pictures, or an .npz"):
        small(tmp_path / "nowhere", recipe).update(pictures(2, 0), PROMPTS[:2])
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="holds 0 pictures"):
        small(tmp_path / "empty", recipe).identity()
    bare = FID(reference=str(reference))
    assert bare.check().startswith("the Inception network of FID is not on this machine: get pt_inception-2015-12-05")
    assert bare.out_of_reach() == bare.check()
    assert "give reference=" in FID(weights=str(recipe)).out_of_reach()
    borrowed = FID(features="clip", feature_options={"model": "micro:clip"}, reference=str(reference))
    assert (borrowed.check(), borrowed.out_of_reach()) == ("", "")
    monkeypatch.setattr(type(borrowed.observer.plugin), "out_of_reach", lambda plugin: "the hub is away")
    assert borrowed.out_of_reach() == "the hub is away"
    with pytest.raises(OptionError, match="give its path as weights, or put it into the folder that REALIGNKIT_DATA"):
        bare.update(pictures(2, 0), PROMPTS[:2])


def test_features_of_other_models(reference: Path) -> None:
    """CLIP's, and those of a metric."""
    for name, options in {"clip": {"model": "micro:clip"}, "micro_oracle": {}}.items():
        real = folder_of([image.resize((64, 64)) for image in pictures(12, 1)], reference.parent / name)
        fid = FID(reference=str(real), features=name, feature_options=options)
        fid.update([image.resize((64, 64)) for image in pictures(12, 1)], PROMPTS[:12])
        assert fid.compute()["fid"] == pytest.approx(0, abs=1e-3)
        assert fid.identity()["features"] == name
        assert fid.check() == ""
    assert {"weights", "features.model"} & FID(
        reference=str(real), features="clip", feature_options={"model": "micro:clip"}
    ).identity().keys() == {"weights"}
    with pytest.raises(OptionError, match=r"'caption' has no features of images. Give inception, clip"):
        FID(reference=str(real), features="caption").identity()
    with pytest.raises(PluginError, match="nobody"):
        FID(reference=str(real), features="nobody").identity()


def test_kid_is_offered_the_same_files(reference: Path, recipe: Path) -> None:
    fid, kid = (made(reference=str(reference), weights=str(recipe), dims=64) for made in (FID, KID))
    assert fid.identity().items() <= kid.identity().items()


def test_it_keeps_its_contract(reference: Path, recipe: Path) -> None:
    check_plugin(small(reference, recipe))
