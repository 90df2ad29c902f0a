"""Who is told that bf16 is slow, and what is computed in full precision whatever surrounds it."""

from __future__ import annotations

import logging

import pytest
import torch

from realignkit import machine
from realignkit.refl.config import ReFLConfig
from realignkit.refl.distributed import precision_of
from realignkit_plugins.loading import resolve_dtype


@pytest.fixture
def processor(monkeypatch):
    """A processor with instructions of the given names."""

    def make(*names):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
        machine.has_bf16.cache_clear()
        machine.say_once.cache_clear()

    yield make
    machine.has_bf16.cache_clear()
    machine.say_once.cache_clear()


@pytest.mark.parametrize(
    ("names", "has"),
    [
        (["avx2", "avx512_f", "avx512_bw"], False),
        (["avx512_bf16"], True),
        (["amx_bf16"], True),
        (["neon", "bf16"], True),
        ([], False),
    ],
)
def test_processors(processor, names, has):
    processor(*names)
    assert machine.has_bf16() is has
    assert (machine.slow_bf16("cpu", torch.bfloat16) is None) is has
    assert (machine.slow_bf16("cpu", "bf16") is None) is has
    for device, dtype in (("cpu", "fp32"), ("cpu", "no"), ("cpu", torch.float32), ("cuda:0", "bf16")):
        assert machine.slow_bf16(device, dtype) is None


@pytest.mark.parametrize("slower", [0.5, 3.0])
def test_how_fast_bf16_is_is_measured(monkeypatch, slower):
    now = 0.0

    def tick():
        nonlocal now
        now += slower if torch.is_autocast_enabled("cpu") else 1.0
        return now

    monkeypatch.setattr(machine.time, "perf_counter", tick)
    assert machine.bf16_speedup() == pytest.approx(1 / slower)


def test_an_older_torch_is_asked_otherwise(processor, monkeypatch):
    processor()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert machine.has_bf16() is bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def test_loading_and_training_say_one_line(processor, caplog):
    processor("avx2")
    with caplog.at_level(logging.WARNING):
        assert resolve_dtype("auto", "cpu") == resolve_dtype("fp32", "cpu") == torch.float32
        assert precision_of(ReFLConfig(), "no", torch.device("cpu")) == "no"
        assert not caplog.messages
        for _ in range(2):
            assert resolve_dtype("bf16", "cpu") == torch.bfloat16
            assert precision_of(ReFLConfig(mixed_precision="bf16"), "no", torch.device("cpu")) == "bf16"
    assert caplog.messages == [machine.SLOW_BF16]


def test_full_precision_is_full_whatever_surrounds_it():
    a = torch.full((2, 2), 1 + 2**-20)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with machine.full_precision():
            assert (a @ a).dtype == torch.float32
        assert (a @ a).dtype == torch.bfloat16
