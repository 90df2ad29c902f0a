"""Studies are read as what they should be, and pictures only from inside their folder."""

from __future__ import annotations

import json

import pytest

from realignkit.errors import DamagedError, OutputError
from realignkit.study.folder import PICTURES, RECORD, picture_files, read_study


def damage(folder, change):
    record = json.loads((folder / RECORD).read_text())
    change(record)
    (folder / RECORD).write_text(json.dumps(record))


def test_no_study(tmp_path):
    with pytest.raises(OutputError, match="holds no study"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["items"][0]["pictures"].pop(),
        lambda r: r["items"][0].update(pictures=["../../../etc/passwd", "0" * 32, "1" * 32]),
        lambda r: r["items"][0].update(id="../x"),
        lambda r: r["items"][1].update(id=r["items"][0]["id"]),
        lambda r: r["items"][1].update(pictures=r["items"][0]["pictures"]),
        lambda r: r["items"][0].update(first="f" * 32),
        lambda r: r["items"][0].update(values={"tifa": [1.0]}),
        lambda r: r.update(systems=["only one"]),
        lambda r: r.update(more=1),
        lambda r: r.pop("consent"),
    ],
)
def test_a_damaged_record(make, change):
    folder, _ = make()
    damage(folder, change)
    with pytest.raises(DamagedError):
        read_study(folder)


def test_another_version_s_record(make):
    folder, _ = make()
    damage(folder, lambda record: record.update(version=2))
    with pytest.raises(OutputError, match="is no study of this realignkit"):
        read_study(folder)


@pytest.mark.parametrize("how", ["missing", "a link to elsewhere", "a folder of links"])
def test_pictures_are_in_the_folder(make, tmp_path, how):
    folder, study = make()
    name = study.items[0].pictures[0]
    path = folder / PICTURES / f"{name}.png"
    if how == "a folder of links":
        (folder / PICTURES).rename(tmp_path / "elsewhere")
        (folder / PICTURES).symlink_to(tmp_path / "elsewhere")
        # The whole folder may lie elsewhere; no file in it may.
        assert picture_files(folder, study)
        path = tmp_path / "elsewhere" / f"{name}.png"
    path.unlink()
    if how != "missing":
        secret = tmp_path / "secret.png"
        secret.write_bytes(b"secret")
        path.symlink_to(secret)
    with pytest.raises(DamagedError, match="is no file in the study's folder"):
        picture_files(folder, study)
