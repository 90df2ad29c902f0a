"""Pictures as people have them, opened and made RGB in one way for all: depth, transparency, orientation, frames."""

from __future__ import annotations

import base64
import hashlib
import io
import mimetypes
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from PIL.Image import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from realignkit.errors import OptionError, refuse_address

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".tga", ".avif"),
)
"""How files of pictures end, in lower case."""

_GAP = 8  # pixels between two pictures
_KEY = "realignkit"  # the name of the text in a picture that says what it was made from
Given = tuple[PILImage, tuple[str, ...]]
"""An image in RGB, with a note for each change that made it so."""

_ONE_PICTURE = ("MPO", "PSD", "ICO", "ICNS")  # their further frames are previews, layers or sizes of the same one
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF's tags


def to_rgb(image: PILImage) -> PILImage:
    """A picture as its viewer shows it, in RGB; the very same object where that is what it is already.

    Integers of 16 and 32 bits are scaled by their range, floats are taken as [0, 1], transparency is laid on white, and
    the picture is turned as its EXIF data says.

    Raises:
        OptionError: floats outside [0, 1], negative integers, or a colour space that cannot be converted.
    """
    plain = image.mode == "RGB" and not image.has_transparency_data and image.getexif().get(0x0112, 1) == 1
    return image if plain else as_seen(image)[0]


def as_seen(image: PILImage, background: str = "white") -> tuple[PILImage, tuple[str, ...]]:
    """A copy of a picture as :func:`to_rgb` makes it, with a note for each change but turning.

    ``background``: what transparency is laid on.

    Raises:
        OptionError: as for :func:`to_rgb`.
    """
    if not image.width or not image.height:
        raise OptionError("it has no pixels.")
    notes = []
    if image.format not in _ONE_PICTURE and getattr(image, "is_animated", False):
        notes.append(f"the given image has several frames, of which number {image.tell() + 1} was taken")
    # Phones store photos sideways with a flag; what the user sees is what should be worked on.
    turned = ImageOps.exif_transpose(image)
    scaled = ""
    if turned.mode in ("I", "F") or turned.mode.startswith("I;16"):
        turned, scaled = _grey(turned, image, background)
    if image.mode != "RGB":
        notes.append(f"the given image was converted from {image.mode} to RGB{scaled}")
    return _opaque(turned, image, background), tuple(notes)


def fit_image(image: PILImage, size: tuple[int, int]) -> tuple[PILImage, list[str]]:
    """An image as RGB of ``size`` (width, height), cropped around its centre; with a note per change.

    Raises:
        OptionError: as for :func:`to_rgb`.
    """
    return cropped(as_seen(image), size)


def cropped(given: Given, size: tuple[int, int]) -> tuple[PILImage, list[str]]:
    """A given image of ``size`` (width, height), cut around its centre; with all notes."""
    image, notes = given
    changes = list(notes)
    if image.size != size:
        before, after = (f"{width} x {height}" for width, height in (image.size, size))
        changes.append(f"the given image of {before} was cropped and resized to {after}")
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return image, changes


