"""What every training decides, whichever its algorithm: documented options with the method's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from realignkit.contracts import Config, Options
from realignkit.errors import OptionError


class LoRAOptions(Options):
    """The adapters that learn with ``trainable=lora`` or ``text_encoder_lora``."""

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
    diversity: int = Field(
        8, ge=0, description="held-out prompts drawn twice, to measure how much a prompt's pictures differ; 0: none"
    )

    def sampling(self, used: Mapping[str, Any]) -> dict[str, Any]:
        """How the held-out prompts are drawn, of a model that is ``used`` with these sampling options."""
        return dict(used) if self.steps is None else {**used, "num_inference_steps": self.steps}


class TrainingOptions(Config):
    """The part of :class:`~realignkit.refl.config.ReFLConfig` that all algorithms read."""

    algorithm: str = Field(
        "auto",
        description="named as its group of options, which says what it is; auto: refl where the reward has a gradient, "
        "else raft",
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
        description="lambda; none: the algorithm's own, 1 unless it says (refl: 0.001); 0: a control run; auto: holds "
        "gradient_ratio",
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
    trainable: Literal["lora", "unet", "cross_attention", "text_encoder", "text_encoder_lora"] = Field(
        "lora",
        description="what learns: adapters of the U-Net (lora), the whole U-Net, its cross-attention alone, the text "
        "encoder alone, or adapters of it",
    )
    train_text_encoder: bool = Field(
        False,
        description="learn the text encoder too, which reads what belongs to what: adapters of it with trainable=lora, "
        "all of it with unet and cross_attention",
    )
    lora: LoRAOptions = Field(LoRAOptions(), description="the adapters")
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

    @property
    def adapts(self) -> bool:
        """Whether adapters learn, and not weights of the model itself."""
        return self.trainable in ("lora", "text_encoder_lora")

    @property
    def learning_parts(self) -> tuple[str, ...]:
        """The pipeline's parts that learn, or whose adapters do: ``unet``, ``text_encoder`` (all of them) or both."""
        if self.trainable in ("text_encoder", "text_encoder_lora"):
            return ("text_encoder",)
        return ("unet", "text_encoder") if self.train_text_encoder else ("unet",)

    @property
    def whole_parts(self) -> tuple[str, ...]:
        """Those of them whose own weights learn; none where adapters do."""
        return () if self.adapts else self.learning_parts

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
