"""The pictures of an evaluation that draws its own: of every prompt and seed one, kept as they are made."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from realignkit.evaluation.measure import drawing_settings
from realignkit.evaluation.pictures import Picture
from realignkit.evaluation.plan import noise_seed
from realignkit.evaluation.processes import ALONE, Launch
from realignkit.evaluation.runs import Job
from realignkit.files import atomic_write
from realignkit.images import picture_key, png
from realignkit.machine import suited_threads
from realignkit.provenance import digest_of
from realignkit.realigner import Realigner
from realignkit.realigner.draft import best_of_each, candidate_seeds
from realignkit.refl.distributed import Interruption

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.realignment import Realignment

IMAGES = "images"


class Drawing:
    """Draws what is missing of the pictures of some prompts.

    Args:
        realigner: draws; with candidates the best of them goes on.
        prompts: numbered from 1 in this order.
        seeds: each prompt is drawn once for each of them, from noise of its own (:func:`~.plan.noise_seed`) whose seed
            is the picture's: prompts that shared it would not be independent.
        folder: pictures are in ``images/`` below it.
        fine: whether the fine stage follows.
        launch: the processes that share the batches.
    """

    def __init__(
        self,
        realigner: Realigner,
        prompts: Sequence[str],
        seeds: Sequence[int],
        folder: str | Path,
        *,
        fine: bool = False,
        launch: Launch = ALONE,
    ) -> None:
        self.realigner, self.folder, self.fine, self.launch = realigner, Path(folder), fine, launch
        self.jobs = [
            Job(index, text, noise_seed(seed, index)) for index, text in enumerate(prompts, start=1) for seed in seeds
        ]

    @property
    def settings(self) -> dict[str, Any]:
        """What the pictures depend on, as JSON values."""
        settings = {**drawing_settings(self.realigner, whole=self.fine), "fine": self.fine}
        if self.realigner.candidates > 1:
            reward = self.realigner.parts.needed("reward")
            settings |= {"candidates": self.realigner.candidates, "select_by": {reward.name: reward.options}}
        return settings

    @property
    def pictures(self) -> list[Picture]:
        """The pictures, there or not."""
        counts: Counter[tuple[str, int]] = Counter()
        pictures = []
        for job in self.jobs:
            number = counts[job.prompt, job.seed]
            pictures.append(Picture(job.name, job.prompt, job.seed, self._path(job), job.index, number))
            counts[job.prompt, job.seed] += 1
        return pictures

    def _path(self, job: Job) -> Path:
        return self.folder / IMAGES / f"{job.name}.png"

    def __call__(self, report: Callable[[str, int, int], None] = lambda step, done, total: None) -> None:
        """Draw what is not drawn yet. Interrupted, it has lost no more than a batch.

        Raises:
            PromptError: a prompt is empty, or too long for the model.
            ModelError: the model cannot be used, or computed NaN.
            PluginError: a plugin failed.
            OutputError: the folder cannot be written.
        """
        settings = json.dumps(self.settings, sort_keys=True)
        keys = {job: digest_of([settings, job.prompt, str(job.seed)]) for job in self.jobs}
        size = self.realigner.batch_size
        batches = [self.jobs[start : start + size] for start in range(0, len(self.jobs), size)]
        share = batches[self.launch.rank :: self.launch.count]
        done, total, checked = 0, sum(map(len, share)), False
        report("drawing", 0, total)
        with suited_threads(threads=self.realigner.threads), Interruption().watching() as interruption:
            for batch in share:
                # Whole batches: rounding depends on what shares one, and a resumed run must not notice.
                if any(picture_key(self._path(job)) != keys[job] for job in batch):
                    if not checked:
                        for prompt in dict.fromkeys(job.prompt for job in self.jobs):  # before any work
                            self.realigner.check_prompt(prompt)
                        checked = True
                    for job, image in zip(batch, self._draw(batch), strict=True):
                        atomic_write(self._path(job), png(image, keys[job]))
                done += len(batch)
                report("drawing", done, total)
                if interruption.wanted:
                    raise KeyboardInterrupt
        self.launch.wait()

    def release(self) -> None:
        """Let go of the model, whose memory others may use; nothing can be drawn afterwards."""
        del self.realigner

    def _draw(self, jobs: Sequence[Job]) -> list[Image]:
        prompts, seeds = [job.prompt for job in jobs], [job.seed for job in jobs]
        count = self.realigner.candidates
        if self.fine:
            done = cast("list[Realignment]", self.realigner(prompts, seeds))
            return [realignment.image for realignment in done]
        texts = [prompt for prompt in prompts for _ in range(count)]
        starts = [start for seed in seeds for start in candidate_seeds(seed, count)]
        images = self.realigner.generate(texts, starts)
        if count == 1:
            return images
        chooser = self.realigner.parts.needed("reward")
        return [c.image for c in best_of_each(images, prompts, starts, chooser, self.realigner.batch_size)]
