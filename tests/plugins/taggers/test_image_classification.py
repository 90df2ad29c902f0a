"""The tagger against a plain use of transformers, on small random checkpoints saved and loaded back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from realignkit.errors import ModelError, OptionError
from realignkit.testing import check_plugin
from realignkit_plugins.taggers.image_classification import ImageClassificationTagger

LABELS = ("book", "pen, ball-point pen", "traffic_light", "desk")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def save_checkpoint(
    folder: Path, *, multi_label: bool = True, dtype: torch.dtype = torch.float32, **config: Any
) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    network = ResNetForImageClassification(
        ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            layer_type="basic",
            num_labels=len(LABELS),
            id2label=dict(enumerate(LABELS)),
            label2id={label: i for i, label in enumerate(LABELS)},
            problem_type="multi_label_classification" if multi_label else "single_label_classification",
            **config,
        )
    ).eval()
    network.to(dtype).save_pretrained(folder)
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=list(MEAN), image_std=list(STD))
    processor.save_pretrained(folder)
    return network.float()


def make_images(count: int, size: tuple[int, int] = (32, 32)) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def expected_logits(network: Any, images: list[Image.Image]) -> torch.Tensor:
    pixels = torch.stack([torch.from_numpy(np.asarray(image, dtype=np.float32) / 255) for image in images])
    pixels = ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return network(pixels).logits


@pytest.mark.parametrize("multi_label", [True, False])
def test_equals_the_network(tmp_path: Path, multi_label: bool) -> None:
    network = save_checkpoint(tmp_path, multi_label=multi_label)
    images = make_images(5)
    logits = expected_logits(network, images)
    want = logits.sigmoid() if multi_label else logits.softmax(-1)
    tagger = ImageClassificationTagger(model=str(tmp_path), threshold=0, batch_size=2, device="cpu")
    assert torch.allclose(tagger.probabilities(images), want, atol=1e-6)
    answer = tagger(images)
    assert len(answer) == 5
    for tags, row in zip(answer, want, strict=True):
        names = ("book", "pen", "traffic light", "desk")
        by_confidence = sorted(zip(names, row.tolist(), strict=True), key=lambda pair: -pair[1])
        assert [tag.name for tag in tags] == [name for name, _ in by_confidence]
        assert [tag.confidence for tag in tags] == pytest.approx([p for _, p in by_confidence], abs=1e-6)


def test_thresholds(tmp_path: Path) -> None:
    network = save_checkpoint(tmp_path)
    [image] = make_images(1)
    p = expected_logits(network, [image]).sigmoid()[0].tolist()
    own = [p[0] - 0.01, p[1] + 0.01, p[2] - 0.01, p[3] + 0.01]
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tag_thresholds": own}))
    tagger = ImageClassificationTagger(model=str(tmp_path))
    assert {tag.name for tag in tagger([image])[0]} == {"book", "traffic light"}
    by_option = ImageClassificationTagger(model=str(tmp_path), threshold=sorted(p)[2] - 1e-4)
    assert len(by_option([image])[0]) == 2
    assert len(ImageClassificationTagger(model=str(tmp_path), threshold=0, top_k=3)([image])[0]) == 3
    (tmp_path / "config.json").write_text(json.dumps({**config, "tag_thresholds": own[:3]}))
    with pytest.raises(ModelError, match="4 labels but 3 tag_thresholds"):
        ImageClassificationTagger(model=str(tmp_path))([image])


def test_default_thresholds(tmp_path: Path) -> None:
    images = make_images(3)
    for multi_label, least in ((True, 0.5), (False, 0.1)):
        network = save_checkpoint(tmp_path / str(multi_label), multi_label=multi_label)
        logits = expected_logits(network, images)
        want = (logits.sigmoid() if multi_label else logits.softmax(-1)) >= least
        answer = ImageClassificationTagger(model=str(tmp_path / str(multi_label)))(images)
        assert [len(tags) for tags in answer] == want.sum(-1).tolist()


def test_half_precision_checkpoint_runs_in_float32(tmp_path: Path) -> None:
    network = save_checkpoint(tmp_path, dtype=torch.float16)
    tagger = ImageClassificationTagger(model=str(tmp_path), device="cpu")
    [image] = make_images(1)
    probabilities = tagger.probabilities([image])
    assert probabilities.dtype == torch.float32
    assert torch.allclose(probabilities, expected_logits(network, [image]).sigmoid(), atol=1e-6)


def test_any_mode_and_size(tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture) -> None:
    save_checkpoint(tmp_path)
    grey, wide = make_images(1)[0].convert("L"), make_images(1, (20, 70))[0]
    tagger = ImageClassificationTagger(model=str(tmp_path), threshold=0)
    assert [len(tags) for tags in tagger([grey, wide, wide.convert("RGBA")])] == [4, 4, 4]
    assert tagger([]) == []
    assert not recwarn.list
    assert not caplog.records


def test_bad_checkpoints(tmp_path: Path) -> None:
    images = make_images(1)
    with pytest.raises(OptionError, match="model"):
        ImageClassificationTagger()
    with pytest.raises(ModelError, match="no folder"):
        ImageClassificationTagger(model=str(tmp_path / "nowhere"))(images)
    with pytest.raises(ModelError, match=r"cannot be loaded.*folder is complete"):
        ImageClassificationTagger(model=str(tmp_path))(images)
    save_checkpoint(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        ImageClassificationTagger(model=str(tmp_path))(images)


def test_checkpoint_without_its_head_is_refused(tmp_path: Path) -> None:
    network = save_checkpoint(tmp_path)
    network.resnet.save_pretrained(tmp_path)  # the same folder, now with the backbone's weights alone
    with pytest.raises(ModelError, match="no weights for"):
        ImageClassificationTagger(model=str(tmp_path))(make_images(1))


def test_nan_is_reported(tmp_path: Path) -> None:
    network = save_checkpoint(tmp_path)
    with torch.no_grad():
        network.classifier[1].bias.fill_(math.nan)
    network.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="NaN"):
        ImageClassificationTagger(model=str(tmp_path))(make_images(1))


def test_it_keeps_its_contract(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    check_plugin(ImageClassificationTagger(model=str(tmp_path), threshold=0.1, device="cpu"))
