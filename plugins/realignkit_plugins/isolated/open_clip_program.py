"""Runs in the environment open-clip."""

from __future__ import annotations

import functools

import torch

torch.load = functools.partial(torch.load, weights_only=True)

import open_clip  # noqa: E402
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize  # noqa: E402


class Plugin:
    """See :class:`realignkit_plugins.isolated.open_clip.OpenCLIPPackage`."""

    def __init__(self, model, pretrained, device):
        self.device = device
        self.model = open_clip.create_model(model, pretrained=pretrained, device=device).requires_grad_(False).eval()
        self.tokenizer = open_clip.get_tokenizer(model)
        visual = self.model.visual
        size = visual.image_size
        resize = Resize(size if isinstance(size, int) else min(size), InterpolationMode.BICUBIC, antialias=True)
        self.preprocess = Compose([resize, CenterCrop(size), Normalize(visual.image_mean, visual.image_std)])

    def __call__(self, images, prompts):
        """Cosines (B,) of images (B, 3, H, W) in [0, 1] and their prompts."""
        pictures = self.model.encode_image(self.preprocess(images.to(self.device)), normalize=True)
        texts = self.model.encode_text(self.tokenizer(prompts).to(self.device), normalize=True)
        return (pictures * texts).sum(-1)
