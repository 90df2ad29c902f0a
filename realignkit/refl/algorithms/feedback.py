"""What the algorithms share that learn from the model's own pictures: rounds of them, rated, and what holds the model.

Guided pictures are exaggerated, and learning them as they are exaggerates once more. In what tells two pictures of one
prompt apart that cancels; so these algorithms learn from differences within a prompt, and hold the unconditional
prediction to the frozen model's, so that guidance goes on to mean what it did.
"""

from __future__ import annotations

import contextlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.errors import ModelError
from realignkit.provenance import placeless
from realignkit.refl import losses, seeds
from realignkit.refl.algorithms import PART, Algorithm, DrawingOptions, Gradients, MicroBatch, Solver

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit.refl.distributed import Processes
    from realignkit.refl.model import Text
    from realignkit.refl.pictures import RatedPictures

CURRENT = "current round"
"""What the weights are kept as that drew the round's pictures."""


class FeedbackOptions(DrawingOptions):
    """How the model's own pictures are drawn and rated, in rounds."""

    solver: Solver = Field("dpmpp", description="sampler of the pictures; dpmpp and unipc need fewer steps")
    num_inference_steps: int = Field(15, ge=1, le=1000, description="steps of a picture")
    guidance_scale: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="of a picture; none: as the model is sampled; at most 1: off"
    )
    candidates: int = Field(6, ge=2, description="pictures of each prompt and round")
    prompts_per_round: int | None = Field(None, ge=1, description="prompts of a round, in turn; none: all of them")
    iterations_per_round: int | None = Field(
        None, ge=1, description="iterations until what has learnt draws again; none: it never does"
    )
    pictures: Path | None = Field(
        None,
        description="folder of pictures with a reward or a rank each, which the first round learns from; none: the "
        "model draws them",
    )
    shuffle_rewards: bool = Field(
        False, description="a control: rewards exchanged among the pictures of each prompt, so that they say nothing"
    )

    def draws_later(self, iterations: int) -> bool:
        """Whether, in so many iterations, rounds after the first are drawn."""
        return self.iterations_per_round is not None and iterations > self.iterations_per_round


