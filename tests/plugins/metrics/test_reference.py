"""References: folders whose statistics are kept, and the files that pytorch-fid and clean-fid write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from realignkit.errors import OptionError
from realignkit.frechet import Gaussian
from realignkit_plugins.metrics.fid import FID
from realignkit_plugins.metrics.kid import KID
from realignkit_plugins.metrics.reference import Reference
from tests.plugins.metrics.conftest import folder_of, pictures


class Colours:
    """Three features: the mean of each channel; and it counts how often it looks."""

    looks = 0

    def features(self, images):
        self.looks += len(images)
        return np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])

    def identity(self):
        return {"features": "colours"}


def test_a_folders_statistics_are_those_of_its_pictures_and_are_computed_once(tmp_path: Path) -> None:
    images = pictures(9, 1)
    folder, observer = folder_of(images, tmp_path / "real"), Colours()
    reference = Reference(folder, observer, 4)
    expected = Gaussian.of(observer.features(images))
    observer.looks = 0
    for again in (reference, Reference(str(folder), observer, 2)):
        assert again.gaussian().mean == pytest.approx(expected.mean)
        assert again.gaussian().distance(expected) == pytest.approx(0, abs=1e-6)
    assert observer.looks == 9
    assert np.array_equal(Reference(folder, observer, 4).features(), observer.features(images))
    assert Reference(folder, observer, 2).features().shape == (9, 3)
    assert observer.looks == 9 + 9 + 9


def test_what_is_kept_goes_with_the_pictures_and_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    folder, observer = folder_of(pictures(5, 1), tmp_path / "real"), Colours()
    before = Reference(folder, observer, 4).gaussian().mean
    (kept,) = (tmp_path / "cache" / "references").iterdir()
    kept.write_bytes(b"PK")
    assert np.array_equal(Reference(folder, observer, 4).gaussian().mean, before)
    pictures(1, 77, tint=90)[0].save(folder / "000.png")
    assert not np.allclose(Reference(folder, observer, 4).gaussian().mean, before)


def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REALIGNKIT_CACHE", str(tmp_path / "file"))
    folder = folder_of(pictures(5, 1), tmp_path / "real")
    assert Reference(folder, Colours(), 4).gaussian().mean.shape == (3,)
    assert "is not kept: cannot write" in caplog.text


def test_statistics_of_others(reference: Path, recipe: Path, tmp_path: Path) -> None:
    """As pytorch-fid and clean-fid save them: mu and sigma; clean-fid for KID: feats."""
    options = {"weights": str(recipe), "dims": 64, "device": "cpu"}
    whole = FID(reference=str(reference), **options)
    features = Reference(reference, whole.observer, 32).features()
    np.savez(tmp_path / "statistics.npz", mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    np.savez(tmp_path / "features.npz", feats=features)
    images = pictures(8, 2)
    whole.update(images, [""] * 8)
    expected = whole.compute()["fid"]
    for name in ("statistics", "features"):
        fid = FID(reference=str(tmp_path / f"{name}.npz"), **options)
        fid.restore(whole.state())
        assert fid.compute()["fid"] == pytest.approx(expected, rel=1e-5)
        assert fid.identity()["reference"] != whole.identity()["reference"]
    kid = KID(reference=str(tmp_path / "features.npz"), **options)
    kid.update(images, [""] * 8)
    assert kid.compute()["n"] == 8
    kid = KID(reference=str(tmp_path / "statistics.npz"), **options)
    kid.seen = [features]
    with pytest.raises(OptionError, match=r"holds mean and covariance only.*an .npz with 'feats'"):
        kid.compute()
    wrong = FID(reference=str(tmp_path / "statistics.npz"), **{**options, "dims": 192})
    wrong.restore({"n": np.array(2), "sum": np.zeros(192), "outer": np.eye(192)})
    with pytest.raises(OptionError, match=r"has 64 features, and these images have 192.*dims=192"):
        wrong.compute()


def test_files_that_are_no_statistics(tmp_path: Path) -> None:
    def gaussian(**arrays):
        np.savez(tmp_path / "x.npz", **arrays)
        return Reference(tmp_path / "x.npz", Colours(), 4).gaussian()

    with pytest.raises(OptionError, match="holds no reference: arrays 'mu' and 'sigma', or 'feats', are wanted"):
        gaussian(mean=np.zeros(3))
    with pytest.raises(OptionError, match="holds no reference"):
        gaussian(mu=np.zeros(3))
    with pytest.raises(OptionError, match=r"holds mu of \(3,\) but sigma of \(2, 2\)"):
        gaussian(mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(OptionError, match="holds no numbers of the right shape"):
        gaussian(mu=np.full(3, np.nan), sigma=np.eye(3))
    with pytest.raises(OptionError, match="cannot be read as an"):
        gaussian(mu=np.array([{}], object), sigma=np.eye(1))
    (tmp_path / "text.npz").write_text("no numbers")
    with pytest.raises(OptionError, match="cannot be read as an"):
        Reference(tmp_path / "text.npz", Colours(), 4).gaussian()
