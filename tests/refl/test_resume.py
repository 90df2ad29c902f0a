"""How a run goes on, and what it refuses to go on with."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch
from PIL import Image
from pydantic import Field

from realignkit import provenance
from realignkit.contracts import Options
from realignkit.errors import OutputError
from realignkit.records import write_manifest
from realignkit.refl import checkpoints
from tests import tiny
from tests.refl.rewards import Colour, Noisy
from tests.refl.test_trainer import log, weights


def test_interrupted_and_resumed_is_as_if_never_stopped(make_trainer, tmp_path):
    options = {"iterations": 3, "validation.every": 2, "refl.kl_weight": 0.1, "prior": tmp_path / "prior"}
    whole = make_trainer(Noisy(), out=tmp_path / "whole", **options)
    whole.train()

    def interrupt(state):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    stopped = make_trainer(Noisy(), out=tmp_path / "stopped", on_step=interrupt, **options)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert signal.getsignal(signal.SIGINT) is before
    assert json.loads((tmp_path / "stopped" / "training.json").read_text())["status"] == "interrupted"
    assert len(log(stopped)) == 1
    with pytest.raises(OutputError, match="--resume"):
        make_trainer(Noisy(), out=tmp_path / "stopped", **options).train()
    resumed = make_trainer(Noisy(), out=tmp_path / "stopped", **options)
    result = resumed.train(resume=True)
    assert log(resumed) == log(whole)
    assert [v.reward for v in result.history] == [v.reward for v in whole.history]
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(whole), strict=True))
    assert len(checkpoints.listed(tmp_path / "stopped")) <= 2


def test_resuming_something_else_is_refused(make_trainer):
    make_trainer(iterations=1, validation={"every": 0}).train()
    for change, name in (({"learning_rate": 0.5}, "learning_rate"), ({"prompts": ["a book"]}, "training_prompts")):
        with pytest.raises(OutputError, match=f"different: .*{name}"):
            make_trainer(**{"iterations": 1, "validation.every": 0, **change}).train(resume=True)
    longer = make_trainer(iterations=2, validation={"every": 0})  # more iterations may be asked for
    assert longer.train(resume=True).iterations == 2
    assert len(log(longer)) == 2
    with pytest.raises(OutputError, match=r"has had 2 iterations already, and iterations=1 asks for fewer"):
        make_trainer(iterations=1, validation={"every": 0}).train(resume=True)
    with pytest.raises(OutputError, match=r"different: algorithm \('refl' there, 'raft' now\)\. Use the same"):
        make_trainer(iterations=2, validation={"every": 0}, algorithm="raft").train(resume=True)


def test_a_run_of_an_earlier_version_is_said_to_be_one(make_trainer, tmp_path):
    make_trainer(out=tmp_path / "run", iterations=1, validation={"every": 0}).train()
    last = checkpoints.listed(tmp_path / "run")[-1]
    state = json.loads((last / "state.json").read_text())
    del state["run"]["config"]["refl"]["margin"]
    (last / "state.json").write_text(json.dumps(state))
    (last / "manifest.json").unlink()
    write_manifest(last)
    with pytest.raises(
        OutputError, match=r"different: an earlier version of realignkit.* wrote it, without refl\.margin\."
    ):
        make_trainer(out=tmp_path / "run", iterations=2, validation={"every": 0}).train(resume=True)


VERSION_0_1 = {
    **{"iterations": 1, "batch_size": 2, "gradient_accumulation_steps": 1, "total_batch_size": None, "seed": 42},
    **{"reward_weight": None, "gradient_ratio": 10.0, "margin": None, "reward_temperature": 0.1},
    **{"pair_sampling": "uniform", "purify": None, "purify_draws": 1, "hold_style": False, "style_weight": 0.0},
    **{"rated_image": "jump", "solver": "ddim", "num_inference_steps": 4, "gradient_steps": [2, 3]},
    **{"gradients_per_rollout": 1, "guidance_scale": 2.0, "candidates": 4, "denoising_weight": 1.0, "pairs": None},
    **{"compare_content": False, "prior_images": 3, "caption_dropout": 0.1, "kl_weight": 0.0, "trainable": "lora"},
    **{"train_text_encoder": False, "lora_rank": 2, "lora_alpha": None},
    **{"lora_targets": ["to_q", "to_k", "to_v", "to_out.0"], "learning_rate": 1e-3, "warmup_iterations": 0},
    **{"schedule": "constant", "betas": [0.9, 0.999], "weight_decay": 0.0, "max_gradient_norm": "1.0"},
    **{"ema_decay": 0.99, "mixed_precision": "auto", "gradient_checkpointing": False, "validate_every": 0},
    **{"validation_prompts": 32, "validation_steps": 2, "validation_seed": 1000, "patience": 4},
    **{"checkpoint_every": 50, "keep_checkpoints": 2, "samples": 2, "tracker": "none"},
}
"""What version 0.1 wrote as the configuration of a training with ``QUICK``."""


@pytest.mark.parametrize("algorithm", ["refl", "raft", "reward_weighted"])
def test_a_run_of_version_0_1_goes_on_unless_it_used_what_is_gone(make_trainer, tmp_path, algorithm):
    wanted = {"algorithm": algorithm, "out": tmp_path / "run", "validation": {"every": 0}}
    make_trainer(iterations=1, **wanted).train()
    last = checkpoints.listed(tmp_path / "run")[-1]

    def written(**options):
        state = json.loads((last / "state.json").read_text())
        state["run"]["config"] = {**VERSION_0_1, "algorithm": algorithm, **options}
        state["run"]["identity"]["training_guidance_scale"] = 2.0  # that version recorded it of every algorithm
        (last / "state.json").write_text(json.dumps(state))
        (last / "manifest.json").unlink()
        write_manifest(last)

    def refused(match, **options):
        written(**options)
        with pytest.raises(OutputError, match=match):
            make_trainer(iterations=2, **wanted).train(resume=True)

    refused(r"was trained with purify=\[400, 650\], which this version no longer has", purify=[400, 650])
    refused(r"different: lora\.rank \(8 there, 2 now\)", lora_rank=8)
    name, changed = {
        "refl": ("refl.rated_image", {"rated_image": "final"}),
        "raft": ("raft.candidates", {"candidates": 8}),
        "reward_weighted": ("reward_weighted.temperature", {"reward_temperature": 0.5}),
    }[algorithm]
    refused(f"different: {name}", **changed)
    written()
    if algorithm == "raft":  # what that version did not have was off
        with pytest.raises(OutputError, match=r"different: raft\.shuffle_rewards \(False there, True now\)"):
            make_trainer(iterations=2, **wanted, raft={"shuffle_rewards": True}).train(resume=True)
    assert make_trainer(iterations=2, **wanted).train(resume=True).iterations == 2


def test_a_run_is_not_resumed_with_the_same_reward_set_up_otherwise(make_trainer):
    """What the reward's own options say decides what is learnt, as much as its name."""

    class Strict(Colour):
        class Options(Options):
            strictness: float = Field(1.0, description="what squared distances are multiplied by")
            device: str | None = Field(None, description="where it runs")

        def __call__(self, images, prompts):
            return 1 - self.options.strictness * (1 - super().__call__(images, prompts))

    options = {"iterations": 1, "validation.every": 0}
    make_trainer(Strict(), **options).train()
    with pytest.raises(OutputError, match=r"reward_options .*1\.0.* there, .*2\.0.* now"):
        make_trainer(Strict(strictness=2.0), **options).train(resume=True)
    moved = make_trainer(Strict(device="cpu"), **{**options, "iterations": 2})  # where it runs may change
    assert moved.train(resume=True).iterations == 2


