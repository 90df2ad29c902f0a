"""A model's own pictures, drawn and rated in rounds, and kept as a folder that people and ``realignkit eval`` can read.

``round.json`` says how they were made. ``metadata.jsonl`` has a line for each: ``file_name``, ``prompt``, ``seed`` and
``reward``, and of a sum of rewards the parts. Beside each picture are the latents that it was decoded from.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import JsonValue
from torch import Tensor

from realignkit.calls import rewards_of
from realignkit.errors import OutputError
from realignkit.files import append_lines, atomic_write, make_folder, read_lines, write_lines
from realignkit.images import png, to_tensor
from realignkit.named import Named
from realignkit.pipelines.images import to_pil
from realignkit.provenance import digest_of
from realignkit.records import Format, Written, seal
from realignkit.refl import seeds
from realignkit.refl.data import METADATA
from realignkit.refl.pictures import LATENTS, REWARD, REWARDS, is_whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.refl.distributed import Processes
    from realignkit.refl.model import Networks, Text

FOLDER = "rounds"
WRITERS = 8
"""Threads that write pictures."""
RECORD = "round.json"


class _Record(Written):
    """What is relied on of ``round.json``."""

    made_with: dict[str, JsonValue]
    weights: str


ROUND = Format("realignkit.round", 1, "round", _Record, "Make it again.", "Make it again.")

Sampler = Callable[[Tensor, "Text", Sequence[int]], Mapping[str, Tensor]]
"""Noise (B, C, h, w), texts and a seed of each -> ``latents`` (B, C, h, w), and what else is to be kept of each."""


def folder_of(run: Path, number: int) -> Path:
    """Where a run keeps the pictures of a round (from 0)."""
    return run / FOLDER / f"{number:03d}"


def record_of(folder: Path) -> dict[str, Any]:
    """How a round's pictures were made (``made_with``), and by which ``weights``; nothing where that is not known."""
    try:
        return dict(ROUND.read(folder / RECORD))
    except (OSError, OutputError):
        return {}


@dataclass(frozen=True)
class Plan:
    """What a round draws.

    Attributes:
        number: of the round, from 0.
        prompts: what for, each once.
        candidates: pictures of each.
        batch_size: pictures that a process draws together.
        seed: of the run.
        made_with: what else the pictures and their rewards depend on, as JSON values.
        weights: a digest of those that draw; None: they have learnt since, so nothing can be drawn that is missing.
    """

    number: int
    prompts: Sequence[str]
    candidates: int
    batch_size: int
    seed: int
    made_with: Mapping[str, Any]
    weights: str | None

    def name(self, place: int) -> str:
        """The file of a picture, which come prompt by prompt."""
        return f"{place // self.candidates:05d}-{place % self.candidates}.png"

    def seeds(self, places: Sequence[int]) -> list[int]:
        """Of the pictures' noise."""
        return [seeds.derive(self.seed, f"round {self.number}", place) for place in places]


