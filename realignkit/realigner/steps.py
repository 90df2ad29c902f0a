"""The steps of figure 2, each alone, on what users hand in. Calling a realigner takes those of :mod:`.draft`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

from realignkit import arguments, calls
from realignkit.attention import sampler
from realignkit.attention.config import ModulationConfig
from realignkit.attention.heatmaps import check_recorded, word_positions
from realignkit.contracts import Generator, Reward, Scorer, Segmenter, Tagger
from realignkit.errors import ModelError, OptionError, PromptError
from realignkit.images import cropped, given_image
from realignkit.machine import suited_threads
from realignkit.named import Named, Parts
from realignkit.pipelines import encoding, families, refusals
from realignkit.pipelines.generate import GivenPipeline
from realignkit.pipelines.reward_guidance import GuidedSampling
from realignkit.realigner.drawing import Progress as Progress
from realignkit.realigner.drawing import as_step, draw
from realignkit.realigner.guide import guided
from realignkit.registry import Registry
from realignkit.resolve import SamplingOptions
from realignkit.types import Answer, Layout, Likelihood, LocalCaption, Tag

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image as PILImage

    from realignkit.attention.sampler import RefineResult


STEPS = ("generate", "select", "tag", "score", "segment", "refine", "verify")
"""What is reported and timed; ``select`` where there are candidates, ``verify`` where ``modulation.verify`` asks."""


class Steps:
    """What can be done with the plugins and options of a realigner, which see.

    Attributes:
        parts: the plugins, under their names.
        the rest: as for :class:`realignkit.realigner.Realigner`.
    """

    parts: Parts
    modulation: ModulationConfig
    sampling: SamplingOptions
    registry: Registry
    batch_size: int
    segment_unlikely: bool
    candidates: int
    heat_maps: tuple[str, ...]
    guide_strength: float
    guide_share: float
    guide_margin: float | None
    threads: int | None

    @property
    def generator(self) -> Generator:
        """The plugin that draws."""
        plugin: Generator = self.parts.generator.plugin
        return plugin

    @property
    def tagger(self) -> Tagger | None:
        """The plugin that names objects."""
        return None if self.parts.tagger is None else self.parts.tagger.plugin

    @property
    def scorers(self) -> tuple[tuple[str, Scorer], ...]:
        """The fallback chain, by names."""
        return tuple((scorer.name, scorer.plugin) for scorer in self.parts.scorers)

    @property
    def segmenter(self) -> Segmenter | None:
        """The plugin that finds objects."""
        return None if self.parts.segmenter is None else self.parts.segmenter.plugin

    @property
    def select_by(self) -> Reward | None:
        """The reward that chooses among candidates."""
        return None if self.parts.reward is None else self.parts.reward.plugin

    @property
    def guide_by(self) -> Reward | None:
        """The reward that guides sampling."""
        return None if self.parts.guide is None else self.parts.guide.plugin

    def guided(self, prompts: Sequence[str]) -> AbstractContextManager[GuidedSampling | None]:
        """Guide what the pipeline draws of some prompts by ``guide_by``; nothing where there is none."""
        options = {"strength": self.guide_strength, "share": self.guide_share}
        scale = self.sampling.guidance_scale
        return guided(self.parts.guide, self.guide_margin, self.pipeline, prompts, guidance_scale=scale, **options)

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> list[PILImage]:
        """The coarse stage: one image (RGB) per prompt and seed.

        Raises:
            PromptError, ModelError: as for calling the realigner.
        """
        progress = arguments.function("progress", progress) or silent
        prompts, seeds, _ = arguments.pair(prompts, seeds, None)
        for prompt in prompts:
            self.check_prompt(prompt)
        self.check_guide()
        with suited_threads(threads=self.threads):
            return draw(self, prompts, seeds, progress).images

    def tag(self, images: Sequence[PILImage]) -> list[tuple[Tag, ...]]:
        """Name the objects in images, which may be of any kind that calling the realigner takes.

        Raises:
            PluginError: the tagger failed or broke its contract.
            OptionError: an image cannot be read.
        """
        with suited_threads(threads=self.threads):
            return calls.tag_images(self.parts.needed("tagger"), arguments.pictures(images))

    def score(self, prompt: str, tags: Sequence[Tag]) -> Answer:
        """Judge and describe tags in the light of the prompt (eq. 6), by the first scorer that can.

        Raises:
            PluginError: no scorer of the chain gave a valid answer.
            OptionError: a tag is none, or its confidence is outside [0, 1].
            PromptError: the prompt is no text, or holds half a character.
        """
        (text,), _, _ = arguments.pair([prompt], 0, None)
        arguments.check_text(text)
        with suited_threads(threads=self.threads):
            return calls.answer(self.parts.chain, text, arguments.tags(tags))

    def segment(self, image: PILImage, captions: Sequence[LocalCaption]) -> tuple[Layout, tuple[str, ...]]:
        """Find the captions' masks in the image; with the layout comes a note for each that has none.

        Masks are those of the picture as it is seen, turned by its EXIF flag. Unlikely objects are left out unless
        ``segment_unlikely`` or ``suppress_unlikely`` is on.

        Raises:
            PluginError: the segmenter failed or broke its contract.
            OptionError: the image cannot be read, or a caption is none.
        """
        wanted, (picture, _) = self.wanted(captions), given_image(image)
        with suited_threads(threads=self.threads):
            return calls.segment_image(self.parts.needed("segmenter"), picture, wanted)

    def wanted(self, captions: Sequence[LocalCaption]) -> list[LocalCaption]:
        """Those of some captions whose objects are segmented.

        Raises:
            OptionError: a caption is none.
        """
        return [
            c for c in arguments.captions(captions) if self.segment_unlikely or c.likelihood is not Likelihood.UNLIKELY
        ]

    def refine(
        self,
        prompts: Sequence[str],
        layouts: Sequence[Layout],
        seeds: Sequence[int],
        coarse: Sequence[PILImage] | None = None,
        *,
        progress: Progress | None = None,
    ) -> RefineResult:
        """The fine stage: sample again with re-weighted attention (eqs. 7-10), all in one batch.

        ``coarse`` is needed only where ``modulation.strength`` starts from the coarse images. The hook
        ``before_refine`` belongs to calling the realigner and is not run here.

        Raises:
            PromptError, ModelError: as for calling the realigner.
            OptionError: numbers do not match, or a mask is not bool (H, W) of :attr:`image_size`.
        """
        progress = arguments.function("progress", progress) or silent
        self.check_model()
        self.check_guide()
        prompts, seeds, given = arguments.pair(prompts, seeds, coarse)
        for prompt in prompts:
            self.check_prompt(prompt)
        fitted = [cropped(image, self.image_size) for image in given if image is not None]
        if fitted and len(fitted) < len(given):
            raise OptionError("coarse has None for some prompts: give refine one image per prompt, or none at all.")
        with suited_threads(threads=self.threads), self.guided(prompts):
            result = sampler.refine(
                self.pipeline(),
                prompts,
                arguments.layouts(layouts, self.image_size),
                seeds,
                self.modulation,
                **self.sampling.model_dump(),
                coarse=[image for image, _ in fitted] or None,
                heat_maps=self.heat_maps,
                progress=as_step("refine", progress),
            )
        changes = [tuple(notes) for _, notes in fitted] or [()] * len(prompts)
        return replace(result, notes=[a + b for a, b in zip(changes, result.notes, strict=True)])

    def lost(self, captions: Sequence[Sequence[LocalCaption]], images: Sequence[PILImage]) -> list[tuple[str, ...]]:
        """What ``modulation.verify`` asks: per image (RGB) the tags of certain captions that the tagger misses in it.

        Raises:
            PluginError: the tagger failed or broke its contract.
        """
        return [lost(some, seen) for some, seen in zip(captions, self.tag(images), strict=True)]

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the images that are made. Loads the pipeline."""
        return families.image_size(self.pipeline(), self.sampling.width, self.sampling.height)

    def check_prompt(self, prompt: str) -> None:
        """Refuse what the model cannot read in full. Loads the pipeline.

        Raises:
            PromptError: the prompt is empty, no text, or longer than a text encoder's limit.
        """
        arguments.check_text(prompt)
        encoding.check_prompt(self.pipeline(), prompt)

    def check_heat_maps(self, prompts: Sequence[str]) -> None:
        """Refuse words for heat maps that none of some prompts contains. Loads the pipeline.

        Raises:
            PromptError: there is such a word, or a prompt is no text.
            OptionError: this is no list of prompts.
        """
        missing, prompts = list(self.heat_maps), arguments.listed("prompts", prompts)
        for prompt in prompts:
            arguments.check_text(prompt)
            found = word_positions(self.pipeline(), prompt, missing) if missing else {}
            missing = [word for word in missing if word not in found]
        if missing:
            where = f"of '{prompts[0][:60]}'" if len(prompts) == 1 else f"of any of the {len(prompts)} prompts"
            raise PromptError(
                f"there can be no heat map of '{missing[0]}', which is not part {where}, token by token. Write it as "
                f"the prompt does."
            )

    def check_reach(self) -> None:
        """Refuse to begin what the tagger, the segmenter or the reward could not go on with. May ask the network.

        Raises:
            ModelError: one of them has weights that are neither on this machine nor to be had.
        """
        parts: list[tuple[str, Named | None]] = [
            ("select_by" if part.kind == "reward" else part.kind, part) for part in self.parts.single
        ]
        for argument, part in (*parts, ("guide_by", self.parts.guide)):
            if part is None or part.kind == "generator":  # which is loaded first, and tells
                continue
            part.check_reach(
                f"Another {part.kind} is chosen with {argument}= (--{argument.replace('_', '-')}); 'realignkit plugins "
                f"--kind {part.kind}'."
            )

    def check_model(self) -> None:
        """Refuse a model that cannot be loaded or whose attention cannot be modulated, or recorded for ``heat_maps``.

        Loads the pipeline.

        Raises:
            ModelError: it cannot.
        """
        # A class that says so needs no loading to be refused.
        supported = getattr(self.generator, "attention_family", None) is not None
        is_loaded = supported or isinstance(self.generator, GivenPipeline)
        if is_loaded and (why := refusals.why_not_drawn(self.pipeline())):
            raise ModelError(why)
        why = "it has neither a U-Net of the SD-1.x, SD-2.x or SDXL kind nor the transformer of PixArt."
        if supported and not (why := refusals.why_not_modulated(self.pipeline())):
            if self.heat_maps:
                check_recorded(self.pipeline())
            return
        raise ModelError(
            f"the attention of {self.parts.generator.whose} cannot be re-weighted: {why} It can still make "
            f"coarse images (Realigner.generate). For the fine stage choose another model; 'realignkit plugins --kind "
            f"generator'."
        )

    def check_guide(self) -> None:
        """Refuse a model whose sampling ``guide_by`` cannot guide. Loads the pipeline, where there is such a reward.

        Raises:
            ModelError: it cannot.
        """
        if self.parts.guide is not None and (why := refusals.why_not_guided(self.pipeline())):
            raise ModelError(
                f"sampling with {self.parts.generator.whose} cannot be guided by a reward: {why} Leave guide_by out, "
                f"or take the best of several candidates."
            )

    def pipeline(self) -> DiffusionPipeline:
        """The generator's pipeline, loaded at first use.

        Raises:
            ModelError: it cannot be loaded.
            PluginError: the generator failed or broke its contract.
        """
        with self.parts.generator.blame():
            pipeline = self.generator.pipeline()
        if not callable(pipeline):
            raise self.parts.generator.breach(f"its pipeline cannot be called, being {arguments.shown(pipeline)}")
        return pipeline


def lost(captions: Sequence[LocalCaption], seen: Sequence[Tag]) -> tuple[str, ...]:
    """The tags of certain captions that are not among those that are seen in the refined image."""
    names = {tag.name for tag in seen}
    certain = [caption.tag for caption in captions if caption.likelihood is Likelihood.CERTAIN]
    return tuple(name for name in certain if name not in names)


def silent(step: str, done: int, total: int) -> None:
    """A :data:`Progress` that nobody follows."""
