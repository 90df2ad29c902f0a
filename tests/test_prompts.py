"""Lists of prompts as people have them: every dialect is read whole, or refused with file and line."""

import codecs
import io
import sys
from pathlib import Path

import pytest

from realignkit.calls import texts_of
from realignkit.errors import OptionError, PluginError, PromptError
from realignkit.named import Named
from realignkit.prompts import is_file, labels_of, prompt_set, read_texts
from realignkit.registry import default_registry

RED, BLUE = "a red cup, and a box", "a blue dog"


def read(tmp_path, name, content, **arguments):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_texts(path, **arguments)


SAME = {
    "lf.txt": f"{RED}\n{BLUE}\n",
    "cr.txt": f"{RED}\r{BLUE}",
    "mark.txt": f"\ufeff{RED}\r\n{BLUE}\r\n",
    "excel.txt": codecs.BOM_UTF16_LE + f"id\tprompt\r\n1\t{RED}\r\n2\t{BLUE}\r\n".encode("utf-16-le"),
    "big.txt": codecs.BOM_UTF16_BE + f"{RED}\n{BLUE}".encode("utf-16-be"),
    "comma.csv": f'\ufeffid,Prompt\r\n1,"{RED}"\r\n2,{BLUE}\r\n',
    "semicolon.csv": f"id;prompt\n1;{RED}\n2;{BLUE}\n",
    "tab.csv": f"id\tprompt\n1\t{RED}\n2\t{BLUE}\n",
    "cr.csv": f"id;prompt\r1;{RED}\r2;{BLUE}\r",
    "told.csv": f"sep=;\r\nid;caption\r\n1;{RED}\r\n2;{BLUE}\r\n",
    "trailing.csv": f'prompt,,\n"{RED}",,\n{BLUE},,\n',
    "a.tsv": f"Prompts\tCategory\n{RED}\tx\n{BLUE}\tx\n",
    "joined.txt": f"{RED}\n\ufeff{BLUE}\n\u200b\n",
    "pipe.csv": f"id|prompt\n1|{RED}\n2|{BLUE}\n",
    "a.jsonl": f'\ufeff{{"text": "{RED}"}}\n\n{{"text": "{BLUE}"}}\n',
    "strings.jsonl": f'"{RED}"\n"{BLUE}"\n',
    "list.json": f'["{RED}", "{BLUE}"]',
    "objects.json": f'[{{"prompt": "{RED}"}},\n {{"prompt": "{BLUE}"}}]',
    "headed.txt": f'prompt\n"{RED}"\n{BLUE}\n',
    "list.md": f"# Cups and dogs\n\n- {RED}\n- {BLUE}\n",
    "stars.txt": f"* {RED}\n\n*   {BLUE}\n",
    "numbers.txt": f"1. {RED}\n2. {BLUE}\n",
    "numbers)": f" 9) {RED}\n10) {BLUE}\n",
    "boxes.md": f"- [ ] {RED}\n- [x] {BLUE}\n",
    "comments.txt": f"# mine\n{RED}\n# more\n{BLUE}\n",
    "table.md": f"| prompt | n |\n| :--- | - |\n| {RED} | 1 |\n| {BLUE} | 2 |\n",
    "jsonl.txt": f'{{"prompt": "{RED}"}}\n{{"prompt": "{BLUE}"}}\n',
}


@pytest.mark.parametrize("name", SAME)
def test_each_form_holds_the_same_prompts(tmp_path, name):
    assert read(tmp_path, name, SAME[name]).texts == (RED, BLUE)


def test_only_line_ends_separate_prompts(tmp_path):
    content = "a red\u2028cup\na green\x0cdog\x0band\x85a car\na  wide\tbox\n"
    assert read(tmp_path, "a.txt", content).texts == ("a red cup", "a green dog and a car", "a wide box")
    assert read(tmp_path, "a.csv", 'prompt\n"a red\ncup"\n').texts == ("a red cup",)


def test_what_is_no_list_keeps_its_words(tmp_path):
    for content in ("2. world war soldier\na cup\n", "-a cup\n#art, a box - blue\n", "1984. a room\n*a* cup\n"):
        assert read(tmp_path, "a.txt", content).texts == tuple(content.splitlines())
    assert read(tmp_path, "a.csv", "prompt\n- a cup\n").texts == ("- a cup",)


def test_what_was_read_is_said(tmp_path):
    def said(name, content, **arguments):
        return read(tmp_path, name, content, **arguments).summary.replace(f"{tmp_path}/", "")

    assert said("a.txt", "a cup\n") == "read 1 prompt from a.txt"
    assert said("a.txt", "\na cup\n  \na cup") == (
        "read 2 prompts from a.txt; 2 blank lines left out; 1 of them more than once"
    )
    assert said("a.csv", "id,prompt\n1,a cup\n2,\n3\n4,a box\n") == (
        "read 2 prompts from a.csv, column 'prompt'; 2 blank lines left out"
    )
    assert said("a.md", "# Cups\n\n- a cup\n* a box\n1. a jug\n") == (
        "read 3 prompts from a.md; 1 blank line left out; the list's marks (- * 1.) left out; 1 line with # left out"
    )
    assert said("a.txt", "a\nb\nc\n", limit=2) == "read the first 2 of 3 prompts from a.txt"