class Round:
    """Draws a round's pictures and has each rated once, a batch after another, shared by the processes.

    What is on the disk of a whole batch stays, whenever the program ends; so what a resumed run draws is what the
    uninterrupted one would have drawn.

    Args:
        folder: of the round.
        plan: what is drawn.
        networks: that draw.
        sample: how.
        reward: that rates; of a sum each part by itself.
        processes: that share the work.
    """

    def __init__(
        self, folder: Path, plan: Plan, networks: Networks, sample: Sampler, reward: Named, processes: Processes
    ) -> None:
        self.folder, self.plan, self.networks = folder, plan, networks
        self._sample, self.reward, self.processes = sample, reward, processes

    def draw(self, stop: Callable[[], bool], say: Callable[[str], None]) -> None:
        """Draw and rate what is missing.

        Raises:
            ModelError: the model or the reward computed NaN or infinity.
            PluginError: the reward failed.
            OutputError: the folder cannot be written, or what is missing can no longer be drawn.
            KeyboardInterrupt: ``stop`` said so, in any process; what is done is kept.
        """
        plan, processes = self.plan, self.processes
        done = processes.share(self._begun() if processes.main else None)
        at_once = self._prompts_at_once
        start, first, total = time.monotonic(), done, len(plan.prompts)
        while done < total:
            if processes.any(stop()):
                raise KeyboardInterrupt
            mine = range(done + processes.rank * at_once, min(done + (processes.rank + 1) * at_once, total))
            rows = processes.gather(self._drawn(mine) if mine else [])
            if processes.main:
                append_lines(self.folder / METADATA, rows)
            tenth, done = 10 * done // total, min(done + at_once * processes.count, total)
            if 10 * done // total > tenth:
                left = (time.monotonic() - start) / (done - first) * (total - done)
                say(
                    f"round {plan.number}: pictures of {done} of {total} prompts drawn and rated"
                    + (f", {left / 60:.0f} minutes left" if left >= 60 else "")
                )
        processes.wait()

    @property
    def _prompts_at_once(self) -> int:
        """Prompts of which a process draws all pictures between two writes."""
        return max(1, self.plan.batch_size // self.plan.candidates)

    def _begun(self) -> int:
        """Of how many prompts everything is there, in whole batches; what does not belong to them is gone."""
        plan = self.plan
        prompts = {"number": len(plan.prompts), "digest": digest_of(plan.prompts)}
        made_with = {"prompts": prompts, "candidates": plan.candidates, "seed": plan.seed, **plan.made_with}
        record = record_of(self.folder)
        known = record.get("made_with") == made_with and plan.weights in (None, record["weights"])
        if not known and plan.weights is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            make_folder(self.folder)
            atomic_write(self.folder / RECORD, ROUND.dumps({"made_with": made_with, "weights": plan.weights}))
        rows, _ = read_lines(self.folder / METADATA)
        whole = 0
        for place, row in enumerate(rows[: len(plan.prompts) * plan.candidates]):
            if row.get("file_name") != plan.name(place) or not is_whole(self.folder / plan.name(place)):
                break
            whole += 1
        done, batch = whole // plan.candidates, self._prompts_at_once * self.processes.count
        if plan.weights is None and not (known and done == len(plan.prompts)):
            raise OutputError(
                f"pictures of {self.folder} are missing or damaged, and what drew them has learnt since. Train into "
                f"another folder, or give the pictures back."
            )
        done = done if done == len(plan.prompts) else done // batch * batch
        write_lines(self.folder / METADATA, rows[: done * plan.candidates])
        return done

    @torch.no_grad()
    def _drawn(self, mine: range) -> list[dict[str, Any]]:
        """The pictures of some prompts, written; and a line of each."""
        plan, networks = self.plan, self.networks
        places = range(mine.start * plan.candidates, mine.stop * plan.candidates)
        prompts = [plan.prompts[place // plan.candidates] for place in places]
        images, noise_seeds = [], plan.seeds(places)
        for start in range(0, len(places), plan.batch_size):
            part = slice(start, start + plan.batch_size)
            noise = seeds.noise_of(networks.latent_shape, noise_seeds[part]).to(networks.device)
            sampled = self._sample(noise, networks.text(prompts[part]), noise_seeds[part])
            drawn = to_pil(networks.decode(sampled["latents"]))
            self._keep([plan.name(place) for place in places[part]], drawn, sampled)
            images += drawn
        rewards = self._rated(images, prompts, places.start)
        lines = []
        for i, (place, prompt, seed) in enumerate(zip(places, prompts, noise_seeds, strict=True)):
            parts = {name: values[i] for name, values in rewards.items()}
            reward = sum(weight * parts[part.name] for part, weight in self.reward.parts)
            line = {"file_name": plan.name(place), "prompt": prompt, "seed": seed, REWARD: reward}
            lines.append({**line, REWARDS: parts} if len(parts) > 1 else line)
        return lines

    def _keep(self, names: Sequence[str], images: Sequence[Image], sampled: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save

        # In memory of its own and in the usual order, as safetensors wants each.
        kept = {name: tensor.cpu().contiguous() for name, tensor in sampled.items()}

        def write(i: int) -> None:
            atomic_write(self.folder / names[i], png(images[i]))
            latents = save({name: tensor[i].clone() for name, tensor in kept.items()})
            atomic_write((self.folder / names[i]).with_suffix(LATENTS), seal(latents, {}))

        # Each waits for the disk twice; so they wait together.
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, range(len(images))))

    def _rated(self, images: Sequence[Image], prompts: Sequence[str], place: int) -> dict[str, list[float]]:
        """What each part of the reward says of the pictures as they are on the disk."""
        pixels = to_tensor(images).to(self.networks.device)
        rewards = {}
        for part, _ in self.reward.parts:
            with seeds.seeded(self.plan.seed, f"reward of round {self.plan.number}", place):
                rewards[part.name] = rewards_of(part, pixels, prompts).tolist()
        return rewards
