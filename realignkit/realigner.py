"""The method as one straight line: coarse image -> tags -> local captions -> layout -> refined image (figure 2)."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Never, Self

from realignkit import arguments, calls, inputs, selection
from realignkit.attention import sampler
from realignkit.attention.modulation import ModulationConfig
from realignkit.contracts import Generator, Reward, Scorer, Segmenter, Tagger, parse_options
from realignkit.errors import ModelError, OptionError
from realignkit.given import generator_info
from realignkit.images import given_image
from realignkit.machine import check_threads, suited_threads
from realignkit.named import Named, chain
from realignkit.pipelines import encoding, families, refusals
from realignkit.provenance import contents, fingerprint_of_image
from realignkit.realignment import Realignment
from realignkit.registry import Registry, default_registry
from realignkit.resolve import (
    SamplingOptions,
    assemble,
    choose_generator,
    companions,
    versions,
)
from realignkit.rewards import make_reward
from realignkit.types import Answer, Layout, Likelihood, LocalCaption, Tag

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import DiffusionPipeline
    from PIL.Image import Image as PILImage

    from realignkit.attention.sampler import RefineResult

Progress = Callable[[str, int, int], None]
"""``progress(step, done, total)``: ``step`` is one of :data:`STEPS`; counted in denoising steps or images."""

STEPS = ("generate", "tag", "score", "segment", "refine")


class Realigner:
    """Runs the training-free half of the method; reusable, and deterministic for a seed.

    Args:
        generator: a plugin, as the next three; see :mod:`realignkit.contracts`. Or a pipeline of diffusers.
        scorers: one scorer, or a fallback chain of ``(name, scorer)``, tried in order.
        modulation: how attention is re-weighted (eqs. 7-10); the paper's values by default.
        sampling: how both images are sampled.
        registry: whose lifecycle hooks to call; that of this process by default.
        batch_size: images per forward pass. Results do not depend on it (up to rounding).
        segment_unlikely: also segment unlikely objects, which switches modulation off inside their masks
            (``s_i = 0``); otherwise they are treated as background. Implied by ``suppress_unlikely``.
        candidates: how many coarse images to draw per prompt; the best goes on. That many times the coarse stage's
            time, and a batch holds as many images as without.
        select_by: the reward that chooses among them.
        threads: CPU threads of torch; None: one for tiny networks, the machine's for real ones, unless the user has
            chosen (:func:`realignkit.machine.suited_threads`). Results do not depend on it (up to rounding).
        names: what to call the plugins on record (kind -> name); their class names by default.
    """

    def __init__(
        self,
        generator: Generator | Named,
        tagger: Tagger | Named,
        scorers: Scorer | Sequence[tuple[str, Scorer]] | tuple[Named, ...],
        segmenter: Segmenter | Named,
        *,
        modulation: ModulationConfig | Mapping[str, Any] | None = None,
        sampling: SamplingOptions | Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        batch_size: int = 8,
        segment_unlikely: bool = False,
        candidates: int = 1,
        select_by: Reward | Named | None = None,
        threads: int | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self.batch_size = arguments.whole("batch_size", batch_size)
        self.candidates = arguments.whole("candidates", candidates)
        check_threads(threads)
        if self.candidates > 1 and select_by is None:
            raise OptionError(f"{candidates} candidates need a reward that chooses among them: give select_by.")
        called = arguments.mapping("names", names)
        self._chooser = None if select_by is None else Named.of("reward", select_by, "select_by", called.get("reward"))
        if isinstance(generator, str):
            raise OptionError(f"generator takes a plugin; its name goes to from_pretrained: '{generator[:60]}'.")
        if not isinstance(generator, Named):
            name = called.get("generator", type(generator).__name__)
            generator = Named("generator", name, generator_info(generator).create())
        self._generator = generator
        self._tagger = Named.of("tagger", tagger, name=called.get("tagger"))
        self._segmenter = Named.of("segmenter", segmenter, name=called.get("segmenter"))
        self._scorers = chain(scorers)
        self.modulation = parse_options(ModulationConfig, modulation, owner="modulation")
        self.sampling = parse_options(SamplingOptions, sampling, owner="sampling")
        self.registry = arguments.instance("registry", registry, Registry) or default_registry()
        self.threads = threads
        self.segment_unlikely = arguments.truth("segment_unlikely", segment_unlikely)
        self.segment_unlikely |= self.modulation.suppress_unlikely
        self._known: dict[str, str] = {}  # what is in local files and folders, which is read once

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Generator | DiffusionPipeline = "micro",
        *,
        tagger: str | Tagger | None = None,
        scorer: str | Scorer | None = None,
        segmenter: str | Segmenter | None = None,
        modulation: ModulationConfig | Mapping[str, Any] | None = None,
        sampling: SamplingOptions | Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        registry: Registry | None = None,
        batch_size: int = 8,
        segment_unlikely: bool = False,
        candidates: int = 1,
        select_by: str | Reward | Named | None = None,
        threads: int | None = None,
        **_misplaced: Never,
    ) -> Self:
        """Make a realigner from names. Cheap: weights are loaded at first use.

        Args:
            model: a registered generator, the folder or hub id of a Stable Diffusion model, or a pipeline of diffusers
                that is loaded.
            tagger: its name, or a plugin; by default the one that goes with the model.
            scorer: likewise; may be a fallback chain, ``"gpt4,lexical"``. ``lexical`` always comes last.
            segmenter: like ``tagger``.
            modulation: a mapping is laid over the defaults of the model, a config is taken as it is.
            sampling: laid over the defaults of the model.
            options: options of the plugins (kind -> name -> value). In a scorer chain every scorer gets
                those that it knows.
            registry: where names are looked up, and whose lifecycle hooks are called.
            batch_size: as for :class:`Realigner`.
            segment_unlikely: as for :class:`Realigner`.
            candidates: as for :class:`Realigner`.
            select_by: a reward, its name, or a weighted sum such as ``"caption:1,clip:0.5"``.
            threads: as for :class:`Realigner`.

        Raises:
            PluginError: an unknown or unavailable plugin.
            OptionError: an unknown option or a bad value.
        """
        _refuse_misplaced(_misplaced, cls.from_pretrained)
        registry = arguments.instance("registry", registry, Registry) or default_registry()
        candidates = arguments.whole("candidates", candidates)
        specs = {"tagger": tagger, "scorer": scorer, "segmenter": segmenter}
        options = arguments.mapping("options", options)
        reward_options = arguments.mapping("options['reward']", options.pop("reward", None))
        parts = assemble(registry, model, specs, options)
        (generator,), (named_tagger,), (named_segmenter,) = (parts[k] for k in ("generator", "tagger", "segmenter"))
        if not isinstance(modulation, ModulationConfig):
            merged = {**getattr(generator.plugin, "refine_defaults", {}), **arguments.mapping("modulation", modulation)}
            modulation = parse_options(ModulationConfig, merged, owner="modulation")
        if isinstance(select_by, str):
            beside = companions(choose_generator(registry, model))
            made = make_reward(registry, select_by, reward_options, beside)
            select_by = Named("reward", select_by, made, reward_options)
        elif reward_options:
            raise OptionError("reward options go with select_by, a reward's name: give one, or leave them out.")
        explicit = sampling.model_dump(exclude_unset=True) if isinstance(sampling, SamplingOptions) else sampling
        explicit = arguments.mapping("sampling", explicit)
        return cls(
            generator,
            named_tagger,
            parts["scorer"],
            named_segmenter,
            modulation=modulation,
            sampling={**getattr(generator.plugin, "sampling_defaults", {}), **explicit},
            registry=registry,
            batch_size=batch_size,
            segment_unlikely=segment_unlikely,
            candidates=candidates,
            select_by=select_by,
            threads=threads,
        )

    def with_(self, **changes: Any) -> Self:
        """A realigner like this one, but for some arguments of :class:`Realigner`; this one stays as it is.

        Mappings for ``modulation`` and ``sampling`` are laid over what this one has.

        Raises:
            OptionError: an unknown option or a bad value.
        """
        for group in ("modulation", "sampling"):
            if isinstance(changes.get(group), Mapping):
                changes[group] = {**getattr(self, group).model_dump(), **changes[group]}
        same: dict[str, Any] = {
            "generator": self._generator,
            "tagger": self._tagger,
            "scorers": self._scorers,
            "segmenter": self._segmenter,
            "modulation": self.modulation,
            "sampling": self.sampling,
            "registry": self.registry,
            "batch_size": self.batch_size,
            "segment_unlikely": self.segment_unlikely,
            "candidates": self.candidates,
            "select_by": self._chooser,
            "threads": self.threads,
        }
        changed = type(self)(**{**same, **changes})
        changed._known = self._known
        return changed

    @property
    def generator(self) -> Generator:
        """The plugin that draws."""
        plugin: Generator = self._generator.plugin
        return plugin

    @property
    def tagger(self) -> Tagger:
        """The plugin that names objects."""
        plugin: Tagger = self._tagger.plugin
        return plugin

    @property
    def segmenter(self) -> Segmenter:
        """The plugin that finds objects."""
        plugin: Segmenter = self._segmenter.plugin
        return plugin

    @property
    def scorers(self) -> tuple[tuple[str, Scorer], ...]:
        """The fallback chain, by names."""
        return tuple((scorer.name, scorer.plugin) for scorer in self._scorers)

    @property
    def select_by(self) -> Reward | None:
        """The reward that chooses among candidates."""
        return None if self._chooser is None else self._chooser.plugin

    @property
    def names(self) -> dict[str, str]:
        """What the plugins are called on record, by kind; of the scorers it is the one that answers."""
        return {plugin.kind: plugin.name for plugin in self._plugins}

    @property
    def _plugins(self) -> tuple[Named, ...]:
        chooser = (self._chooser,) if self._chooser is not None and self.candidates > 1 else ()
        return (self._generator, self._tagger, self._segmenter, *chooser)

    @property
    def settings(self) -> dict[str, Any]:
        """Every option that results depend on, as JSON values; secrets are redacted.

        ``contents`` says what is in the local files and folders that options name.
        """
        options: dict[str, Any] = {plugin.kind: plugin.options for plugin in self._plugins}
        options["scorer"] = {scorer.name: scorer.options for scorer in self._scorers}
        return {
            **({"candidates": self.candidates} if self.candidates > 1 else {}),
            "plugins": {**self.names, "scorer": ",".join(scorer.name for scorer in self._scorers)},
            "modulation": self.modulation.model_dump(mode="json"),
            "sampling": self.sampling.model_dump(mode="json"),
            "segment_unlikely": self.segment_unlikely,
            **options,
            "contents": contents(options, self._known),
        }

    def settings_for(self, coarse: inputs.Picture | None) -> dict[str, Any]:
        """The settings of one realignment: :attr:`settings`, and which coarse image was given, if one was.

        Raises:
            OptionError: the image cannot be read.
        """
        settings = self.settings
        if coarse is None:
            return {**settings, "coarse": "generated"}
        inside = {**settings["contents"], "coarse": fingerprint_of_image(given_image(coarse)[0])}
        return {**settings, "coarse": "given", "contents": inside}

    def __call__(
        self,
        prompt: str | Sequence[str],
        seed: int | Sequence[int] = 42,
        *,
        coarse: inputs.Picture | Sequence[inputs.Picture | None] | None = None,
        progress: Progress | None = None,
        **_misplaced: Never,
    ) -> Realignment | list[Realignment]:
        """Realign one prompt, or a batch.

        Args:
            prompt: one or many.
            seed: one for all, or one per prompt; one prompt with many seeds works too.
            coarse: images to refine instead of generating them (per prompt; None generates that one): PIL images,
                paths of files, or arrays uint8 of (H, W), (H, W, 3) or (H, W, 4).
            progress: called as the work goes on.

        Returns:
            One realignment for one prompt and one seed, otherwise a list.

        Raises:
            PromptError: a prompt is empty or too long.
            ModelError: the model cannot be modulated, is damaged, or computed NaN.
            PluginError: a plugin failed.
            OptionError: the numbers of prompts, seeds and coarse images do not match, or an image cannot be read.
        """
        _refuse_misplaced(_misplaced, self.__call__)
        watch = arguments.function("progress", progress) or _silent
        one = isinstance(prompt, str) and inputs.is_one(seed)
        prompts, seeds, images = inputs.pair(prompt, seed, coarse)
        self.check_model()
        for text in prompts:  # all of them before any work, not batch by batch
            self.check_prompt(text)
        done: list[Realignment] = []
        with suited_threads(self._pipeline(), threads=self.threads):
            for start in range(0, len(prompts), self.batch_size):
                batch = slice(start, start + self.batch_size)
                done += self._realign(prompts[batch], seeds[batch], images[batch], watch)
        return done[0] if one else done

    def _realign(
        self, prompts: list[str], seeds: list[int], given: list[inputs.Given | None], progress: Progress
    ) -> list[Realignment]:
        count, everyone = len(prompts), range(len(prompts))
        timings: list[dict[str, float]] = [{} for _ in everyone]
        notes: list[list[str]] = [[] for _ in everyone]
        starts = list(seeds)  # what each coarse image was drawn from

        size = self.image_size
        fitted = {i: inputs.cropped(image, size) for i, image in enumerate(given) if image is not None}
        fresh = [i for i in everyone if i not in fitted]
        coarse = {i: image for i, (image, _) in fitted.items()}
        if fresh:
            drawn = self._draw([prompts[i] for i in fresh], [seeds[i] for i in fresh], timings, fresh, progress)
            coarse |= {i: choice.image for i, choice in zip(fresh, drawn, strict=True)}
            for i, choice in zip(fresh, drawn, strict=True):
                starts[i] = choice.seed
                if self.candidates > 1:
                    notes[i].append(choice.note(self.names["reward"]))
        for i, (_, changes) in fitted.items():
            notes[i] += changes
            if self.candidates > 1:
                notes[i].append("no candidates were drawn: the coarse image was given")
        pictures = [coarse[i] for i in everyone]

        progress("tag", 0, count)
        with _timed(timings, "tag", everyone):
            tags = self.tag(pictures)
        progress("tag", count, count)

        progress("score", 0, count)
        with _timed(timings, "score", everyone):
            questions = list(zip(prompts, tags, strict=True))
            answers = calls.answers(self._scorers, questions, lambda done: progress("score", done, count))
        layouts, emptied = [], set()
        for i in everyone:
            notes[i] += [f"scorer '{name}' did not answer: {why}" for name, why in answers[i].failures.items()]
            notes[i] += answers[i].notes
        for i in everyone:
            progress("segment", i, count)
            with _timed(timings, "segment", [i]):
                layout, missing = self.segment(pictures[i], answers[i].captions)
            notes[i] += missing
            layouts.append(calls.before_refine(self.registry, prompts[i], layout, pictures[i].size))
            if self._modulates(layout) and not self._modulates(layouts[i]):
                emptied.add(i)
        progress("segment", count, count)

        refined, conditioning = list(pictures), list(prompts)
        active = [i for i in everyone if self._modulates(layouts[i])]
        if active:
            with _timed(timings, "refine", active):
                result = self.refine(
                    [prompts[i] for i in active],
                    [layouts[i] for i in active],
                    [starts[i] for i in active],
                    [pictures[i] for i in active],
                    progress=progress,
                )
            for place, i in enumerate(active):
                refined[i], conditioning[i] = result.images[place], result.conditioning[place]
                notes[i] += result.notes[place]
        for i in set(everyone) - set(active):
            notes[i].append(why_unrefined(tags[i], answers[i].captions, emptied=i in emptied))

        rejected: set[int] = set()
        if active and self.modulation.verify:
            with _timed(timings, "verify", active):
                lost = self.lost([answers[i].captions for i in active], [refined[i] for i in active])
            for i, names in zip(active, lost, strict=True):
                if names:
                    rejected.add(i)
                    notes[i].append(why_rejected(names))

        done = []
        for i in everyone:
            realignment = Realignment(
                prompt=prompts[i],
                seed=seeds[i],
                coarse=pictures[i],
                tags=tags[i],
                captions=answers[i].captions,
                layout=layouts[i],
                refined=refined[i],
                conditioning=conditioning[i],
                plugins={**self.names, "scorer": answers[i].scorer},
                notes=tuple(notes[i]),
                timings=timings[i],
                settings=self.settings_for(None if (image := given[i]) is None else image[0]),
                versions=versions(),
                accepted=i not in rejected,
            )
            calls.after_realign(self.registry, realignment)
            done.append(realignment)
        return done

    def _draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        timings: list[dict[str, float]],
        which: Sequence[int],
        progress: Progress,
    ) -> list[selection.Choice]:
        """Draw ``candidates`` images per prompt, and choose."""
        count = self.candidates
        texts = [prompt for prompt in prompts for _ in range(count)]
        all_seeds = [candidate for seed in seeds for candidate in selection.candidate_seeds(seed, count)]
        with _timed(timings, "generate", which):
            images = self.generate(texts, all_seeds, progress=progress)
        if self._chooser is None or count == 1:
            return [selection.Choice(image, seed, (), 0) for image, seed in zip(images, seeds, strict=True)]
        progress("select", 0, len(prompts))
        with _timed(timings, "select", which):
            chosen = selection.choose(images, prompts, all_seeds, self._chooser, self.batch_size)
        progress("select", len(prompts), len(prompts))
        return chosen

    def generate(
        self, prompts: Sequence[str], seeds: Sequence[int], *, progress: Progress | None = None
    ) -> list[PILImage]:
        """The coarse stage: one image (RGB) per prompt and seed.

        Raises:
            PromptError, ModelError: as for calling the realigner.
        """
        prompts, seeds, _ = inputs.pair(prompts, seeds, None)
        for prompt in prompts:
            self.check_prompt(prompt)
        images: list[PILImage] = []
        with suited_threads(threads=self.threads):
            for start in range(0, len(prompts), self.batch_size):
                batch = slice(start, start + self.batch_size)
                images += sampler.generate(
                    self._pipeline(),
                    prompts[batch],
                    seeds[batch],
                    **self.sampling.model_dump(),
                    progress=_as_step("generate", progress),
                )
        return images

    def tag(self, images: Sequence[PILImage]) -> list[tuple[Tag, ...]]:
        """Name the objects in images, which may be of any kind that calling the realigner takes.

        Raises:
            PluginError: the tagger failed or broke its contract.
            OptionError: an image cannot be read.
        """
        with suited_threads(threads=self.threads):
            return calls.tag_images(self._tagger, inputs.pictures(images))

    def score(self, prompt: str, tags: Sequence[Tag]) -> Answer:
        """Judge and describe tags in the light of the prompt (eq. 6), by the first scorer that can.

        Raises:
            PluginError: no scorer of the chain gave a valid answer.
            OptionError: a tag is none, or its confidence is outside [0, 1].
            PromptError: the prompt is no text, or holds half a character.
        """
        (text,), _, _ = inputs.pair([prompt], 0, None)
        inputs.check_text(text)
        with suited_threads(threads=self.threads):
            return calls.answer(self._scorers, text, inputs.tags(tags))

    def segment(self, image: PILImage, captions: Sequence[LocalCaption]) -> tuple[Layout, tuple[str, ...]]:
        """Find the captions' masks in the image; with the layout comes a note for each that has none.

        Masks are those of the picture as it is seen, turned by its EXIF flag. Unlikely objects are left out unless
        ``segment_unlikely`` or ``suppress_unlikely`` is on.

        Raises:
            PluginError: the segmenter failed or broke its contract.
            OptionError: the image cannot be read, or a caption is none.
        """
        captions, (picture, _) = inputs.captions(captions), given_image(image)
        wanted = [c for c in captions if self.segment_unlikely or c.likelihood is not Likelihood.UNLIKELY]
        with suited_threads(threads=self.threads):
            return calls.segment_image(self._segmenter, picture, wanted)

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
        self.check_model()
        prompts, seeds, given = inputs.pair(prompts, seeds, coarse)
        for prompt in prompts:
            self.check_prompt(prompt)
        fitted = [inputs.cropped(image, self.image_size) for image in given if image is not None]
        if fitted and len(fitted) < len(given):
            raise OptionError("coarse has None for some prompts: give refine one image per prompt, or none at all.")
        with suited_threads(threads=self.threads):
            result = sampler.refine(
                self._pipeline(),
                prompts,
                inputs.layouts(layouts, self.image_size),
                seeds,
                self.modulation,
                **self.sampling.model_dump(),
                coarse=[image for image, _ in fitted] or None,
                progress=_as_step("refine", progress),
            )
        changes = [tuple(notes) for _, notes in fitted] or [()] * len(prompts)
        return replace(result, notes=[a + b for a, b in zip(changes, result.notes, strict=True)])

    def lost(self, captions: Sequence[Sequence[LocalCaption]], images: Sequence[PILImage]) -> list[tuple[str, ...]]:
        """What ``modulation.verify`` asks: per image (RGB) the tags of certain captions that the tagger misses in it.

        Raises:
            PluginError: the tagger failed or broke its contract.
        """
        seen = [{tag.name for tag in tags} for tags in self.tag(images)]
        wanted = [[c.tag for c in some if c.likelihood is Likelihood.CERTAIN] for some in captions]
        return [tuple(t for t in some if t not in names) for some, names in zip(wanted, seen, strict=True)]

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels of the images that are made. Loads the pipeline."""
        return families.image_size(self._pipeline(), self.sampling.width, self.sampling.height)

    def check_prompt(self, prompt: str) -> None:
        """Refuse what the model cannot read in full. Loads the pipeline.

        Raises:
            PromptError: the prompt is empty, no text, or longer than a text encoder's limit.
        """
        inputs.check_text(prompt)
        encoding.check_prompt(self._pipeline(), prompt)

    def check_model(self) -> None:
        """Refuse a model that cannot be loaded or whose attention cannot be modulated. Loads the pipeline.

        Raises:
            ModelError: it cannot.
        """
        # A class that says so needs no loading to be refused.
        supported = getattr(self.generator, "attention_family", None) is not None
        if supported and (why := refusals.why_not_drawn(self._pipeline())):
            raise ModelError(why)
        why = "it has neither a U-Net of the SD-1.x, SD-2.x or SDXL kind nor the transformer of PixArt."
        if supported and not (why := refusals.why_not_modulated(self._pipeline())):
            return
        raise ModelError(
            f"the attention of generator '{self.names['generator']}' cannot be re-weighted: {why} It can still make "
            f"coarse images (Realigner.generate). For the fine stage choose another model; 'realignkit plugins --kind "
            f"generator'."
        )

    def _pipeline(self) -> DiffusionPipeline:
        with self._generator.blame():
            return self.generator.pipeline()

    def _modulates(self, layout: Layout) -> bool:
        suppress = self.modulation.suppress_unlikely
        return any((segment.caption.score > 0 or suppress) and segment.mask.any() for segment in layout)


