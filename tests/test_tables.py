from __future__ import annotations

import csv
import io

import pytest

from realignkit.tables import csv_text


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-a red book", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x.org"; "a")'])
def test_a_text_that_a_spreadsheet_would_compute_is_marked_as_text(text: str):
    (row,) = csv.reader(io.StringIO(csv_text([[text, "a red book"]])))
    assert row == [f"'{text}", "a red book"]


def test_numbers_and_other_texts_are_as_they_are():
    (row,) = csv.reader(io.StringIO(csv_text([[-0.5, None, 3, "-", "a - b", "it's", ""]])))
    assert row == ["-0.5", "", "3", "-", "a - b", "it's", ""]
