"""The method as one straight line: coarse image -> tags -> local captions -> layout -> refined image (figure 2)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Never, Self

from realignkit import arguments, calls, resolve
from realignkit.arguments import shown
from realignkit.attention.config import ModulationConfig
from realignkit.contracts import Generator, Reward, Scorer, Segmenter, Tagger, parse_options
from realignkit.errors import OptionError
from realignkit.images import given_image
from realignkit.machine import suited_threads
from realignkit.named import Named, Parts, checked_names
from realignkit.provenance import contents, fingerprint_of_image, versions
from realignkit.realigner import draft
from realignkit.realigner.guide import check_differentiable
from realignkit.realigner.misplaced import refuse_misplaced
from realignkit.realigner.options import FORMS, GUIDE_OPTIONS, defaults, over_defaults
from realignkit.realigner.steps import STEPS as STEPS
from realignkit.realigner.steps import Progress as Progress
from realignkit.realigner.steps import Steps, silent
from realignkit.realignment import Realignment
from realignkit.registry import Registry, default_registry
from realignkit.resolve import SamplingOptions
from realignkit.rewards import named_rewards

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import DiffusionPipeline


class Realigner(Steps):
    """Runs the training-free half of the method; reusable, and deterministic for a seed.

    Args:
        generator: a plugin, as the next three; see :mod:`realignkit.contracts`. Or a pipeline of diffusers. Alone it
            can draw (:meth:`generate`), and nothing else.
        tagger: names the objects in a coarse image.
        scorers: one scorer, or a fallback chain of ``(name, scorer)``, tried in order.
        segmenter: finds them.
        modulation: how attention is re-weighted (eqs. 7-10); the paper's values by default.
        sampling: how both images are sampled.
        registry: whose lifecycle hooks to call; that of this process by default.
        batch_size: images per forward pass. Results do not depend on it (up to rounding).
        segment_unlikely: also segment unlikely objects, which switches modulation off inside their masks
            (``s_i = 0``); otherwise they are treated as background. Implied by ``suppress_unlikely``.
        candidates: how many coarse images to draw per prompt; the best goes on. That many times the coarse stage's
            time, and a batch holds as many images as without.
        select_by: the reward that chooses among them.
        guide_by: the reward, a differentiable one, that guides sampling, in both stages: at each of the first
            ``guide_share`` of the steps the predicted noise loses ``guide_strength`` (root mean square) of the gradient
            that goes from the predicted picture's reward through the conditional prediction into the latents.
            Pictures whose reward reaches ``guide_margin`` (None: as the reward states) are left alone meanwhile. For
            its cost see :attr:`Realignment.notes`.
        heat_maps: words, each of which gets a map of where the network attends to it before and after the fine stage
            (figure 10): :attr:`realignkit.realignment.Realignment.heat_maps`. Images stay the same to the bit.
        threads: CPU threads of torch; None: one for tiny networks, the machine's for real ones, unless the user has
            chosen (:func:`realignkit.machine.suited_threads`). Results do not depend on it (up to rounding).
        names: what to call the plugins on record (kind -> name); their class names by default. Those of a fallback
            chain have theirs in it.
    """

    def __init__(
        self,
        generator: Generator | Named,
        tagger: Tagger | Named | None = None,
        scorers: Scorer | Sequence[tuple[str, Scorer]] | tuple[Named, ...] | None = None,
        segmenter: Segmenter | Named | None = None,
        *,
        modulation: ModulationConfig | Mapping[str, Any] | None = None,
        sampling: SamplingOptions | Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        batch_size: int = 8,
        segment_unlikely: bool = False,
        candidates: int = 1,
        select_by: Reward | Named | None = None,
        guide_by: Reward | Named | None = None,
        guide_strength: float = 0.1,
        guide_share: float = 0.65,
        guide_margin: float | None = None,
        heat_maps: Sequence[str] = (),
        threads: int | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        if isinstance(generator, str):
            raise OptionError(f"generator takes a plugin; its name goes to from_pretrained: '{generator[:60]}'.")
        called = checked_names(
            names, generator=generator, tagger=tagger, scorer=scorers, segmenter=segmenter, reward=select_by
        )
        if not isinstance(generator, Named):
            if (made := resolve.made_generator(generator)) is None:
                raise OptionError(f"generator takes a plugin, or a pipeline of diffusers, not {shown(generator)}.")
            generator = Named("generator", called.get("generator", type(generator).__name__), made)
        self.parts = Parts.of(
            generator,
            called,
            tagger=tagger,
            scorers=scorers,
            segmenter=segmenter,
            select_by=select_by,
            guide_by=guide_by,
        )
        if self.parts.guide is not None:
            check_differentiable(self.parts.guide)
        checked: dict[str, Any] = {"batch_size": batch_size, "candidates": candidates, "heat_maps": heat_maps}
        checked |= {"guide_strength": guide_strength, "guide_share": guide_share, "guide_margin": guide_margin}
        checked |= {"threads": threads, "segment_unlikely": segment_unlikely, "registry": registry}
        checked |= {"modulation": modulation, "sampling": sampling}
        for name, value in checked.items():
            setattr(self, name, value)
        self._known: dict[str, str] = {}  # what is in local files and folders, which is read once

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | Generator | DiffusionPipeline = "micro_256",
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
        guide_by: str | Reward | Named | None = None,
        guide_strength: float = 0.1,
        guide_share: float = 0.65,
        guide_margin: float | None = None,
        heat_maps: Sequence[str] = (),
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
            select_by: a reward, its name, or a weighted sum such as ``"caption:1,clip:0.5"``.
            guide_by: likewise.

        Raises:
            PluginError: an unknown or unavailable plugin.
            OptionError: an unknown option or a bad value.
        """
        refuse_misplaced(_misplaced, cls.from_pretrained, Realigner)
        registry = arguments.instance("registry", registry, Registry) or default_registry()
        candidates = arguments.whole("candidates", candidates)
        specs = {"tagger": tagger, "scorer": scorer, "segmenter": segmenter}
        options = arguments.mapping("options", options)
        reward_options = arguments.mapping("options['reward']", options.pop("reward", None))
        parts = resolve.assemble(registry, model, specs, options)
        (generator,), (named_tagger,), (named_segmenter,) = (parts[k] for k in ("generator", "tagger", "segmenter"))
        if not isinstance(modulation, ModulationConfig):
            merged = {**defaults(generator, "refine_defaults"), **arguments.mapping("modulation", modulation)}
            modulation = parse_options(ModulationConfig, merged, owner="modulation")
        rewards = named_rewards(registry, model, {"select_by": select_by, "guide_by": guide_by}, reward_options)
        return cls(
            generator,
            named_tagger,
            parts["scorer"],
            named_segmenter,
            modulation=modulation,
            sampling=over_defaults(generator, sampling),
            registry=registry,
            batch_size=batch_size,
            segment_unlikely=segment_unlikely,
            candidates=candidates,
            **rewards,
            guide_strength=guide_strength,
            guide_share=guide_share,
            guide_margin=guide_margin,
            heat_maps=heat_maps,
            threads=threads,
        )

    @classmethod
    def drawing(
        cls,
        model: str | Path | Generator | DiffusionPipeline = "micro_256",
        *,
        sampling: SamplingOptions | Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        batch_size: int = 8,
    ) -> Self:
        """One that only draws (:meth:`generate`): :meth:`from_pretrained` without tagger, scorers and segmenter.

        Args:
            sampling: laid over the defaults of the model.
            options: of the generator.
            registry: where names are looked up.

        Raises:
            PluginError, OptionError: as for :meth:`from_pretrained`.
        """
        registry = arguments.instance("registry", registry, Registry) or default_registry()
        (generator,) = resolve.make([resolve.choose_generator(registry, model)], arguments.mapping("options", options))
        return cls(generator, sampling=over_defaults(generator, sampling), registry=registry, batch_size=batch_size)

    def with_(self, **changes: Any) -> Self:
        """A realigner like this one, but for some arguments of :class:`Realigner`; this one stays as it is.

        Mappings for ``modulation`` and ``sampling`` are laid over what this one has.

        Raises:
            OptionError: an unknown option or a bad value, or a name for a plugin that is not changed.
            TypeError: there is no such argument.
        """
        known = inspect.signature(Realigner).parameters
        refuse_misplaced([name for name in changes if name not in known], Realigner, Realigner)
        for group in ("modulation", "sampling"):
            if isinstance(changes.get(group), Mapping):
                changes[group] = {**getattr(self, group).model_dump(), **changes[group]}
        options = Steps.__annotations__.keys() - {"parts"}
        same: dict[str, Any] = {
            "generator": self.parts.generator,
            "tagger": self.parts.tagger,
            "scorers": self.parts.scorers or None,
            "segmenter": self.parts.segmenter,
            "select_by": self.parts.reward,
            "guide_by": self.parts.guide,
            **{name: getattr(self, name) for name in options},
        }
        changed = type(self)(**{**same, **changes})
        changed._known = self._known
        return changed

    def __setattr__(self, name: str, value: Any) -> None:
        attribute = getattr(type(self), name, None)
        if isinstance(attribute, property) and attribute.fset is None:
            change = f"{name}=…" if name in inspect.signature(Realigner).parameters else "…"
            raise AttributeError(f"a realigner's {name} cannot be set: realigner.with_({change}) makes a changed copy.")
        if name in FORMS:
            value = FORMS[name](value)
        if name == "candidates" and value > 1 and self.select_by is None:
            raise OptionError(f"{value} candidates need a reward that chooses among them: give select_by.")
        super().__setattr__(name, value)
        if name == "modulation" and self.modulation.suppress_unlikely:
            self.segment_unlikely = True

    @property
    def names(self) -> dict[str, str]:
        """What the plugins are called on record, by kind; the scorers' names are in :attr:`scorers`."""
        return {part.kind: part.name for part in self._recorded}

    @property
    def _recorded(self) -> list[Named]:
        return [part for part in self.parts.single if part.kind != "reward" or self.candidates > 1]

    @property
    def settings(self) -> dict[str, Any]:
        """Every option that results depend on, as JSON values; secrets are redacted.

        ``contents`` says what is in the local files and folders that options name.
        """
        options: dict[str, Any] = {part.kind: part.options for part in self._recorded}
        options["scorer"] = {scorer.name: scorer.options for scorer in self.parts.scorers}
        if self.parts.guide is not None:
            options["guide_by"] = {self.parts.guide.name: self.parts.guide.options}
        return {
            **({"candidates": self.candidates} if self.candidates > 1 else {}),
            **({"heat_maps": list(self.heat_maps)} if self.heat_maps else {}),
            "plugins": {**self.names, "scorer": ",".join(scorer.name for scorer in self.parts.scorers)},
            "modulation": self.modulation.model_dump(mode="json"),
            "sampling": self.sampling.model_dump(mode="json"),
            "segment_unlikely": self.segment_unlikely,
            **({} if self.parts.guide is None else {name: getattr(self, name) for name in GUIDE_OPTIONS}),
            **options,
            "contents": contents(options, self._known),
        }

    def settings_for(self, coarse: arguments.Picture | None) -> dict[str, Any]:
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
        coarse: arguments.Picture | Sequence[arguments.Picture | None] | None = None,
        progress: Progress | None = None,
        **_misplaced: Never,
    ) -> Realignment | list[Realignment]:
        """Realign one prompt, or a batch.

        Args:
            prompt: one or many.
            seed: one for all, or one per prompt; one prompt with many seeds works too.
            coarse: images to refine instead of generating them (per prompt; None generates that one): PIL images,
                paths of files, or arrays uint8 of (H, W), (H, W, 3) or (H, W, 4).
            progress: called as the work goes on; see :data:`realignkit.realigner.steps.STEPS`.

        Returns:
            One realignment for one prompt and one seed, otherwise a list.

        Raises:
            PromptError: a prompt is empty or too long, or the one prompt lacks a word of ``heat_maps``.
            ModelError: the model cannot be modulated, is damaged, or computed NaN.
            PluginError: a plugin failed.
            OptionError: the numbers of prompts, seeds and coarse images do not match, or an image cannot be read.
        """
        refuse_misplaced(_misplaced, self.__call__, Realigner)
        progress = arguments.function("progress", progress) or silent
        one = isinstance(prompt, str) and arguments.is_one(seed)
        drafts = [draft.Draft(*asked) for asked in zip(*arguments.pair(prompt, seed, coarse), strict=True)]
        draft.check(self, drafts)
        if isinstance(prompt, str):  # of many, each has the maps of the words that it contains
            self.check_heat_maps([prompt])
        realignments: list[Realignment] = []
        with suited_threads(self.pipeline(), threads=self.threads):
            for start in range(0, len(drafts), self.batch_size):
                batch = drafts[start : start + self.batch_size]
                for step in draft.FIGURE_2:
                    step(self, batch, progress)
                for each in batch:
                    settings = self.settings_for(None if each.given is None else each.given[0])
                    realignments.append(draft.finished(self, each, self.names, settings))
        return realignments[0] if one else realignments