class Feedback(Algorithm):
    """Learns from rated pictures of the model's own, a round of them after another.

    A subclass says what is learnt from a round's pictures, in :meth:`look_at`, and how, in :meth:`add`.
    """

    options: Any
    has_l_pre = False
    draws_ahead = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._round = -1
        if self.compares_with_round:
            self.trainable.kept[CURRENT] = self.trainable.copied()

    @property
    def pictures_per_place(self) -> int:
        """How many pictures one of ``batch_size`` stands for; as many as learn together are drawn together."""
        return 1

    @property
    def compares_with_round(self) -> bool:
        """Whether what is learnt is compared with the weights that drew the round's pictures, which are kept then."""
        return False

    @property
    def knows_what_drew(self) -> bool:
        """Whether the weights that drew the round's pictures are still there, while the round is learnt from."""
        return self.compares_with_round

    @classmethod
    def needs_base(cls, options: Any) -> bool:
        """For what holds the unconditional prediction, at least."""
        return True

    @classmethod
    def control_options(cls, options: Any, run: Path) -> Any:
        """As :meth:`Algorithm.control_options`; with the training's own pictures in the first round."""
        from realignkit.refl.rounds import folder_of

        control = super().control_options(options, run)
        return control.model_copy(update={"pictures": options.pictures or folder_of(run, 0)})

    @property
    def has_denoising_term(self) -> bool:
        """What holds the unconditional prediction."""
        return self.config.denoising_weight > 0

    # --- rounds -------------------------------------------------------------------------------------------------------

    def prepare(self, processes: Processes, folder: Path, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Take note of them: a round is drawn when its first iteration begins. Pictures that are given are looked at.

        Raises:
            OptionError, ModelError: as :meth:`check_rounds`, and :meth:`look_at` of pictures that are given.
        """
        self.check_rounds()
        self._processes, self._folder, self._stop, self._say = processes, folder, stop, say
        if self.options.pictures is not None:
            pictures = self._pictures_of(0, True)
            self.look_at(pictures, 0)
            unweighed = ", ".join(name for name in pictures.rewards if name not in self.part_weights)
            if unweighed and len(pictures.rewards) > 1:
                say(f"what {unweighed} said of the given pictures weighs 1: the reward has no such part")

    def check_rounds(self) -> None:
        """Refuse options with which nothing could be learnt from a round, before one is drawn.

        Raises:
            OptionError: they are such.
        """

    def begin(self, iteration: int) -> None:
        """Where a round begins, draw its pictures with what has been learnt, or read those that are there already.

        Raises:
            OptionError, ModelError, PluginError, OutputError, KeyboardInterrupt: as reading and drawing them.
        """
        length = self.options.iterations_per_round
        number = 0 if length is None else iteration // length
        if number == self._round:
            return
        begins = iteration == number * (length or 0)
        if begins and self.compares_with_round:
            with self.trainable.averaged():
                self.trainable.kept[CURRENT] = self.trainable.copied()
        pictures = self._pictures_of(number, begins)
        if self.options.shuffle_rewards:
            pictures.shuffle(self.config.seed, number)
        remark = self.look_at(pictures, number)
        compared = sum(map(len, pictures.groups))
        alone = f" ({len(pictures) - compared} without another of their prompt)" if compared < len(pictures) else ""
        self._say(f"round {number}: {compared} pictures of {len(pictures.groups)} prompts{alone}; {remark}")
        self._round = number

    @abstractmethod
    def look_at(self, pictures: RatedPictures, number: int) -> str:
        """Decide what of the pictures of a round is learnt from; gives that in words.

        Raises:
            ModelError: there is nothing.
        """

    def _pictures_of(self, number: int, begins: bool) -> RatedPictures:
        from realignkit.refl.pictures import RatedPictures
        from realignkit.refl.rounds import Round, folder_of

        weights = self.part_weights
        if number == 0 and self.options.pictures is not None:
            return RatedPictures(self.options.pictures, self.networks, weights)
        folder = folder_of(self._folder, number)
        drawing = self.trainable.averaged() if begins else contextlib.nullcontext()
        if not begins and self.knows_what_drew:
            drawing = self.trainable.holding(self.trainable.kept[CURRENT])
        with drawing:
            plan = self._plan(number, begins or self.knows_what_drew)
            Round(folder, plan, self.networks, self.sample, self.reward, self._processes).draw(self._stop, self._say)
        return RatedPictures(folder, self.networks, weights)

    @property
    def part_weights(self) -> dict[str, float]:
        """Of the parts of the reward, by name."""
        return {part.name: weight for part, weight in self.reward.parts}

    @property
    def drawn_by(self) -> dict[str, Any]:
        """How pictures are drawn, as JSON values."""
        return {name: getattr(self.options, name) for name in ("solver", "num_inference_steps", "guidance_scale")}

    def _plan(self, number: int, can_draw: bool) -> Any:
        from realignkit.refl.rounds import Plan

        options = self.options
        settings = json.loads(json.dumps(placeless(self.reward.settings or {}), default=str))
        count = min(options.prompts_per_round or len(self.prompts), len(self.prompts))
        made_with = {
            **self.drawn_by,
            "size": list(self.networks.image_size),
            "reward": self.reward.name,
            "reward_options": settings,
        }
        prompts = self.prompts_at(range(number * count, (number + 1) * count))
        at_once = self.config.batch_size * self.pictures_per_place
        return Plan(
            number, prompts, options.candidates, at_once, self.config.seed, made_with,
            self.trainable.digest() if can_draw else None,
        )  # fmt: skip

    def sample(self, noise: Tensor, text: Text, noise_seeds: Sequence[int]) -> dict[str, Tensor]:
        """Draw; see :data:`realignkit.refl.rounds.Sampler`."""
        return {"latents": self.rollout.sample(noise, text)}

    # --- learning -----------------------------------------------------------------------------------------------------

    def noise_at(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Noise (B, C, h, w) and timesteps (B,) for places of the run."""
        import torch

        networks, seed = self.networks, self.config.seed
        timesteps = [networks.noise.draw(seeds.numpy_rng(seed, "feedback timestep", place)) for place in places]
        noise = seeds.normal(networks.latent_shape, seed, "feedback noise", places)
        return noise.to(networks.device), torch.tensor(timesteps, device=networks.device)

    def text_of(self, prompts: Sequence[str]) -> Text:
        """Texts of prompts, of which several may be the same: each is read once."""
        distinct = list(dict.fromkeys(prompts))
        return self.networks.text(distinct).at([distinct.index(prompt) for prompt in prompts])

    def noised(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents (B, C, h, w) with noise, and what the network should predict for them."""
        level = self.networks.noise.level(timesteps)
        target = losses.denoising_target(clean, noise, level, self.networks.noise.kind)
        return losses.add_noise(clean, noise, level), target

    def predict(self, latents: Tensor, timesteps: Tensor, prompts: Sequence[str]) -> Tensor:
        """Predictions for noised latents of its own pictures; distilled models are told how those were guided."""
        return self.networks.predict(latents, timesteps, self.text_of(prompts), self.options.guidance_scale)

    def errors(self, latents: Tensor, timesteps: Tensor, target: Tensor, prompts: Sequence[str]) -> Tensor:
        """Mean squared errors (B,) of the predictions for noised latents.

        Raises:
            ModelError: the model computed NaN or infinity.
        """
        prediction = self.predict(latents, timesteps, prompts)
        each = (prediction - target).square().mean((1, 2, 3))
        check_errors(each)
        return each

    def hold(self, gradients: Gradients, batch: MicroBatch, latents: Tensor, timesteps: Tensor, unit: float) -> None:
        """Add the gradient of what holds the unconditional prediction to the frozen model's, where there is that term.

        Where text encoders alone learn, it is what they make of the unconditional prompt, which is exact and costs next
        to nothing; else the mean squared difference of predictions for noised latents (B, C, h, w), times ``unit``.
        """
        import torch

        if not self.has_denoising_term:
            return
        networks, distance = self.networks, torch.nn.functional.mse_loss
        if "unet" in self.config.learning_parts:
            count = len(latents)
            with torch.no_grad(), self.trainable.base():
                frozen = networks.predict(latents, timesteps, networks.unconditional(count))
            loss = unit * distance(networks.predict(latents, timesteps, networks.unconditional(count)), frozen)
        else:
            with torch.no_grad(), self.trainable.base():
                before = networks.unconditional(1)
            now = networks.unconditional(1)
            loss = distance(now.embeddings.float(), before.embeddings.float())
            if now.pooled is not None and before.pooled is not None:
                loss = loss + distance(now.pooled.float(), before.pooled.float())
        loss = self.config.denoising_weight * loss
        self.accumulate(gradients.denoising, loss * batch.scale)
        gradients.note("denoising_loss", float(loss.detach()))

    def note_rewards(self, gradients: Gradients, pictures: RatedPictures, indices: Sequence[int]) -> None:
        """Log what was said of the pictures that are learnt from; of a sum, of each part."""
        means = {name: float(values[list(indices)].mean()) for name, values in pictures.rewards.items()}
        if len(means) > 1:
            for name, mean in means.items():
                gradients.note(f"{PART}{name}", mean)
        gradients.note("reward", sum(pictures.weights[name] * mean for name, mean in means.items()))


def check_errors(each: Tensor) -> None:
    """Refuse errors that are no numbers.

    Raises:
        ModelError: one is NaN or infinite.
    """
    import torch

    if not torch.isfinite(each).all():
        raise ModelError(
            "the model computed NaN or infinity for its own pictures. Use mixed_precision=bf16 or no; if it is off "
            "already, lower the learning rate and resume from the last checkpoint."
        )
