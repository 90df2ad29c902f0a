"""Every decision of the coarse stage's fine-tuning (eq. 5), as documented options with the method's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from realignkit.contracts import Config, Options, parse_options
from realignkit.errors import OptionError
from realignkit.named import Named
from realignkit.refl.algorithms import ALGORITHMS, RAFTOptions, ReFLOptions, RewardWeightedOptions
from realignkit.refl.earlier import refuse_former

AUTO = ("refl", "raft")
"""What ``algorithm=auto`` chooses from: the first needs the reward's gradient, the second does not."""


class LoRAOptions(Options):
    """The adapters that learn with ``trainable=lora``."""

    rank: int = Field(16, ge=1, description="rank of the adapters")
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False, description="their scale is alpha / rank; none: 1")
    targets: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0"), min_length=1, description="the U-Net's layers that get adapters"
    )


class OptimizerOptions(Options):
    """AdamW's, beside the learning rate."""

    betas: tuple[float, float] = Field((0.9, 0.999), description="decay of the gradient's two moments")
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False, description="of the weights, decoupled")
    max_gradient_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm; inf: never")

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError("betas must be in [0, 1)")
        return betas


class ValidationOptions(Options):
    """How the held-out prompts watch over a training."""

    every: int = Field(50, ge=0, description="iterations between validations; 0: never")
    prompts: int = Field(32, ge=1, description="held-out prompts that are used at most")
    steps: int | None = Field(None, ge=1, le=1000, description="sampling steps; none: as the model is sampled")
    seed: int = Field(1000, ge=0, lt=2**62, description="of the first held-out image; the next has one more")
    patience: int = Field(4, ge=0, description="validations without a better judgement before stopping; 0: never stop")
    samples: int = Field(8, ge=0, description="held-out images in each sample grid; 0: none")


