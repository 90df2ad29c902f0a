"""Runs in the environment grounded-sam."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

torch.load = functools.partial(torch.load, weights_only=True)

import groundingdino  # noqa: E402
from groundingdino.datasets import transforms  # noqa: E402
from groundingdino.models import build_model  # noqa: E402
from groundingdino.util.inference import predict  # noqa: E402
from groundingdino.util.misc import clean_state_dict  # noqa: E402
from groundingdino.util.slconfig import SLConfig  # noqa: E402
from PIL import Image  # noqa: E402
from segment_anything import SamPredictor, sam_model_registry  # noqa: E402


class Plugin:
    """See :class:`realignkit_plugins.isolated.grounded_sam.GroundedSamPackage`."""

    def __init__(self, dino, sam, dino_config, sam_type, text_encoder, threshold, device):
        self.device, self.threshold = device, threshold
        config = SLConfig.fromfile(
            str(Path(groundingdino.__file__).parent / "config" / f"GroundingDINO_{dino_config}.py")
        )
        config.device, config.text_encoder_type = device, text_encoder
        self.dino = self.load_dino(config, dino).to(device).eval()
        self.predictor = SamPredictor(self.load_sam(sam_type, sam).to(device).eval())
        to_pixels = [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        self.preprocess = transforms.Compose([transforms.RandomResize([800], max_size=1333), *to_pixels])

    def load_dino(self, config, checkpoint):
        """Grounding DINO."""
        model = build_model(config)
        model.load_state_dict(clean_state_dict(torch.load(checkpoint, map_location="cpu")["model"]), strict=False)
        return model

    def load_sam(self, kind, checkpoint):
        """SAM."""
        return sam_model_registry[kind](checkpoint=checkpoint)

    def __call__(self, image, phrases):
        """A mask (H, W) and its confidence for each phrase, or None."""
        height, width = image.shape[:2]
        self.predictor.set_image(np.ascontiguousarray(image))
        pixels, _ = self.preprocess(Image.fromarray(image), None)
        segments: list = []
        for phrase in phrases:
            boxes, confidences, _ = predict(self.dino, pixels, phrase, self.threshold, self.threshold, self.device)
            if not len(boxes):
                segments.append(None)
                continue
            best = int(confidences.argmax())
            x, y, w, h = (boxes[best] * torch.tensor([width, height, width, height])).tolist()
            box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            masks, _, _ = self.predictor.predict(box=box, multimask_output=False)
            segments.append([masks[0], float(confidences[best])])
        return segments
