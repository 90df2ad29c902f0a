"""The three resizes are the originals', to the last bit where the same library does it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from realignkit_plugins.metrics.resizing import RESIZE, network_input, resize_clean, resize_pytorch
from tests.plugins.metrics import inception as golden

META = golden.read("clean_resize", "meta.json")
NAMES = {"clean": "clean", "pytorch": "legacy_pytorch", "tensorflow": "legacy_tensorflow_by_torch_fidelity"}
PLACES = {"rows": (0, 1, 149, 298), "cols": (0, 1, 149, 298)}


@pytest.mark.parametrize("mode", NAMES)
def test_equals_the_original(mode: str) -> None:
    name, atol = NAMES[mode], 1e-4 if mode == "clean" else 1e-3
    expected = golden.tensors("clean_resize")
    for number, pixels in enumerate(golden.pixels("clean_resize")):
        resized = RESIZE[mode](pixels)
        assert resized.dtype == np.float32
        samples = {
            "grid": resized[::6, ::6],
            "rows": resized[list(PLACES["rows"])],
            "cols": resized[:, list(PLACES["cols"])],
        }
        for part, values in samples.items():
            np.testing.assert_allclose(values, expected[f"{name}_{number}_{part}"], rtol=0, atol=atol)
        sums = META["sums_of_full_outputs"][f"{name}_{number}"]
        assert resized.sum((0, 1), dtype=np.float64) == pytest.approx(sums["sum_per_channel"], rel=1e-6)
        assert np.square(resized, dtype=np.float64).sum() == pytest.approx(sums["sum_of_squares"], rel=1e-6)


def test_clean_to_any_size_is_the_originals_to_the_bit() -> None:
    for number, pixels in enumerate(golden.pixels("clean_resize")):
        resized = resize_clean(pixels, (40, 48))
        assert np.array_equal(resized, golden.tensors("clean_resize")[f"clean_small_{number}"])


def test_pytorchs_way_also_on_the_last_image_of_the_other_pack() -> None:
    resized = resize_pytorch(golden.pixels("fid_inception")[-1]) / 255
    expected = golden.tensors("fid_inception")["resized_probe"]
    np.testing.assert_allclose(resized.transpose(2, 0, 1)[:, ::23, ::23], expected, rtol=0, atol=1e-6)


def test_what_the_network_takes() -> None:
    grey = Image.fromarray(np.full((20, 30), 255, np.uint8))
    black = Image.new("RGB", (7, 5))
    for mode, white in {"clean": 127 / 128, "pytorch": 1, "tensorflow": 127 / 128}.items():
        pixels = network_input([grey, black], mode)
        assert pixels.shape == (2, 3, 299, 299)
        assert pixels[0].numpy() == pytest.approx(white)
        assert pixels[1].numpy() == pytest.approx(-1)
