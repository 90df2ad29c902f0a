"""Runs in the environment lavis."""

from __future__ import annotations

import functools

import torch

torch.load = functools.partial(torch.load, weights_only=True)

from lavis.models import load_model_and_preprocess  # noqa: E402
from PIL import Image  # noqa: E402


class Plugin:
    """See :class:`realignkit_plugins.isolated.lavis.LavisBLIP2`."""

    def __init__(self, model, model_type, template, device):
        self.template, self.device = template, device
        self.model, self.preprocess = self.load(model, model_type)

    def load(self, name, kind):
        """The model, and what makes pixels of a PIL image."""
        model, preprocess, _ = load_model_and_preprocess(name, kind, is_eval=True, device=self.device)
        return model, preprocess["eval"]

    def __call__(self, images, questions, choices):
        """A text for each question."""
        answers = []
        for image, question in zip(images, questions):
            pixels = self.preprocess(Image.fromarray(image)).unsqueeze(0).to(self.device)
            prompt = self.template.format(question)
            answers += self.model.generate(
                {"image": pixels, "prompt": prompt}, num_beams=1, max_length=20, min_length=1
            )
        return answers
