"""``realignkit train`` and what ``realignkit run`` makes of its result."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image

from realignkit.realignment import Realignment
from tests import tiny
from tests.plugins.generators.original import write_quick_model
from tests.refl.conftest import PROMPTS, QUICK

STEPS = ("--tagger", "quadrants", "--scorer", "wordy", "--segmenter", "quadrants")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny.build_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def arguments(tmp_path, model):
    """The command, without --out."""
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS, ""]))
    (tmp_path / "held-out.txt").write_text("a red desk\na yellow book\n")
    settings = {**QUICK, "validation.every": 2, "prior_images": 2}
    options = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    files = ["--prompts", tmp_path / "prompts.txt", "--validation-prompts", tmp_path / "held-out.txt"]
    return ["train", "--model", model, "--reward", "colour", "--judge", "darkness", *files, *options]


def losses(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["iteration"], row["loss"], row["reward"]) for row in rows]


def test_train_then_run_chain(cli, arguments, tmp_path, model):
    out = tmp_path / "run"
    result = cli(*arguments, "--out", out, "--set", "learning_rate=0.05", "--set", "reward_weight=1", "--control")
    assert result.exit_code == 0, result.output + result.stderr
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line.strip()}
    history = json.loads((out / "training.json").read_text())["history"]
    assert rows["base"][1:] == ["0", f"{history[0]['reward']:.4f}", f"{history[0]['judgement']:.4f}"]
    assert rows["trained"][1] == rows["control"][1] == "2"
    control = json.loads((out / "control" / "training.json").read_text())
    assert control["config"]["reward_weight"] == 0
    assert not (out / "control" / "prior").exists()  # the same images serve both

    def coarse(folder, *more):
        done = cli("run", "a red book", "--model", model, *STEPS, "--out", tmp_path / folder, *more)
        assert done.exit_code == 0, done.output + done.stderr
        return np.asarray(Realignment.load(tmp_path / folder).coarse, dtype=int)

    plain, tuned = coarse("plain"), coarse("tuned", "--lora", out)
    assert abs(plain - tuned).max() > 5
    by_file = coarse("file", "--set", f"generator.lora={out / 'pytorch_lora_weights.safetensors'}")
    assert (by_file == tuned).all()
    none = coarse("none", "--lora", out, "--set", "generator.lora_scale=0")
    assert abs(none - plain).max() <= 1


def test_a_config_file_says_the_same_as_flags(cli, arguments, tmp_path):
    assert cli(*arguments, "--out", tmp_path / "flags").exit_code == 0
    flags = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    names = ("model", "reward", "judge", "prompts")
    lines = [f"{name}: {flags[f'--{name}']}" for name in names]
    lines += [f"validation_prompts: {flags['--validation-prompts']}", f"out: {tmp_path / 'file'}", "set:"]
    settings = [text.removeprefix("--set=").partition("=") for text in map(str, arguments) if text.startswith("--set=")]
    lines += [f"  {name}: {value}" for name, _, value in settings]
    (tmp_path / "train.yaml").write_text("\n".join(lines) + "\n")
    result = cli("train", "--config", tmp_path / "train.yaml")
    assert result.exit_code == 0, result.output + result.stderr
    assert losses(tmp_path / "file") == losses(tmp_path / "flags")


def test_a_sum_of_rewards_in_yaml_and_on_the_command_line(cli, arguments, tmp_path):
    """As text, as a mapping, and as a flag; the judge too may be a sum."""
    quick = ["--set", "iterations=1", "--set", "denoising_weight=0", "--set", "reward_weight=1"]
    rest = [*arguments[:3], *arguments[5:], *quick]  # without --reward
    at = rest.index("--judge")
    rest = [*rest[:at], *rest[at + 2 :]]
    found = {}
    for name, reward in (("text", '"colour:1,darkness:0.5"'), ("mapping", "{colour: 1, darkness: 0.5}")):
        (tmp_path / f"{name}.yaml").write_text(f"reward: {reward}\njudge: {{darkness: 2}}\n")
        result = cli(*rest, "--config", tmp_path / f"{name}.yaml", "--out", tmp_path / name)
        assert result.exit_code == 0, result.output + result.stderr
        found[name] = losses(tmp_path / name)
    flag = ["--reward", "colour:1,darkness:0.5", "--judge", "darkness:2"]
    result = cli(*rest, *flag, "--out", tmp_path / "flag")
    assert result.exit_code == 0, result.output + result.stderr
    assert "darkness:2" in result.output
    assert losses(tmp_path / "flag") == found["text"] == found["mapping"]
    record = json.loads((tmp_path / "flag" / "training.json").read_text())
    assert record["identity"]["algorithm"] == "raft"  # one part has no gradient
    assert "the reward has no gradient, so algorithm=raft is trained" in " ".join(
        result.output.split() + result.stderr.split()
    )


def test_a_control_that_nothing_was_validated_of_is_not_compared(cli, arguments, tmp_path):
    rest = [text for text in arguments if not str(text).startswith("--set=validation.every")]
    at = rest.index("--judge")
    quick = ["--set=validation.every=0", "--set=iterations=1", "--set=reward_weight=1", "--control"]
    result = cli(*rest[:at], *rest[at + 2 :], *quick, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output + result.stderr
    assert "nothing was validated, so training and control are not compared here" in " ".join(result.output.split())


def test_feedback_and_its_control_learn_from_the_same_pictures(cli, arguments, tmp_path):
    arguments = [text for text in arguments if not str(text).startswith(("--set=refl", "--set=raft"))]
    quick = ["--set=nft.num_inference_steps=2", "--set=nft.candidates=4", "--set=warmup_iterations=0"]
    result = cli(*arguments, "--preset", "feedback_quick", *quick, "--out", tmp_path / "run", "--control")
    assert result.exit_code == 0, result.output + result.stderr
    said = " ".join((result.output + result.stderr).split())
    assert "24 pictures of 6 prompts" in said and "prior_images has no effect: the frozen model draws none here" in said
    assert not (tmp_path / "run" / "control" / "rounds").exists()
    records = [json.loads((tmp_path / "run" / name / "training.json").read_text()) for name in ("", "control")]
    assert [record["config"]["nft"]["shuffle_rewards"] for record in records] == [False, True]
    assert losses(tmp_path / "run") != losses(tmp_path / "run" / "control")
    assert (tmp_path / "run" / "model" / "text_encoder").is_dir()


def test_feedback_in_rounds_draws_each_with_what_has_learnt(cli, arguments, tmp_path):
    arguments = [text for text in arguments if not str(text).startswith(("--set=refl", "--set=raft"))]
    quick = ["--set=nft.num_inference_steps=2", "--set=nft.candidates=4", "--set=warmup_iterations=0"]
    rounds = ["--set=nft.prompts_per_round=3", "--set=nft.iterations_per_round=1", "--set=iterations=2"]
    result = cli(*arguments, "--preset", "feedback", *quick, *rounds, "--set=batch_size=2", "--out", tmp_path)
    assert result.exit_code == 0, result.output + result.stderr
    first, second = (tmp_path / "rounds" / name / "round.json" for name in ("000", "001"))
    assert json.loads(first.read_text())["weights"] != json.loads(second.read_text())["weights"]
    assert json.loads(first.read_text())["made_with"]["guidance_scale"] == 1
    assert (tmp_path / "model" / "text_encoder").is_dir() and (tmp_path / "model" / "unet").is_dir()


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_never_stopped(cli, command, arguments, tmp_path):
    arguments = [*arguments, "--set", "iterations=6", "--set", "checkpoint_every=2"]
    out = tmp_path / "killed"
    process = command(*map(str, arguments), "--out", str(out), cwd=tmp_path, TINY_DIES_AFTER="3")
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert json.loads((out / "training.json").read_text())["status"] == "running"  # killed in the middle
    assert not (out / "checkpoints" / "000006").exists()
    resumed = cli(*arguments, "--out", out, "--resume")
    assert resumed.exit_code == 0, resumed.output + resumed.stderr
    assert cli(*arguments, "--out", tmp_path / "whole").exit_code == 0
    assert losses(out) == losses(tmp_path / "whole")
    weights = "pytorch_lora_weights.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--reward", "colours"], "Did you mean 'colour'"),
        (["--judge", "colour"], "training reward itself"),
        (["--reward", "colour:1,darkness:1", "--judge", "darkness:2,colour:1"], "training reward itself"),
        (["--prompts", "nope"], "no prompts is called 'nope'"),
        (["--prompts", "micro:train,sise=3"], "sise"),
        (["--set", "lora_rnak=3"], "Did you mean lora.rank"),
        (["--preset", "papers"], "Known: paper"),
        (["--set", "margin=0.5"], "margin is now training.refl.margin or training.reward_weighted.margin."),
        (["--set", "training.candidates=8"], "training option candidates is now training.raft.candidates or "),
        (["--set", "purify=[400,650]"], "training option purify was removed in version 0.2"),
        (["--set", "training.raft.candidates=8", "--set", "algorithm=refl"], "raft has options, but algorithm=refl is"),
        (["--control", "--set", "denoising_weight=0"], "the control of refl trains on the denoising loss alone"),
        (["--control", "--set", "reward_weight=0"], "with reward_weight=0 the training is a control itself"),
        (["--control", "--set", "raft.shuffle_rewards=true"], "the training is a control itself"),
        (["--set", "raft.candidate=8"], "Did you mean training.raft.candidates? Known: training.raft."),
    ],
)
def test_mistakes_are_one_message(cli, arguments, tmp_path, change, message):
    result = cli(*arguments, "--out", tmp_path / "run", *change)
    assert result.exit_code == 2
    text = " ".join(result.stderr.replace("│", " ").split())
    assert message in text
    assert "Traceback" not in text


def test_empty_prompt_file_and_missing_options(cli, arguments, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n \n")
    result = cli(*arguments, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "there are no prompts in" in " ".join(result.stderr.split())
    result = cli("train", "--reward", "colour")
    assert result.exit_code == 2
    assert "--prompts is missing" in " ".join(result.stderr.replace("│", " ").split())


def test_prompt_sets_by_name():
    from realignkit.cli.train import read_prompts
    from realignkit.registry import default_registry

    registry = default_registry()
    train = read_prompts(registry, "micro:train,size=30")
    assert len(train) == 30
    assert train == read_prompts(registry, "micro:purpose=train,size=30")
    assert train != read_prompts(registry, "micro:validation,size=30")


def test_whole_models_are_no_adapters(cli, tmp_path, model):
    shutil.copytree(model, tmp_path / "run" / "model")
    result = cli("run", "a red book", "--model", model, *STEPS, "--lora", tmp_path / "run", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--set generator.model=" in " ".join(result.stderr.split())
    (tmp_path / "old.bin").write_bytes(b"x")
    result = cli("run", "a red book", "--model", model, *STEPS, "--lora", tmp_path / "old.bin", "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "no .safetensors file" in " ".join(result.stderr.split())


def test_pairs_of_the_embedded_world_then_a_whole_model(cli, tmp_path):
    """The commands of the tutorial, small: pairs, a training on them with the text encoder, and its model in use."""
    from realignkit_plugins.micro.world.__main__ import main

    main(tmp_path / "pairs", count=4, objects=2, careless=True, seed=1)
    (tmp_path / "prompts.txt").write_text("a red car and a blue dog\na green cup and a white cat\n")
    options = {"pairs": str(tmp_path / "pairs"), "reward.estimator": "likelihood", "iterations": 1}
    options |= {"batch_size": 2, "learning_rate": 0.01, "warmup_iterations": 0, "ema_decay": "null"}
    options |= {"reward_weighted.margin": -0.8, "mixed_precision": "bf16", "validation.every": 0, "tracker": "none"}
    trained = cli(
        *("train", "--preset", "pairs", "--model", "micro", "--reward", "caption"),
        *("--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "run"),
        *[f"--set={name}={value}" for name, value in options.items()],
    )
    assert trained.exit_code == 0, trained.output + trained.stderr

    def coarse(folder, *more):
        done = cli("run", "a red car and a blue dog", "--out", tmp_path / folder, *more)
        assert done.exit_code == 0, done.output + done.stderr
        return np.asarray(Realignment.load(tmp_path / folder).coarse, dtype=int)

    assert abs(coarse("plain") - coarse("tuned", "--set", f"generator.model={tmp_path / 'run' / 'model'}")).max() > 5


def test_a_model_that_cannot_learn_is_refused_before_anything_else_is_loaded(cli, arguments, tmp_path):
    from tests.attention.pixart import pixart_pipeline

    pixart_pipeline().save_pretrained(tmp_path / "pixart")
    changed = ["--model", tmp_path / "pixart", "--reward", "clip", "--set", "reward.model=/no/such/clip"]
    result = cli(*arguments, *changed, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "PixArtAlphaPipeline cannot be fine-tuned here" in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_whole_networks_are_loaded_as_they_are_stored(registry, model):
    from realignkit.cli.train import TrainingJob

    wanted = {"reward": "micro_clip", "prompts": "micro:train,size=9", "model": model, "out": "run", "judge": None}
    wanted |= {"validation_prompts": None, "preset": None}

    def dtype(*assignments):
        return TrainingJob(wanted, assignments)._generator_options().get("dtype")

    assert dtype() is None  # as the device likes it
    assert dtype("trainable=unet") == dtype("trainable=unet", "generator.dtype=auto") == "fp32"
    assert dtype("trainable=unet", "generator.dtype=fp16") == "fp16"  # which the trainer refuses


def test_images_are_as_large_as_the_generator_says(cli, arguments, tmp_path):
    result = cli(*arguments, "--out", tmp_path / "run", "--set", "generator.height=48", "--set", "generator.width=24")
    assert result.exit_code == 0, result.output + result.stderr
    sizes = {Image.open(file).size for file in (tmp_path / "run" / "prior").glob("*.png")}
    assert sizes == {(24, 48)}


def test_options_of_an_algorithm_are_named_alike_everywhere(registry, model, tmp_path):
    from realignkit.cli.train import TrainingJob, _merge
    from realignkit.refl import ReFLConfig

    wanted = {"reward": "micro_clip", "prompts": "micro:train,size=9", "model": model, "out": "run", "judge": None}
    wanted |= {"validation_prompts": None, "preset": None}

    def job(text, *assignments):
        (tmp_path / "job.yaml").write_text(text)
        _, settings = _merge(wanted, tmp_path / "job.yaml")
        return TrainingJob(wanted, [*settings, *assignments]).config

    expected = ReFLConfig(algorithm="raft", raft={"candidates": 8, "solver": "dpmpp"}, lora={"rank": 4})
    assert job("set: {training: {algorithm: raft, raft: {candidates: 8, solver: dpmpp}, lora: {rank: 4}}}") == expected
    assert job("set: {algorithm: raft, raft: {candidates: 8, solver: dpmpp}, lora.rank: 4}") == expected
    flat = "set: {training.algorithm: raft, training.raft.candidates: 3, training.lora.rank: 4}"
    assert job(flat, "training.raft.candidates=8", "raft.solver=dpmpp") == expected


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "must map names to values"),
        ("5", "must map names to values"),
        ("model: 5", "model must be a text, not 5"),
        ("prompts: [a, b]", "prompts must be a text"),
        ("out:", "out must be a text, not None"),
        ("set: [1]", "'set' maps option names to values"),
        ("set:\nout:", "out must be a text, not None"),
        ("lora_rank: 8", "training option lora_rank is now training.lora.rank."),
        ("training: {seed: 1}", "training is none of judge, model"),
        ("5: x", "5 is none of judge, model"),
        ("set: {patience: soon}", "patience"),
        ("set: {patience: .nan}", "patience"),
        ("set: {patience: 2024-01-01}", "patience"),
        ("set: {x: " + "[" * 200 + "]" * 200 + "}", "levels of nesting"),
        ("[" * 5000, "cannot read"),
        ("model: &m [*m]", "levels of nesting"),
        (LAUGHS, "more than 1000000 values"),
        ("!!python/object/apply:os.system ['true']", "cannot read"),
        ("a: b: c", "cannot read"),
    ],
)
def test_an_odd_config_is_refused(cli, arguments, tmp_path, text, message):
    (tmp_path / "train.yaml").write_text(text)
    result = cli(*arguments, "--config", tmp_path / "train.yaml", "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())


def test_a_model_in_one_file_is_trained_and_used(cli, arguments, tmp_path):
    file = tmp_path / "downloaded.safetensors"
    write_quick_model(file)
    arguments[2] = file
    out = tmp_path / "run"
    result = cli(*arguments, "--out", out, "--set", "learning_rate=0.05", "--set", "iterations=1")
    assert result.exit_code == 0, result.output + result.stderr
    drawn = []
    for name, more in (("plain", ()), ("tuned", ("--lora", out))):
        where = ["--out", tmp_path / name, "--set", "sampling.num_inference_steps=2"]
        done = cli("run", "a red book", "--model", file, *STEPS, *where, *more)
        assert done.exit_code == 0, done.output + done.stderr
        drawn.append(np.asarray(Realignment.load(tmp_path / name).coarse, dtype=int))
    assert abs(drawn[0] - drawn[1]).max() > 0


def test_a_language_model_is_a_reward_by_name_cached_and_with_its_cost(cli, arguments, tmp_path):
    """Any picture is paid for once; what needs a gradient says that there is none."""
    from tests.plugins.scorers.endpoint import say, serving

    def alternating(request, number):
        return say(json.dumps({"reason": "", "mark": number % 11}))

    def judged(service, algorithm, out, *more):
        options = {"base_url": service.url, "cache_dir": str(tmp_path / "answers"), "input_price": 1, "output_price": 1}
        others = tuple(f"--set={name}." for name in ("refl", "raft") if name != algorithm)
        given = [text for text in arguments if not str(text).startswith(others)]
        given[given.index("--reward") + 1] = "openai_judge"
        settings = (
            f"algorithm={algorithm}",
            f"reward.options={json.dumps(options)}",
            "denoising_weight=0",
            "iterations=1",
            *more,
        )
        return cli(*given, *(f"--set={setting}" for setting in settings), "--out", tmp_path / out)

    with serving(alternating) as service:
        done = judged(service, "raft", "first")
        assert done.exit_code == 0, done.output + done.stderr
        asked = len(service.requests)
        assert f"openai_judge: {asked} requests, {120 * asked} tokens, 0." in done.output
        again = judged(service, "raft", "again")  # the same pictures
        assert again.exit_code == 0, again.output + again.stderr
        assert len(service.requests) == asked and "requests" not in again.output
        assert losses(tmp_path / "again") == losses(tmp_path / "first")
        quick = ("nft.num_inference_steps=2", "nft.candidates=4", "validation.every=0")
        rounds = judged(service, "nft", "rounds", *quick)
        assert rounds.exit_code == 0, rounds.output + rounds.stderr
        assert len(service.requests) == asked + 24 and "openai_judge: 24 requests" in rounds.output
        again = judged(service, "nft", "rounds again", *quick)
        assert again.exit_code == 0 and len(service.requests) == asked + 24
        rated = [tmp_path / out / "rounds" / "000" / "metadata.jsonl" for out in ("rounds", "rounds again")]
        assert rated[0].read_text() == rated[1].read_text()
        refused = judged(service, "refl", "refused")
        assert refused.exit_code == 2
        assert "reward 'openai_judge' has no gradient, which refl needs" in " ".join(refused.stderr.split())
