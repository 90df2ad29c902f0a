"""The Inception network of FID in plain torch: torchvision's Inception v3 with the pools and classes of TensorFlow's.

Names of weights are those of the published file (mseitzer/pytorch-fid, toshas/torch-fidelity). Against torchvision's
network: 1008 classes, no auxiliary head, average pools that do not count the padding, and in the last block a maximum
pool where an average was meant. Its weights are of 2015 and of another training.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from realignkit.errors import ModelError

SIZE = 299
"""Height and width of the images that the network was trained on."""

CLASSES = 1008
DIMS = (64, 192, 768, 2048)
"""Numbers of features: after the first and the second pool, before the last three blocks, and at the end."""

_EPSILON = 1e-3


class Convolution(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding: bool = True):
        super().__init__()
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        around = (kernel[0] // 2, kernel[1] // 2) if padding else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, around, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(nn.Module):
    """Mixed_5b to 5d, at 35 x 35."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1 = Convolution(inputs, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3)
        self.branch_pool = Convolution(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        wide = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """Mixed_6a, from 35 x 35 to 17 x 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, stride=2, padding=False)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2, padding=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class BlockC(nn.Module):
    """Mixed_6b to 6e, at 17 x 17."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 192, 1)
        self.branch7x7_1 = Convolution(inputs, inner, 1)
        self.branch7x7_2 = Convolution(inner, inner, (1, 7))
        self.branch7x7_3 = Convolution(inner, 192, (7, 1))
        self.branch7x7dbl_1 = Convolution(inputs, inner, 1)
        self.branch7x7dbl_2 = Convolution(inner, inner, (7, 1))
        self.branch7x7dbl_3 = Convolution(inner, inner, (1, 7))
        self.branch7x7dbl_4 = Convolution(inner, inner, (7, 1))
        self.branch7x7dbl_5 = Convolution(inner, 192, (1, 7))
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """Mixed_7a, from 17 x 17 to 8 x 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(inputs, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2, padding=False)
        self.branch7x7x3_1 = Convolution(inputs, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2, padding=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        wide = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), wide, F.max_pool2d(x, 3, stride=2)], 1)


class BlockE(nn.Module):
    """Mixed_7b and 7c, at 8 x 8. ``maximum``: of the pool, as the published weights were trained with in 7c."""

    def __init__(self, inputs: int, maximum: bool = False) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3))
        self.branch3x3_2b = Convolution(384, 384, (3, 1))
        self.branch3x3dbl_1 = Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1))
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        branches = [
            *(self.branch1x1(x), self.branch3x3_2a(single), self.branch3x3_2b(single)),
            *(self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(pooled)),
        ]
        return torch.cat(branches, 1)


class FIDInception(nn.Module):
    """The network; :meth:`features` and :meth:`logits` are what is measured with."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2, padding=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padding=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padding=False)
        self.Mixed_5b = BlockA(192, pooled=32)
        self.Mixed_5c = BlockA(256, pooled=64)
        self.Mixed_5d = BlockA(288, pooled=64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b = BlockC(768, inner=128)
        self.Mixed_6c = BlockC(768, inner=160)
        self.Mixed_6d = BlockC(768, inner=160)
        self.Mixed_6e = BlockC(768, inner=192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b = BlockE(1280)
        self.Mixed_7c = BlockE(2048, maximum=True)
        self.fc = nn.Linear(2048, CLASSES)

    def features(self, pixels: Tensor, dims: int = 2048) -> Tensor:
        """Features, float32 (B, dims): the mean over each map of the last layer that has so many.

        Args:
            pixels: float32 (B, 3, 299, 299) in [-1, 1], see :mod:`realignkit_plugins.metrics.resizing`.
            dims: one of :data:`DIMS`.
        """
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pixels)))
        x = F.max_pool2d(x, 3, stride=2)
        if dims > 64:
            x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        if dims > 192:
            x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
            x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        if dims > 768:
            x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits without the bias, float32 (B, 1008), of the 2048 features: the Inception Score leaves the bias out."""
        return features @ self.fc.weight.T

    forward = features


def inception_from(weights: Mapping[str, Tensor], name: str) -> FIDInception:
    """The network with these weights, float32, frozen, in evaluation mode.

    Args:
        weights: by the names of the published file; counters of batches may be there.
        name: what the user calls them, for messages.

    Raises:
        ModelError: they are another network's; the message says how they differ.
    """
    with torch.device("meta"):
        network = FIDInception()
    state = network.state_dict()
    wanted = {key: tuple(value.shape) for key, value in state.items() if value.ndim}
    kept = {key: value for key, value in weights.items() if not key.endswith(".num_batches_tracked")}
    given = {key: tuple(value.shape) for key, value in kept.items()}
    if given != wanted:
        raise ModelError(f"'{name}' is not the Inception network of FID: {_difference(given, wanted)}")
    counters = {key: torch.tensor(0) for key in state.keys() - wanted.keys()}
    network.load_state_dict({**counters, **{key: value.float() for key, value in kept.items()}}, assign=True)
    return network.requires_grad_(False).eval()


def _difference(given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    head = given.get("fc.weight", (0,))[0]
    if any(key.startswith("AuxLogits.") for key in given) or head == 1000:
        return (
            "it is torchvision's Inception v3, which was trained otherwise (1000 classes instead of 1008, other "
            "pools), so that its distances compare with nobody's. Give pt_inception-2015-12-05-6726825d.pth of "
            "pytorch-fid."
        )
    missing, more = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    other = next((key for key in wanted if key in given and given[key] != wanted[key]), None)
    if missing:
        what = f"{len(missing)} of its {len(wanted)} weights are missing ({missing[0]} …)"
    elif more:
        what = f"it has {len(more)} weights that the network has no place for ({more[0]} …)"
    else:
        assert other is not None
        what = f"{other} has the shape {given[other]} where {wanted[other]} is wanted"
    return f"{what}. Give pt_inception-2015-12-05-6726825d.pth of pytorch-fid."
