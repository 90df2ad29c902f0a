"""The attack stays near, and finds what raises the gain where the best direction is known."""

from __future__ import annotations

import torch

from realignkit_plugins.micro.train.attack import attacked


def test_a_linear_gain_is_raised_along_its_gradient():
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(3, 8, 8, generator=generator)
    images = torch.full((20, 3, 8, 8), 0.5)
    found = attacked(images, lambda x: (x * direction).sum((1, 2, 3)), 0.5, generator, steps=4) - images
    length = found.flatten(1).norm(dim=1)
    assert length.max() <= 0.5 + 1e-5
    assert length.min() < 0.2 < 0.3 < length.max()  # each has its own distance
    cosine = found.flatten(1) @ direction.flatten() / (length * direction.norm())
    assert cosine.min() > 0.9


def test_pictures_stay_pictures_and_are_reproducible():
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def run():
        return attacked(images, lambda x: x.square().sum((1, 2, 3)), 6.0, torch.Generator().manual_seed(2))

    assert run().min() >= 0
    assert run().max() <= 1
    assert torch.equal(run(), run())
    assert not run().requires_grad
