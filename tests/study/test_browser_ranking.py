"""Pictures ranked in a real Chromium: skipped where there is none, or no playwright (``make test-browser``)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from realignkit.evaluation.pictures import read_pictures
from realignkit.study.answers import Answers
from realignkit.study.make import StudyOptions, make_study, named_systems
from tests.conftest import HANGS
from tests.study.browser import (
    PHONE,
    card,
    contrast,
    count,
    drag,
    letters,
    order,
    saved,
    thumb,
    touch_drag,
)
from tests.study.serving import served

pytestmark = pytest.mark.browser


def test_ranked_with_the_mouse(visit, running):
    folder, study, address = running
    page = visit(address)
    names = letters(page)
    page.click(card("B"))
    drag(page, card("C"), "#places")  # into the list
    assert order(page) == ["B", "C"]
    drag(page, card("A"), thumb("B"), 0.02)  # before the first
    assert order(page) == ["A", "B", "C"]
    drag(page, thumb("C"), thumb("A"), 0)  # and another before that
    assert order(page) == ["C", "A", "B"]
    drag(page, thumb("B"), thumb("A"))  # on another: level
    assert order(page) == ["C", "AB"]
    assert page.locator(f"{card('B')} .rank").inner_text() == "2"
    page.click("#next")
    saved(page)
    (answer,) = Answers(folder, study).read()
    assert answer.ranking == [[names["C"]], [names["A"], names["B"]]]
    assert answer.shown == list(names.values())
    assert answer.question == "alignment"


def test_ranked_with_keys_alone(visit, running):
    folder, study, address = running
    page = visit(address, begin=False)
    while page.evaluate("document.activeElement.id") != "begin":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    names = letters(page)
    for key in ("c", "a", "b"):
        page.keyboard.press(key)
    assert order(page) == ["C", "A", "B"]
    page.keyboard.press("ArrowLeft")
    assert order(page) == ["C", "B", "A"]
    page.keyboard.press("1")
    assert order(page) == ["B", "C", "A"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("=")
    assert order(page) == ["CB", "A"]
    page.keyboard.press("Delete")
    assert order(page) == ["C", "A"]
    page.keyboard.press("Enter")  # not complete: nothing happens
    assert count(page) == "1 of 10"
    page.keyboard.press("Backspace")
    assert order(page) == ["CB", "A"]
    page.keyboard.press("Control+z")
    assert order(page) == ["C", "B", "A"]
    page.keyboard.press("Enter")
    saved(page)
    (answer,) = Answers(folder, study).read()
    assert answer.ranking == [[names["C"]], [names["B"]], [names["A"]]]
    assert count(page) == "2 of 10"


def test_the_list_can_be_worked_with_tab_and_arrows(visit, running):
    _, _, address = running
    page = visit(address)
    for key in "abc":
        page.keyboard.press(key)
    page.focus(thumb("C"))
    page.keyboard.press("ArrowLeft")
    assert order(page) == ["A", "C", "B"]
    assert page.evaluate("document.activeElement.innerText.trim()") == "C"  # focus goes with the picture
    page.click("[data-do=better]")
    assert order(page) == ["C", "A", "B"]
    assert page.get_attribute(card("C"), "aria-label") == "Picture C, place 1"


def test_a_phone_of_390_pixels(visit, running):
    folder, study, address = running
    page = visit(address, begin=False, **PHONE)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate(width) <= 390
    page.tap("#begin")
    page.wait_for_selector(".card")
    names = letters(page)
    for letter in "CAB":
        page.tap(card(letter))
    assert order(page) == ["C", "A", "B"]
    assert page.evaluate(width) <= 390
    for selector in ("#next", "#undo", "#back", ".card", "[data-do=better]", ".zoom", ".thumb"):
        box = page.locator(selector).first.bounding_box()
        assert min(box["width"], box["height"]) >= 38, selector  # what a finger hits
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    touch_drag(page, thumb("B"), thumb("C"), 0.02)
    assert order(page) == ["B", "C", "A"]
    touch_drag(page, thumb("A"), thumb("C"), 0.02)  # one that is not picked
    assert order(page) == ["B", "A", "C"]
    while count(page) == "1 of 10":  # a tap at the very moment that a drag ends is taken for a part of it
        page.tap("#next")
    saved(page)
    (answer,) = Answers(folder, study).read()
    assert answer.ranking == [[names["B"]], [names["A"]], [names["C"]]]


def test_pictures_can_be_seen_large(visit, running):
    _, _, address = running
    page = visit(address)
    page.click(".zoom >> nth=1")
    assert page.is_visible("#large img")
    assert page.get_attribute("#large img", "src").endswith(f"{letters(page)['B']}.png")
    page.keyboard.press("b")  # keys rank nothing meanwhile
    page.keyboard.press("Escape")
    assert not page.is_visible("#large")
    assert order(page) == []


def test_clicks_and_then_enter(visit, running):
    _, _, address = running
    page = visit(address)
    for letter in "ACB":
        page.click(card(letter))
    assert page.evaluate("document.activeElement.className").startswith("card")
    page.keyboard.press("Enter")
    assert count(page) == "2 of 10"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(visit, running, scheme):
    _, _, address = running
    page = visit(address, color_scheme=scheme)
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert contrast(ink, paper) >= 7
    quiet = page.evaluate("getComputedStyle(document.getElementById('kind')).color")
    assert contrast(quiet, paper) >= 4.5
    page.keyboard.press("a")
    button = "getComputedStyle(document.getElementById('next'))"
    assert contrast(page.evaluate(f"{button}.color"), page.evaluate(f"{button}.backgroundColor")) >= 4.5


def test_what_the_docs_show(visit, tmp_path, quick):
    """The page with pictures of the micro world, 150 kB at most; ``SCREENSHOT=docs/images/study.png`` keeps it."""
    (tmp_path / "prompts.txt").write_text("a yellow car and a blue bench\n")
    seeds = [option for seed in range(3) for option in ("--seed", str(seed))]
    drawing = [quick / "realignkit", "eval", "--model", "micro", "--prompts", "prompts.txt", *seeds, "--out", "drawn"]
    subprocess.run(drawing, cwd=tmp_path, check=True, capture_output=True, timeout=HANGS)
    pictures = read_pictures(tmp_path / "drawn")
    for number, picture in enumerate(sorted(pictures, key=lambda picture: picture.seed)):
        (tmp_path / f"{number}.json").write_text(json.dumps({picture.prompt: str(picture.path)}))
    systems = named_systems([str(tmp_path / f"{seed}.json") for seed in range(3)])
    study = make_study(systems, tmp_path / "study", StudyOptions(prompts=1, checks=0)).study
    with served(tmp_path / "study") as (_, address):
        page = visit(address, viewport={"width": 1000, "height": 640}, color_scheme="light")
        letter_of = {name: letter for letter, name in letters(page).items()}
        for seed in (0, 2):  # those two have drawn what the prompt says
            page.keyboard.press(letter_of[study.items[0].pictures[seed]].lower())
        page.locator(".card img").evaluate_all("images => Promise.all(images.map(image => image.decode()))")
        page.screenshot(path=tmp_path / "study.png")
    assert (tmp_path / "study.png").stat().st_size <= 150_000
    if wanted := os.environ.get("SCREENSHOT"):
        shutil.copy(tmp_path / "study.png", wanted)