def test_columns(tmp_path):
    content = "id,scene,prompt\n1,a room,a cup\n"
    assert read(tmp_path, "a.csv", content, column="SCENE").texts == ("a room",)
    with pytest.raises(OptionError, match=r"no column 'scenes'\. Its columns: .*, prompt\. Did you mean 'scene'"):
        read(tmp_path, "a.csv", content, column="scenes")
    assert read(tmp_path, "a.csv", "id,scene\n1,a room\n").texts == ("a room",)  # not the numbers
    assert read(tmp_path, "a.csv", "file,scene\na.png,room\nb.png,hall\n").texts == ("room", "hall")
    assert read(tmp_path, "a.csv", "scene\na room\na hall\n").texts == ("a room", "a hall")
    assert read(tmp_path, "a.jsonl", '{"cup": "room", "tags": ["a"]}\n').texts == ("room",)
    with pytest.raises(OptionError, match="more than one column 'prompt'"):
        read(tmp_path, "a.csv", "prompt,prompt\na,b\n")
    with pytest.raises(OptionError, match="no columns"):
        read(tmp_path, "a.txt", "a cup\n", column="prompt")


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", "id,scene,style\n1,a room,photo\n"),
        ("a.csv", "id,style,scene\n1,photo,a room\n"),
        ("a.jsonl", '{"id": 1, "scene": "a room", "style": "photo"}\n'),
    ],
)
def test_one_of_several_texts_is_chosen_by_name(tmp_path, name, content):
    with pytest.raises(OptionError, match=r"several columns with texts.*(scene, style|style, scene).*,column=s[a-z]+'"):
        read(tmp_path, name, content)
    assert read(tmp_path, name, content, column="scene").texts == ("a room",)
    assert read(tmp_path, name, content.replace("scene", "text")).texts == ("a room",)


@pytest.mark.parametrize(
    "content",
    [
        "a.png,a red cup\nb.png,a blue dog\n",
        "https://x.y/a,a red cup\nhttps://x.y/b,a blue dog\n",
        "1,a red cup\n2,a blue dog\n",
        "a red cup,3\na blue dog,4\n",
        "a red cup,photo\na blue dog,photo\n",
        "a cup\na red cup\n",
        "cup\ndog\n",
        "a cup\n",
    ],
)
def test_no_prompt_is_lost_as_a_header(tmp_path, content):
    with pytest.raises(OptionError, match=r"no column of '.*a\.csv' is called 'prompt', and its first line.*no header"):
        read(tmp_path, "a.csv", content)


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("a.txt", "a café\n".encode("latin-1"), r"no UTF-8 text \(line 1\)\. .*iconv -f WINDOWS-1252"),
        ("a.txt", "a cup\n".encode("utf-16-le"), "line 1 .*UTF-16 without a mark"),
        ("a.txt", "a cup\na caf\ufffd\n", "line 2 .*lost character"),
        ("a.csv", b"PK\x03\x04...", "a spreadsheet"),
        ("a.txt", '--prompt "a cup" --steps 20\n', "line 1 .*has settings"),
        ("a.txt", "a cup\nNegative prompt: ugly\nSteps: 20, Sampler: Euler\n", "line 2 .*has settings"),
        ("a.csv", "id,prompt\n1,a red cup, and a box\n", "line 2 .*3 cells, its header 2.*quotes"),
        ("a.csv", 'id,prompt\n1,"a red cup\n', r"no valid CSV file \(line 2"),
        ("a.csv", "a red cup and a box\na blue dog\n", "no header"),
        ("a.csv", "id,size\n1,2\n", r"no column 'prompt'\. Its columns: id, size"),
        ("a.md", "Cups:\n- a cup\n", r"line 1 .*'Cups:'.*no mark of a list"),
        ("a.md", "1. a cup\n   on a table\n2. a dog\n", r"line 2 .*no mark of a list"),
        ("a.md", "# Cups\n\n| prompt |\n| --- |\n| a cup |\n", "line 3 .*a row of a table"),
        ("a.md", "- --steps 3\n", "line 1 .*has settings"),
        ("a.jsonl", '{"prompt": "a cup"}\n{"prompt": null}\n', "line 2 .*no text as its 'prompt', but null"),
        ("a.jsonl", '{"prompt": ["a cup", "a box"]}\n', "line 1 .*but a list"),
        ("a.jsonl", '{"prompt": "a cup"}\n{"prompts": "a box"}\n', "line 2 .*has no 'prompt'"),
        ("a.jsonl", '{"prompt": "a cup"}\n{"prompt": "a box"\n', "line 2 .*no JSON"),
        ("a.jsonl", '{"prompt": "a cup", "n": NaN}\n', "line 1 .*NaN"),
        ("a.jsonl", "[" * 99_999, "line 1 .*nesting"),
        ("a.jsonl", "3\n", "line 1 .*is a number"),
        ("a.json", '{"a": "a cup"}', "holds an object"),
        ("a.json", '["a cup", 3]', "item 2 .*is a number"),
        ("a.csv", "id,prompt\n1,None\n", "line 2 .*no text as its 'prompt', but None"),
        ("a.csv", "id,prompt\n1,#N/A\n", "line 2 .*no text as its 'prompt', but #N/A"),
        ("a.csv", "id;prompt\n1;['a cup', 'a box']\n", r"line 2 .*but \['a cup'"),
        ("a.yaml", "- a cup\n", "of a kind that is not read"),
    ],
)
def test_what_cannot_be_read_names_file_and_line(tmp_path, name, content, why):
    with pytest.raises(OptionError, match=why) as caught:
        read(tmp_path, name, content)
    assert name in str(caught.value)


