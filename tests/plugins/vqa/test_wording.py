from __future__ import annotations

import pytest

from realignkit_plugins.vqa.wording import short


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Yes.", "Yes"), ('\n "two"\nBecause …', "two"), ("**red**", "red"), ("", ""), ("St. Paul", "St. Paul")],
)
def test_what_counts_of_an_answer(text, answer):
    assert short(text) == answer
