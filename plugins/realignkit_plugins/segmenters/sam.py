"""Masks from boxes with SAM or SAM 2, through transformers and without torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from realignkit.images import to_rgb
from realignkit_plugins.loading import Checkpoint, check_finite, image_processor, model_config
from realignkit_plugins.segmenters.originals import load_sam

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class BoxMasker:
    """A SAM (``SamModel``) or SAM 2 (``Sam2Model``) checkpoint, or a file of SAM's authors, prompted with boxes.

    SAM scales an image's longer side to the network's (1024), pads below and to the right; SAM 2 stretches it to a
    square. Both normalise as for ImageNet.

    Raises:
        ModelError: the checkpoint is missing, damaged or of another family.
    """

    def __init__(self, model: str, revision: str | None = None, device: str = "cpu") -> None:
        self.model = model
        loaded = SAM.load(model, revision, device)
        self.network, self._processor = loaded.network, loaded.processor
        self.family: str = self.network.config.model_type

    def __call__(self, image: Image, boxes: Tensor, threshold: float = 0.0) -> Tensor:
        """Masks bool (n, H, W) on the CPU, of the image's size: where a box's mask logits exceed ``threshold``.

        Args:
            image: any mode; H x W.
            boxes: float (n, 4): left, top, right, bottom in pixels of the image.
            threshold: in logits; 0 as published.

        Raises:
            ModelError: the network computed NaN.
        """
        import torch

        image = to_rgb(image)
        if not len(boxes):
            return torch.zeros((0, image.height, image.width), dtype=torch.bool)
        inputs = self._processor(images=image, return_tensors="pt")
        with torch.inference_mode():
            outputs = self.network(
                pixel_values=inputs["pixel_values"].to(self.network.device, self.network.dtype),
                input_boxes=self._scaled(boxes, image, inputs)[None].to(self.network.device, self.network.dtype),
                multimask_output=False,  # a box says what is meant: one mask for each
            )
        logits = outputs.pred_masks[0].float().cpu()  # (n, 1, h, w)
        check_finite(logits, f"segmenter '{self.model}'", "Download it again.")
        return self._full_size(logits, image, inputs)[:, 0] > threshold

    def _scaled(self, boxes: Tensor, image: Image, inputs: Any) -> Tensor:
        height, width = self._seen(inputs)
        boxes = boxes.float().cpu()
        factor = boxes.new_tensor([width / image.width, height / image.height])
        return boxes * factor.repeat(2)

    def _seen(self, inputs: Any) -> tuple[int, int]:
        """(height, width) of the part of the network's input that shows the image."""
        if self.family == "sam2":
            return tuple(inputs["pixel_values"].shape[-2:])
        height, width = (int(side) for side in inputs["reshaped_input_sizes"][0])
        return height, width

    def _full_size(self, logits: Tensor, image: Image, inputs: Any) -> Tensor:
        import torch.nn.functional as F

        height, width = self._seen(inputs)
        whole = F.interpolate(logits, tuple(inputs["pixel_values"].shape[-2:]), mode="bilinear")
        if self.family == "sam2":  # one step, as published
            return F.interpolate(logits, (image.height, image.width), mode="bilinear")
        return F.interpolate(whole[..., :height, :width], (image.height, image.width), mode="bilinear")


class _Square:
    """SAM 2's preprocessing, for which transformers insists on torchvision."""

    def __init__(self, folder: str, **hub: Any) -> None:
        from transformers import ImageProcessingMixin

        config, _ = ImageProcessingMixin.get_image_processor_dict(folder, **hub)
        size = config.get("size") or {"height": 1024, "width": 1024}
        self.size = (int(size["height"]), int(size["width"]))
        self.mean = config.get("image_mean") or [0.485, 0.456, 0.406]
        self.std = config.get("image_std") or [0.229, 0.224, 0.225]

    def __call__(self, images: Image, return_tensors: str = "pt") -> dict[str, Tensor]:
        """``pixel_values``: float (1, 3, height, width), stretched (bilinear, anti-aliased) and normalised."""
        import torch
        import torch.nn.functional as F

        pixels = torch.from_numpy(np.asarray(images).copy()).permute(2, 0, 1)[None]
        # On bytes, rounded, before scaling to [0, 1]: the order of the published processor.
        resized = F.interpolate(pixels.float(), self.size, mode="bilinear", antialias=True).round().clamp(0, 255)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        return {"pixel_values": (resized / 255 - mean) / std}


def _processor(folder: str, **hub: Any) -> Any:
    return (image_processor if model_config(folder, **hub).model_type == "sam" else _Square)(folder, **hub)


SAM = Checkpoint(
    "SAM checkpoint",
    # Published checkpoints of SAM 2 may be those of its video model, whose image half is a Sam2Model.
    {"sam": "SamModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"},
    refusal="a {} checkpoint, neither SAM nor SAM 2. Use one such as facebook/sam-vit-huge or "
    "facebook/sam2.1-hiera-large.",
    processor=_processor,
    original=load_sam,
)
