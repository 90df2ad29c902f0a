"""The page in a real Chromium, from a prompt to several refinements; skipped without that, playwright or gradio.

``REALIGNKIT_SCREENSHOTS=docs/images`` makes the pictures of the docs.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from realignkit.ui.archive import read_archive
from tests.conftest import HANGS
from tests.ui.conftest import page_of

pytest.importorskip("gradio", minversion="6.29", reason="no gradio of realignkit[ui] is installed")
pytestmark = pytest.mark.browser

PROMPT = "a yellow car and a blue bench"


@pytest.fixture(scope="module")
def address(chromium, tmp_path_factory):
    """Of a page of the embedded model, with runs in the folder ``runs``."""
    with page_of(tmp_path_factory.mktemp("ui") / "runs") as address:
        yield address


@pytest.fixture
def visit(chromium, address):
    """Open the page as somebody new; errors in it, and requests to elsewhere, fail the test."""
    contexts, complaints = [], []

    def asked(request):
        if not request.url.startswith((address, "data:", "blob:")):
            complaints.append(f"asked for {request.url}")

    def opened(**options):
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 900}, **options})
        context.set_default_timeout(1000 * HANGS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        page.goto(address)
        page.wait_for_selector("#draw:not([disabled])")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def ask(page, prompt=PROMPT, seed=49):
    page.fill("#prompt textarea", prompt)
    page.fill("#seed textarea, #seed input", str(seed))
    page.click("#draw")


def done(page, versions=1):
    page.locator(f"#versions figure >> nth={versions - 1}").wait_for()
    page.wait_for_selector("#again:not([disabled])")
    page.locator("#editor canvas[data-ready]").wait_for()
    return page


def shot(page, name):
    if folder := os.environ.get("REALIGNKIT_SCREENSHOTS"):
        path = Path(folder) / f"{name}.png"
        page.screenshot(path=path, full_page=True)
        with Image.open(path) as picture:
            picture.convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)


def downloaded(page, number, folder):
    with page.expect_download() as download:
        page.click(f"#versions figure >> nth={number - 1} >> a")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return read_archive(path)


def test_from_a_prompt_to_a_picture_that_is_refined_again(visit, tmp_path):
    page = visit()
    ask(page)
    page.locator("#step-1 img").wait_for()  # before the last step is done
    done(page)
    shot(page, "ui")
    assert page.locator("#steps .step img").count() == 3
    first = downloaded(page, 1, tmp_path)
    assert (first.prompt, first.seed, first.layout.segments[0].caption.tag) == (PROMPT, 49, "bench")
    slider = page.locator("#compare input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    assert page.locator("#compare .slider").evaluate("it => it.style.getPropertyValue('--at')") == "100%"

    page.click("#likelihood label:has-text('possible')")
    page.locator("#object", has_text="a blue bench – possible").wait_for()
    page.click("[data-tool=box]")
    box = page.locator("#editor canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.875, steps=4)
    page.mouse.up()
    page.locator("#object", has_text="a blue bench – possible, 19%").wait_for()
    page.focus("#editor canvas")
    page.click("[data-tool=brush]")
    page.focus("#editor canvas")
    for _ in range(12):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Space")
    page.locator("#object", has_text="a blue bench – possible, 2").wait_for()
    page.click("#again")
    done(page, 2)
    shot(page, "ui-refined-again")
    second = downloaded(page, 2, tmp_path)
    bench = second.layout.segments[0]
    assert (bench.caption.likelihood, bench.mask.shape) == ("possible", (256, 256))
    assert bench.mask[128:224, 64:192].all()
    assert second.settings["layout"] == "edited"
    assert second.coarse.tobytes() == first.coarse.tobytes()
    assert second.refined.tobytes() != first.refined.tobytes()
    page.click("#version label:has-text('1:')")
    page.locator("#object", has_text="a blue bench – certain").wait_for()


def test_two_tabs_at_once_have_work_of_their_own(visit, tmp_path):
    pages = [visit(), visit()]
    for page, seed in zip(pages, (49, 50), strict=True):
        ask(page, seed=seed)
    made = [downloaded(done(page), 1, tmp_path) for page in pages]
    assert [realignment.seed for realignment in made] == [49, 50]
    assert made[0].coarse.tobytes() != made[1].coarse.tobytes()


def test_a_reload_loses_nothing_even_in_the_middle(visit, tmp_path):
    page = visit()
    ask(page)
    page.locator("#status progress").wait_for()
    page.reload()
    done(page)
    assert page.input_value("#prompt textarea") == PROMPT
    assert downloaded(page, 1, tmp_path).seed == 49
    page.reload()
    done(page)


def test_cancel_stops_and_the_next_picture_is_drawn(visit):
    page = visit()
    ask(page)
    page.click("#cancel:not([disabled])")
    page.locator("#status", has_text="Cancelled").wait_for()
    assert page.locator("#versions figure").count() == 0
    page.wait_for_selector("#draw:not([disabled])")
    ask(page)
    done(page)


def test_errors_are_worded_as_on_the_command_line(visit, tmp_path):
    page = visit()
    ask(page, prompt=" ")
    page.locator("#status [role=alert]", has_text="the prompt is empty. Say what the picture should show").wait_for()
    (tmp_path / "bad.zip").write_text("no zip")
    page.click("#opening button")
    page.set_input_files("#archive input[type=file]", tmp_path / "bad.zip")
    page.locator("#status [role=alert]", has_text="this is no zip file that can be read").wait_for()


def test_a_phone_in_the_dark_scrolls_one_way_and_everything_has_a_name(visit):
    page = visit(viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True, is_mobile=True)
    ask(page)
    done(page)
    shot(page, "ui-phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("input, textarea, button, img, canvas")]
          .filter(it => it.offsetParent && it.type !== "file")
          .filter(it => !(it.labels?.length || it.alt || it.ariaLabel || it.innerText?.trim() || it.title))
          .map(it => it.outerHTML.slice(0, 200))"""
    )
    assert nameless == []
