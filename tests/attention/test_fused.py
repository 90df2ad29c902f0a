"""What a modulated layer asks of a GPU: a number of operations, none that waits for it; where the kernel is taken."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from realignkit.attention import fast, fused, joint
from realignkit.attention.config import ModulationConfig
from realignkit.attention.fast import Members
from realignkit.attention.joint import joint_attention
from realignkit.attention.state import ModulatedAttention
from tests.attention import test_joint
from tests.attention.test_processor import example

WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "masked_select", "nonzero", "repeat_interleave", "_unique2"}
WAITING |= {"unique_dim", "unique_consecutive"}


class Operations(TorchDispatchMode):
    """Counts what is asked of the device, views left out, and what makes the program wait for its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not func.is_view:
            self.asked[name] += 1
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in WAITING or any(each is not None and each.dtype == torch.bool for each in indices):
            self.waits[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=["kernel", "widened heads"])
def form(request, monkeypatch):
    """Each way in which a GPU computes: the kernel's launch is left out, all before and after it is not."""
    if request.param == "kernel":
        for module in (fast, joint):
            monkeypatch.setattr(module, "is_fused", lambda *_: True)
        monkeypatch.setattr(fused, "_kernel", lambda: {(1, 6): lambda *_, **__: None})
    return request.param


@pytest.mark.parametrize("cross", [False, True])
def test_a_layer_waits_for_nothing(form, cross):
    state = ModulatedAttention((example("two", (8, 8)),) * 2, ModulationConfig(), None, 4)
    state._latent = (8, 8)
    query = torch.randn(2, 3, 64, 8, dtype=torch.bfloat16)
    key = torch.randn(2, 3, state.regions[0].tokens.shape[0], 8, dtype=torch.bfloat16) if cross else query
    for _ in range(2):  # of the second call the layout is known
        state.begin(700.0, 2)
        state.attend(query, key, key, cross=cross)
        with Operations() as counted:  # another layer of the same size
            state.attend(query, key, key, cross=cross)
    assert not counted.waits
    assert counted.asked.total() <= (1 if form == "kernel" else 45), counted.asked


def test_a_joint_layer_waits_for_nothing(form):
    states, of = test_joint.tokens(torch.bfloat16), test_joint.members()
    joint_attention(*states, of)
    with Operations() as counted:
        joint_attention(*states, of)
    assert not counted.waits
    groups = sum(len(sample) for sample in of.groups)
    assert counted.asked.total() <= (1 if form == "kernel" else 90 * groups), counted.asked


def test_the_kernel_is_for_gpus():
    states = torch.zeros(1, 1, 16, 8)
    assert not fused.is_fused(states, states, states, 2)


def test_without_triton_the_slower_form_is_said_once(caplog, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(fused, "_kernel", missing)
    fused.compiles.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert not any(fused.compiles(torch.device("cpu"), torch.float32, 8) for _ in range(2))
    fused.compiles.cache_clear()
    assert [record.message.split(": ")[1] for record in caplog.records] == ["No module named 'triton'"]


def test_bits_tell_objects_apart():
    queries = torch.tensor([[[True, False, False], [False, False, False], [False, True, True]]])
    packed = Members(queries, queries[:, :2]).packed
    assert packed.queries.tolist() == [[1, 0, 6]]
    assert packed.keys.tolist() == [[1, 0]]
    assert packed.ends == (0, 2) and packed.queries.dtype == torch.int32


def test_spans_cover_all_keys():
    layout, amounts = test_joint.members().spans
    text, other = test_joint.TEXT, test_joint.OTHER
    assert layout.ends == (0, text, text + other, text + other + test_joint.IMAGE)
    assert amounts.shape[0] == 3 and not amounts[1].any() and amounts[0].any() and amounts[2].any()