def why_unrefined(tags: Sequence[Tag], captions: Sequence[LocalCaption], *, emptied: bool = False) -> str:
    """The note for an image that had nothing to modulate, with what to try.

    ``emptied``: whether a plugin's ``before_refine`` took away what there was.
    """
    if emptied:
        reason = "a plugin's before_refine has left no mask of an object that belongs to the prompt"
    elif not tags:
        reason = "no object was recognised in it; try another seed, a lower tagger threshold or another tagger"
    elif all(caption.likelihood is Likelihood.UNLIKELY for caption in captions):
        reason = "none of the objects in it belongs to the prompt; try another seed or another scorer"
    else:
        reason = (
            "no mask was found for any object that belongs to the prompt; "
            "try a lower segmenter threshold or another segmenter"
        )
    return f"the coarse image was kept as it is: {reason}"


def why_rejected(lost: Sequence[str]) -> str:
    """The note for a refined image that lost objects of the coarse one."""
    return (
        f"the refined image has lost {', '.join(map(repr, lost))}, so the coarse one stands; "
        f"a lower modulation.cross_weight or modulation.strength may keep it, modulation.verify=false takes it as it is"
    )


def _refuse_misplaced(arguments: Mapping[str, Any], function: Callable[..., Any]) -> None:
    for name in arguments:
        known, constructor = (inspect.signature(f).parameters for f in (function, Realigner.from_pretrained))
        raise inputs.misplaced(name, known, constructor)


def _silent(step: str, done: int, total: int) -> None: ...


def _as_step(step: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    arguments.function("progress", progress)
    return None if progress is None else lambda done, total: progress(step, done, total)


@contextmanager
def _timed(timings: list[dict[str, float]], step: str, which: Sequence[int]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    for i in which:  # images of a batch share its time evenly
        timings[i][step] = (time.perf_counter() - start) / len(which)