# --- what a run is made from ----------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for i, colour in enumerate(("red", "yellow", "blue")):
        Image.new("RGB", (32, 32), colour).save(folder / f"{i}.png")
    rows = [{"file_name": f"{i}.png", "text": f"a {word} book"} for i, word in enumerate(("red", "yellow", "blue"))]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


ONE = {"iterations": 1, "validation.every": 0}


def test_pairs_may_move_but_not_change(make_trainer, pairs, tmp_path):
    make_trainer(pairs=pairs, **ONE).train()
    moved = pairs.rename(tmp_path / "elsewhere")
    assert make_trainer(pairs=moved, **{**ONE, "iterations": 2}).train(resume=True).iterations == 2
    copy = shutil.copytree(moved, tmp_path / "copy", copy_function=shutil.copyfile)  # with other dates

    def refused(match):
        with pytest.raises(OutputError, match=match):
            make_trainer(pairs=copy, **{**ONE, "iterations": 3}).train(resume=True)

    table = copy / "metadata.jsonl"
    before = table.read_text()
    table.write_text(before.replace("a red", "a dark red"))
    refused("different: the captions of the training pairs")
    table.write_text("".join(before.splitlines(keepends=True)[:2]))
    refused("different: the number and names and captions and images of the training pairs")
    table.write_text(before)
    Image.new("RGB", (32, 32), "green").save(copy / "1.png")
    refused("different: the images of the training pairs")
    shutil.copyfile(moved / "1.png", copy / "1.png")
    assert make_trainer(pairs=copy, **{**ONE, "iterations": 3}).train(resume=True).iterations == 3


