"""Characters as they are meant, each with its place."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realignkit_plugins.english.plain_text import PlainText


@pytest.mark.parametrize(
    ("original", "plain"),
    [
        ("cafe\u0301", "café"),
        ("a re\u200bd cup", "a red cup"),  # zero-width space
        ("\ufeffa red cup", "a red cup"),  # byte-order mark
        ("a red \u202ecup\u202c", "a red cup"),  # direction
        ("a cu\u00adp", "a cup"),  # soft hyphen
        ("ａ ｒｅｄ ｃｕｐ，", "a red cup,"),  # full width
        ("a 𝐫𝐞𝐝 ﬁsh", "a red fish"),
        ("a red\x00 cup\x1b", "a red  cup "),
        ("½ m², a™ …", "½ m², a™ …"),
        ("👩\u200d🚀", "👩🚀"),
        ("", ""),
    ],
)
def test_plain(original: str, plain: str) -> None:
    assert PlainText.of(original).text == plain


def test_places() -> None:
    original = "a re\u200bd cafe\u0301 cup"
    plain = PlainText.of(original)
    at = plain.text.index("café")
    start, end = plain.place(at, at + 4)
    assert original[start:end] == "cafe\u0301"


@given(st.text())
def test_any_text(original: str) -> None:
    plain = PlainText.of(original)
    assert len(plain.text) == len(plain.starts) == len(plain.ends)
    assert list(plain.starts) == sorted(plain.starts)
    assert all(0 <= a < b <= len(original) for a, b in zip(plain.starts, plain.ends, strict=True))
    assert not any(unicodedata.category(character) == "Cf" for character in plain.text)
