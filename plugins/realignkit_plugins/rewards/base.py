"""What the rewards here share: checks, devices, precision, frozen weights."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from realignkit.contracts import Reward
from realignkit.errors import ModelError, OptionError
from realignkit_plugins.loading import DTypeName, resolve_device, resolve_dtype

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from realignkit_plugins.rewards.preprocess import Preprocessing

L = TypeVar("L")


class PixelReward(Reward, Generic[L]):
    """A reward whose networks look at pixel values of their own kind.

    Children say how to load (:meth:`_load`, whose result is kept) and how to judge (:meth:`judge`).
    Weights are frozen and in evaluation mode; gradients flow to the images alone.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._kept: L | None = None

    @property
    def loaded(self) -> L:
        """The networks, loaded once and kept.

        Raises:
            ModelError: a checkpoint is missing, damaged, or of another kind.
        """
        if self._kept is None:
            self._kept = self._load()
        return self._kept

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """From images in [0, 1] to pixel values."""

    @abstractmethod
    def judge(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards (B,) of pixel values float (B, 3, h, w) as :attr:`preprocessing` makes them."""

    @abstractmethod
    def _load(self) -> L: ...

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
        return self._checked(rewards).to(images.device)

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
            return self._checked(judge(pixels, prompts)).cpu()

    def _checked(self, rewards: Tensor) -> Tensor:
        import torch

        rewards = rewards.float()
        if not torch.isfinite(rewards.detach()).all():
            raise ModelError(
                f"the reward {type(self).__name__} computed NaN or infinity. Try the option dtype=fp32; "
                f"if it stays, download or train the checkpoint again."
            )
        return rewards


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


def workplace(device: str, dtype: DTypeName) -> tuple[str, torch.dtype]:
    """The device and the precision that options mean, to load weights in.

    ``"auto"`` is bfloat16 on CUDA devices that have it, as gradients with respect to pixels underflow in fp16.
    """
    import torch

    where = resolve_device(device)
    if dtype == "auto" and where.startswith("cuda") and torch.cuda.is_bf16_supported():
        return where, torch.bfloat16
    return where, resolve_dtype(dtype, where)


def place(network: Any, device: str) -> Any:
    """Move a network where it shall work, frozen and in evaluation mode; its precision is what it was loaded in."""
    return network.to(device).requires_grad_(False).eval()


def tokenize(tokenizer: Any, texts: Sequence[str], limit: int, device: Any, **kwargs: Any) -> Any:
    """Token ids and mask of texts, cut at ``limit`` tokens, on a device."""
    tokenizer_limit = tokenizer.model_max_length or limit
    options = {"padding": True, "truncation": True, "max_length": min(limit, tokenizer_limit), **kwargs}
    return tokenizer(list(texts), return_tensors="pt", **options).to(device)
