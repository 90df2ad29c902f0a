"""Masks from text with CLIPSeg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Segmenter
from realignkit.images import to_rgb
from realignkit.types import Mask
from realignkit_plugins.loading import (
    Checkpoint,
    CheckpointPlugin,
    image_processor,
    text_tokenizer,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class CLIPSegSegmenter(CheckpointPlugin, Segmenter):
    """Where a phrase is in an image, by a ``CLIPSegForImageSegmentation`` checkpoint.

    The image is stretched to the network's square, never cropped, so that masks cover all of it.

    Raises:
        ModelError: (on use) the checkpoint is missing, damaged, not CLIPSeg, or computes NaN.
    """

    role = "segmenter"
    remedy = "Download or train it again."
    checkpoint = Checkpoint(
        "CLIPSeg checkpoint",
        {"clipseg": "CLIPSegForImageSegmentation"},
        refusal="a {} checkpoint, not CLIPSeg. Use one such as CIDAS/clipseg-rd64-refined, or another segmenter "
        "plugin.",
        # Not CLIPSegProcessor: it insists on torchvision.
        processor=image_processor,
        tokenizer=text_tokenizer,
    )

    class Options(CheckpointPlugin.Options):
        """Options of :class:`CLIPSegSegmenter`."""

        model: str = Field("CIDAS/clipseg-rd64-refined", description="hub id, folder, or micro:<name>", min_length=1)
        threshold: float = Field(0.4, ge=0, le=1, description="least probability of a pixel in a mask")
        min_area: float = Field(0.002, ge=0, le=1, description="least share of the image that a mask must cover")
        exclusive: bool = Field(True, description="each pixel goes to its most probable phrase alone")

    options: CLIPSegSegmenter.Options

    def __call__(self, image: Image, phrases: Sequence[str]) -> list[tuple[Mask, float] | None]:
        """For each phrase its mask, bool (H, W), and the mean probability inside it; None where it is not found."""
        import torch

        if not phrases:
            return []
        # A phrase given twice must not compete with itself.
        unique = list(dict.fromkeys(phrases))
        logits = self.logits(image, unique)
        probabilities = logits.sigmoid()
        masks = probabilities >= self.options.threshold
        if self.options.exclusive:
            winner = logits.argmax(dim=0)  # not of the probabilities, where sure phrases tie at 1
            masks &= winner == torch.arange(len(unique))[:, None, None]
        segments: dict[str, tuple[Mask, float] | None] = {}
        for phrase, mask, probability in zip(unique, masks, probabilities, strict=True):
            covered = float(mask.float().mean())
            if covered == 0 or covered < self.options.min_area:
                segments[phrase] = None
            else:
                segments[phrase] = (mask.numpy(), float(probability[mask].mean()))
        return [segments[phrase] for phrase in phrases]

    def probabilities(self, image: Image, phrases: Sequence[str]) -> Tensor:
        """Probability of every phrase at every pixel, float32 (phrases, H, W) on the CPU, in [0, 1]."""
        return self.logits(image, phrases).sigmoid()

    def logits(self, image: Image, phrases: Sequence[str]) -> Tensor:
        """Log-odds of every phrase at every pixel, float32 (phrases, H, W) on the CPU."""
        import torch
        import torch.nn.functional as F

        network, processor, tokenizer = self.loaded.network, self.loaded.processor, self.loaded.tokenizer
        image = to_rgb(image)
        side = _side(processor)
        pixels = processor(
            images=image, size={"height": side, "width": side}, do_center_crop=False, return_tensors="pt"
        )["pixel_values"]
        limit = network.config.text_config.max_position_embeddings
        tokens = tokenizer(list(phrases), padding=True, truncation=True, max_length=limit, return_tensors="pt")
        with torch.inference_mode():
            logits = _logits(network, pixels.to(network.device), tokens.to(network.device))
            logits = F.interpolate(logits[:, None], size=(image.height, image.width), mode="bilinear")[:, 0]
            logits = logits.float().cpu()
        return self.finite(logits)


def _side(processor: Any) -> int:
    size = dict(processor.size)
    if getattr(processor, "do_center_crop", False) and getattr(processor, "crop_size", None):
        size = dict(processor.crop_size)
    return int(size.get("height") or size["shortest_edge"])


def _logits(network: Any, pixels: Tensor, tokens: Any) -> Tensor:
    """Logits (phrases, h, w). The image, which is the costly part, passes the vision encoder once for all phrases."""
    seen = network.clip.get_image_features(pixel_values=pixels, output_hidden_states=True)
    count = len(tokens["input_ids"])
    # The hidden states begin with the embeddings, hence + 1.
    activations = [
        seen.hidden_states[layer + 1].expand(count, -1, -1).contiguous() for layer in network.config.extract_layers
    ]
    wanted = network.get_conditional_embeddings(
        batch_size=count, input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
    )
    return network.decoder(activations, wanted).logits.reshape(count, *_grid(network, pixels))


def _grid(network: Any, pixels: Tensor) -> tuple[int, int]:
    patch = network.config.vision_config.patch_size
    return pixels.shape[-2] // patch * patch, pixels.shape[-1] // patch * patch
