"""What goes wrong while a pipeline draws, in words."""

from __future__ import annotations

import pytest
import torch

from realignkit.attention.drawing import NotFiniteError
from realignkit.attention.sampler import generate, refine
from realignkit.errors import ModelError
from tests.attention.test_sampler import EMPTY, FAST


def half_network(pipeline):
    pipeline.unet.half()


def half_decoder(pipeline):
    pipeline.vae.half()


def double_encoder(pipeline):
    pipeline.text_encoder.double()


@pytest.mark.parametrize("way", [half_network, half_decoder, double_encoder])
def test_precisions_that_do_not_go_together(make_pipeline, way):
    pipeline = make_pipeline("sd")
    way(pipeline)
    for draw in (generate, lambda *a, **o: refine(*a[:2], [EMPTY], [0], **o)):
        with pytest.raises(ModelError, match=r"precisions .*text_encoder float\d\d, unet float.*pipeline\.to"):
            draw(pipeline, ["a cat"], [0], **FAST)
    pipeline.to(torch.float32)
    assert generate(pipeline, ["a cat"], [0], **FAST)  # as the message says


def test_layers_offloaded_to_the_cpu_by_the_cpu(make_pipeline):
    """Where accelerate cannot do it; where it can, the picture is drawn."""
    pipeline = make_pipeline("sd")
    pipeline.enable_sequential_cpu_offload(device="cpu")
    try:
        assert generate(pipeline, ["a cat"], [0], **FAST)
    except ModelError as error:
        assert "offloaded, which needs a GPU" in str(error)


def test_weights_that_were_never_loaded(make_pipeline):
    pipeline = make_pipeline("sd")
    pipeline.unet.to("meta")
    with pytest.raises(ModelError, match="are not in memory"):
        generate(pipeline, ["a cat"], [0], **FAST)


@pytest.mark.parametrize("guidance_scale", [1e30, 1e38])
def test_a_guidance_scale_that_overflows(make_pipeline, guidance_scale):
    with pytest.raises(ModelError, match=rf"guidance_scale of {guidance_scale:g}".replace("+", r"\+")) as caught:
        generate(make_pipeline("sd"), ["a cat"], [0], guidance_scale=guidance_scale, **FAST)
    assert "checkpoint" not in str(caught.value)


def test_a_damaged_checkpoint_is_still_blamed(make_pipeline):
    pipeline = make_pipeline("sd")
    pipeline.unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(NotFiniteError, match="checkpoint is damaged"):
        generate(pipeline, ["a cat"], [0], guidance_scale=7.5, **FAST)


def test_any_other_failure_is_named_with_its_reason(make_pipeline):
    pipeline = make_pipeline("sd")

    def forward(*_, **__):
        raise ValueError("the first line\nand the second")

    pipeline.unet.forward = forward
    with pytest.raises(
        ModelError, match=r"failed while drawing \(ValueError: the first line and the second\): try whether"
    ) as caught:
        generate(pipeline, ["a cat"], [0], **FAST)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("kind", [RuntimeError, KeyError, MemoryError])
def test_what_the_caller_raises_while_watching_is_the_callers(make_pipeline, kind):
    def progress(done: int, total: int) -> None:
        raise kind("enough")

    with pytest.raises(kind, match="enough"):
        generate(make_pipeline("sd"), ["a cat"], [0], progress=progress, **FAST)
