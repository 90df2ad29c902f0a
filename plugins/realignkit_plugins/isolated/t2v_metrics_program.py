"""Runs in the environment t2v-metrics."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

torch.load = functools.partial(torch.load, weights_only=True)

import t2v_metrics  # noqa: E402
from PIL import Image  # noqa: E402


class Plugin:
    """See :class:`realignkit_plugins.isolated.t2v_metrics.T2VMetrics`."""

    def __init__(self, model, device):
        self.device = device
        self.score = self.load(model)

    def load(self, model):
        """The package's scorer."""
        known = t2v_metrics.list_all_vqascore_models()
        if model not in known:
            raise ValueError("there is no model '{}'; the package knows {}".format(model, ", ".join(known)))
        score = t2v_metrics.VQAScore(model=model, device=self.device)
        if self.device == "cpu":
            # The package mixes bfloat16 and float32 there, for its autocast is CUDA's alone.
            score.model.model.float()
        return score

    def __call__(self, images, prompts):
        """The score of each picture and its prompt."""
        with tempfile.TemporaryDirectory() as folder:  # the package takes files
            files = [str(Path(folder) / f"{number}.png") for number in range(len(images))]
            for image, file in zip(images, files):
                Image.fromarray(image).save(file)
            scores = [self.score(images=[file], texts=[text])[0, 0] for file, text in zip(files, prompts)]
        return [{"vqascore": float(score)} for score in scores]