class ReFLConfig(Config):
    """How a generator is fine-tuned with a reward: ``L = lambda * relu(margin - R) + L_pre`` (eq. 5).

    Frozen; unknown names are errors. :func:`preset` has named settings, published and our own.
    """

    algorithm: str = Field(
        "auto",
        description="refl: gradient of the reward; raft: best of N; reward_weighted: denoising loss on L_pre's pairs, "
        "each weighed by its own reward; auto: refl where the reward has a gradient, else raft",
    )
    refl: ReFLOptions = Field(ReFLOptions(), description="options of algorithm=refl")
    raft: RAFTOptions = Field(RAFTOptions(), description="options of algorithm=raft")
    reward_weighted: RewardWeightedOptions = Field(
        RewardWeightedOptions(), description="options of algorithm=reward_weighted"
    )

    iterations: int = Field(500, ge=1, description="optimizer steps")
    batch_size: int = Field(4, ge=1, description="prompts per process and forward pass")
    gradient_accumulation_steps: int = Field(1, ge=1, description="forward passes per optimizer step")
    total_batch_size: int | None = Field(
        None, ge=1, description="prompts per optimizer step over all processes; sets the accumulation"
    )
    seed: int = Field(42, ge=0, lt=2**63, description="decides noise, prompts and steps, whatever the process count")

    # How the terms weigh.
    reward_weight: float | Literal["auto"] | None = Field(
        None,
        description="lambda; none: 0.001 for refl, else 1; 0: a control run; auto: holds gradient_ratio",
    )
    gradient_ratio: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="with reward_weight=auto: reward to denoising gradient norm"
    )
    denoising_weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="of L_pre (eq. 3); 0 drops it")

    # L_pre's pairs.
    pairs: Path | None = Field(
        None, description="folder of images with captions for L_pre; none: the frozen model draws them"
    )
    compare_content: bool = Field(
        False,
        description="when resuming, tell pairs apart by reading all of them; else, over a GiB, by sizes and dates",
    )
    prior_images: int = Field(200, ge=1, description="how many images the frozen model draws where pairs is none")
    caption_dropout: float = Field(0.1, ge=0, lt=1, description="share of L_pre's captions that are left empty")

    # What is trained, and how.
    trainable: Literal["lora", "unet"] = Field("lora", description="low-rank adapters, or the whole U-Net")
    train_text_encoder: bool = Field(
        False,
        description="learn the text encoder too, which reads what belongs to what; with trainable=unet",
    )
    lora: LoRAOptions = Field(LoRAOptions(), description="the adapters of trainable=lora")
    learning_rate: float = Field(1e-5, gt=0, allow_inf_nan=False, description="at its height")
    warmup_iterations: int = Field(10, ge=0, description="linear warm-up")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="after the warm-up: constant, or down to zero at the last iteration"
    )
    optimizer: OptimizerOptions = Field(OptimizerOptions(), description="AdamW's other options")
    ema_decay: float | None = Field(
        0.99, gt=0, lt=1, description="moving average of the weights that is used; none: off"
    )
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = Field(
        "auto", description="auto: as 'accelerate launch' says, else bf16 (fp16 on older GPUs) on CUDA, none on CPU"
    )
    gradient_checkpointing: bool = Field(False, description="less memory for more time, in U-Net and image decoder")

    # Watching over it.
    validation: ValidationOptions = Field(ValidationOptions(), description="on held-out prompts")
    checkpoint_every: int = Field(50, ge=1, description="iterations between checkpoints")
    keep_checkpoints: int = Field(2, ge=2, description="checkpoints that are kept; the best weights always are")
    tracker: Literal["auto", "none", "tensorboard", "wandb"] = Field(
        "auto", description="auto: TensorBoard where it is installed; log.jsonl is always written"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_this_version(cls, values: Any) -> Any:
        for name in values if isinstance(values, Mapping) else ():
            refuse_former(name)
        return values

    @field_validator("algorithm")
    @classmethod
    def _known(cls, algorithm: str) -> str:
        if algorithm not in ("auto", *ALGORITHMS):
            raise ValueError(f"must be auto, {', '.join(ALGORITHMS)}, not '{algorithm}'")
        return algorithm

    @model_validator(mode="after")
    def _consistent(self) -> ReFLConfig:
        for name in ALGORITHMS:
            if name not in (AUTO if self.algorithm == "auto" else (self.algorithm,)) and self.sets(name):
                raise ValueError(
                    f"{name} has options, but algorithm={self.algorithm} is trained: set algorithm={name}, or leave "
                    f"them out"
                )
        if isinstance(self.reward_weight, float) and not 0 <= self.reward_weight < float("inf"):
            raise ValueError("reward_weight must be finite and not negative")
        if self.reward_weight == 0 and not self.denoising_weight:
            raise ValueError("with reward_weight=0 and denoising_weight=0 there is nothing to learn")
        if self.reward_weight == "auto" and not self.denoising_weight:
            # The KL-style term alone will not do: without a gradient until the model has moved, it would never move.
            raise ValueError("reward_weight=auto compares with the denoising term: raise denoising_weight above 0")
        if self.reward_weight == "auto" and self.reward_weighted.pair_sampling == "weighted":
            raise ValueError("pair_sampling=weighted has one gradient, not two to compare: give reward_weight a number")
        if self.train_text_encoder and self.trainable != "unet":
            raise ValueError("train_text_encoder learns whole networks, not adapters: set trainable=unet")
        return self

    def algorithm_for(self, reward: Named) -> str:
        """The algorithm that is trained with a reward: ``auto`` goes by whether it has a gradient.

        Raises:
            OptionError: the algorithm needs a gradient that the reward has not, or another one has the options.
        """
        differentiable = bool(getattr(reward.plugin, "differentiable", True))
        if self.algorithm != "auto":
            if ALGORITHMS[self.algorithm].differentiates and not differentiable and self.reward_weight != 0:
                raise OptionError(
                    f"{reward.whose} has no gradient, which {self.algorithm} needs. Use algorithm=raft, or a "
                    f"differentiable reward."
                )
            return self.algorithm
        chosen, other = AUTO if differentiable else AUTO[::-1]
        if self.sets(other) and not self.sets(chosen):
            raise OptionError(
                f"{reward.whose} has {'a' if differentiable else 'no'} gradient, so {chosen} is trained, but {other} "
                f"has options: give them to {chosen}, or set algorithm={other}."
            )
        return chosen

    @property
    def whole_parts(self) -> tuple[str, ...]:
        """The pipeline's parts that learn as a whole; none where adapters do."""
        if self.trainable == "lora":
            return ()
        return ("unet", "text_encoder") if self.train_text_encoder else ("unet",)

    def options_of(self, algorithm: str) -> Options:
        """The options of an algorithm."""
        options: Options = getattr(self, algorithm)
        return options

    def sets(self, algorithm: str) -> bool:
        """Whether an algorithm has other options than its defaults."""
        return self.options_of(algorithm) != ALGORITHMS[algorithm].Options()

    def accumulation(self, processes: int) -> int:
        """Forward passes per optimizer step.

        Raises:
            OptionError: ``total_batch_size`` is no multiple of what the processes hold at once.
        """
        if self.total_batch_size is None:
            return self.gradient_accumulation_steps
        at_once = self.batch_size * processes
        if self.total_batch_size % at_once:
            raise OptionError(
                f"total_batch_size {self.total_batch_size} is no multiple of batch_size {self.batch_size} x "
                f"{processes} processes: choose one that is."
            )
        return self.total_batch_size // at_once

    def learning_rate_at(self, iteration: int) -> float:
        """The learning rate of an iteration (from 0): a function of it alone, so that resuming needs no state."""
        if iteration < self.warmup_iterations:
            return self.learning_rate * (iteration + 1) / (self.warmup_iterations + 1)
        if self.schedule == "constant":
            return self.learning_rate
        left = max(self.iterations - self.warmup_iterations, 1)
        done = min((iteration - self.warmup_iterations) / left, 1.0)
        return self.learning_rate * (1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


PRESETS: Mapping[str, Mapping[str, Any]] = {
    # T = 50 and k >= 30; what else the paper's recipe says.
    "paper": {
        "refl": {"num_inference_steps": 50, "gradient_steps": (30, 49)},
        "raft": {"num_inference_steps": 50},
        "reward_weight": 1e-3,
        "learning_rate": 1e-5,
        "total_batch_size": 128,
        "seed": 42,
        "iterations": 1000,
    },
    # 40 steps, k in [30, 39]; its public script rolls out without guidance. L_pre stays on here.
    "imagereward": {
        "refl": {"num_inference_steps": 40, "gradient_steps": (30, 39), "guidance_scale": 1.0},
        "raft": {"num_inference_steps": 40, "guidance_scale": 1.0},
        "reward_weight": 1e-3,
        "learning_rate": 1e-5,
    },
    # Half the rollout for the same late part, and three gradients from each.
    "fast": {
        name: {"solver": "dpmpp", "num_inference_steps": 20, "gradients_per_rollout": 3} for name in ("refl", "raft")
    },
    # No gradient of the reward: it chooses the pairs from which U-Net and text encoder learn.
    "pairs": {
        "algorithm": "reward_weighted",
        "reward_weighted": {"pair_sampling": "weighted"},
        "reward_weight": 100.0,
        "trainable": "unet",
        "train_text_encoder": True,
        "iterations": 500,
        "batch_size": 64,
        "warmup_iterations": 40,
        "optimizer": {"betas": (0.9, 0.99)},
        "ema_decay": 0.98,
    },
    # As many steps as the model is used with, so that what is learnt mends the pictures and not the solver's error.
    "final": {
        "refl": {
            "rated_image": "final",
            "solver": "dpmpp",
            "num_inference_steps": 20,
            "gradient_steps": (3, 19),
            "gradients_per_rollout": 2,
        },
        "raft": {"solver": "dpmpp", "num_inference_steps": 20, "gradients_per_rollout": 2},
    },
}
"""Named settings; what the user says goes over them."""


def preset(name: str, **changes: Any) -> ReFLConfig:
    """The options of a preset, with changes over them; of an algorithm that the changes choose away, none.

    Raises:
        OptionError: there is no such preset, or a value is bad.
    """
    if name not in PRESETS:
        raise OptionError(f"there is no preset '{name}'. Known: {', '.join(PRESETS)}.")
    chosen = changes.get("algorithm", "auto")
    settings = {
        option: value
        for option, value in PRESETS[name].items()
        if option not in ALGORITHMS or chosen in ("auto", option)
    }
    for option, value in changes.items():
        below, above = settings.get(option), value
        if isinstance(value, Options):
            above = value.model_dump(exclude_unset=True)
        if isinstance(below, Mapping) and isinstance(above, Mapping):
            settings[option] = {**below, **above}
        else:
            settings[option] = value
    return parse_options(ReFLConfig, settings, owner="training")
