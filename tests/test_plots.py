from __future__ import annotations

import sys

import pytest

from realignkit.errors import OptionError
from realignkit.plots import check_matplotlib, columns, fonts_for, visible, wrapped

HOSTILE = "$\\frac{1}{2}$ & <b>\x07\u202e猫 \ud83d" + "x" * 60


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"pip install 'realignkit\[plots\]'"):
        check_matplotlib()


def test_nothing_in_a_text_is_unseen():
    assert visible("a\n red\tcat") == "a red cat"
    assert visible("a\x00b\u202ec\ud800d") == "a\ufffdb\ufffdc\ufffdd"
    assert visible("$x$ می\u200cخواهم") == "$x$ می\u200cخواهم"


def test_columns_count_what_is_seen():
    assert columns("cat") == 3
    assert columns("猫と本") == 6
    assert columns("e\u0301") == 1


@pytest.mark.parametrize("text", ["", "a red book and a yellow pen", HOSTILE, "猫" * 40, "a " * 50])
def test_lines_are_short_and_hold_everything(text):
    lines = wrapped(text, 12)
    assert all(columns(line) <= 12 for line in lines)
    assert "".join(lines).replace(" ", "") == visible(text).replace(" ", "")


def test_lines_break_between_words():
    assert wrapped("a red book and a yellow pen", 12) == ["a red book", "and a yellow", "pen"]


def test_fonts_say_which_characters_none_has():
    assert fonts_for(["a red cat $x$", "αβγ"]) == (["DejaVu Sans"], "")
    families, missing = fonts_for(["a \U000e0fff"])  # of no script
    assert families[0] == "DejaVu Sans" and missing == "\U000e0fff"
