"""Pictures as people have them: each is opened as its viewer shows it, or refused in a sentence."""

import base64
import io
import warnings

import numpy as np
import pytest
from PIL import Image

from realignkit.errors import OptionError
from realignkit.images import check_image, data_uri, given_image, image_files, open_image, png, to_rgb

RAMP = np.tile(np.linspace(0, 1, 16), (4, 1))
GREY = (RAMP * 255).round().astype(np.uint8)


def levels(path):
    return np.asarray(open_image(path)[0])[:, :, 0]


def saved(path, image, **kwargs):
    image.save(path, **kwargs)
    return path


DEEP = {
    "16.png": (RAMP * 65535).round().astype(np.uint16),
    "16.tiff": (RAMP * 65535).round().astype(np.uint16),
    "32.tiff": (RAMP * (2**31 - 1)).astype(np.int32),
    "float.tiff": RAMP.astype(np.float32),
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_greys_are_scaled_by_their_range(name, tmp_path):
    path = saved(tmp_path / name, Image.fromarray(DEEP[name]))
    assert np.abs(levels(path).astype(int) - GREY).max() <= 1
    assert any("RGB" in note for note in open_image(path)[1])


def test_big_endian_and_colour_of_16_bits(tmp_path):
    big = Image.frombytes("I;16B", (16, 4), DEEP["16.png"].astype(">u2").tobytes())
    assert np.abs(np.asarray(to_rgb(big))[:, :, 1].astype(int) - GREY).max() <= 1
    path = tmp_path / "rgb16.ppm"
    path.write_bytes(b"P6 16 4 65535\n" + np.repeat(DEEP["16.png"].astype(">u2")[..., None], 3, 2).tobytes())
    assert np.abs(levels(path).astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("top", [255.0, 1.5, -0.5, np.inf, np.nan])
def test_floats_outside_0_to_1_are_refused_with_their_range(top, tmp_path):
    values = RAMP.astype(np.float32).copy()
    values[0, 0] = top
    path = saved(tmp_path / "float.tiff", Image.fromarray(values))
    with pytest.raises(OptionError, match=r"float\.tiff.* range from .*\[0, 1\]"):
        open_image(path)


def test_all_transparency_is_laid_on_white(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)  # black, and not to be seen
    half = np.full((4, 4, 4), (0, 0, 0, 128), np.uint8)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    pictures = {
        "rgba.png": (Image.fromarray(clear), {}),
        "la.png": (Image.fromarray(clear).convert("LA"), {}),
        "p.png": (palette, {"transparency": 0}),
        "pa.png": (Image.fromarray(clear).convert("PA"), {}),
        "l.png": (Image.new("L", (4, 4), 0), {"transparency": 0}),
        "rgb.png": (Image.new("RGB", (4, 4)), {"transparency": (0, 0, 0)}),
        "rgba.webp": (Image.fromarray(clear), {"lossless": True}),
    }
    for name, (image, how) in pictures.items():
        try:
            path = saved(tmp_path / name, image, **how)
        except OSError:  # Pillow writes no PA
            assert np.asarray(to_rgb(image)).min() == 255, name
        else:
            assert levels(path).min() == 255, name
    assert levels(saved(tmp_path / "half.png", Image.fromarray(half))).tolist() == [[127] * 4] * 4


def test_other_modes_and_orientation(tmp_path):
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert open_image(saved(tmp_path / "a.jpg", cmyk))[0].getpixel((0, 0))[0] > 200
    assert levels(saved(tmp_path / "b.png", Image.new("1", (4, 4), 1))).min() == 255
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(tmp_path / "c.jpg", Image.new("RGB", (8, 4)), exif=exif)
    assert open_image(turned)[0].size == (4, 8)
    with Image.open(turned) as image:
        assert to_rgb(image).size == (4, 8)


def test_of_several_frames_the_first_is_taken_and_that_is_said(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    image, notes = open_image(path)
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert any("several frames" in note for note in notes)


def html(path):
    path.write_text("<!DOCTYPE html><html></html>")


def cut(path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue()[:900])


@pytest.mark.parametrize(
    "make, why",
    [
        (html, "web page"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull"),
        (lambda path: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"), "SVG"),
        (lambda path: path.write_text("hello"), "format is not known"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: None, "no such file"),
        (lambda path: path.symlink_to(path), "Check the path"),
        (cut, "truncated|broken|Truncated"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_sentence(make, why, tmp_path):
    path = tmp_path / "a.jpg"
    make(path)
    with pytest.raises(OptionError, match=why) as caught:
        open_image(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_too_many_pixels_are_refused_and_many_are_welcome_without_a_warning(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.new("L", (20, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(path)[0].size == (20, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    with pytest.raises(OptionError, match="too many pixels"):
        open_image(path)
    with pytest.raises(OptionError, match="too many pixels"):
        check_image(path)


def test_images_as_arrays_and_paths(tmp_path):
    red = np.full((4, 4, 3), (255, 0, 0), np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(red))
    for value in (red, path, str(path), Image.fromarray(red)):
        assert np.array_equal(np.asarray(given_image(value)[0]), red)
    for value in (red.astype(np.float32) / 255, red[..., :2], np.zeros((0, 4), np.uint8)):
        with pytest.raises(OptionError, match="uint8 of shape"):
            given_image(value)
    with pytest.raises(OptionError, match="not bytes"):
        given_image(b"no")


def test_a_picture_without_pixels_is_refused():
    with pytest.raises(OptionError, match="no pixels"):
        given_image(Image.new("RGB", (0, 5)))


def test_a_copy_is_made_of_what_is_given():
    image = Image.new("RGB", (4, 4))
    given_image(image)[0].putpixel((0, 0), (255, 0, 0))
    assert image.getpixel((0, 0)) == (0, 0, 0)


def test_a_folder_with_a_format_that_is_not_read_is_refused(tmp_path):
    saved(tmp_path / "b.BMP", Image.new("RGB", (4, 4)))
    saved(tmp_path / "a.gif", Image.new("RGB", (4, 4)))
    assert [path.name for path in image_files(tmp_path)] == ["a.gif", "b.BMP"]
    (tmp_path / "c.heic").write_bytes(b"?")
    with pytest.raises(OptionError, match=r"c\.heic.*Convert it to PNG"):
        image_files(tmp_path)


def test_a_picture_in_a_page_is_the_smallest_png_without_loss():
    image = Image.fromarray(np.tile(GREY, (8, 1)))
    head, _, data = data_uri(image).partition(",")
    inside = base64.b64decode(data)
    assert head == "data:image/png;base64" and len(inside) <= len(png(image.convert("RGB")))
    assert Image.open(io.BytesIO(inside)).tobytes() == image.convert("RGB").tobytes()
