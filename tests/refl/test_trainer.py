"""The loop: what is logged, how a run goes on, stops and fails, and what others read of it."""

from __future__ import annotations

import json
import resource
import signal

import pytest
import torch
from diffusers import StableDiffusionPipeline

import realignkit
from realignkit.errors import ModelError, OptionError, OutputError, PluginError, PromptError
from realignkit.refl import checkpoints, losses
from realignkit.registry import Registry
from realignkit_plugins.rewards.weighted import WeightedReward
from tests import tiny
from tests.refl.rewards import Blind, Colour, Darkness


def log(trainer):
    rows = [json.loads(line) for line in (trainer.folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def weights(trainer):
    return [p.detach().clone() for p in trainer.trainable.parameters.values()]


# --- what a step does -----------------------------------------------------------------------------------------------


def test_training_raises_the_reward(make_trainer):
    trainer = make_trainer(
        iterations=10, validation={"every": 10}, reward_weight=1.0, denoising_weight=0, learning_rate=1e-2,
        ema_decay=None, lora={"rank": 4}, prompts=["a yellow pen", "a yellow sign"],
        held_out=["a yellow book", "a yellow desk"],
    )  # fmt: skip
    before, after = trainer.train().history
    assert after.reward > before.reward + 0.02


def test_raft_has_the_same_validation_log_and_files(make_trainer):
    trainer = make_trainer(Blind(), judge=Darkness(), iterations=1, raft={"candidates": 2}, learning_rate=0.05)
    result = trainer.train()
    assert trainer.algorithm == "raft"
    assert [item.iteration for item in result.history] == [0, 1]
    assert result.history[1].judgement != result.history[0].judgement
    (row,) = log(trainer)
    assert row["reward_weight"] == 1
    assert row["reward_gradient_norm"] > 0 < row["denoising_gradient_norm"]
    assert row["loss"] == pytest.approx(row["reward_loss"] + row["denoising_loss"])
    plain = tiny.build_pipeline()
    plain.load_lora_weights(result.folder)


def test_auto_weight_and_logged_norms(make_trainer):
    trainer = make_trainer(reward_weight="auto", gradient_ratio=12.0, validation={"every": 0}, iterations=1)
    expected = trainer.gradients(0)
    trainer.train()
    (row,) = log(trainer)
    assert row["reward_gradient_norm"] == pytest.approx(losses.norm(expected.reward), rel=1e-4)
    assert row["denoising_gradient_norm"] == pytest.approx(losses.norm(expected.denoising), rel=1e-4)
    assert row["reward_weight"] * row["reward_gradient_norm"] == pytest.approx(12 * row["denoising_gradient_norm"])
    assert row["loss"] == pytest.approx(row["reward_weight"] * row["reward_loss"] + row["denoising_loss"])


def test_control_run_sees_the_same_data_and_never_the_reward(make_trainer, tmp_path):
    class Forbidden(Colour):
        def __call__(self, images, prompts):
            raise AssertionError("the reward was asked")

    shared = {"validation.every": 0, "iterations": 1, "prior": tmp_path / "prior"}
    control = make_trainer(Forbidden(), reward_weight=0, out=tmp_path / "control", **shared)
    trained = make_trainer(out=tmp_path / "trained", **shared)
    control.train()
    trained.train()
    (without,), (with_reward,) = log(control), log(trained)
    assert without["reward"] is None
    assert without["reward_gradient_norm"] == 0
    assert without["denoising_loss"] == pytest.approx(with_reward["denoising_loss"], rel=1e-5)
    assert without["learning_rate"] == with_reward["learning_rate"]


@pytest.mark.parametrize("trainable", ["lora", "unet"])
def test_kl_is_zero_at_first_and_holds_on_to_the_base(make_trainer, trainable):
    trainer = make_trainer(
        trainable=trainable,
        refl={"kl_weight": 1.0},
        denoising_weight=0,
        reward_weight=1.0,
        validation={"every": 0},
        ema_decay=None,
    )
    trainer.train()
    first, second = log(trainer)
    assert first["denoising_loss"] < 1e-9 < second["denoising_loss"]  # but for rounding, the same model
    assert second["denoising_gradient_norm"] > 0


def test_bf16_trains_float32_weights(make_trainer):
    trainer = make_trainer(mixed_precision="bf16", validation={"every": 1}, iterations=1)
    result = trainer.train()
    assert {p.dtype for p in trainer.trainable.parameters.values()} == {torch.float32}
    assert trainer.networks.pipeline.vae.dtype == torch.bfloat16
    plain = make_trainer(
        out=trainer.folder / "plain", validation={"every": 1}, iterations=1, prior=trainer.folder / "prior"
    )
    assert result.history[0].reward == pytest.approx(plain.train().history[0].reward, abs=0.05)


def test_fp16_needs_a_gpu(make_trainer):
    with pytest.raises(OptionError, match="fp16 needs a GPU"):
        make_trainer(mixed_precision="fp16")


def test_a_term_that_is_off_takes_no_memory_and_the_step_is_the_other_ones(make_trainer, tmp_path):
    """A step by the one term alone is AdamW's on that term's gradient."""
    for number, off in enumerate(({"reward_weight": 0.0}, {"denoising_weight": 0.0, "reward_weight": 0.5})):
        options = {**off, "validation.every": 0, "iterations": 1, "optimizer.max_gradient_norm": 1e9}
        trainer = make_trainer(**options, out=tmp_path / str(number))
        found = trainer.gradients(0)
        there, empty, factor = (
            (found.denoising, found.reward, 1.0) if number == 0 else (found.reward, found.denoising, 0.5)
        )
        assert empty == [] and losses.norm(there) > 0
        copies = [p.detach().clone().requires_grad_() for p in trainer.trainable.parameters.values()]
        for copy, gradient in zip(copies, there, strict=True):
            copy.grad = factor * gradient
        torch.optim.AdamW(copies, lr=trainer.config.learning_rate, weight_decay=0.0).step()
        trainer.learner.step(0, lambda: False, None)
        for copy, parameter in zip(copies, trainer.trainable.parameters.values(), strict=True):
            torch.testing.assert_close(parameter.detach(), copy.detach(), rtol=1e-4, atol=1e-7)


# --- stopping -------------------------------------------------------------------------------------------------------


class Falling(Darkness):
    """Finds everything worse each time it is asked."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __call__(self, images, prompts):
        self.calls += 1
        return torch.full((len(prompts),), -float(self.calls))


def test_stops_early_and_says_so_when_nothing_gets_better(make_trainer):
    messages = []
    trainer = make_trainer(iterations=9, validation={"patience": 2}, judge=Falling(), on_message=messages.append)
    result = trainer.train()
    assert (result.status, result.iterations) == ("stopped early", 2)
    assert not result.improved
    assert any("no weights were judged better" in warning for warning in result.warnings)
    record = json.loads((trainer.folder / "training.json").read_text())
    assert (record["status"], record["best"], len(record["history"])) == ("stopped early", 1, 3)
    assert record["warnings"] == list(result.warnings)
    assert len(messages) >= 3
    assert {path.name for path in (trainer.folder / "samples").iterdir()} == {f"00000{i}.png" for i in range(3)}
    again = make_trainer(iterations=9, validation={"patience": 2}, judge=Falling()).train(resume=True)
    assert (again.status, again.iterations) == ("stopped early", 2)


def test_judge_must_not_be_the_reward(make_trainer):
    reward = Colour()
    with pytest.raises(OptionError, match="training reward itself"):
        make_trainer(reward, judge=reward)
    with pytest.raises(OptionError, match="training reward itself"):
        make_trainer(Colour(), judge=Colour(), names={"reward": "colour", "judge": "colour"})


def test_plugins_see_each_step_and_may_stop(make_trainer):
    class Stops:
        def __init__(self):
            self.states = []

        @realignkit.hookimpl
        def after_train_step(self, state):
            self.states.append(state)
            return state.iteration == 2

    stops, registry = Stops(), Registry(discover=False)
    registry.register(stops, "stops")
    trainer = make_trainer(iterations=9, validation={"every": 0}, registry=registry)
    result = trainer.train()
    assert (result.status, result.iterations) == ("stopped by a plugin", 2)
    assert [state.iteration for state in stops.states] == [1, 2]
    assert stops.states[0].iterations == 9
    assert stops.states[0].folder == trainer.folder


# --- failing --------------------------------------------------------------------------------------------------------


def broken(how):
    class Broken(Colour):
        def __call__(self, images, prompts):
            rewards = super().__call__(images, prompts)
            return {
                "NaN": rewards * float("nan"),
                "shape": rewards[:, None],
                "a float, not": float(rewards.mean()),
                "no gradient": rewards.detach(),
                "lead back to the images": torch.ones(len(prompts), requires_grad=True),
            }[how]

    return Broken()


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("NaN", ModelError),
        ("shape", PluginError),
        ("a float, not", PluginError),
        ("no gradient", PluginError),
        ("lead back to the images", PluginError),
    ],
)
def test_bad_rewards_are_named(make_trainer, how, error):
    with pytest.raises(error, match=how):
        make_trainer(broken(how), validation={"every": 0}, denoising_weight=0).train()


@pytest.mark.parametrize("margin", [float("nan"), None, "x"])
def test_a_margin_that_is_no_number_is_refused_where_it_counts(make_trainer, margin):
    reward = Colour()
    reward.margin = margin
    with pytest.raises(PluginError, match="its margin must be a finite number"):
        make_trainer(reward)
    make_trainer(reward, refl={"margin": 0.5})
    make_trainer(reward, algorithm="raft")


class Far(Blind):
    def out_of_reach(self):
        return "its weights are on the moon."


@pytest.mark.parametrize(
    "given",
    [
        {"reward": Far()},
        {"judge": Far()},
        {"reward": WeightedReward.of({"near": (Blind(), 1.0), "far": (Far(), 0.5)}), "algorithm": "raft"},
    ],
)
def test_what_is_out_of_reach_is_refused_before_anything_is_drawn(make_trainer, tmp_path, given):
    given = dict(given)
    trainer = make_trainer(given.pop("reward", Colour()), out=tmp_path / "run", prior=str(tmp_path / "prior"), **given)
    with pytest.raises(ModelError, match=r"cannot work: .*its weights are on the moon. Take another reward"):
        trainer.train()
    assert not (tmp_path / "prior").exists()
    assert make_trainer(Far(), reward_weight=0, validation={"every": 0}, iterations=1).train().iterations == 1


def test_full_disk_leaves_the_last_good_checkpoint(make_trainer):
    # The kernel's own limit on file size stands in for a full disk.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(state):
        if state.iteration == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))

    options = {"iterations": 3, "validation.every": 0, "checkpoint_every": 1, "denoising_weight": 0}
    trainer = make_trainer(on_step=fill, **options)
    try:
        with pytest.raises(OutputError, match="cannot write"):
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    (checkpoint,) = checkpoints.listed(trainer.folder)
    assert checkpoint.name == "000001"
    assert not list((trainer.folder / "checkpoints").glob(".*"))
    assert make_trainer(**options).train(resume=True).iterations == 3


def test_damaged_checkpoint_is_named(make_trainer):
    trainer = make_trainer(iterations=1, validation={"every": 0}, denoising_weight=0)
    trainer.train()
    (checkpoint,) = checkpoints.listed(trainer.folder)
    (checkpoint / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(OutputError, match=f"{checkpoint} cannot be used"):
        make_trainer(iterations=2, validation={"every": 0}, denoising_weight=0).train(resume=True)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prompts": []}, PromptError, "no training prompts"),
        ({"prompts": ["book " * 60]}, PromptError, "tokens"),
        ({"prompts": ["a \ud83d book", "a pen"]}, PromptError, "broken character"),
        ({"lora": {"targets": ("nothing",)}}, OptionError, "lora.targets"),
        ({"total_batch_size": 3}, OptionError, "no multiple"),
        ({"reward": Blind(), "algorithm": "refl"}, OptionError, "algorithm=raft"),
        ({"learning_rat": 1}, OptionError, "learning_rat"),
        ({"on_step": 3}, OptionError, "on_step takes a function, not 3"),
        ({"on_message": 3}, OptionError, "on_message takes a function, not 3"),
        ({"prior": 3}, OptionError, "prior takes a path, not 3"),
        ({"generator_options": 3}, OptionError, "generator_options takes a dict"),
        ({"generator_options": {"a": object()}}, OptionError, "generator_options takes JSON values"),
    ],
)
def test_mistakes_are_refused(make_trainer, given, error, message):
    reward = given.pop("reward", None)
    with pytest.raises(error, match=message):
        make_trainer(reward, **{"denoising_weight": 0, **given}).train()


# --- files for others -----------------------------------------------------------------------------------------------


def draw(pipeline):
    return pipeline(
        ["a red book", "a yellow pen"], num_inference_steps=3, output_type="pt",
        generator=[torch.Generator().manual_seed(i) for i in range(2)],
    ).images  # fmt: skip


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_plain_diffusers_reads_the_adapters(make_trainer, alpha):
    trainer = make_trainer(lora={"alpha": alpha}, learning_rate=0.05, reward_weight=1.0)
    result = trainer.train()
    trained = draw(trainer.networks.pipeline)
    plain = tiny.build_pipeline()
    base = draw(plain)
    plain.load_lora_weights(result.folder)
    assert (draw(plain) - trained).abs().max() < 1e-4
    assert (base - trained).abs().max() > 1e-2


def test_from_pretrained_reads_the_whole_model(make_trainer):
    trainer = make_trainer(trainable="unet", learning_rate=1e-3, validation={"every": 2})
    result = trainer.train()
    trained = draw(trainer.networks.pipeline)
    plain = StableDiffusionPipeline.from_pretrained(result.folder / "model", use_safetensors=True)
    assert (draw(plain) - trained).abs().max() < 1e-4
    assert (draw(tiny.build_pipeline()) - trained).abs().max() > 1e-2


def test_tensorboard_has_what_the_log_has(make_trainer):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trainer = make_trainer(tracker="auto")
    trainer.train()
    found = {}
    for file in (trainer.folder / "logs").rglob("events*"):
        events = accumulator.EventAccumulator(str(file.parent))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found[tag] = [event.value for event in events.Scalars(tag)]
        found["images"] = events.Tags()["images"] or found.get("images")
    assert found["loss"] == pytest.approx([row["loss"] for row in log(trainer)])
    assert found["held-out/reward"] == pytest.approx([item.reward for item in trainer.history])
    assert found["images"] == ["held-out"]
