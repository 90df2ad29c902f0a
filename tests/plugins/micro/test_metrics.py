"""What the oracle's metric offers to ablations: single verdicts, features, and pictures to compare with."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from realignkit.errors import PluginError
from realignkit.frechet import frechet_distance
from realignkit_plugins.micro.metrics import FullyRight
from realignkit_plugins.micro.oracle import Oracle

PROMPTS = ["a red book and a yellow pen", "a blue dog", "a green cup and a white bird"]


@pytest.fixture(scope="module")
def metric():
    return FullyRight()


@pytest.fixture(scope="module")
def reference(metric):
    return metric.reference(PROMPTS, 30)


def test_reference_pictures_show_their_prompts(metric, reference):
    prompts = [PROMPTS[i % 3] for i in range(30)]
    values = metric.judge_each(reference, prompts)
    assert np.mean([value["fully_right"] for value in values]) > 0.8
    others = metric.judge_each(reference, prompts[1:] + prompts[:1])
    assert np.mean([value["fully_right"] for value in others]) < 0.2


def test_reference_pictures_are_always_the_same_and_all_different(metric, reference):
    again = FullyRight().reference(PROMPTS, 7)
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(again, reference, strict=False))
    assert len({image.tobytes() for image in reference}) == 30


def test_single_verdicts_are_those_of_the_sum(metric, reference):
    prompts = [PROMPTS[i % 2] for i in range(6)]
    whole = FullyRight()
    whole.update(reference[:6], prompts)
    each = metric.judge_each(reference[:6], prompts)
    found = whole.compute()
    for name in ("fully_right", "objects_right"):
        assert found[name] == pytest.approx(np.mean([value[name] for value in each]))
    assert metric.count == 0


def test_features_are_what_the_heads_look_at(metric, reference):
    features = metric.features(reference[:5])
    oracle = Oracle.load()
    seen = []
    handle = oracle.centres.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].mean((2, 3))))
    oracle.detect(reference[:5])
    handle.remove()
    assert features == pytest.approx(seen[0].numpy(), rel=1e-4, abs=1e-5)
    # One by one or together.
    assert np.concatenate([metric.features([image]) for image in reference[:5]]) == pytest.approx(features, abs=1e-4)


def test_worse_pictures_are_further_away(metric, reference):
    near, far = metric.features(reference[:15]), metric.features(reference[15:])
    random = np.random.default_rng(0)

    def noisy(image, share):
        noise = random.integers(0, 256, (64, 64, 3))
        return Image.fromarray(((1 - share) * np.asarray(image) + share * noise).astype(np.uint8))

    distances = [frechet_distance(near, far)]
    distances += [
        frechet_distance(metric.features([noisy(image, share) for image in reference[:15]]), far)
        for share in (0.2, 0.6)
    ]
    assert distances[0] < distances[1] < distances[2]


def test_what_it_understands(metric):
    assert metric.can_judge("A red book, a yellow pen and two blue dogs")
    assert not metric.can_judge("a metallic sphere")
    assert not metric.can_judge("a red book on a table")
    with pytest.raises(PluginError, match="one to three objects"):
        metric.reference(["a metallic sphere", "four red books"], 2)