def test_nothing_there(tmp_path):
    for name in ("a.txt", "a.csv", "a.jsonl", "a.json"):
        assert read(tmp_path, name, "").texts == ()
    with pytest.raises(OptionError, match=r"nowhere\.txt.*UTF-8"):
        read_texts(tmp_path / "nowhere.txt")
    with pytest.raises(OptionError, match="directory"):
        read_texts(tmp_path)
    for name in ("a" * 5000, "a\0b"):
        with pytest.raises(OptionError, match="cannot be read"):
            read_texts(tmp_path / name)


def test_standard_input(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{RED}\r\n{BLUE}\n".encode())))
    read = read_texts(Path("-"))
    assert read.texts == (RED, BLUE)
    assert read.summary == "read 2 prompts from standard input"
    assert read_texts(Path("-")).texts == read.texts  # of several that ask for it, none goes without
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"id,Scene\n1,a room\n")))
    assert read_texts(Path("-"), column="scene").texts == ("a room",)


def test_an_address_is_not_fetched():
    with pytest.raises(OptionError, match=r"'https://a\.org/prompts\.txt' is an address"):
        read_texts(Path("https://a.org/prompts.txt"))


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text(f"{RED}\n{BLUE}\n")
    (tmp_path / "mine.csv").write_text("scene,caption\na room,a chair\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "micro").mkdir()  # a folder is no file of prompts
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("spec", "options", "prompts"),
    [
        ("mine.txt", {}, [RED, BLUE]),
        ("mine.txt", {"limit": 1}, [RED]),
        ("file:mine.csv,column=place", {}, "has no column 'place'"),
        ("file:mine.csv,column=scene", {}, ["a room"]),
        ("mine.csv", {}, ["a chair"]),
        ("empty.txt", {}, "there are no prompts in 'empty.txt'"),
        ("gone.txt", {}, "cannot be read"),
        ("nonsense", {}, "there is no file 'nonsense', and "),
        ("micro:train,size=x", {}, "size"),
    ],
)
def test_prompts_by_what_names_them(files, spec, options, prompts):
    registry = default_registry()
    if isinstance(prompts, str):
        with pytest.raises((OptionError, PluginError, PromptError), match=prompts):
            prompt_set(registry, spec, options)
        return
    made = prompt_set(registry, spec, options)
    assert texts_of(made) == prompts
    assert made.name == "file"


def test_the_first_option_of_a_set_needs_no_name(files):
    assert not is_file("micro")
    registry = default_registry()
    short, full = (texts_of(prompt_set(registry, f"micro:{text}")) for text in ("train,size=5", "size=5,purpose=train"))
    assert short == full
    assert len(short) == 5


def test_labels_go_with_prompts_one_to_one():
    class Labelled:
        given = ({"id": "a"}, {"id": "b", "category": "cups"})

        def __iter__(self):
            return iter(["a cup", "two cups"])

        def __len__(self):
            return 2

        def labels(self):
            return self.given

    named = Named("prompts", "labelled", Labelled())
    assert labels_of(named) == list(Labelled.given)
    assert labels_of(Named("prompts", "plain", ["a cup", "two cups"])) == [{}, {}]
    named.plugin.given = [{"id": "a"}]
    with pytest.raises(PluginError, match="2 prompts have 1 labels"):
        labels_of(named)
    named.plugin.given = [{"id": 1}, {}]
    with pytest.raises(PluginError, match="a label is no text"):
        labels_of(named)


def test_a_set_whose_option_ends_like_a_file_is_no_file():
    assert not is_file("tifa:tifa_v1.0_text_inputs.json")
    assert is_file("none/prompts.txt")
    assert is_file("C:\\prompts.txt")