def test_of_many_pairs_dates_count_unless_contents_are_asked_for(make_trainer, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "READ_UP_TO", 10)
    for content in (False, True):
        options = {"pairs": pairs, "out": tmp_path / str(content), "compare_content": content}
        make_trainer(**options, **ONE).train()
        os.utime(pairs / "0.png", (1, 2 + content))
        again = make_trainer(**options, **{**ONE, "iterations": 2})
        if content:
            assert again.train(resume=True).iterations == 2
        else:
            with pytest.raises(OutputError, match="images of the training pairs"):
                again.train(resume=True)


def test_a_run_goes_on_only_with_the_model_it_began_with(make_trainer, tmp_path):
    """By what is in its folder, not by its path."""
    model = tmp_path / "model"
    tiny.build_pipeline().save_pretrained(model)

    def trainer(folder, **options):
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(folder)
        given = {"generator_options": {"model": str(folder), "lora": None}, "names": {"generator": str(folder)}}
        return make_trainer(pipeline=pipeline, **given, **{**ONE, **options})

    trainer(model).train()
    moved = model.rename(tmp_path / "moved")
    assert trainer(moved, iterations=2).train(resume=True).iterations == 2
    prior = sorted(path.name for path in (tmp_path / "run" / "prior").glob("*.png"))
    config = moved / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(OutputError, match=r"different: model \('.*model_options model \('"):
        trainer(moved, iterations=3).train(resume=True)
    _ = trainer(moved, out=tmp_path / "other", prior=tmp_path / "run" / "prior").learner
    assert len(list((tmp_path / "run" / "prior").glob("*.png"))) == 2 * len(prior)  # the other model drew its own


def test_a_damaged_image_of_the_frozen_model_is_drawn_again(make_trainer, tmp_path):
    _ = make_trainer(prior=tmp_path / "prior", **ONE).learner
    image = sorted((tmp_path / "prior").glob("*.png"))[1]
    whole = image.read_bytes()
    for damaged in (b"", whole[:40]):
        image.write_bytes(damaged)
        _ = make_trainer(prior=tmp_path / "prior", **ONE).learner
        assert image.read_bytes() == whole


def test_validation_steps_are_validations_alone(make_trainer, tmp_path):
    """L_pre's images are drawn as the model is used; a run whose images an earlier version drew goes on with them."""
    quick = {"iterations": 1, "sampling": {"num_inference_steps": 3}, "validation.steps": 2, "out": tmp_path / "run"}
    trainer = make_trainer(**quick)
    assert trainer.run.identity["sampling"]["num_inference_steps"] == 2
    assert trainer.run.prior_sampling["num_inference_steps"] == 3
    trainer.train()
    drawn = {path.name for path in (tmp_path / "run" / "prior").glob("*.png")}
    with pytest.raises(OutputError, match=r"different: prior_sampling num_inference_steps \(3 there, 4 now\)"):
        make_trainer(**{**quick, "sampling": {"num_inference_steps": 4}}).train(resume=True)
    last = checkpoints.listed(tmp_path / "run")[-1]
    state = json.loads((last / "state.json").read_text())
    del state["run"]["identity"]["prior_sampling"]
    (last / "state.json").write_text(json.dumps(state))
    (last / "manifest.json").unlink()
    write_manifest(last)
    for iterations in (2, 3):
        again = make_trainer(**{**quick, "iterations": iterations})
        again.train(resume=True)
        assert again.run.prior_sampling["num_inference_steps"] == 2
    assert len({path.name for path in (tmp_path / "run" / "prior").glob("*.png")} - drawn) == len(drawn)
