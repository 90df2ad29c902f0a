"""The Inception network computes what pytorch-fid's and torch-fidelity's do, and takes no other's weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realignkit.errors import ModelError
from realignkit_plugins.metrics.inception import DIMS, FIDInception, inception_from
from realignkit_plugins.metrics.resizing import network_input
from tests.plugins.metrics import inception as golden

META = golden.read("fid_inception", "meta.json")


@pytest.fixture(scope="module")
def network() -> FIDInception:
    return inception_from(golden.weights(), "recipe.pth")


def assert_equal(found: np.ndarray, name: str, rows: list[int]) -> None:
    atol = META["tolerance"]["atol_per_tensor"][name]
    expected = golden.tensors("fid_inception")[name][rows]
    np.testing.assert_allclose(found, expected, rtol=META["tolerance"]["rtol"], atol=atol)


def test_equals_the_originals(network: FIDInception) -> None:
    images, rows = golden.images("fid_inception"), list(range(6))
    with torch.no_grad():
        pixels = network_input(images, "pytorch")
        assert_equal(network.features(pixels).numpy(), "features_2048", rows)
        compatible = network.features(network_input(images, "tensorflow"))
        assert_equal(compatible.numpy(), "torch_fidelity_2048", rows)
        assert_equal(network.logits(compatible).numpy(), "torch_fidelity_logits_unbiased", rows)
        for dims in DIMS[:-1]:
            assert_equal(network.features(pixels[:2], dims).numpy(), f"layer_mean_{dims}", rows[:2])


def test_the_published_names_and_shapes_fit() -> None:
    published = golden.read("fid_inception", "published_key_shapes.json")
    with torch.device("meta"):
        network = FIDInception()
    assert {
        key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in network.state_dict().items()
    } == published["keys"]
    assert sum(value.numel() for value in network.state_dict().values()) == published["elements"]


def test_another_networks_weights_are_refused_with_the_difference() -> None:
    weights = golden.weights()
    torchvisions = {**weights, "AuxLogits.fc.bias": torch.zeros(1000), "fc.weight": torch.zeros(1000, 2048)}
    with pytest.raises(
        ModelError, match=r"it is torchvision's Inception v3.*1000 classes instead of 1008.*Give pt_inc"
    ):
        inception_from(torchvisions, "inception_v3_google-0cc3c7bd.pth")
    with pytest.raises(ModelError, match="torchvision's"):
        inception_from({**weights, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, "x.pth")
    lacking = {key: value for key, value in weights.items() if not key.startswith("Mixed_7c.")}
    with pytest.raises(ModelError, match=r"'x.pth' is not the Inception network of FID: 45 of its 472 weights"):
        inception_from(lacking, "x.pth")
    with pytest.raises(ModelError, match=r"it has 1 weights that the network has no place for \(extra"):
        inception_from({**weights, "extra.weight": torch.zeros(1)}, "x.pth")
    with pytest.raises(ModelError, match=r"fc.bias has the shape \(1007,\) where \(1008,\) is wanted"):
        inception_from({**weights, "fc.bias": torch.zeros(1007)}, "x.pth")


def test_counters_may_be_missing_and_half_precision_is_computed_in_full() -> None:
    bare = {key: value.half() for key, value in golden.weights().items() if not key.endswith("num_batches_tracked")}
    network = inception_from(bare, "half.pth")
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    assert not network.training
