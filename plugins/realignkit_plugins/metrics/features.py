"""Who looks at images, for distances between sets of them: FID's Inception, or any plugin that has features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from realignkit.errors import OptionError, PluginError
from realignkit_plugins.loading import resolve_device
from realignkit_plugins.metrics.weights import load_inception, weights_file

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from realignkit_plugins.metrics.resizing import Resize

Features = npt.NDArray[np.float32]

INCEPTION = "inception"


class Observer(Protocol):
    """From images to features, always in float32."""

    def features(self, images: Sequence[Image]) -> Features:
        """Features (B, D) of images (RGB, of any sizes)."""

    def identity(self) -> dict[str, Any]:
        """What features depend on beside the images, as JSON values."""


class Inception:
    """The Inception network of FID.

    Args:
        weights: see :func:`realignkit_plugins.metrics.weights.weights_file`.
        resize: see :mod:`realignkit_plugins.metrics.resizing`.
        dims: of the features, one of :data:`realignkit_plugins.metrics.inception.DIMS`.
        device: where it works.
    """

    def __init__(self, weights: str | None, resize: Resize, dims: int, device: str) -> None:
        self.weights, self.resize, self.dims, self.device = weights, resize, dims, resolve_device(device)

    def features(self, images: Sequence[Image]) -> Features:
        """See :class:`Observer`."""
        return self._look(images, self.dims).cpu().numpy()

    def logits(self, images: Sequence[Image]) -> Features:
        """Logits without bias, (B, 1008)."""
        features = self._look(images, 2048)
        return self._loaded[0].logits(features).cpu().numpy()

    def identity(self) -> dict[str, Any]:
        """See :class:`Observer`."""
        about = {"features": INCEPTION, "dims": self.dims, "resize": self.resize}
        return {**about, "weights": self._loaded[1]}

    @property
    def _loaded(self) -> Any:
        return load_inception(weights_file(self.weights), self.device)

    def _look(self, images: Sequence[Image], dims: int) -> Tensor:
        import torch

        from realignkit_plugins.metrics.resizing import network_input

        pixels = network_input(images, self.resize).to(self.device)
        if not self.device.startswith("mps"):  # where this layout is not known to be right
            pixels = pixels.contiguous(memory_format=torch.channels_last)  # a third faster on CPUs
        # TF32, which torch takes for convolutions by itself, has 10 bits where float32 has 23.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self._loaded[0].features(pixels, dims)


class Borrowed:
    """The features of a reward or another metric: ``clip``, ``micro_oracle`` …

    Args:
        name: as it is registered.
        options: its own.
    """

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        from realignkit.registry import default_registry
        from realignkit.resolve import measuring_reward

        registry = default_registry()
        self.name = name
        try:
            self.plugin = measuring_reward(registry, name, options)
        except PluginError:
            self.plugin = registry.create("metric", name, **options)
        if not callable(getattr(self.plugin, "features", None)):
            raise OptionError(f"'{name}' has no features of images. Give {INCEPTION}, clip, or a plugin that has.")

    def features(self, images: Sequence[Image]) -> Features:
        """See :class:`Observer`."""
        return np.asarray(self.plugin.features(list(images)), np.float32)

    def identity(self) -> dict[str, Any]:
        """See :class:`Observer`. A checkpoint counts by what is in it, wherever it lies."""
        network = getattr(getattr(self.plugin, "loaded", None), "network", None)
        weights = {} if network is None else {"weights": weights_digest(network)}
        left_out = {"device", "dtype", "batch_size", *(("model", "revision", "tokenizer") if weights else ())}
        options = getattr(self.plugin, "options", None)
        chosen = {} if options is None else options.model_dump(mode="json", exclude=left_out)
        return {"features": self.name, **{f"features.{key}": value for key, value in chosen.items()}, **weights}


def weights_digest(network: nn.Module) -> str:
    """The SHA-256 of a network's weights, by name and value: the same whichever files they came in."""
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
