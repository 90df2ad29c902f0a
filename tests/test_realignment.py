from __future__ import annotations

import io
import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from realignkit.errors import OutputError
from realignkit.realignment import Realignment, is_complete, read_record
from realignkit.types import Layout, Likelihood, LocalCaption, Segment, Tag


def random_realignment(seed: int = 0, width: int = 13, height: int = 9, masks: int = 3) -> Realignment:
    rng = np.random.default_rng(seed)
    images = [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(2)]
    likelihoods = list(Likelihood)
    captions = tuple(LocalCaption(f"tag{i}", f"a “fine” tag{i} <b>", likelihoods[i % 3]) for i in range(masks))
    segments = (Segment(c, rng.random((height, width)) < 0.5, float(rng.random())) for c in captions)
    return Realignment(
        prompt="a red bôok\nand a 'yellow' pen",
        seed=2**62 + 1,
        coarse=images[0],
        tags=tuple(Tag(c.tag, float(rng.random())) for c in captions),
        captions=captions,
        layout=Layout(tuple(segments)),
        refined=images[1],
        conditioning="a red bôok and a pen, desk",
        plugins={"tagger": "t", "scorer": "s"},
        notes=("no mask for 'x'", "another"),
        timings={"generate": 0.1 + 0.2, "refine": 1e-17},
        settings={"modulation": {"share": 0.3, "strength": None}, "list": [1, "two", True]},
        versions={"realignkit": "0.1.0"},
    )


def assert_same(one: Realignment, other: Realignment) -> None:
    for field in fields(Realignment):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("coarse", "refined"):
            assert a.mode == b.mode == "RGB"
            assert np.array_equal(np.asarray(a), np.asarray(b))
        elif field.name == "layout":
            assert [(s.caption, s.confidence) for s in a] == [(s.caption, s.confidence) for s in b]
            for s, t in zip(a, b, strict=True):
                assert t.mask.dtype == np.bool_
                assert np.array_equal(s.mask, t.mask)
        else:
            assert a == b, field.name


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), st.integers(0, 4))
def test_round_trip_is_exact(tmp_path: Path, seed: int, width: int, height: int, masks: int):
    before = random_realignment(seed, width, height, masks)
    assert before.save(tmp_path / "r") == tmp_path / "r"
    assert_same(before, Realignment.load(tmp_path / "r"))


def test_files_are_what_the_documentation_says(tmp_path: Path):
    random_realignment().save(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {
        "realignment.json",
        "coarse.png",
        "refined.png",
        "masks/00.png",
        "masks/01.png",
        "masks/02.png",
    }
    with Image.open(tmp_path / "masks" / "00.png") as mask:
        assert mask.mode == "1"


def test_saving_over_another_leaves_nothing_of_it(tmp_path: Path):
    random_realignment(1, masks=5).save(tmp_path)
    after = random_realignment(2, masks=1)
    after.save(tmp_path)
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["00.png"]
    assert_same(after, Realignment.load(tmp_path))


def test_a_segment_that_is_not_of_the_image_is_not_saved(tmp_path: Path):
    whole = random_realignment(masks=1)
    for mask in (np.ones((4, 4), bool), np.full((9, 13), 0.5)):
        layout = Layout((Segment(whole.captions[0], mask),))
        with pytest.raises(OutputError, match=r"cannot be saved: masks must be bool \(9, 13\)"):
            replace(whole, layout=layout).save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_settings_that_are_no_json_leave_the_folder_as_it_was(tmp_path: Path):
    before = random_realignment()
    before.save(tmp_path)
    for bad in ({"path": Path("x")}, {"number": float("nan")}):
        with pytest.raises(OutputError, match="JSON"):
            replace(before, settings=bad).save(tmp_path)
    assert_same(before, Realignment.load(tmp_path))


# --- damaged and foreign folders ------------------------------------------------------------------------------------


def edit(folder: Path, **changes: object) -> None:
    path = folder / "realignment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "realignment.json").unlink(), "no complete realignment"),
        (lambda f: shutil.rmtree(f), "no complete realignment"),
        (lambda f: (f / "realignment.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "realignment.json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda f: (f / "realignment.json").write_text("[]"), "holds a list, no JSON object"),
        (lambda f: edit(f, format="other"), "is no realignment"),
        (lambda f: edit(f, version=2), "format version 2"),
        (lambda f: edit(f, tags=[{"name": "x"}]), "damaged"),
        (lambda f: edit(f, captions=[{"tag": "x", "caption": "x", "likelihood": "maybe"}]), "damaged"),
        (lambda f: edit(f, size=[1, 1]), "damaged"),
        (lambda f: edit(f, notes=None), "damaged"),
        (lambda f: (f / "refined.png").unlink(), "refined.png is missing"),
        (lambda f: (f / "masks" / "01.png").write_bytes(b""), "01.png is missing or damaged"),
        (lambda f: (f / "coarse.png").write_bytes((f / "coarse.png").read_bytes()[:80]), "coarse.png is missing"),
        (lambda f: Image.new("1", (3, 3)).save(f / "masks" / "01.png"), r"01\.png .* 3 x 3 pixels"),
        (lambda f: Image.new("RGB", (3, 3)).save(f / "refined.png"), r"refined\.png .* 3 x 3 pixels"),
        (lambda f: edit(f, size=[10**9, 10**9]), "1000000000 x 1000000000"),
        (lambda f: edit(f, prompt=None), r"prompt: .*string"),
        (lambda f: edit(f, prompt=["a"]), r"prompt: .*string"),
        (lambda f: edit(f, prompt=" "), "prompt: "),
        (lambda f: edit(f, seed="7"), r"seed: .*integer"),
        (lambda f: edit(f, seed=True), r"seed: .*integer"),
        (lambda f: edit(f, seed=2**63), "seed: "),
        (lambda f: edit(f, seed=-1), "seed: "),
        (lambda f: edit(f, accepted="false"), r"accepted: .*boolean"),
        (lambda f: edit(f, accepted=0), r"accepted: .*boolean"),
        (lambda f: edit(f, tags=[{"name": 5, "confidence": 0.5}]), r"tags\.0\.name: .*string"),
        (lambda f: edit(f, tags=[{"name": "x", "confidence": "big"}]), r"tags\.0\.confidence: .*number"),
        (lambda f: edit(f, tags=[{"name": "x", "confidence": 1.5}]), r"tags\.0\.confidence: "),
        (lambda f: edit(f, tags=[{"name": "x", "confidence": float("nan")}]), "NaN is no finite number"),
        (lambda f: edit(f, tags=[{"name": "x", "confidence": 0.5, "colour": "red"}]), r"tags\.0\.colour: "),
        (lambda f: edit(f, timings={"refine": "slow"}), r"timings\.refine: .*number"),
        (lambda f: edit(f, timings=[1.0]), r"timings: .*object"),
        (lambda f: edit(f, plugins=5), r"plugins: .*object"),
        (lambda f: edit(f, versions=[1]), r"versions: .*object"),
        (lambda f: edit(f, notes="a note"), r"notes: .*array"),
        (lambda f: edit(f, settings=None), r"settings: .*object"),
        (lambda f: edit(f, settings={"candidates": "4"}), r"settings\.candidates: .*integer"),
        (lambda f: edit(f, settings={"modulation": [1]}), r"settings\.modulation: .*object"),
        (lambda f: edit(f, prompt="\ud800"), "damaged"),
        (lambda f: edit(f, unheard_of=1), "unheard_of: "),
    ],
)
def test_damaged_folders_are_refused_with_advice(tmp_path: Path, damage, message: str):
    folder = random_realignment().save(tmp_path / "r")
    damage(folder)
    with pytest.raises(OutputError, match=message) as caught:
        Realignment.load(folder)
    assert any(advice in str(caught.value) for advice in ("again", "Give a folder"))


