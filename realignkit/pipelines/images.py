"""Images of pipelines: the noise they start from, to and from clean latents, and numbers that are none."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.arguments import shown
from realignkit.errors import ModelError, OptionError
from realignkit.images import to_rgb
from realignkit.pipelines.families import place

if TYPE_CHECKING:
    from PIL.Image import Image


def noise_sources(seeds: Sequence[int]) -> list[torch.Generator]:
    """One per image, on the CPU: noise that depends neither on the device nor on the rest of the batch.

    Raises:
        OptionError: a seed is no whole number in [0, 2**64).
    """
    try:
        return [torch.Generator("cpu").manual_seed(operator.index(seed)) for seed in seeds]
    except (TypeError, ValueError, RuntimeError):
        raise OptionError(f"seeds are whole numbers from 0 to 2**64 - 1, not {', '.join(map(shown, seeds))}.") from None


def to_pil(images: Tensor) -> list[Image]:
    """RGB images of a float tensor (B, 3, H, W) in [0, 1]."""
    from PIL import Image

    array = (images.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(item) for item in array]


@torch.no_grad()
def encode_images(
    pipeline: Any, images: Sequence[Image], height: int | None = None, width: int | None = None
) -> Tensor:
    """Clean latents (B, C, h, w) of pictures, as a pipeline that starts from images takes them, in its VAE's dtype.

    The posterior's mode, not a sample, so that the first noise of a seed is the one that it draws from noise with.

    Args:
        pipeline: whose VAE.
        images: PIL, in any mode; resized where that is needed.
        height: in pixels; None: the first image's.
        width: see ``height``.

    Raises:
        NotFiniteError: the encoder computed NaN or infinity.
    """
    vae = pipeline.vae
    pixels = pipeline.image_processor.preprocess([to_rgb(image) for image in images], height, width)
    dtype = vae.dtype
    with without_overflow(vae):
        pixels = pixels.to(pipeline._execution_device, vae.dtype)
        raw = _mode(vae.encode(pixels[:, :, None]))[:, :, 0] if _of_videos(vae) else _mode(vae.encode(pixels))
    mean, std, factor = _statistics(vae, raw)
    latents = ((raw - mean) / std * factor).to(dtype)
    check_finite(latents, "in the image encoder")
    return latents


def decoded(vae: Any, latents: Tensor) -> Tensor:
    """Images, float32 (B, 3, H, W) in [0, 1], of clean latents (B, C, h, w); differentiable.

    Raises:
        NotFiniteError: the decoder computed NaN or infinity.
    """
    mean, std, factor = _statistics(vae, latents)
    images: Tensor = vae.decode((latents * (std / factor) + mean).to(vae.dtype), return_dict=False)[0]
    check_finite(images, "in the image decoder")
    pixels: Tensor = (images.float() / 2 + 0.5).clamp(0, 1)
    return pixels


@contextlib.contextmanager
def without_overflow(vae: Any) -> Iterator[None]:
    """Run a VAE in float32 meanwhile, where its own precision would overflow."""
    dtype = vae.dtype
    upcast = overflows(vae, dtype)
    if upcast:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(dtype)


def overflows(vae: Any, dtype: torch.dtype) -> bool:
    """Whether a VAE has to be run in float32 instead of ``dtype``, as SDXL's has instead of float16."""
    return dtype == torch.float16 and bool(getattr(vae.config, "force_upcast", False))


def _mode(encoded: Any) -> Tensor:
    # AutoencoderTiny's latents are no distribution.
    latents: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    return latents


def latent_channels(vae: Any) -> int:
    """How many channels the latents of a VAE have."""
    return int(vae.config.get("latent_channels") or vae.config.z_dim)


def _of_videos(vae: Any) -> bool:
    """Whether pictures are videos of one frame to it, as to Qwen-Image's."""
    return getattr(vae, "temperal_downsample", None) is not None


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor, Tensor, float]:
    """Mean and standard deviation of raw latents, and the factor: ``raw = normalised * std / factor + mean``."""
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        shift = getattr(config, "shift_factor", None) or 0.0
        return like.new_tensor(shift), like.new_ones(()), config.scaling_factor
    shape = (1, -1, 1, 1)
    factor = getattr(config, "scaling_factor", 1.0)
    return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape), factor


