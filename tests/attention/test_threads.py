"""Several Python threads with one network: each draws what it would draw alone."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from diffusers import KarrasVeScheduler, StableDiffusionPipeline

from realignkit.attention import ModulationConfig, generate, modulate, refine
from realignkit.errors import ModelError
from realignkit.pipelines.families import denoiser
from tests.small_pipelines import FAST, layout

PROMPT, SEED = "a red book and a dog", 3
STRONG = ModulationConfig(share=1.0, power=0.0, cross_weight=5.0, self_weight=5.0)


def in_a_thread(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def plain(pipeline):
    generator = torch.Generator().manual_seed(SEED)
    return np.asarray(pipeline(PROMPT, generator=generator, **FAST).images[0])


def test_another_pipeline_with_the_network_draws_plainly_meanwhile(make_pipeline):
    ours, other = make_pipeline("sd"), make_pipeline("sd")
    other.unet = ours.unet
    before, meanwhile = plain(other), []
    refined = refine(ours, [PROMPT], [layout("a dog")], [SEED], STRONG, **FAST)
    again = refine(
        ours,
        [PROMPT],
        [layout("a dog")],
        [SEED],
        STRONG,
        progress=lambda done, total: meanwhile.append(in_a_thread(lambda: plain(other))),
        **FAST,
    )
    assert len(meanwhile) == FAST["num_inference_steps"]
    assert all(np.array_equal(picture, before) for picture in meanwhile)
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(refined.images[0]))


@pytest.mark.parametrize("both", [generate, refine])
def test_one_pipeline_is_drawn_with_by_one_thread_at_a_time(make_pipeline, both):
    pipeline = make_pipeline("sd")

    def draw(prompt, progress=None):
        own = ([layout("a dog")], [SEED], STRONG) if both is refine else ([SEED],)
        images = both(pipeline, [prompt], *own, progress=progress, **FAST)
        return np.asarray((images.images if both is refine else images)[0])

    prompts = [PROMPT, "a cat and a dog"]
    alone, second, waited = [draw(prompt) for prompt in prompts], [], []
    thread = threading.Thread(target=lambda: second.append(draw(prompts[1])))

    def begin(done, total):
        if done == 1:
            thread.start()
            thread.join(0.5)
        waited.append(thread.is_alive())

    first = draw(prompts[0], begin)
    thread.join()
    assert all(waited)
    assert np.array_equal(first, alone[0]) and np.array_equal(second[0], alone[1])


def test_modulation_for_another_thread_is_an_error(make_pipeline):
    pipeline = make_pipeline("sd")
    with (
        pytest.raises(ModelError, match="called by another thread than the one that modulates"),
        modulate(denoiser(pipeline), [], STRONG, num_inference_steps=2),
    ):
        in_a_thread(lambda: plain(pipeline))


def test_a_class_of_the_users_that_hands_everything_on(make_pipeline):
    own = make_pipeline("sd")

    class Handing(StableDiffusionPipeline):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    handing = Handing(**own.components, requires_safety_checker=False)
    handing.set_progress_bar_config(disable=True)
    drawn = (generate(pipeline, [PROMPT], [SEED], **FAST)[0] for pipeline in (own, handing))
    assert np.array_equal(*map(np.asarray, drawn))


def test_a_scheduler_that_cannot_sample_so(make_pipeline):
    pipeline = make_pipeline("sd")
    pipeline.scheduler = KarrasVeScheduler()
    with pytest.raises(ModelError, match="cannot sample with a KarrasVeScheduler: give it another"):
        generate(pipeline, [PROMPT], [SEED], **FAST)
