"""Every decision of the coarse stage's fine-tuning (eq. 5): the algorithms by name, with their options, and presets."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from realignkit.contracts import Options, parse_options
from realignkit.errors import OptionError
from realignkit.named import Named
from realignkit.refl.algorithms import Algorithm
from realignkit.refl.algorithms.dpo import DPO, DPOOptions
from realignkit.refl.algorithms.grpo import GRPO, GRPOOptions
from realignkit.refl.algorithms.nft import NFT, NFTOptions
from realignkit.refl.algorithms.raft import RAFT, RAFTOptions
from realignkit.refl.algorithms.refl import ReFL, ReFLOptions
from realignkit.refl.algorithms.reward_weighted import RewardWeighted, RewardWeightedOptions
from realignkit.refl.options import TrainingOptions

AUTO = ("refl", "raft")
"""What ``algorithm=auto`` chooses from: the first needs the reward's gradient, the second does not."""


class ReFLConfig(TrainingOptions):
    """How a generator is fine-tuned with a reward: ``L = lambda * relu(margin - R) + L_pre`` (eq. 5).

    Frozen; unknown names are errors. :func:`preset` has named settings, published and our own.
    """

    # A training algorithm is a file in algorithms/ and a field here, whose name is the algorithm's.
    refl: Annotated[ReFLOptions, ReFL] = Field(ReFLOptions(), description="options of algorithm=refl")
    raft: Annotated[RAFTOptions, RAFT] = Field(RAFTOptions(), description="options of algorithm=raft")
    reward_weighted: Annotated[RewardWeightedOptions, RewardWeighted] = Field(
        RewardWeightedOptions(), description="options of algorithm=reward_weighted"
    )

    dpo: Annotated[DPOOptions, DPO] = Field(DPOOptions(), description="options of algorithm=dpo")
    nft: Annotated[NFTOptions, NFT] = Field(NFTOptions(), description="options of algorithm=nft")
    grpo: Annotated[GRPOOptions, GRPO] = Field(GRPOOptions(), description="options of algorithm=grpo")

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
        if self.algorithm != "auto" and not ALGORITHMS[self.algorithm].has_l_pre:
            self._check_feedback()
        if self.leaves_nothing:
            raise ValueError("with reward_weight=0 and denoising_weight=0 there is nothing to learn")
        if self.reward_weight == 0 and self.refl.kl_weight:
            raise ValueError(
                "with reward_weight=0 nothing is rolled out, and refl.kl_weight is measured on rollouts: leave it out"
            )
        if self.reward_weight == "auto" and not self.denoising_weight:
            # The KL-style term alone will not do: without a gradient until the model has moved, it would never move.
            raise ValueError("reward_weight=auto compares with the denoising term: raise denoising_weight above 0")
        if self.reward_weight == "auto" and self.reward_weighted.pair_sampling == "weighted":
            raise ValueError("pair_sampling=weighted has one gradient, not two to compare: give reward_weight a number")
        if self.train_text_encoder and self.trainable.startswith("text_encoder"):
            raise ValueError(
                f"with trainable={self.trainable} the text encoder alone learns: leave train_text_encoder out"
            )
        return self

    def _check_feedback(self) -> None:
        if self.pairs is not None:
            raise ValueError(
                f"{self.algorithm} learns from the model's own pictures and has no L_pre: leave pairs out, or "
                f"give rated pictures as {self.algorithm}.pictures"
            )
        if self.reward_weight == 0:
            raise ValueError(
                f"a control of {self.algorithm} has its rewards shuffled: set {self.algorithm}.shuffle_rewards=true, "
                f"or use --control, and leave reward_weight out"
            )
        if self.reward_weight == "auto":
            raise ValueError(
                f"reward_weight=auto compares with L_pre, which {self.algorithm} has none of: give it a number"
            )

    @property
    def leaves_nothing(self) -> bool:
        """Whether all terms are off."""
        return self.reward_weight == 0 and not self.denoising_weight

    def control(self, run: Path, algorithm: str | None = None) -> ReFLConfig:
        """What trains the same without what the reward says.

        Args:
            run: folder of the training that it is the control of.
            algorithm: what is trained, where ``algorithm=auto`` leaves it open (:meth:`algorithm_for`).

        Raises:
            OptionError: it is without already.
        """
        if self.reward_weight == 0:
            raise OptionError("with reward_weight=0 the training is a control itself: leave it or --control out.")
        algorithm = algorithm or self.algorithm
        kind = ALGORITHMS.get(algorithm)
        options = None if kind is None else kind.control_options(self.options_of(algorithm), run)
        return self.model_copy(update={"reward_weight": 0.0} if options is None else {algorithm: options})

    def check_control(self, run: Path) -> None:
        """Refuse a training of which no control could be trained after it; of ``auto`` either algorithm's.

        Raises:
            OptionError: why not.
        """
        for name in AUTO if self.algorithm == "auto" else (self.algorithm,):
            if self.control(run, name).leaves_nothing:
                raise OptionError(
                    f"the control of {name} trains on the denoising loss alone: raise denoising_weight, or leave "
                    f"--control out."
                )

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
            remedy = f"give them to {chosen}, or set algorithm={other}" if differentiable else "leave them out"
            raise OptionError(
                f"{reward.whose} has {'a' if differentiable else 'no'} gradient, so {chosen} is trained, but {other} "
                f"has options: {remedy}."
            )
        return chosen

    def options_of(self, algorithm: str) -> Options:
        """The options of an algorithm."""
        options: Options = getattr(self, algorithm)
        return options

    def sets(self, algorithm: str) -> bool:
        """Whether an algorithm has other options than its defaults."""
        return self.options_of(algorithm) != ALGORITHMS[algorithm].Options()


