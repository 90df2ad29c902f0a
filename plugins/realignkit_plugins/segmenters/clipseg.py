"""Masks from text with CLIPSeg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Segmenter
from realignkit.errors import ModelError
from realignkit.images import to_rgb
from realignkit.types import Mask
from realignkit_plugins.loading import (
    hub_options,
    image_processor,
    load_model,
    loading,
    model_config,
    resolve_device,
    resolve_model,
    text_tokenizer,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class CLIPSegSegmenter(Segmenter):
    """Where a phrase is in an image, by a ``CLIPSegForImageSegmentation`` checkpoint.

    The image is stretched to the network's square, never cropped, so that masks cover all of it.

    Raises:
        ModelError: (on use) the checkpoint is missing, damaged, not CLIPSeg, or computes NaN.
    """

    class Options(PluginOptions):
        """Options of :class:`CLIPSegSegmenter`."""

        model: str = Field("CIDAS/clipseg-rd64-refined", description="hub id, folder, or micro:<name>", min_length=1)
        revision: str | None = Field(None, description="branch, tag or commit on the hub")
        threshold: float = Field(0.4, ge=0, le=1, description="least probability of a pixel in a mask")
        min_area: float = Field(0.002, ge=0, le=1, description="least share of the image that a mask must cover")
        exclusive: bool = Field(True, description="each pixel goes to its most probable phrase alone")
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")

    options: CLIPSegSegmenter.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._loaded: tuple[Any, Any, Any] | None = None

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
        found: dict[str, tuple[Mask, float] | None] = {}
        for phrase, mask, probability in zip(unique, masks, probabilities, strict=True):
            covered = float(mask.float().mean())
            if covered == 0 or covered < self.options.min_area:
                found[phrase] = None
            else:
                found[phrase] = (mask.numpy(), float(probability[mask].mean()))
        return [found[phrase] for phrase in phrases]

    def probabilities(self, image: Image, phrases: Sequence[str]) -> Tensor:
        """Probability of every phrase at every pixel, float32 (phrases, H, W) on the CPU, in [0, 1]."""
        return self.logits(image, phrases).sigmoid()

    def logits(self, image: Image, phrases: Sequence[str]) -> Tensor:
        """Log-odds of every phrase at every pixel, float32 (phrases, H, W) on the CPU."""
        import torch
        import torch.nn.functional as F

        network, processor, tokenizer = self._load()
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
        if not torch.isfinite(logits).all():
            raise ModelError(
                f"the segmenter '{self.options.model}' computed NaN or infinity. Download or train it again."
            )
        return logits

    def _load(self) -> tuple[Any, Any, Any]:
        if self._loaded is None:
            from transformers import CLIPSegForImageSegmentation

            chosen = self.options
            folder, hub = resolve_model(chosen.model), hub_options(chosen.revision)
            with loading("CLIPSeg checkpoint", chosen.model):
                family = model_config(folder, **hub).model_type
                if family != "clipseg":
                    raise ModelError(
                        f"'{chosen.model}' is a {family} checkpoint, not CLIPSeg. Use one such as "
                        f"CIDAS/clipseg-rd64-refined, or another segmenter plugin."
                    )
                network = load_model(CLIPSegForImageSegmentation, folder, chosen.model, **hub)
                network = network.to(resolve_device(chosen.device))
                # Not CLIPSegProcessor: it insists on torchvision.
                self._loaded = (network, image_processor(folder, **hub), text_tokenizer(folder, **hub))
        return self._loaded


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
