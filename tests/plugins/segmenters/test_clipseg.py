"""The segmenter against a plain use of transformers' CLIPSeg, on a small random checkpoint saved and loaded back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError
from realignkit.testing import check_plugin
from realignkit_plugins.segmenters.clipseg import CLIPSegSegmenter
from tests.tiny import MAX_TOKENS, tokenizer

SIDE = 32
PHRASES = ["a red book", "yellow pen", "the desk and a sign"]


def build() -> Any:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    words = tokenizer()
    torch.manual_seed(1)
    layer = {"intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config={
            **layer,
            "hidden_size": 16,
            "vocab_size": len(words),
            "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": words.bos_token_id,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": words.pad_token_id,
        },
        vision_config={**layer, "hidden_size": 16, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    network = CLIPSegForImageSegmentation(config).eval()
    with torch.no_grad():  # untrained, its answers are extreme and hardly depend on the phrase
        network.decoder.transposed_convolution.weight.mul_(0.4)
        network.decoder.film_mul.weight.mul_(100)
        network.decoder.film_add.weight.mul_(100)
    return network


@pytest.fixture(scope="module")
def network() -> Any:
    return build()


@pytest.fixture(scope="module")
def folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clipseg")
    network.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    # With a centre crop, as CLIP has it; a segmenter must not lose the image's borders to it.
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE + 8}, crop_size={"height": SIDE, "width": SIDE}, resample=2
    ).save_pretrained(folder)
    return str(folder)


def picture(height: int = SIDE, width: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8))


def expected(network: Any, image: Image.Image, phrases: list[str]) -> torch.Tensor:
    """Image and phrase one at a time through the whole model."""
    words = tokenizer()
    square = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    mean, std = torch.tensor((0.48145466, 0.4578275, 0.40821073)), torch.tensor((0.26862954, 0.26130258, 0.27577711))
    pixels = (torch.from_numpy(np.asarray(square, dtype=np.float32) / 255) - mean) / std
    rows = []
    for phrase in phrases:
        tokens = words([phrase], return_tensors="pt")
        with torch.no_grad():
            logits = network(pixel_values=pixels.permute(2, 0, 1)[None], **tokens).logits
        logits = logits.reshape(1, 1, SIDE, SIDE)
        rows.append(torch.nn.functional.interpolate(logits, size=(image.height, image.width), mode="bilinear")[0, 0])
    return torch.stack(rows).sigmoid()


@pytest.mark.parametrize("size", [(SIDE, SIDE), (48, 80), (20, 17)])
def test_equals_the_network(network: Any, folder: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    got = CLIPSegSegmenter(model=folder, device="cpu").probabilities(image, PHRASES)
    want = expected(network, image, PHRASES)
    assert got.shape == (3, *size)
    assert torch.allclose(got, want, atol=1e-4)
    assert (want.std(dim=0) > 0.01).any(), "the phrases must matter for this test to mean anything"


def test_one_phrase_alone(network: Any, folder: str) -> None:
    got = CLIPSegSegmenter(model=folder).probabilities(picture(), PHRASES[:1])
    assert torch.allclose(got, expected(network, picture(), PHRASES[:1]), atol=1e-4)


def test_masks_by_brute_force(network: Any, folder: str) -> None:
    image = picture(24, 40)
    p = expected(network, image, PHRASES).numpy()
    threshold = float(np.median(p))
    alone = CLIPSegSegmenter(model=folder, threshold=threshold, min_area=0, exclusive=False)(image, PHRASES)
    rivals = CLIPSegSegmenter(model=folder, threshold=threshold, min_area=0)(image, PHRASES)
    taken = np.zeros((24, 40), dtype=int)
    for i, (one, other) in enumerate(zip(alone, rivals, strict=True)):
        own = p[i] >= threshold
        won = own & (p[i] == p.max(axis=0))
        for found, want in ((one, own), (other, won)):
            if not want.any():
                assert found is None
                continue
            assert found is not None
            mask, confidence = found
            assert mask.shape == (24, 40)
            assert mask.dtype == np.bool_
            assert (mask != want).mean() < 0.005  # a pixel may sit on the threshold
            assert confidence == pytest.approx(p[i][want].mean(), abs=1e-3)
        if other is not None:
            taken += other[0]
    assert taken.max() == 1
    assert ((taken == 1) == (p.max(axis=0) >= threshold)).mean() > 0.995


def test_a_phrase_given_twice_gets_the_same_mask_twice(folder: str) -> None:
    first, other, again = CLIPSegSegmenter(model=folder, threshold=0.0, min_area=0)(
        picture(), [PHRASES[0], PHRASES[1], PHRASES[0]]
    )
    single = CLIPSegSegmenter(model=folder, threshold=0.0, min_area=0)(picture(), PHRASES[:2])
    for got, want in zip((first, other, again), (single[0], single[1], single[0]), strict=True):
        assert (got is None) == (want is None)
        if got is not None and want is not None:
            assert (got[0] == want[0]).all()
            assert got[1] == want[1]


def test_not_found(network: Any, folder: str) -> None:
    p = expected(network, picture(), PHRASES[:1])
    assert CLIPSegSegmenter(model=folder, threshold=1.0)(picture(), PHRASES) == [None] * 3
    above = float(p.quantile(0.9))  # a tenth of the pixels
    assert CLIPSegSegmenter(model=folder, threshold=above, min_area=0.2)(picture(), PHRASES[:1]) == [None]
    assert CLIPSegSegmenter(model=folder, threshold=above, min_area=0.05)(picture(), PHRASES[:1]) != [None]
    assert CLIPSegSegmenter(model=folder)(picture(), []) == []


def test_phrase_over_the_text_encoders_limit(folder: str) -> None:
    assert CLIPSegSegmenter(model=folder).probabilities(picture(), ["red book " * 100]).isfinite().all()


def test_bad_checkpoints(network: Any, folder: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no folder"):
        CLIPSegSegmenter(model=str(tmp_path / "nowhere"))(picture(), PHRASES)
    with pytest.raises(ModelError, match="cannot be loaded"):
        CLIPSegSegmenter(model=str(tmp_path))(picture(), PHRASES)
    network.clip.text_model.save_pretrained(tmp_path / "text")
    with pytest.raises(ModelError, match="not CLIPSeg"):
        CLIPSegSegmenter(model=str(tmp_path / "text"))(picture(), PHRASES)
    broken = build()
    with torch.no_grad():
        broken.decoder.film_add.bias.fill_(math.nan)
    for file in Path(folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="NaN"):
        CLIPSegSegmenter(model=str(tmp_path))(picture(), PHRASES)


def test_it_keeps_its_contract(folder: str) -> None:
    check_plugin(CLIPSegSegmenter(model=folder, device="cpu"))
