"""The GPU's kernel in Triton's interpreter, against the equations. :mod:`tests.attention.test_kernel` runs this."""

from __future__ import annotations

import pytest
import torch

from realignkit.attention import fast, joint
from realignkit.attention.fast import Members, fast_attention
from realignkit.attention.joint import joint_attention
from tests.attention import test_fast, test_joint

TOLERANCE = {torch.float32: 2e-5, torch.float16: 6e-3}  # the interpreter multiplies no bfloat16


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The kernel computes what is on the CPU too."""
    for module in (fast, joint):
        monkeypatch.setattr(module, "is_fused", lambda *_: True)


@pytest.mark.parametrize("mask", ["none", "hidden", "rows", "shared"])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("sizes", [(2, 2, 70, 77, 3), (1, 1, 128, 128, 2)])
def test_equals_literal(sizes, dtype, mask):
    rng = torch.Generator().manual_seed(0)
    query, key, value, queries, keys, amount = test_fast.layer(*sizes, torch.float32, rng)
    query, key, value = (each.to(dtype) for each in (query, key, value))
    bias, members = test_fast.masks(*sizes[:4], rng)[mask], Members(queries, keys)
    amount[:, :64] *= torch.arange(sizes[0])[:, None]  # one sample begins with rows that have nothing
    literal = test_fast.literally(query, key, value, members, bias, weight=1.0, score=amount[:, None, :, None])
    result = fast_attention(query, key, value, members, amount, bias)
    assert result.dtype == dtype
    torch.testing.assert_close(result, literal, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_heads_as_networks_lay_them_out():
    """States of (batch, N, heads, d), and heads that are as wide as a block."""
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 64, 3, 16, generator=rng).transpose(1, 2) for _ in range(3))
    _, _, _, queries, keys, amount = test_fast.layer(2, 3, 64, 64, 2, torch.float32, rng)
    members = Members(queries, keys)
    literal = test_fast.literally(query, key, value, members, weight=1.0, score=amount[:, None, :, None])
    result = fast_attention(query, key, value[..., :7], members, amount)
    torch.testing.assert_close(result, literal[..., :7], rtol=2e-5, atol=2e-5)
    assert result.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("bias", [None, test_joint.hidden()])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_joint_equals_literal(bias, dtype):
    states, of = test_joint.tokens(dtype), test_joint.members()
    exact = [state.float() for state in states]
    result, oracle = joint_attention(*states, of, bias), test_joint.literal(*exact, of, bias)
    torch.testing.assert_close(result.float(), oracle, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
