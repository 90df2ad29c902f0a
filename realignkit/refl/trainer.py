"""Fine-tuning a generator with a reward: the loop around eq. 5."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from realignkit import arguments
from realignkit.calls import after_train_step
from realignkit.contracts import Metric, Reward, parse_options
from realignkit.errors import OptionError
from realignkit.files import only_writer
from realignkit.machine import check_threads, suited_threads
from realignkit.named import Named
from realignkit.pipelines import encoding
from realignkit.provenance import placeless
from realignkit.refl import checkpoints, data
from realignkit.refl.algorithms import DrawingOptions, Gradients
from realignkit.refl.config import ALGORITHMS, ReFLConfig
from realignkit.refl.distributed import Interruption, LossScale, Processes, memory_errors, precision_of
from realignkit.refl.effects import without_effect
from realignkit.refl.model import Networks, drawing_options
from realignkit.refl.pictures import pictures_identity
from realignkit.refl.prior import share_prior
from realignkit.refl.refusals import check_trainable
from realignkit.refl.run import LOG, RunFolder, grid, identifying_options, sampling_identity, validation_from
from realignkit.refl.step import Learner
from realignkit.refl.trainable import Trainable
from realignkit.refl.validation import Judge, best_of, check_reach, doubts, last_doubts, without_improvement
from realignkit.refl.validator import Validator
from realignkit.registry import Registry, default_registry
from realignkit.types import TrainResult, TrainState, Validation

FINISHED, EARLY, BY_PLUGIN = "finished", "stopped early", "stopped by a plugin"
INTERRUPTED, RUNNING = "interrupted", "running"


class ReFLTrainer:
    """Fine-tunes a text-to-image pipeline so that a reward rises (eq. 5), while something else watches.

    The pipeline itself is trained, and no copy: it is moved, cast and frozen, and its U-Net gets adapters (or thaws).
    After :meth:`train` it carries the best weights.

    Args:
        pipeline: SD-1.x, SD-2.x, SDXL, SD3 or FLUX.1, text to image.
        reward: what to raise.
        config: how; a mapping is validated into a :class:`ReFLConfig`.
        prompts: to train on.
        out: the run's folder.
        held_out: prompts for validation, left out of training; None: some of ``prompts`` are set aside.
        judge: a reward or metric that is not the training reward; decides which weights are best. None: the
            training reward decides, and its exploitation cannot be noticed.
        names: what to call ``reward``, ``judge`` and ``generator`` on record and in messages.
        sampling: ``num_inference_steps``, ``guidance_scale``, ``height``, ``width`` and ``negative_prompt`` with which
            the model is used; training, L_pre's images and validation all have that size. Left out: the model's own.
        generator_options: what the pipeline was made with (JSON values), by which a resumed run notices another model:
            local files and folders count by what is in them. None: the folder that the pipeline was loaded from.
        prior: where the frozen model's images for L_pre are kept; None: in the run's folder.
        registry: whose hook ``after_train_step`` to call.
        threads: CPU threads of torch; None: see :func:`realignkit.machine.suited_threads`.
        on_step: called after each optimizer step, in the main process.
        on_message: called with each warning and validation, in words.

    Raises:
        OptionError: an option or argument is unknown or bad, or the judge is the training reward.
        PluginError: the reward's margin is no number.
        PromptError: there are no prompts, or one is too long for the model.
        ModelError: the pipeline is of a kind that cannot learn here.
    """

    def __init__(
        self,
        pipeline: Any,
        reward: Reward,
        config: ReFLConfig | Mapping[str, Any] | None = None,
        *,
        prompts: Iterable[str],
        out: str | Path,
        held_out: Iterable[str] | None = None,
        judge: Reward | Metric | Judge | None = None,
        names: Mapping[str, str] | None = None,
        sampling: Mapping[str, Any] | None = None,
        generator_options: Mapping[str, Any] | None = None,
        prior: str | Path | None = None,
        registry: Registry | None = None,
        threads: int | None = None,
        on_step: Callable[[TrainState], None] | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> None:
        config = parse_options(ReFLConfig, config, owner="training")
        check_trainable(pipeline)
        check_threads(threads)
        self.config, self.folder, self.threads = config, arguments.as_path("out", out), threads
        self.names = {"generator": type(pipeline).__name__} | arguments.mapping("names", names)
        self.reward = Named.of("reward", reward, name=self.names.get("reward"))
        self.registry = arguments.instance("registry", registry, Registry) or default_registry()
        self._on_step = arguments.function("on_step", on_step) or (lambda _: None)
        self._say = arguments.function("on_message", on_message) or (lambda _: None)
        self._prior = self.folder / "prior" if prior is None else arguments.as_path("prior", prior)
        self.algorithm = config.algorithm_for(self.reward)
        self.judge = Judge.of(judge, self.names.get("judge"), self.reward)
        watching = {"the judge is not asked": judge, "the held-out prompts are not drawn": held_out}
        self._watching = [unused for unused, given in watching.items() if given is not None]
        self.prompts, self.held_out = data.split(prompts, held_out, config.validation.prompts, config.seed)
        self.sampling = drawing_options(pipeline, sampling or {})
        self.options = config.options_of(self.algorithm)
        if getattr(self.options, "margin", 0) is None:
            _ = self.reward.margin
        if isinstance(self.options, DrawingOptions) and self.options.guidance_scale is None:
            self.options = self.options.model_copy(update={"guidance_scale": float(self.sampling["guidance_scale"])})
        for prompt in (*self.prompts, *self.held_out):
            encoding.check_prompt(pipeline, prompt)

        self.processes = Processes(config, self.folder)
        device = self.processes.accelerator.device if self.processes.count > 1 else pipeline._execution_device
        precision = precision_of(config, str(self.processes.accelerator.mixed_precision), device)
        self.networks = Networks(
            pipeline,
            device,
            precision,
            height=self.sampling.get("height"),
            width=self.sampling.get("width"),
            negative_prompt=self.sampling.get("negative_prompt", ""),
            learns=config.whole_parts,
        )
        steps, timesteps = getattr(self.options, "num_inference_steps", 1), self.networks.noise.timesteps
        if steps > timesteps:
            raise OptionError(f"the rollout has {steps} steps; the model has {timesteps} timesteps.")
        self._scale = LossScale(precision)
        if config.gradient_checkpointing:
            self.networks.unet.enable_gradient_checkpointing()
            pipeline.vae.enable_gradient_checkpointing()
        kind = ALGORITHMS[self.algorithm]
        self._needs_pairs = kind.needs_pairs or (kind.has_l_pre and config.denoising_weight > 0)
        given = config.pairs if self._needs_pairs else None
        self._pairs = None if given is None else data.Pairs(given, self.networks)
        options = arguments.json_values("generator_options", generator_options)
        options = options or {"loaded_from": getattr(pipeline, "name_or_path", None)}
        self._model = placeless({"model": self.names["generator"], "model_options": options})
        self.run = RunFolder(self.folder, config, self._identity(), self.processes.main)
        self._learner: Learner | None = None
        self._interruption = Interruption()
        self.history: list[Validation] = []
        self.warnings: list[str] = []

    def _identity(self) -> dict[str, Any]:
        total = self.config.batch_size * self.config.accumulation(self.processes.count) * self.processes.count
        return {
            **self._model,
            "reward": self.reward.name,
            "reward_options": identifying_options(self.reward),
            "judge": None if self.judge is None else self.judge.name,
            "judge_options": None if self.judge is None else identifying_options(self.judge.named),
            "algorithm": self.algorithm,
            "prompts_per_step": total,
            "training_prompts": [len(self.prompts), data.digest(self.prompts)],
            "held_out_prompts": [len(self.held_out), data.digest(self.held_out)],
            "training_pairs": None if self._pairs is None else self._pairs.identity(self.config.compare_content),
            **sampling_identity(self.sampling, self.config.validation, self._needs_pairs and self._pairs is None),
            "training_guidance_scale": getattr(self.options, "guidance_scale", None),
            **pictures_identity(getattr(self.options, "pictures", None), self.networks, self.config.compare_content),
        }

    @property
    def learner(self) -> Learner:
        """What does the steps; made at first use, which has the frozen model draw images for L_pre."""
        if self._learner is None:
            check_reach(self.config, self.reward, self.judge, self._validates)
            pairs = self._pairs
            if self._needs_pairs and pairs is None:
                pairs = data.Pairs(self._draw_prior(), self.networks, self.sampling["guidance_scale"])
            kind = ALGORITHMS[self.algorithm]
            trainable = Trainable(self.networks, self.config, keep_base=kind.needs_base(self.options))
            algorithm = kind(self.networks, trainable, self.config, self.options, self.reward, self.prompts, pairs)
            algorithm.prepare(self.processes, self.folder, lambda: self._interruption.wanted, self._say)
            self._learner = Learner(algorithm, self.processes, self._scale, self.folder)
        return self._learner

    def idle_options(self) -> list[str]:
        """A sentence for each option that was given and has no effect with what is trained."""
        facts = (self.algorithm, self.options, self.networks, self.reward, self._validates, self._watching)
        return without_effect(self.config, *facts)

    @property
    def trainable(self) -> Trainable:
        """The weights that learn."""
        return self.learner.trainable

    def gradients(self, iteration: int) -> Gradients:
        """The gradients of an iteration (from 0): means over all its prompts, in all processes; no weight changes.

        The first call draws L_pre's images and installs the adapters (or thaws the U-Net), as :meth:`train` does.

        Raises:
            ModelError, PluginError: as :meth:`train`.
        """
        with suited_threads(self.networks.pipeline, threads=self.threads):
            return self.learner.gradients(iteration)

    def _draw_prior(self) -> Path:
        def draw(prompts: list[str], seeds: list[int]) -> list[Any]:
            if self._interruption.wanted:  # what has been drawn is kept
                raise KeyboardInterrupt
            return self.networks.draw(prompts, seeds, self.run.prior_sampling)

        # Before the U-Net gets adapters or moves: these images are the frozen model's.
        settings = {"sampling": self.run.prior_sampling, **self._model, "dtype": str(self.networks.dtype)}
        return share_prior(self._prior, self.prompts, self.config, settings, draw, self.processes)

    # --- the run ------------------------------------------------------------------------------------------------

    def train(self, *, resume: bool = False) -> TrainResult:
        """Train to the end, to a stop, or to Ctrl-C; best weights, checkpoints and log are in the run's folder.

        Args:
            resume: go on from the last checkpoint; the losses are those of a run that was never stopped.

        Raises:
            OutputError: the folder cannot be written or is in use, or holds another run, or none that can go on.
            ModelError: reward, loss or gradient are no numbers, or memory does not suffice.
            PluginError: the reward, the judge or a hook failed.
            KeyboardInterrupt: Ctrl-C (or SIGTERM), after what is done has been saved.
        """
        alone = only_writer(self.folder) if self.processes.main else contextlib.nullcontext()
        threads = suited_threads(self.networks.pipeline, threads=self.threads)
        with alone, memory_errors(), threads, self._interruption.watching() as interruption:
            newest = self.processes.share(self.run.open(resume, self._say) if self.processes.main else None)
            self.run.take_over(newest)
            _ = self.learner
            done, status = (0, RUNNING) if newest is None else self._load(*newest)
            if status in (EARLY, BY_PLUGIN) or done >= self.config.iterations:
                return self._result(FINISHED if status == RUNNING else status, done)
            self.processes.track_config(self.config)
            try:
                status, done = self._loop(done, interruption)
            finally:
                self.processes.close()
            if status == INTERRUPTED:
                raise KeyboardInterrupt
            return self._result(status, done)

    def _loop(self, done: int, interruption: Interruption) -> tuple[str, int]:
        if not self.history and self._validates:
            self._validate(done)
            self._save(done, RUNNING)
        elif not done and ALGORITHMS[self.algorithm].draws_ahead:
            self._save(done, RUNNING)
        status, saved = RUNNING, done
        alone = self.processes.count == 1
        while status == RUNNING:
            try:
                latest = self.history[-1] if self.history else None
                state = self.learner.step(done, lambda: alone and interruption.wanted, latest)
            except KeyboardInterrupt:  # between micro-batches: nothing of this iteration has been applied
                self._save(done, RUNNING, INTERRUPTED)
                return INTERRUPTED, done
            done += 1
            stop = self._report(state)
            if self.processes.any(stop):
                status = BY_PLUGIN
            elif done >= self.config.iterations:
                status = FINISHED
            every = self.config.validation.every
            if self._validates and (status != RUNNING or done % every == 0):
                self._validate(done)
                waited = without_improvement(self.history)
                if status == RUNNING and self.config.validation.patience and waited >= self.config.validation.patience:
                    status = EARLY
            interrupted = self.processes.any(interruption.wanted) and status == RUNNING
            if interrupted or status != RUNNING or done - saved >= self.config.checkpoint_every:
                self._save(done, status, INTERRUPTED if interrupted else status)
                saved = done
            if interrupted:
                return INTERRUPTED, done
        if not self._validates and self.processes.main:
            self.trainable.export(self.folder, done)
        return status, done

    @property
    def _validates(self) -> bool:
        return bool(self.config.validation.every and self.held_out)

    def _report(self, state: TrainState) -> bool:
        """Log a step; whether a plugin wants to stop."""
        self.run.write_step(state)
        values = {name: float(value) for name, value in state.record().items() if value is not None}
        self.processes.track({name: value for name, value in values.items() if name != "iteration"}, state.iteration)
        if not self.processes.main:
            return False
        self._on_step(state)
        return after_train_step(self.registry, state)

    def _validate(self, iteration: int) -> None:
        validator = Validator(self.networks, self.trainable, self.processes, self.config, self.folder)
        now, images = validator(iteration, self.held_out, self.sampling, self.reward, self.judge)
        self.history.append(now)
        path = self.run.write_samples(iteration, images)
        if images:
            self.processes.track_image(grid(images), iteration)
        self.processes.track({f"held-out/{name}": value for name, value in now.values.items()}, iteration)
        text = ", ".join(f"{name} {value:.4g}" for name, value in now.values.items())
        self._say(f"held-out at iteration {iteration}: {text}")
        for warning in doubts(self.history, self.judge, path):
            self.warnings.append(warning)
            self._say(f"warning: {warning}")
        if self.processes.main and best_of(self.history) is now:
            self.trainable.export(self.folder, iteration)

    def _save(self, done: int, status: str, shown: str | None = None) -> None:
        self.trainable.check()
        if self.processes.main:
            record = {
                "iteration": done,
                "status": status,
                "history": [asdict(item) for item in self.history],
                "warnings": self.warnings,
                "loss_scale": [self._scale.value, self._scale.good],
                "run": self.run.what,
            }
            checkpoints.save(self.folder, self.trainable, self.learner.optimizer, record, self.config.keep_checkpoints)
        self.run.write_record(shown or status, done, self.history, best_of(self.history), self.warnings)
        self.processes.wait()

    def _load(self, checkpoint: Path, record: Mapping[str, Any]) -> tuple[int, str]:
        optimizer = self.learner.optimizer
        checkpoints.load(checkpoint, self.trainable, optimizer)
        self.history = [validation_from(item) for item in record["history"]]
        self.warnings = list(record["warnings"])
        self._scale.value, self._scale.good = record["loss_scale"]
        done, status = int(record["iteration"]), str(record["status"])
        # A finished run goes on when it is given more iterations.
        status = RUNNING if status == FINISHED else status
        if self.processes.main:
            checkpoints.truncate_log(self.folder / LOG, done)
            best, ended = best_of(self.history), status != RUNNING or done >= self.config.iterations
            wanted = best.iteration if best is not None else done if ended else None
            checkpoints.mend_export(self.folder, self.trainable, optimizer, checkpoint, wanted, self._say)
        return done, status

    def _result(self, status: str, done: int) -> TrainResult:
        best = best_of(self.history)
        self.processes.wait()
        self.trainable.load_exported(self.folder, done if best is None else best.iteration)
        self.networks.autoencoder.give_back()
        self.warnings += last_doubts(self.history, unjudged=self.judge is None and self._validates)
        self.run.write_record(status, done, self.history, best, self.warnings)
        return TrainResult(self.folder, status, done, tuple(self.history), best, tuple(self.warnings))
