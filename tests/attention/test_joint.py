"""Joint attention: the fast forms against the matrix written out."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from realignkit.attention.fast import Keys
from realignkit.attention.joint import JointMembers, joint_attention, literal_joint_attention
from realignkit.attention.modulation import DEFAULTS, modulated_similarity, region_matrix

TEXT, IMAGE, OTHER, OBJECTS = 7, 30, 3, 2
"""Tokens of each kind; the others, between text and image, are padding of neither."""


def tokens(dtype=torch.float32, *, learning=False):
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, TEXT + OTHER + IMAGE, 8)
    return [(torch.randn(shape, generator=generator) * 2).to(dtype).requires_grad_(learning) for _ in range(3)]


def members():
    """Two samples with different objects; the first leaves its background alone."""
    text, image = slice(0, TEXT), slice(TEXT + OTHER, TEXT + OTHER + IMAGE)
    queries = torch.zeros(2, TEXT + OTHER + IMAGE, OBJECTS, dtype=torch.bool)
    queries[0, 1:3, 0], queries[0, 4, 1], queries[1, 2, 1] = True, True, True
    queries[0, 12:20, 0], queries[0, 25:33, 1], queries[1, 30:, 1] = True, True, True
    amount = 0.2 + torch.arange(OBJECTS) * 0.5
    to_text, to_image = (queries * amount).sum(-1), (queries * amount).sum(-1) * 0.3
    to_text[:, text] = 0
    to_text[1, image] += 0.1
    return JointMembers(queries, (Keys(text, queries[:, text], to_text), Keys(image, queries[:, image], to_image)))


def literal(query, key, value, of, bias=None):
    """By the equations, of the same amounts."""
    everything, blocks = slice(0, query.shape[2]), []
    for kind in of.kinds:
        region = region_matrix(of.queries, kind.members)[:, None]
        score = kind.amount[:, None, :, None]
        terms = {"region": region, "weight": 1.0, "score": score, "config": DEFAULTS}
        blocks.append((everything, kind.at, partial(modulated_similarity, **terms)))
    return literal_joint_attention(query, key, value, blocks, bias)


def hidden():
    bias = torch.zeros(2, 1, 1, TEXT + OTHER + IMAGE)
    bias[..., 5:TEXT] = -1e4
    return bias


@pytest.mark.parametrize("bias", [None, hidden()])
@pytest.mark.parametrize("learning", [False, True])
def test_both_fast_forms_are_exact(bias, learning):
    states, of = tokens(learning=learning), members()
    fast, oracle = joint_attention(*states, of, bias), literal(*states, of, bias)
    torch.testing.assert_close(fast, oracle, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("learning", [False, True])
def test_image_tokens_alone_that_are_filled_up(learning):
    """A range of the row's that is that of some of its keys is no constant of the row."""
    states, both = tokens(learning=learning), members()
    of = JointMembers(both.queries, both.kinds[1:])
    torch.testing.assert_close(joint_attention(*states, of), literal(*states, of), rtol=1e-4, atol=2e-6)


def test_rows_without_an_amount_are_plain():
    states, of = tokens(), members()
    untouched = torch.ones(2, TEXT + OTHER + IMAGE, dtype=torch.bool)
    for kind in of.kinds:
        untouched &= kind.amount == 0
    difference = (joint_attention(*states, of) - F.scaled_dot_product_attention(*states)).abs().amax((1, 3))
    assert difference[untouched].max() < 1e-5 < 1e-3 < difference[~untouched].min()
    assert untouched.sum() > 20


def test_gradients_are_those_of_the_equations():
    ours, theirs = tokens(learning=True), tokens(learning=True)
    of = members()
    for states, attend in ((ours, joint_attention), (theirs, literal)):
        (attend(*states, of) ** 2).sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    of = members()
    half, exact = tokens(dtype), [state.float() for state in tokens(dtype)]
    ours, oracle = joint_attention(*half, of), literal(*exact, of)
    assert ours.dtype == dtype
    plain = F.scaled_dot_product_attention(*half).float() - F.scaled_dot_product_attention(*exact)
    assert (ours.float() - oracle).abs().max() < 4 * plain.abs().max() + 1e-3
