"""Running out of memory is told from other failures, and says what to do."""

from __future__ import annotations

import pytest
import torch

from realignkit.errors import ModelError, PluginError, blame, enough_memory, out_of_memory

TOO_MUCH = 2**58
"""Bytes; no machine has them."""


def take_too_much():
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def test_it_says_what_to_do():
    with (
        pytest.raises(ModelError, match=r"^tagging needs more memory than there is .*batch_size"),
        enough_memory("tagging"),
    ):
        take_too_much()
    with pytest.raises(ModelError, match="dtype and offload"), enough_memory("drawing"):
        bytearray(2**62)


@pytest.mark.parametrize(
    ("error", "about_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(2, "No such file"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory, says a text"), False),
    ],
)
def test_only_what_is_about_memory(error, about_memory):
    assert out_of_memory(error) is about_memory


def test_a_plugin_is_not_to_blame_for_it():
    with pytest.raises(ModelError, match="tagger 'big' needs more memory"), blame("tagger 'big'"):
        take_too_much()
    with pytest.raises(PluginError, match="failed: ValueError"), blame("tagger 'big'"):
        raise ValueError("no")
