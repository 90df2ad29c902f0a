"""Which network calls run, which step each belongs to, and what t / T is at it."""

from __future__ import annotations

import math

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.attention import processor
from realignkit.attention.config import ModulationConfig
from realignkit.attention.modulation import Schedule
from realignkit.attention.sampler import refine, running_schedule
from realignkit.errors import ModelError
from tests.small_pipelines import layout


def once(count: int) -> list[int]:
    return list(range(count))


def twice(count: int) -> list[int]:
    """Two calls a step, but for the last."""
    return [call // 2 for call in range(2 * count - 1)]


def runge_kutta(count: int) -> list[int]:
    """Three steps of four calls, then one each."""
    return [call // 4 for call in range(12)] + list(range(3, count))


def multistep(count: int) -> list[int]:
    """The first step is made twice, the second time with what the first has found."""
    return [0, *range(count)]


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}, once),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", {}, once),
    "dpm++ 2m karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, once),
    "dpm++ flow": ("DPMSolverMultistepScheduler", FLOW, once),
    "euler": ("EulerDiscreteScheduler", {}, once),
    "euler a": ("EulerAncestralDiscreteScheduler", {}, once),
    "heun": ("HeunDiscreteScheduler", {}, twice),
    "kdpm2": ("KDPM2DiscreteScheduler", {}, twice),
    "kdpm2 a": ("KDPM2AncestralDiscreteScheduler", {}, twice),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": False}, runge_kutta),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}, multistep),
    "unipc": ("UniPCMultistepScheduler", {}, once),
    "deis": ("DEISMultistepScheduler", {}, once),
    "lcm": ("LCMScheduler", {}, once),
    "edm": ("EDMEulerScheduler", {}, once),
}
SIZE = {"height": 16, "width": 16}


@pytest.fixture
def solver(request, sd_pipeline):
    """The tiny pipeline with a scheduler, and which step each of its calls belongs to."""
    kind, options, steps = SCHEDULERS[request.param]
    before = sd_pipeline.scheduler
    sd_pipeline.scheduler = getattr(diffusers, kind).from_config(before.config, **options)
    yield sd_pipeline, steps
    sd_pipeline.scheduler = before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of NumPy, to diffusers
@pytest.mark.parametrize("solver", SCHEDULERS, indirect=True)
@pytest.mark.parametrize(("strength", "count"), [(None, 8), (0.5, 4)])
def test_the_share_is_of_the_steps_that_run(solver, strength, count, monkeypatch):
    pipeline, steps = solver
    calls: list[tuple[float, int, bool]] = []
    inner = processor.ModulatedAttention.observe

    def observe(self, *arguments):  # watches, and leaves all as it is
        inner(self, *arguments)
        calls.append((self.timestep, self.step, self.active))

    monkeypatch.setattr(processor.ModulatedAttention, "observe", observe)
    config = ModulationConfig(strength=strength, share=0.5)
    coarse = [Image.new("RGB", (16, 16), "grey")]
    refine(pipeline, ["a cat"], [layout("a cat")], [0], config, coarse=coarse, num_inference_steps=8, **SIZE)
    assert [step for _, step, _ in calls] == steps(count)
    assert [active for *_, active in calls] == [step < count / 2 for step in steps(count)]
    everything = running_schedule(pipeline, 8).timesteps
    assert [t for t, *_ in calls] == pytest.approx(everything[-len(calls) :].tolist())  # the end of the schedule


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.7, 1.0])
def test_every_strength_is_modulated(sd_pipeline, strength):
    """The first steps that run are; with weights of 0 the picture is another one."""
    coarse = [Image.fromarray(np.full((16, 16, 3), 90, dtype=np.uint8))]
    pictures = []
    for weight in (1.0, 0.0):
        config = ModulationConfig(strength=strength, power=0.0, cross_weight=weight, self_weight=0.0, share=0.3)
        result = refine(
            sd_pipeline, ["a cat"], [layout("a cat")], [0], config, coarse=coarse, num_inference_steps=10, **SIZE
        )
        pictures.append(np.asarray(result.images[0]))
    assert (pictures[0] != pictures[1]).any()


def test_repeated_timesteps_are_told_apart_by_their_order():
    schedule = Schedule.of_timesteps([900.0, 700.0, 700.0, 500.0])
    found, last = [], -1
    for timestep in (900.0, 700.0, 700.0, 500.0, 500.0, 900.0):  # a step called twice over; then from the start again
        last = schedule.locate(timestep, last)
        found.append(last)
    assert found == [0, 1, 2, 3, 3, 0]
    assert Schedule.of_timesteps([801.0, 401.0]).locate(float(torch.tensor(801.0).bfloat16())) == 0


def test_the_noise_level():
    assert Schedule.of_timesteps([900.0, 300.0]).level(300.0) == 0.3
    assert Schedule.of_timesteps([1.0, 0.5], train_timesteps=1).level(0.5) == 0.5
    # The EDM solvers tell the network ln(sigma) / 4; with sigma = 3, three of four parts are noise.
    edm = Schedule.of_timesteps([math.log(80) / 4, math.log(3) / 4, math.log(0.002) / 4])
    assert edm.level(math.log(3) / 4) == pytest.approx(0.75)


@pytest.mark.parametrize(("scale", "level"), [("train", 0.401), ("start", 1.0)])
def test_the_time_scale_under_strength(sd_pipeline, scale, level):
    """Of ten DDIM steps the last five run: t / T_train, or relative to the first of them."""
    components = {**sd_pipeline.components, "requires_safety_checker": False}
    runner = diffusers.StableDiffusionImg2ImgPipeline(**components)
    schedule = running_schedule(runner, 10, 0.5, scale)
    assert schedule.timesteps.tolist() == [401, 301, 201, 101, 1]
    assert schedule.level(401) == pytest.approx(level)
    assert schedule.level(201) == pytest.approx(level * 201 / 401)
    whole = running_schedule(sd_pipeline, 10, None, scale)  # without strength, T_train whatever the scale
    assert whole.level(901) == 0.901


def test_schedulers_that_cannot_are_refused(sd_pipeline):
    before = sd_pipeline.scheduler
    coarse = [Image.new("RGB", (16, 16))]
    try:
        sd_pipeline.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        with pytest.raises(ModelError, match="cannot sample with a FlowMatchEulerDiscreteScheduler"):
            refine(sd_pipeline, ["a cat"], [layout("a cat")], [0], **SIZE)
        sd_pipeline.scheduler = diffusers.IPNDMScheduler()
        with pytest.raises(ModelError, match="leave strength out"):
            config = ModulationConfig(strength=0.5)
            refine(sd_pipeline, ["a cat"], [layout("a cat")], [0], config, coarse=coarse, **SIZE)
    finally:
        sd_pipeline.scheduler = before