class Autoencoder:
    """A pipeline's VAE, in the precision in which it does not overflow.

    Args:
        vae: ``AutoencoderKL`` or ``AutoencoderTiny``, on its device.
        dtype: of the training; the VAE runs in it.
        upcast: the VAE is kept, and runs, in float32 all the same.
    """

    def __init__(self, vae: Any, dtype: torch.dtype, *, upcast: bool) -> None:
        self.vae, self.dtype, self.upcast = vae, dtype, upcast
        # The pipeline's own pictures come this way too, whatever precision or autocast they are drawn in.
        vae.decode = self._decode_for_pipeline

    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32 (B, 3, H, W) in [0, 1], of clean latents; differentiable.

        Raises:
            ModelError: the decoder computed NaN or infinity.
        """
        mean, std, factor = _statistics(self.vae, latents)
        return (self.decode_raw(latents * (std / factor) + mean).float() / 2 + 0.5).clamp(0, 1)

    def decode_raw(self, raw: Tensor) -> Tensor:
        """What the network itself makes of latents as it knows them, in about [-1, 1].

        Raises:
            ModelError: see :meth:`decode`.
        """
        with self._precision() as dtype:
            images: Tensor = type(self.vae).decode(self.vae, raw.to(dtype), return_dict=False)[0]
        check_finite(images, "in the image decoder")
        return images

    def _decode_for_pipeline(self, raw: Tensor, return_dict: bool = True, **_: Any) -> Any:
        from diffusers.models.autoencoders.vae import DecoderOutput

        images = self.decode_raw(raw)
        return DecoderOutput(sample=images) if return_dict else (images,)

    def give_back(self) -> None:
        """Leave the VAE as other networks of its pipeline are, which then decodes by itself again."""
        vars(self.vae).pop("decode", None)
        if self.upcast:
            place(self.vae, next(self.vae.parameters()).device, self.dtype)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Clean latents, float32, of images (B, 3, H, W) in [0, 1]: the posterior's mode.

        Raises:
            ModelError: the encoder computed NaN or infinity.
        """
        weight = next(self.vae.parameters())
        with self._precision() as dtype:
            raw = _mode(self.vae.encode((images.to(weight.device) * 2 - 1).to(dtype))).float()
        check_finite(raw, "in the image encoder")
        mean, std, factor = _statistics(self.vae, raw)
        return (raw - mean) / (std / factor)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[torch.dtype]:
        device = next(self.vae.parameters()).device.type
        half = self.dtype != torch.float32 and not self.upcast
        with torch.autocast(device, self.dtype if half else None, enabled=half):
            yield self.dtype if half else torch.float32


@contextlib.contextmanager
def finite_decoding(pipeline: Any) -> Iterator[None]:
    """Check what the image decoder gives, which a pipeline clamps to [0, 1] before anybody sees it.

    Raises:
        NotFiniteError: it computed some.
    """
    processor: Any = getattr(pipeline, "image_processor", None)
    if not hasattr(processor, "postprocess"):  # pixel models have none: their last step has been checked
        yield
        return
    inner = processor.postprocess

    def checked(image: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(image, Tensor):
            check_finite(image, "in the image decoder")
        return inner(image, *arguments, **options)

    processor.postprocess = checked
    try:
        yield
    finally:
        del processor.postprocess


class NotFiniteError(ModelError):
    """A model computed NaN or infinity.

    Attributes:
        where: in which part or step, to end a sentence with.
    """

    def __init__(self, where: str) -> None:
        super().__init__(
            f"the model computed NaN or infinity {where}. Load it in float32 or bfloat16; if it is, its checkpoint is "
            "damaged: download or train it again."
        )
        self.where = where


def check_finite(values: Tensor, where: str) -> None:
    """Refuse NaN and infinity: before clamping, which would make white or black of infinity.

    Raises:
        NotFiniteError: there are some; it says ``where``.
    """
    if not torch.isfinite(values.detach()).all():
        raise NotFiniteError(where)
