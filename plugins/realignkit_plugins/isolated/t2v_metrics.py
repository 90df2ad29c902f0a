"""VQAScore by its authors' package, t2v-metrics."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from realignkit.isolation import IsolatedMetric


class T2VMetrics(IsolatedMetric):
    """VQAScore: the probability of "yes", asked whether the picture shows its prompt, by the package t2v-metrics."""

    environment = "t2v-metrics"
    python = "3.10"
    requires = (
        *("t2v-metrics==1.2", "image-reward==1.5", "clip-anytorch==2.6.0", "diffusers==0.25.1"),
        *("torch==2.2.2", "torchvision==0.17.2", "numpy<2", "huggingface_hub<0.24", "setuptools<70"),
    )
    program = Path(__file__).with_name("t2v_metrics_program.py")

    class Options(IsolatedMetric.Options):
        """Options of :class:`T2VMetrics`."""

        model: str = Field("clip-flant5-xl", description="one that the package knows, and downloads")
        device: str = Field("cpu", description="there")
