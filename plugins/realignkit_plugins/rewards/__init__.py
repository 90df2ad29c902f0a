"""Rewards: judge how well images follow their prompts. Each is a metric too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit.hookspecs import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register

_METRIC = "realignkit_plugins.rewards.metric:RewardMetric"


@hookimpl
def register_rewards(register: Register) -> None:
    """The paper's Table III, and weighted sums."""
    register(
        "caption",
        "realignkit_plugins.rewards.caption:CaptionReward",
        "eq. 4: similarity of the prompt and a caption of the image; four gradient estimators",
        license="MIT (its cards); the language model within, OPT, has Meta's own",
    )
    register(
        "clip",
        "realignkit_plugins.rewards.clip:CLIPReward",
        "cosine of image and text features, by any CLIP or SigLIP checkpoint",
        license="its card names none; OpenAI's code: MIT",
    )
    register(
        "blip",
        "realignkit_plugins.rewards.blip:BLIPReward",
        "image-text matching (or cosine of features) by any BlipForImageTextRetrieval checkpoint",
        license="BSD-3-Clause (its card)",
    )
    register(
        "image_reward",
        "realignkit_plugins.rewards.image_reward:ImageReward",
        "ImageReward: learned from people's preferences; loads the published ImageReward.pt",
        license="Apache-2.0 (its card)",
    )
    register(
        "image_reward_package",
        "realignkit_plugins.isolated.image_reward:ImageRewardPackage",
        "ImageReward by its authors' package, in an environment of its own",
        license="Apache-2.0 (its card)",
    )
    register(
        "open_clip_package",
        "realignkit_plugins.isolated.open_clip:OpenCLIPPackage",
        "cosine of image and text features by any model of open_clip's package, in an environment of its own",
        license="MIT (its card)",
    )
    register(
        "weighted",
        "realignkit_plugins.rewards.weighted:WeightedReward",
        "a weighted sum of other rewards",
    )
    judged = "realignkit_plugins.rewards.judged:MetricReward"
    for name, what in {
        "metric": "any metric that judges each image (metric=…), without a gradient",
        "tifa": "share of questions about the prompt that are answered right, without a gradient",
        "vqascore": "probability of yes, asked whether the image shows its prompt, without a gradient",
        "soft_tifa": "mean probability of right answers to questions about the prompt, without a gradient",
    }.items():
        options = {} if name == "metric" else {"metric": name}
        register(name, judged, what, options=options)
    register(
        "openai_judge",
        judged,
        "mark of a language model that looks at the image, by any chat service (OpenAI's protocol), without a gradient",
        requires=("openai", "httpx2"),
        extra="gpt4",
        options={"metric": "openai_judge"},
    )


@hookimpl
def register_metrics(register: Register) -> None:
    """Every reward as a metric."""
    for name, what in {
        "caption": "mean of eq. 4 with greedy (or beam) captions",
        "clip": "CLIP score: mean cosine of image and text features (x1)",
        "blip": "mean matching probability of BLIP",
        "image_reward": "mean of ImageReward",
        "reward": "mean of any reward, or weighted sum of rewards (reward=…)",
    }.items():
        register(name, _METRIC, what, options={} if name == "reward" else {"reward": name})