def to_tensor(images: Sequence[PILImage]) -> Tensor:
    """RGB images of one size as float32 (B, 3, H, W) in [0, 1], as rewards take them.

    Raises:
        OptionError: they are of several sizes.
    """
    import torch

    if len({image.size for image in images}) > 1:
        raise OptionError("images of different sizes cannot share a batch. Use batch_size=1.")
    arrays = [np.asarray(to_rgb(image), dtype=np.float32) / 255 for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def open_image(path: str | Path, background: str = "white") -> tuple[PILImage, tuple[str, ...]]:
    """A file's picture as :func:`as_seen` makes it; with several frames the first one.

    Raises:
        OptionError: there is no such file, or it holds no picture that can be read; the message names it and says why.
    """
    return _seen(path, background, lambda file: file)


def read_image(path: str | Path) -> tuple[PILImage, str]:
    """A file's picture as :func:`open_image` makes it, and the SHA-256 of the very bytes that it was read from.

    Raises:
        OptionError: as for :func:`open_image`.
    """
    digest = hashlib.sha256()

    def content(file: Path) -> io.BytesIO:
        data = file.read_bytes()
        digest.update(data)
        return io.BytesIO(data)

    image, _ = _seen(path, "white", content)
    return image, digest.hexdigest()


def _seen(path: str | Path, background: str, source: Callable[[Path], Path | io.BytesIO]) -> Given:
    refuse_address(path)
    path = Path(path).expanduser()
    try:
        with _opened(source(path)) as image:
            return as_seen(image, background)
    except OptionError as error:
        raise OptionError(f"'{path}' cannot be used: {error}") from None
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise OptionError(f"cannot read '{_shown(path)}' as an image: {_why(path, error)}") from error


def check_image(path: str | Path) -> None:
    """Refuse a file that does not begin as a picture does; its pixels are not read.

    Raises:
        OptionError: as for :func:`open_image`.
    """
    refuse_address(path)
    path = Path(path).expanduser()
    try:
        _opened(path).close()
    except Exception as error:
        raise OptionError(f"cannot read '{_shown(path)}' as an image: {_why(path, error)}") from error


def image_files(folder: Path) -> list[Path]:
    """The pictures in a folder and those below it, in the order of their paths; hidden files are none.

    Raises:
        OptionError: a picture is of a format that is not read, and would be left out without a word.
    """
    files = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or path.is_dir():
            continue
        if path.suffix.lower() in SUFFIXES:
            files.append(path)
        elif foreign_image(path):
            raise OptionError(f"'{path}' is of a format that is not read here. Convert it to PNG, or remove it.")
    return files


def foreign_image(path: Path) -> bool:
    """Whether a file is called like a picture of a format that is not read."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    more = (".heic", ".heif", ".jxl", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg")
    return path.suffix.lower() not in SUFFIXES and (kind.startswith("image/") or path.suffix.lower() in more)


def given_image(value: Any) -> tuple[PILImage, tuple[str, ...]]:
    """What a user hands in as a picture, as :func:`as_seen` makes it.

    Args:
        value: a PIL image, the path of a file, or an array uint8 of (H, W), (H, W, 3) or (H, W, 4).

    Raises:
        OptionError: it is none of these, or cannot be read.
    """
    if isinstance(value, Image.Image):
        try:
            return as_seen(value)
        except OptionError as error:
            raise OptionError(f"the given image cannot be used: {error}") from None
        except Exception as error:  # opened, but read only now
            raise OptionError(f"the given image cannot be read: {_sentence(error)}") from error
    if isinstance(value, str | Path):
        return open_image(value)
    if isinstance(value, np.ndarray):
        fits = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (3, 4))
        if value.dtype != np.uint8 or not fits or not value.size:
            raise OptionError(
                f"an image as an array is uint8 of shape (H, W), (H, W, 3) or (H, W, 4), not {value.dtype} "
                f"{value.shape}. For floats in [0, 1]: (255 * array).round().astype('uint8')."
            )
        return as_seen(Image.fromarray(np.ascontiguousarray(value)))
    raise OptionError(f"an image is a PIL image, a path or a uint8 array, not {type(value).__name__}.")


def _opened(file: Path | io.BytesIO) -> PILImage:
    with warnings.catch_warnings():
        # Large scans are welcome up to Pillow's limit, where it raises.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file)


def png(image: PILImage, key: str | None = None) -> bytes:
    """An image as PNG bytes; with a ``key``, which :func:`picture_key` reads back.

    Not with Pillow's ``optimize``: it takes eight times as long for a twentieth less.
    """
    texts = PngInfo()
    if key is not None:
        texts.add_text(_KEY, key)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=texts)
    return buffer.getvalue()


def side_by_side(left: PILImage, right: PILImage) -> PILImage:
    """Two images on one, RGB, on white."""
    both = Image.new("RGB", (left.width + _GAP + right.width, max(left.height, right.height)), "white")
    both.paste(left.convert("RGB"), (0, 0))
    both.paste(right.convert("RGB"), (left.width + _GAP, 0))
    return both


def data_uri(image: PILImage) -> str:
    """An image as a ``data:`` URI: PNG, lossless."""
    return f"data:image/png;base64,{base64.b64encode(png(image.convert('RGB'))).decode()}"


def picture_key(path: Path) -> str | None:
    """The key of a picture that :func:`png` made; None where there is none, or it is damaged."""
    try:
        with Image.open(path) as image:
            image.load()
            return str(image.info[_KEY])
    except Exception:  # Pillow raises many kinds for damaged files
        return None


def _grey(image: PILImage, original: PILImage, background: str) -> tuple[PILImage, str]:
    """Deep greys as 8 bits, and in words how. ``original``: the file that says what its numbers mean."""
    values = np.asarray(image)
    if not values.size:
        return image.convert("L"), ""
    tags: Any = getattr(original, "tag_v2", {})
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (np.isfinite(low) and np.isfinite(high) and low >= 0 and high <= 1):
            raise OptionError(
                f"its floating-point values range from {low:g} to {high:g}; only [0, 1] is read. Scale them first."
            )
        top, said = 1.0, " (floating-point greys in [0, 1])"
    else:
        bits = int(tags.get(_BITS, (0,))[0])
        signed = int(tags.get(_SAMPLE_FORMAT, (1,))[0]) == 2
        if bits == 32 and not signed and low < 0:  # Pillow reads unsigned numbers as signed ones
            values = values.astype(np.int64) % 2**32
            low, high = values.min(), values.max()
        if low < 0:
            raise OptionError(f"its integer values range from {low} to {high}; negative ones are no greys.")
        top, said = _full_scale(image.mode, original.format, bits, signed, int(high))
    share = values.astype(np.float64) / top
    if tags.get(_PHOTOMETRIC) == 0:  # zero is white; Pillow heeds that for 8 bits only
        share = 1 - share
    grey = (share * 255).round().astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[np.asarray(image) == clear] = ImageColor.getcolor(background, "L")
    return Image.fromarray(grey), said


def _full_scale(mode: str, form: str | None, bits: int, signed: bool, high: int) -> tuple[float, str]:
    """What white is in a picture of deep integers, and how that is known, in words."""
    if bits in range(9, 17):
        top = 2 ** (bits - signed) - 1
        return max(top, high), f" ({bits}-bit greys from 0 to {top})"
    if mode != "I" or form in ("PNG", "PPM"):
        return 65535, " (16-bit greys from 0 to 65535)"
    # The mode holds numbers of any origin, so the values decide.
    top = next(top for top in (255, 65535, 2**31 - 1, 2**32 - 1) if high <= top)
    return top, f" (integers up to {high}, read as greys from 0 to {top})"


def _opaque(image: PILImage, original: PILImage, background: str) -> PILImage:
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:  # of 16 bits, of which Pillow keeps 8
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    try:
        if image.mode == "La":  # premultiplied: Pillow knows no direct way
            image = image.convert("LA")
        if image.has_transparency_data:
            whole = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, background), whole)
        return image.convert("RGB")
    except ValueError as error:
        raise OptionError(f"its mode {original.mode} cannot be converted to RGB ({error}). Save it as RGB.") from error


def _shown(path: Path) -> str:
    return str(path).replace("\0", "\\0")


def _why(path: Path, error: Exception) -> str:
    """Why a file cannot be read as a picture, and what to do, as one sentence or two."""
    if isinstance(error, IsADirectoryError):
        return "it is a folder. Give the file."
    if isinstance(error, FileNotFoundError):
        return "there is no such file. Check the path."
    if isinstance(error, OSError) and error.strerror:  # the system's: no permission, a name that is too long
        return f"{error.strerror}. Check the path."
    if isinstance(error, Image.DecompressionBombError):
        return f"it has too many pixels ({error}). Make it smaller."
    if "\0" in str(path):
        return "its name holds a zero byte. Correct the path."
    if not isinstance(error, UnidentifiedImageError):
        return _sentence(error)
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if not head:
        return "it is empty. Replace or remove it."
    if head.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, not a picture. Download the picture itself."
    if head.startswith(b"version https://git-lfs"):
        return "it stands for a file in Git LFS. Fetch it with 'git lfs pull'."
    if b"<svg" in head:
        return "it is a vector drawing (SVG). Convert it to PNG."
    return "its format is not known. Give a PNG, JPEG or WebP file."


def _sentence(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return f"{text}. Replace it by a PNG, JPEG or WebP file."
