"""Small random models in one file, and a test that asks no network."""

from __future__ import annotations

import socket

import pytest
import torch
from safetensors.torch import save_file

from tests.plugins.generators.original import FAMILIES, networks, original


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def models():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return {family: networks(family) for family in FAMILIES}


@pytest.fixture(scope="session")
def files(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for family, parts in models.items():
        save_file(original(parts, family), folder / f"{family}.safetensors")
    return folder
