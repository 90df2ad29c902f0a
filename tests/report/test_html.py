from __future__ import annotations

import base64
import dataclasses
import io
import shlex
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from realignkit.attention.config import ModulationConfig
from realignkit.cli._settings import known_options, parse
from realignkit.errors import OutputError
from realignkit.realigner import Realigner
from realignkit.registry import default_registry
from realignkit.report import overlay, write_index, write_report
from realignkit.types import Layout, Likelihood, LocalCaption, Segment, Tag

HOSTILE = """<script>alert("x")</script>'" onerror='y' & {{ 7*7 }} </title></style> <img src=x>"""
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its elements with attributes, its text, and a check that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def read(path):
    return Page(path.read_text(encoding="utf-8"))


def image_of(attributes):
    head, data = attributes["src"].split(",", 1)
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def hostile(realignment):
    caption = LocalCaption(HOSTILE, HOSTILE, Likelihood.UNLIKELY)
    return dataclasses.replace(
        realignment,
        prompt=HOSTILE,
        tags=(Tag(HOSTILE, 0.5),),
        captions=(caption,),
        layout=Layout((Segment(caption, np.ones((64, 64), dtype=bool)),)),
        conditioning=HOSTILE,
        plugins={"generator": HOSTILE, "tagger": HOSTILE, "scorer": HOSTILE, "segmenter": HOSTILE},
        notes=(HOSTILE,),
        timings={HOSTILE: 1.0},
        settings={HOSTILE: HOSTILE, "list": [HOSTILE]},
        versions={HOSTILE: HOSTILE},
    )


def test_the_report_embeds_the_very_images(realignment, tmp_path):
    after, before, coarse, layout, refined = map(image_of, read(write_report(realignment, tmp_path)).all("img"))
    assert np.array_equal(coarse, realignment.coarse) and np.array_equal(before, realignment.coarse)
    assert np.array_equal(layout, overlay(realignment.coarse, realignment.layout))
    assert np.array_equal(refined, realignment.refined) and np.array_equal(after, realignment.refined)


def test_the_report_needs_nothing_else(realignment, tmp_path):
    page = read(write_report(realignment, tmp_path))
    assert not page.all("script") and not page.all("link")
    references = [a[k] for _, a in page.elements for k in ("src", "href", "srcset") if k in a]
    assert all(reference.startswith("data:") for reference in references)
    assert "url(" not in "".join(page.text) and "@import" not in "".join(page.text)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_says_everything(realignment, tmp_path):
    text = " ".join(" ".join(read(write_report(realignment, tmp_path)).text).split())
    for caption in realignment.captions:
        assert caption.caption in text
    for expected in ("s = 2", "s = 0.5", "s = 0 ", "0.98", "no mask for 'desk'", "1.25 s", "modulation.p", "lexical"):
        assert expected in text
    # The desk in the table and in the notes; a banana is unlikely, so nobody looked for its mask.
    assert text.count("no mask") == 2


PROMPT = 'it\'s a "red" book; $(rm) & a pen'


def commands(realignment, folder):
    text = Page(write_report(realignment, folder).read_text(encoding="utf-8")).text
    return [shlex.split(data) for data in text if data.startswith("realignkit run")]


def test_the_command_asks_for_the_same_again(realignment, tmp_path):
    short, _ = commands(dataclasses.replace(realignment, prompt=PROMPT), tmp_path)
    assert short == [
        *("realignkit", "run", PROMPT, "--seed", "42", "--model", "micro"),
        *("--tagger", "micro", "--scorer", "lexical", "--segmenter", "micro"),
    ]


def test_the_full_command_carries_every_setting_and_no_secret(realignment, tmp_path):
    settings = {
        "plugins": {"generator": "micro", "tagger": "micro", "segmenter": "micro", "scorer": "gpt4,lexical"},
        "modulation": {"power": 1.5, "size_term": "none", "isolate_phrases": False, "strength": None},
        "sampling": {"negative_prompt": "5"},
        "segment_unlikely": True,
        "generator": {"companions": {"tagger": "micro"}, "variant": None},
        "tagger": {"threshold": 0.25},
        "scorer": {"gpt4": {"api_key": "***", "retries": 2}, "lexical": {}},
        "coarse": "given",
    }
    _, full = commands(dataclasses.replace(realignment, settings=settings), tmp_path)
    assert full[full.index("--scorer") + 1] == "gpt4,lexical"
    assert full[full.index("--coarse") + 1] == "coarse.png"
    given = [full[i + 1] for i, word in enumerate(full) if word == "--set"]
    known = {
        "modulation": ["power", "size_term", "isolate_phrases", "strength"],
        "sampling": ["negative_prompt"],
        "realigner": ["segment_unlikely"],
        "tagger": ["threshold"],
        "scorer": ["api_key", "gpt4.api_key", "gpt4.retries"],
    }
    # Read back by the command line's own parser: types survive, the text "5" is no number.
    parsed = parse(given, known)
    assert parsed.modulation == {"power": 1.5, "size_term": "none", "isolate_phrases": False}
    assert parsed.sampling == {"negative_prompt": "5"}
    assert parsed.realigner == {"segment_unlikely": True}
    assert parsed.options == {"tagger": {"threshold": 0.25}, "scorer": {"gpt4.retries": 2}}


