"""What patches of a picture are said to show, against a walk over their pixels."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from realignkit_plugins.micro.train import patches
from realignkit_plugins.micro.world import COLOURS, NOUNS, render, scene


def test_a_patch_is_named_after_what_covers_most_of_it():
    nouns, colours = list(NOUNS), list(COLOURS)
    for index in range(12):
        drawn = scene(43, index)
        told, masks = patches.labels(drawn), render(drawn).masks
        assert told.shape == (2, 64)
        for patch in range(64):
            top, left = 8 * (patch // 8), 8 * (patch % 8)
            pixels = Counter(
                number
                for number in range(len(drawn.things))
                for y in range(top, top + 8)
                for x in range(left, left + 8)
                if masks[number, y, x]
            )
            number, most = max(pixels.items(), key=lambda item: (item[1], -item[0]), default=(0, 0))
            if most < 0.3 * 64:
                assert told[:, patch].tolist() == [patches.NOTHING] * 2
            else:
                thing = drawn.things[number]
                assert told[:, patch].tolist() == [1 + nouns.index(thing.noun), 1 + colours.index(thing.colour)]


def test_labels_are_kept(tmp_path):
    first = patches.all_labels(43, 5, tmp_path)
    assert (patches.all_labels(43, 5, tmp_path) == first).all()
    assert len(list(tmp_path.iterdir())) == 1
    assert (first[3] == patches.labels(scene(43, 3))).all()


def test_the_head_learns_what_the_states_say():
    # States that spell out their labels: one gradient step must bring the loss down, and the class token is not asked.
    seeing = patches.Seeing(nn.Identity(), lambda x: x, width=40)
    told = torch.stack([torch.arange(20) % (len(NOUNS) + 1), torch.arange(20) % (len(COLOURS) + 1)])[None]
    hidden = torch.zeros(1, 21, 40)
    hidden[0, 1:] = torch.eye(40)[:20]
    before = seeing.patch_loss(hidden, told)
    before.backward()
    optimizer = torch.optim.SGD(seeing.parameters(), lr=5.0)
    optimizer.step()
    after = seeing.patch_loss(hidden, told)
    assert after < before
    hidden[0, 0] = 100.0
    assert seeing.patch_loss(hidden, told).item() == pytest.approx(after.item())
