"""Metrics of the field: distances between sets of images, and how well images fit their prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register


@hookimpl
def register_metrics(register: Register) -> None:
    """Of sets of images, and of images with their prompts."""
    register(
        "fid",
        "realignkit_plugins.metrics.fid:FID",
        "Fréchet Inception distance to real pictures (reference=…), resized as clean-fid, pytorch-fid or "
        "torch-fidelity does",
        license="Apache-2.0",
    )
    register(
        "kid",
        "realignkit_plugins.metrics.kid:KID",
        "kernel Inception distance to real pictures (reference=…), which few images do not bias",
        license="Apache-2.0",
    )
    register(
        "cmmd",
        "realignkit_plugins.metrics.kid:CMMD",
        "CLIP maximum mean discrepancy to real pictures",
        license="its card names none; OpenAI's code: MIT",
    )
    register(
        "precision_recall",
        "realignkit_plugins.metrics.quality:PrecisionRecall",
        "how many images look real, and how much of what is real they cover",
        license="Apache-2.0",
    )
    register(
        "inception_score",
        "realignkit_plugins.metrics.quality:InceptionScore",
        "how sure Inception is of each image, and of how many kinds they are",
        license="Apache-2.0",
    )
    register(
        "clip_score",
        "realignkit_plugins.metrics.clip_score:CLIPScore",
        "CLIPScore as it is defined (clip_score), and the plain cosine (clip_cosine), by any CLIP",
        license="its card names none; OpenAI's code: MIT",
    )
    register(
        "tifa",
        "realignkit_plugins.metrics.tifa:TIFA",
        "share of questions about the prompt that a question answerer answers right, by type of element",
    )
    register(
        "vqascore",
        "realignkit_plugins.metrics.vqascore:VQAScore",
        "probability of yes, asked whether the image shows its prompt",
    )
    register(
        "soft_tifa",
        "realignkit_plugins.metrics.soft_tifa:SoftTIFA",
        "probabilities of right answers, as arithmetic and geometric mean (GenEval 2), by skill and number of atoms",
    )
    register(
        "openai_judge",
        "realignkit_plugins.metrics.openai_judge:OpenAIJudge",
        "mark of a language model that looks at each image, by any service with OpenAI's chat protocol",
        requires=("openai", "httpx2"),
        extra="gpt4",
    )
    register(
        "t2v_metrics",
        "realignkit_plugins.isolated.t2v_metrics:T2VMetrics",
        "VQAScore by its authors' package, t2v-metrics, in an environment of its own",
    )
