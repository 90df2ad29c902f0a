from __future__ import annotations

from pathlib import Path

import pytest

from realignkit.errors import OptionError
from realignkit.testing import check_plugin
from realignkit_plugins.prompts.file import FilePrompts


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeffa red book\r\n\r\n  a  yellow pen \nein grüner Bär\n".encode())
    prompts = FilePrompts(path=path)
    assert list(prompts) == ["a red book", "a yellow pen", "ein grüner Bär"]
    assert len(prompts) == 3
    assert prompts.source == "mine.txt"
    assert list(FilePrompts(path=str(path), limit=2)) == ["a red book", "a yellow pen"]


def test_csv_columns(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('\ufeffid,Prompt,kind\n1,"a cup, a bowl",list\n2,"an orange\npicture frame",wrapped\n3,,empty\n4\n')
    assert list(FilePrompts(path=path)) == ["a cup, a bowl", "an orange picture frame"]
    assert list(FilePrompts(path=path, column="kind")) == ["list", "wrapped", "empty"]
    with pytest.raises(OptionError, match=r"no column 'captions'\. Its columns: id, Prompt, kind"):
        list(FilePrompts(path=path, column="captions"))


def test_first_column_where_no_name_is_usual(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("text,n\na cat,1\n")
    assert list(FilePrompts(path=path)) == ["a cat"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00broken"])
def test_unreadable_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OptionError, match=r"mine\.txt.*UTF-8"):
        len(FilePrompts(path=path))


def test_empty_file(tmp_path: Path) -> None:
    for name in ("none.txt", "none.csv"):
        (tmp_path / name).write_text("")
        assert list(FilePrompts(path=tmp_path / name)) == []


def test_it_keeps_its_contract(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red book\na blue car\n")
    check_plugin(FilePrompts(path=str(tmp_path / "prompts.txt")))


def test_ids_of_a_table_go_with_its_prompts(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("ID,prompt\nb7,a red book\nnone,\n,a pen\np1,a blue car\n")
    assert FilePrompts(path=path).labels() == [{"id": "b7"}, {}, {"id": "p1"}]
    assert FilePrompts(path=path, limit=1).labels() == [{"id": "b7"}]
    path.write_text("id,prompt\n1,a red book\n1,a pen\n")  # says nothing of which is meant
    assert FilePrompts(path=path).labels() == [{}, {}]
    lines = tmp_path / "mine.jsonl"
    lines.write_text('{"id": 7, "prompt": "a red book"}\n')
    assert FilePrompts(path=lines).labels() == [{"id": "7"}]
    (tmp_path / "mine.txt").write_text("a red book\n")
    assert FilePrompts(path=tmp_path / "mine.txt").labels() == [{}]