def test_the_full_command_of_the_embedded_model_is_one_that_the_command_line_takes(realignment, tmp_path):
    realigner = Realigner.from_pretrained("micro", options={"tagger": {"threshold": 0.25}})
    _, full = commands(dataclasses.replace(realignment, settings=realigner.settings), tmp_path)
    given = [full[i + 1] for i, word in enumerate(full) if word == "--set"]
    known = known_options(default_registry(), "micro", {"tagger": None, "scorer": None, "segmenter": None})
    parsed = parse(given, known)
    assert parsed.options["tagger"]["threshold"] == 0.25
    assert ModulationConfig(**parsed.modulation) == realigner.modulation
    again = Realigner.from_pretrained("micro", options=parsed.options, modulation=parsed.modulation)
    assert again.settings["tagger"] == realigner.settings["tagger"]


def test_a_prompt_like_an_option_stays_a_prompt(realignment, tmp_path):
    short = commands(dataclasses.replace(realignment, prompt="--help"), tmp_path)[0]
    assert short[-2:] == ["--", "--help"]
    assert short[:4] == ["realignkit", "run", "--seed", "42"]


def test_hostile_text_stays_text(realignment, tmp_path):
    calm = read(write_report(hostile(dataclasses.replace(realignment)), tmp_path / "a"))
    harmless = dataclasses.replace(hostile(realignment), prompt="x")
    baseline = read(write_report(harmless, tmp_path / "b"))
    assert [tag for tag, _ in calm.elements] == [tag for tag, _ in baseline.elements]
    assert not calm.all("script")
    assert len(calm.all("img")) == 5
    allowed = {"src", "width", "height", "alt", "class"}
    assert all(set(attributes) <= allowed for attributes in calm.all("img"))
    assert calm.all("img")[0]["alt"].endswith(HOSTILE)
    assert "".join(calm.text).count(HOSTILE) >= 8


def test_every_image_has_a_text_alternative(realignment, tmp_path):
    alternatives = [image["alt"] for image in read(write_report(realignment, tmp_path)).all("img")]
    assert "a red book (certain)" in alternatives[3]
    assert all(realignment.prompt in alternatives[i] for i in (0, 1, 2, 4))


@pytest.mark.parametrize(("width", "crisp"), [(64, True), (512, False)])
def test_only_small_images_keep_their_pixels(realignment, tmp_path, width, crisp):
    big = Image.new("RGB", (width, width))
    page = read(write_report(dataclasses.replace(realignment, coarse=big, refined=big), tmp_path))
    assert [image.get("class") == "small" for image in page.all("img")] == [crisp, crisp, crisp, False, crisp]


def test_before_and_after_come_first_with_a_slider_for_keys(realignment, tmp_path):
    page = read(write_report(realignment, tmp_path))
    tags = [tag for tag, _ in page.elements]
    assert tags.index("input") < tags.index("table")
    (slider,) = page.all("input")
    assert (slider["type"], slider["min"], slider["max"]) == ("range", "0", "100")
    assert "picture before" in slider["aria-label"]
    assert [image["alt"].partition(":")[0] for image in page.all("img")[:2]] == ["after", "before"]
    assert any("“a red book” and “a yellow pen” in place" in text for text in page.text)


def test_a_layout_that_was_changed_by_hand_is_not_said_to_be_repeatable(realignment, tmp_path):
    edited = dataclasses.replace(realignment, settings={**realignment.settings, "layout": "edited"})
    words = "no command repeats"
    assert words in "".join(read(write_report(edited, tmp_path)).text)
    assert words not in "".join(read(write_report(realignment, tmp_path)).text)


def test_a_realignment_without_tags_or_timings_still_reports(realignment, tmp_path):
    bare = dataclasses.replace(
        realignment, tags=(), captions=(), layout=Layout(), timings={}, settings={}, versions={}, plugins={}, notes=()
    )
    text = " ".join(read(write_report(bare, tmp_path)).text)
    assert "recognised nothing" in text
    assert "Nothing was segmented" in text


def test_a_folder_that_cannot_be_written_is_an_output_error(realignment, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_report(realignment, tmp_path / "file")


def test_the_index_links_every_report(realignment, tmp_path):
    names = ["0-a red book", "1-50%#?"]
    for name in names:
        realignment.save(tmp_path / name)
        write_report(realignment, tmp_path / name)
    page = read(write_index(tmp_path, [(names[0], realignment), (names[1], hostile(realignment))]))
    links = [unquote(a["href"]) for a in page.all("a")] + [unquote(i["src"]) for i in page.all("img")]
    assert len(links) == 6
    assert all((tmp_path / link).is_file() for link in links)
    assert HOSTILE in "".join(page.text)
    assert not page.all("script")
