"""StructureDiffusion: its attention from the formula, one stream at a time, and whole images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from realignkit import Realigner
from realignkit.errors import ModelError
from realignkit_plugins.generators.structure_diffusion import (
    StructuredAttnProcessor,
    StructureDiffusionGenerator,
    StructuredPipeline,
    streams,
    structured,
)
from tests.tiny import build_pipeline

PROMPT = "a red book and a yellow pen"
FAST = {"num_inference_steps": 3, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    build_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline()


def encoded(pipeline, text: str) -> torch.Tensor:
    tokens = pipeline.tokenizer(text, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        return pipeline.text_encoder(tokens)[0][0]


def test_streams(pipeline):
    out = streams(pipeline, PROMPT)
    whole, book, pen = (encoded(pipeline, text) for text in (PROMPT, "a red book", "a yellow pen"))
    assert out.shape == (3, *whole.shape)
    torch.testing.assert_close(out[0], whole)
    want = whole.clone()
    want[1:4] = book[1:4]  # behind the start token: a red book
    torch.testing.assert_close(out[1], want)
    want = whole.clone()
    want[5:8] = pen[1:4]
    torch.testing.assert_close(out[2], want)
    assert (out[2] - whole).abs().max() > 1e-3


def test_a_phrase_that_comes_twice_and_prompts_without_any(pipeline):
    twice = streams(pipeline, "a red book on a red book")
    assert len(twice) == 2
    torch.testing.assert_close(twice[1, 1:4], twice[1, 5:8])
    assert len(streams(pipeline, "on and on")) == 1


def test_a_phrase_with_markup_is_where_it_stands(pipeline):
    assert len(streams(pipeline, "a (red:1.3) book and a yellow pen")) == 3


def reference(attn, hidden: torch.Tensor, texts: torch.Tensor, keys: str) -> torch.Tensor:
    """One image, one head, one stream at a time."""
    Q = attn.to_q(hidden)
    d = Q.shape[-1] // attn.heads
    out = torch.zeros_like(Q)
    for h in range(attn.heads):
        part = slice(h * d, (h + 1) * d)
        for text in texts:
            K, V = attn.to_k(texts[0] if keys == "prompt" else text), attn.to_v(text)
            out[:, part] += (Q[:, part] @ K[:, part].T / d**0.5).softmax(-1) @ V[:, part] / len(texts)
    return attn.to_out[0](out)


@pytest.mark.parametrize("keys", ["phrases", "prompt"])
@pytest.mark.parametrize("guided", [False, True])
def test_attention_is_the_mean_over_streams(pipeline, keys, guided):
    attn = pipeline.unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    generator = torch.Generator().manual_seed(0)
    width, channels = attn.to_k.in_features, attn.to_q.in_features
    texts = [torch.randn(count, 6, width, generator=generator) for count in (3, 1)]
    hidden = torch.randn(2 * (1 + guided), 9, channels, generator=generator)
    given = torch.randn(len(hidden), 6, width, generator=generator)
    with torch.no_grad():
        out = StructuredAttnProcessor(texts, keys)(attn, hidden, given)
        want = [reference(attn, hidden[i], given[i : i + 1], keys) for i in range(2 * guided)]  # unconditional
        want += [reference(attn, x, text, keys) for x, text in zip(hidden[2 * guided :], texts, strict=True)]
        torch.testing.assert_close(out, torch.stack(want), rtol=1e-4, atol=1e-5)
        with pytest.raises(ModelError, match="one image per prompt"):
            StructuredAttnProcessor(texts, keys)(attn, hidden[:1], given[:1])


def test_the_unet_is_left_as_it_was(pipeline):
    before = pipeline.unet.attn_processors
    with pytest.raises(RuntimeError), structured(pipeline.unet, []):
        crossing = [name for name, processor in pipeline.unet.attn_processors.items() if processor is not before[name]]
        assert crossing and all(".attn2." in name for name in crossing)
        raise RuntimeError
    assert pipeline.unet.attn_processors == before


@pytest.mark.parametrize("keys", ["phrases", "prompt"])
def test_images(folder, keys):
    generator = StructureDiffusionGenerator(model=folder, device="cpu", keys=keys)
    assert generator.attention_family is None
    call = {"guidance_scale": 5.0, "output_type": "np", **FAST}

    def seeds():
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    ours = generator.pipeline()([PROMPT, "on and on"], generator=seeds(), **call).images
    plain = build_pipeline()([PROMPT, "on and on"], generator=seeds(), **call).images
    assert np.abs(ours[0] - plain[0]).max() > 0.01
    assert np.abs(ours[1] - plain[1]).max() < 1e-4  # without noun phrases it is the model itself


def test_a_compiled_network_draws_the_same(folder):
    call = {"guidance_scale": 5.0, "output_type": "np", **FAST}

    def draw(compiled):
        generator = StructureDiffusionGenerator(model=folder, device="cpu")
        pipeline = generator.pipeline()
        if compiled:
            pipeline.inner.unet.compile(backend="eager")
            pipeline.inner([PROMPT], generator=torch.Generator().manual_seed(1), **call)  # so that code is there
        return pipeline([PROMPT], generator=[torch.Generator().manual_seed(1)], **call).images

    assert np.abs(draw(True) - draw(False)).max() < 1e-5


def test_the_realigner_makes_images_and_refuses_to_refine(folder, registry):
    generator = StructureDiffusionGenerator(model=folder, device="cpu")
    made = {
        kind: registry.create(kind, name) for kind, name in {"tagger": "quadrants", "segmenter": "quadrants"}.items()
    }
    realigner = Realigner(generator, scorers=registry.create("scorer", "wordy"), sampling=FAST, **made)
    steps = []
    (image,) = realigner.generate([PROMPT], [1], progress=lambda *step: steps.append(step))
    assert image.size == (32, 32)
    assert steps[-1] == ("generate", 3, 3)
    with pytest.raises(ModelError, match="cannot be re-weighted"):
        realigner(PROMPT, 1)


def test_sdxl_reads_the_same_streams():
    """Its two encoders' embeddings side by side, and the prompt's pooled one as ever."""
    from tests.small_pipelines import small_pipeline
    from tests.tiny import tokenizer

    words = tokenizer()
    words.model_max_length = 24  # what these encoders read
    inner = small_pipeline("sdxl", words)
    texts = streams(inner, PROMPT)
    assert texts.shape == (3, 24, 32)
    alone = inner.encode_prompt(["a yellow pen"], do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(texts[2, 5:8], alone[0, 1:4])
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}

    def image(pipeline):
        return pipeline(prompt=[PROMPT], generator=[torch.Generator().manual_seed(1)], **call).images

    ours, plain = image(StructuredPipeline(inner, "phrases")), image(inner)
    assert ours.shape == plain.shape == (1, 16, 16, 3)
    assert np.abs(ours - plain).max() > 1e-4
