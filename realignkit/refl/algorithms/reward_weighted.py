"""Reward-weighted likelihood (Lee et al., 2023): L_pre's pairs, each weighed by its image's reward for its caption.

Pairs that are drawn by their weight are rated first, once: ``pairs.jsonl`` in the run's folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from realignkit.calls import rewards_of
from realignkit.contracts import Options
from realignkit.errors import ModelError
from realignkit.files import read_lines, write_lines
from realignkit.provenance import placeless
from realignkit.refl import losses, seeds
from realignkit.refl.algorithms import Gradients, MarginAlgorithm, MicroBatch
from realignkit.refl.data import Order, digest

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit.refl.distributed import Processes

RATINGS = "pairs.jsonl"
BLOCK = 500
"""Pairs that are rated between two writes, or a tenth of all where that is more: each write is of the whole file."""


class RewardWeightedOptions(Options):
    """Of ``algorithm=reward_weighted``: a pair weighs ``exp(-phi(R) / temperature)``, 1 where it reaches the margin."""

    margin: float | None = Field(None, allow_inf_nan=False, description="of phi; none: as the reward states")
    temperature: float = Field(0.1, gt=0, allow_inf_nan=False, description="a pair weighs exp(-phi(R) / temperature)")
    pair_sampling: Literal["uniform", "weighted"] = Field(
        "uniform",
        description="uniform takes every pair in turn and weighs its loss; weighted draws pairs in proportion to "
        "lambda * weight + denoising_weight: the same direction on average, no passes for pairs that weigh nothing, "
        "and a gradient as long as a control's",
    )


class RewardWeighted(MarginAlgorithm):
    """See :class:`RewardWeightedOptions`."""

    Options = RewardWeightedOptions
    options: RewardWeightedOptions
    needs_pairs = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._rated: dict[int, float] = {}

    @property
    def draws_pairs(self) -> bool:
        """Whether pairs come up as often as they weigh; a control takes all in turn."""
        return self.options.pair_sampling == "weighted" and self.config.reward_weight != 0

    @property
    def has_reward_term(self) -> bool:
        """Drawn pairs have one gradient for both terms, the denoising one."""
        return super().has_reward_term and not self.draws_pairs

    @property
    def has_denoising_term(self) -> bool:
        """See :attr:`has_reward_term`."""
        return super().has_denoising_term or self.draws_pairs

    def add(self, gradients: Gradients, batch: MicroBatch) -> None:
        """Add the gradients of the denoising loss on pairs, as weighed, and of L_pre on the same ones."""
        indices, latents, captions = self.pairs_at(batch.places)
        each = self.losses_of_pairs(latents, captions, batch.places)
        if self.draws_pairs:
            # Lambda is in the shares: here it would only scale the step, up to the clipping that the control escapes.
            self.accumulate(gradients.denoising, each.mean() * batch.scale)
            gradients.note("reward", float(self._rewards(indices, captions).mean()))
            gradients.note("denoising_loss", float(each.mean().detach()))
            return
        if self.has_reward_term:
            rewards = self._rewards(indices, captions).to(each.device)
            weighted = (self._weights(rewards) * each).mean()
            self.accumulate(gradients.reward, weighted * batch.scale, keep=True)
            gradients.note("reward", float(rewards.mean()))
            gradients.note("reward_loss", float(weighted.detach()))
        if self.has_denoising_term:
            self.add_l_pre_of(gradients, each, batch)

    def prepare(self, processes: Processes, folder: Path, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Where pairs are drawn by their reward, rate every one of them, each in one of the processes.

        What an earlier start has rated with the same reward is kept: a line of ``file_name``, ``text``, ``image`` (what
        stands for its content), ``reward`` and ``by`` (a digest of the reward, the size and the seed that it was asked
        with) each.

        Raises:
            OptionError: an image cannot be read.
            ModelError: a reward is no number, or every pair weighs nothing.
            PluginError: the reward failed.
            OutputError: the folder cannot be written.
            KeyboardInterrupt: ``stop`` said so; what is rated is kept.
        """
        if not self.draws_pairs:
            return
        assert self.pairs is not None
        pairs = self.pairs.pairs
        # A folder without checkpoints is no run yet, so nothing else notices that the reward is another one now.
        settings = placeless(self.reward.settings or {})
        by = digest([self.reward.name, repr(settings), repr(self.networks.latent_shape), str(self.config.seed)])
        stamps = self.pairs.stamps(self.config.compare_content) if processes.main else []
        wanted = [
            {"file_name": name, "text": text, "image": stamp, "by": by}
            for (name, text), stamp in zip(pairs, stamps, strict=False)
        ]
        rewards: list[float] = processes.share(_read(folder / RATINGS, wanted, say) if processes.main else None)
        size = max(BLOCK, len(pairs) // 10)
        while len(rewards) < len(pairs):
            if processes.any(stop()):
                raise KeyboardInterrupt
            block = range(len(rewards), min(len(rewards) + size, len(pairs)))
            mine = [(i, self._rate(i, pairs[i][1])) for i in block[processes.rank :: processes.count]]
            rewards += [reward for _, reward in sorted(processes.gather(mine))]
            if processes.main:
                rated = zip(wanted, rewards, strict=False)
                write_lines(folder / RATINGS, ({**pair, "reward": reward} for pair, reward in rated))
                say(f"{len(rewards)} of {len(pairs)} pairs rated")
        effective = self._draw_by(rewards)
        say(f"pairs are drawn by their reward: as many as {effective:.0f} of {len(pairs)} with equal shares")

    def _draw_by(self, rewards: Sequence[float]) -> float:
        """Draw pairs by their rewards from now on; gives Kish's effective number of pairs, ``(sum w)^2 / sum w^2``.

        The share of a pair is lambda times its weight, plus ``denoising_weight``: what both terms together weigh it.
        """
        import torch

        weight = self.reward_weight
        assert self.pairs is not None and isinstance(weight, float)
        self._rated = dict(enumerate(rewards))
        shares = weight * self._weights(torch.tensor(rewards, dtype=torch.float64)) + self.config.denoising_weight
        if not float(shares.sum()) > 0:
            raise ModelError(
                f"no pair's reward comes near the margin {self.margin:g} (the best has {max(rewards):.4g}), so there "
                f"is nothing to learn from. Lower reward_weighted.margin, or raise reward_weighted.temperature."
            )
        self.pair_order = Order(len(self.pairs), self.config.seed, "pairs", shares.tolist())
        return float(shares.sum().square() / shares.square().sum())

    def _weights(self, rewards: Tensor) -> Tensor:
        return (-losses.phi(rewards, self.margin) / self.options.temperature).exp()

    def _rewards(self, indices: Sequence[int], captions: Sequence[str]) -> Tensor:
        """Of L_pre's images for their own captions, (B,); each pair is rated once."""
        import torch

        for i, text in zip(indices, captions, strict=True):
            if i not in self._rated:
                # One by one, as for latents: a resumed run must not notice.
                self._rated[i] = self._rate(i, text)
        return torch.tensor([self._rated[i] for i in indices])

    def _rate(self, index: int, caption: str) -> float:
        import torch

        assert self.pairs is not None
        with torch.no_grad(), seeds.seeded(self.config.seed, "pairs", index):
            image = self.pairs.image(index).to(self.networks.device)
            return float(rewards_of(self.reward, image, [caption]))


def _read(path: Path, wanted: Sequence[Mapping[str, str]], say: Callable[[str], None]) -> list[float]:
    """What has been rated of these pairs, from the first on; a damaged line and what follows are rated again."""
    rows, torn = read_lines(path)
    if torn:
        say(f"{path} is damaged; the pairs from the damaged line on are rated again")
    rewards: list[float] = []
    for row, pair in zip(rows, wanted, strict=False):
        reward = row.pop("reward", None)
        if row != pair or not isinstance(reward, int | float) or not math.isfinite(reward):
            break
        rewards.append(float(reward))
    return rewards