ALGORITHMS: Mapping[str, type[Algorithm]] = {
    name: kind
    for name, field in ReFLConfig.model_fields.items()
    for kind in field.metadata
    if isinstance(kind, type) and issubclass(kind, Algorithm)
}
"""The training algorithms by name: the one that stands beside each group of options."""

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
    # What tells the model's own pictures of a prompt apart, by any reward: drawn in short rounds, each by what the one
    # before has taught, for what is learnt of old pictures leads away from the model; and without guidance, whose
    # exaggeration is nothing to learn. Sample with less guidance afterwards.
    "feedback": {
        "algorithm": "nft",
        **{
            name: {"guidance_scale": 1.0, "prompts_per_round": 128, "iterations_per_round": 10}
            for name in ("nft", "dpo", "grpo")
        },
        "trainable": "unet",
        "train_text_encoder": True,
        "denoising_weight": 0.0,
        "iterations": 440,
        "batch_size": 64,
        "learning_rate": 3e-4,
        "schedule": "cosine",
        "warmup_iterations": 20,
        "optimizer": {"betas": (0.9, 0.99)},
        "ema_decay": 0.97,
    },
    # One round of guided pictures, from which the text encoder alone learns: a small step in minutes.
    "feedback_quick": {
        "algorithm": "nft",
        "nft": {"max_weight": None},
        "trainable": "text_encoder",
        "iterations": 150,
        "batch_size": 16,
        "learning_rate": 1.2e-3,
        "warmup_iterations": 20,
        "optimizer": {"betas": (0.9, 0.99)},
        "ema_decay": 0.95,
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
        near = get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise OptionError(f"there is no preset '{name}'.{hint} Known: {', '.join(PRESETS)}.")
    of_preset = PRESETS[name].get("algorithm", "auto")
    chosen = changes.get("algorithm", of_preset)
    trained = {of_preset, *AUTO} if chosen == "auto" else {chosen}
    settings = {
        option: value for option, value in PRESETS[name].items() if option not in ALGORITHMS or option in trained
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


REMOVED: Mapping[str, Any] = {"purify": None, "purify_draws": 1, "hold_style": False, "style_weight": 0.0}
"""Options of version 0.1 that are gone, with the values at which they did nothing."""

ADDED: Mapping[str, Any] = {"raft.shuffle_rewards": False}
"""Options that version 0.1 did not have yet, with the values at which a run of it can be gone on with."""

_ROLLOUT = ("solver", "num_inference_steps", "guidance_scale", "gradients_per_rollout")
RENAMED: Mapping[str, tuple[str, ...]] = {
    **{name: (f"refl.{name}", f"raft.{name}") for name in _ROLLOUT},
    **{name: (f"refl.{name}",) for name in ("rated_image", "gradient_steps", "kl_weight")},
    "margin": ("refl.margin", "reward_weighted.margin"),
    "candidates": ("raft.candidates",),
    "reward_temperature": ("reward_weighted.temperature",),
    "pair_sampling": ("reward_weighted.pair_sampling",),
    **{f"lora_{name}": (f"lora.{name}",) for name in ("rank", "alpha", "targets")},
    **{name: (f"optimizer.{name}",) for name in ("betas", "weight_decay", "max_gradient_norm")},
    "validate_every": ("validation.every",),
    **{f"validation_{name}": (f"validation.{name}",) for name in ("prompts", "steps", "seed")},
    **{name: (f"validation.{name}",) for name in ("patience", "samples")},
}
"""Options of version 0.1 that are called otherwise; several algorithms have an option each for what was one."""


def refuse_former(name: str) -> None:
    """Refuse the name of an option that version 0.1 had.

    Raises:
        OptionError: it is one; the message has the new name.
    """
    if name in REMOVED:
        raise OptionError(
            f"training option {name} was removed in version 0.2, because nothing was gained with it: "
            f"docs/explanation/reward-hacking.md says what was seen."
        )
    if name in RENAMED:
        # Algorithms of later versions have options of that name, too.
        alike = [f"{kind}.{name}" for kind, its in ALGORITHMS.items() if name in its.Options.model_fields]
        called = list(dict.fromkeys([*RENAMED[name], *alike]))
        raise OptionError(f"training option {name} is now {' or '.join(f'training.{now}' for now in called)}.")


def translated(config: Mapping[str, Any], algorithm: str) -> dict[str, Any]:
    """A recorded configuration, flat, by today's dotted names; what its algorithm did not use is left out.

    Args:
        config: of whatever version; of today's nothing is changed.
        algorithm: that was trained.
    """
    options: dict[str, Any] = {}
    for name, value in config.items():
        names = () if name in REMOVED else RENAMED.get(name, (name,))
        shared = ("lora", "optimizer", "validation", "")
        options |= {now: value for now in names if now.rpartition(".")[0] in (*shared, algorithm)}
    return options
