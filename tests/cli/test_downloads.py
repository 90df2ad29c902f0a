"""The sizes of downloads are those that the docs give."""

from __future__ import annotations

import re

import pytest

from realignkit.cli._downloads import GIGABYTES, with_sizes
from tests.conftest import ROOT

MODELS = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("repository", "size"), GIGABYTES.items())
def test_the_docs_say_the_same(repository, size):
    line = next(line for line in MODELS.splitlines() if f"`{repository}`" in line)
    published = re.search(r"(\d[\d.]*) GB", line.partition(f"`{repository}`")[2])
    assert published and float(published[1]) == size


def test_what_is_not_known_has_no_size():
    assert with_sizes(["Salesforce/blip-vqa-base", "a/b"]) == "Salesforce/blip-vqa-base (1.5 GB) and a/b"
    assert with_sizes([]) == ""