def test_version_message_names_the_writer(tmp_path: Path):
    folder = random_realignment().save(tmp_path)
    edit(folder, version=9, versions={"realignkit": "3.1.4"})
    with pytest.raises(OutputError, match=r"3\.1\.4"):
        read_record(folder)


# --- writing that fails ---------------------------------------------------------------------------------------------


def test_folder_below_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="choose another folder"):
        random_realignment().save(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="choose another folder"):
        random_realignment().save(tmp_path / "file")


def test_interrupted_save_is_not_taken_for_complete(tmp_path: Path):
    folder = random_realignment(1).save(tmp_path / "r")
    (folder / "refined.png").unlink()
    (folder / "refined.png").mkdir()  # the next save must fail in its middle
    with pytest.raises(OutputError):
        random_realignment(2).save(folder)
    assert not is_complete(folder)


# --- how it shows itself, and what it is equal to -------------------------------------------------------------------


EVIL = "<script>alert('x')</script>"


def made(**changed):
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    caption = LocalCaption(EVIL, f"a red {EVIL}", Likelihood.CERTAIN)
    parts = {
        "prompt": EVIL,
        "seed": 3,
        "coarse": Image.new("RGB", (8, 8), "red"),
        "tags": (Tag(EVIL, 0.5),),
        "captions": (caption,),
        "layout": Layout((Segment(caption, mask, 0.5),)),
        "refined": Image.new("RGB", (8, 8), "blue"),
        "conditioning": EVIL,
        "plugins": {"tagger": "x"},
        "notes": (EVIL,),
        "timings": {"tag": 0.5},
        "settings": {},
        "versions": {},
    }
    return Realignment(**{**parts, **changed})


def test_html_is_whole_and_escaped():
    html = made()._repr_html_()
    assert EVIL not in html and "&lt;script&gt;" in html
    assert html.count("data:image/png;base64,") == 2


def test_png_shows_both_pictures():
    image = Image.open(io.BytesIO(made()._repr_png_()))
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((image.width - 1, 0)) == (0, 0, 255)


def test_repr_is_short():
    assert len(repr(made(prompt="a red cup"))) < 120
    assert len(repr(made(prompt="a " * 5000))) < 250
    assert "\n" not in repr(made().layout.segments[0])


def test_a_reloaded_realignment_equals_what_was_saved(tmp_path):
    one = made()
    again = Realignment.load(one.save(tmp_path / "a"))
    assert again == one and hash(again) == hash(one)
    assert again.layout == one.layout and again.layout.segments[0] == one.layout.segments[0]
    assert one != "text"


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 4},
        {"refined": Image.new("RGB", (8, 8), "green")},
        {"refined": Image.new("RGB", (9, 8), "blue")},
        {"layout": Layout()},
        {"notes": ()},
        {"accepted": False},
    ],
)
def test_what_differs_is_not_equal(changed):
    assert made() != made(**changed)
    other = np.ones((8, 8), bool)
    assert made().layout != Layout((Segment(made().captions[0], other, 0.5),))


def test_its_public_home_is_among_the_types():
    from realignkit import types

    assert types.Realignment is Realignment
    with pytest.raises(AttributeError, match="no attribute 'Realignments'"):
        _ = types.Realignments
