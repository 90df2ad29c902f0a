"""What the rewards here share: checks, precision, and networks that look at pixel values of their own kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Reward
from realignkit.errors import OptionError
from realignkit_plugins.loading import (
    CheckpointPlugin,
    DTypeName,
    check_finite,
    image_processor,
)

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from realignkit_plugins.rewards.preprocess import Preprocessing


class PixelReward(CheckpointPlugin, Reward):
    """A reward whose networks look at pixel values of their own kind.

    Children name a checkpoint whose ``processor`` is :func:`differentiable`, or load otherwise, and say how to judge
    (:meth:`judge`). Weights are frozen and in evaluation mode; gradients flow to the images alone.
    """

    remedy = "Try the option dtype=fp32; if it stays, download or train the checkpoint again."

    class Options(CheckpointPlugin.Options):
        """Options of a reward with one checkpoint."""

        dtype: DTypeName = Field("auto", description="auto: bf16 on CUDA, fp32 elsewhere")

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the networks: ``"auto"`` is bfloat16 on CUDA devices that have it.

        Gradients with respect to pixels underflow in fp16.
        """
        import torch

        if self.options.dtype == "auto" and self.device.startswith("cuda") and torch.cuda.is_bf16_supported():
            return torch.bfloat16
        return super().dtype

    @property
    def preprocessing(self) -> Preprocessing:
        """From images in [0, 1] to pixel values, as the checkpoint's processor says."""
        processor: Preprocessing = self.loaded.processor
        return processor

    @abstractmethod
    def judge(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards (B,) of pixel values float (B, 3, h, w) as :attr:`preprocessing` makes them."""

    def _judge_for_report(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.judge(pixel_values, prompts)

    def _judge_for_ranking(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._judge_for_report(pixel_values, prompts)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards, float32 (B,), higher is better, on the images' device.

        Args:
            images: float (B, 3, H, W) in [0, 1].
            prompts: one per image.

        Raises:
            OptionError: images and prompts are not of this form.
            ModelError: the checkpoint cannot be loaded, or computes NaN.
        """
        check_inputs(images, prompts)
        rewards = self.judge(self.preprocessing(images.float()), prompts)
        return self.finite(rewards.float()).to(images.device)

    def reported(self, images: Tensor | Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """The reward as reports and metrics state it, float32 (B,) on the CPU, without a gradient.

        PIL images take the path of the checkpoint's own processor, 8-bit rounding included; a tensor that of training.
        """
        return self._quietly(self._judge_for_report, images, prompts)

    def ranked(self, images: Tensor | Sequence[Image], prompts: Sequence[str]) -> Tensor:
        """By what to choose among images of the same prompt, float32 (B,) on the CPU, without a gradient.

        What :meth:`reported` says, unless the reward knows something finer.
        """
        return self._quietly(self._judge_for_ranking, images, prompts)

    def _quietly(
        self,
        judge: Callable[[Tensor, Sequence[str]], Tensor],
        images: Tensor | Sequence[Image],
        prompts: Sequence[str],
    ) -> Tensor:
        import torch

        with torch.no_grad():
            if isinstance(images, torch.Tensor):
                check_inputs(images, prompts)
                pixels = self.preprocessing(images.float())
            elif len(images) == len(prompts) > 0:
                pixels = self.preprocessing.from_pil(images)
            else:
                raise OptionError(f"{len(images)} images but {len(prompts)} prompts: give one prompt per image.")
            return self.finite(judge(pixels, prompts).float()).cpu()

    def finite(self, values: Tensor) -> Tensor:
        """See :meth:`realignkit_plugins.loading.CheckpointPlugin.finite`."""
        return check_finite(values, f"reward {type(self).__name__}", self.remedy)


def check_inputs(images: Tensor, prompts: Sequence[str]) -> None:
    """Refuse what is no batch of images with one prompt each.

    Raises:
        OptionError: it is not.
    """
    if isinstance(prompts, str):
        raise OptionError("prompts must be a sequence with one text per image, not a single text.")
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise OptionError(
            f"a reward takes images as float (B, 3, H, W) in [0, 1], not {images.dtype} {tuple(images.shape)}."
        )
    if len(images) != len(prompts) or not len(prompts):
        raise OptionError(f"{len(images)} images but {len(prompts)} prompts: give one prompt per image.")


def tokenize(tokenizer: Any, texts: Sequence[str], limit: int, device: Any, **kwargs: Any) -> Any:
    """Token ids and mask of texts, cut at ``limit`` tokens, on a device."""
    tokenizer_limit = tokenizer.model_max_length or limit
    options = {"padding": True, "truncation": True, "max_length": min(limit, tokenizer_limit), **kwargs}
    return tokenizer(list(texts), return_tensors="pt", **options).to(device)


def differentiable(folder: str, **hub: Any) -> Preprocessing:
    """What prepares a checkpoint's images, as a function with a gradient."""
    from realignkit_plugins.rewards.preprocess import Preprocessing

    return Preprocessing.of(image_processor(folder, **hub))
