"""People who stop, go on and come together, in a real Chromium: skipped where that or playwright is missing."""

from __future__ import annotations

import json
import re
import shutil
import signal
from urllib.parse import urlsplit

import pytest

from realignkit.study.answers import Answers
from realignkit.study.folder import PAGE, RECORD
from realignkit.study.results import evaluate
from tests.conftest import HANGS
from tests.study.browser import (
    answer_all,
    count,
    know,
    letters,
    order,
    saved,
)
from tests.study.serving import served

pytestmark = pytest.mark.browser

HOSTILE = '<img src=x onerror="document.title=1"></script><script>document.title=2</script>&lt;b&gt; "a cow"'


def test_a_reload_in_the_middle_loses_nothing(visit, running):
    folder, study, address = running
    page = visit(address)
    for key in ("b", "a", "c", "Enter"):
        page.keyboard.press(key)
    saved(page)
    page.keyboard.press("c")
    page.keyboard.press("a")
    names, prompt = letters(page), page.inner_text("#prompt")
    page.reload()
    page.wait_for_selector(".card")
    assert (letters(page), page.inner_text("#prompt"), count(page)) == (names, prompt, "2 of 10")
    assert order(page) == ["C", "A"]
    page.keyboard.press("b")
    page.keyboard.press("Enter")
    saved(page)
    answers = Answers(folder, study).read()
    assert len({answer.person for answer in answers}) == 1
    assert sorted(answer.question for answer in answers) == ["alignment", "fidelity"]


def test_back_shows_what_was_said_and_takes_another_answer(visit, running):
    folder, study, address = running
    page = visit(address)
    assert page.is_disabled("#back")
    names = letters(page)
    for key in ("b", "a", "c", "Enter"):
        page.keyboard.press(key)
    saved(page)
    page.click("#back")
    assert order(page) == ["B", "A", "C"]
    page.keyboard.press("c")
    page.keyboard.press("1")
    with page.expect_response("**/answers/**"):
        page.click("#next")
    (answer,) = Answers(folder, study).read()
    assert answer.ranking == [[names["C"]], [names["B"]], [names["A"]]]
    assert order(page) == []


def test_two_people_at_once_see_orders_of_their_own(visit, running):
    folder, study, address = running
    pages = [know(visit(address), study) for _ in range(2)]
    seen = [[], []]
    for _ in range(10):
        for page, prompts in zip(pages, seen, strict=True):
            prompts.append((page.inner_text("#prompt"), tuple(letters(page).values())))
            answer_all(page, 1)
    for page in pages:
        page.wait_for_selector("#done:not([hidden])")
        page.locator("#thanks", has_text="All your answers are saved").wait_for()
        assert count(page) == "10 of 10 done"
    assert seen[0] != seen[1]
    assert {prompt for prompt, _ in seen[0]} == {prompt for prompt, _ in seen[1]}
    answers = Answers(folder, study).read()
    assert len(answers) == 20
    results = evaluate(study, answers)
    assert (results.people.answered, results.people.finished, results.people.failed) == (2, 2, 0)


def test_somebody_else_on_the_same_device(visit, running):
    folder, study, address = running
    page = know(visit(address), study)
    answer_all(page, 10)
    page.locator("#thanks", has_text="All your answers are saved").wait_for()
    page.evaluate("window.confirm = () => true")
    page.click("#another")
    assert page.inner_text("#saved") == ""  # of somebody else's answers
    page.click("#begin")
    answer_all(page, 1)
    saved(page)
    assert len({answer.person for answer in Answers(folder, study).read()}) == 2


def test_saved_is_said_of_the_newest_answer(visit, running):
    folder, study, address = running
    page = know(visit(address), study)
    answer_all(page, 1)
    saved(page)
    held = []
    page.route("**/answers/**", lambda route: held.append(route))  # a slow server
    with page.expect_request("**/answers/**"):
        answer_all(page, 1)
    assert page.inner_text("#saved") == ""
    held[0].continue_()
    saved(page)
    assert len(Answers(folder, study).read()) == 2


def test_a_hostile_prompt_is_a_text(visit, make):
    folder, _ = make(prompts=1, checks=0)
    record = json.loads((folder / RECORD).read_text())
    record["items"][0]["prompt"] = HOSTILE
    record["consent"] = HOSTILE
    (folder / RECORD).write_text(json.dumps(record))
    with served(folder) as (_, address):
        page = visit(address, begin=False)
        assert page.inner_text("#consent") == HOSTILE
        page.click("#begin")
        assert page.inner_text("#prompt").strip("“”") == HOSTILE
        assert page.title() == "Which picture fits best?"
        assert page.locator("img[src=x]").count() == 0
        blocked = page.evaluate(
            "() => new Promise(resolve => {"
            " const script = document.createElement('script');"
            " document.addEventListener('securitypolicyviolation', event => resolve(event.effectiveDirective));"
            " script.textContent = 'document.title = 3'; document.body.append(script); })"
        )
        assert blocked == "script-src-elem"
        assert all(text.startswith("Executing inline script violates") for text in visit.complaints)
        visit.complaints.clear()
        assert page.title() == "Which picture fits best?"


def test_no_answer_is_lost_when_the_server_is_killed(visit, make):
    folder, study = make(prompts=2, checks=0)
    with served(folder) as (process, address):
        page = know(visit(address), study)
        answer_all(page, 1)
        saved(page)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=HANGS)
        answer_all(page, 2)  # goes on meanwhile
        page.locator("#saved", has_text="Waiting for the server").wait_for()
        assert len(Answers(folder, study).read()) == 1
    with served(folder, "--port", str(urlsplit(address).port)) as (_, again):
        assert again == address
        answer_all(page, 1)
        page.locator("#thanks", has_text="All your answers are saved").wait_for()
    assert len(Answers(folder, study).read()) == 4


def test_the_single_file_needs_no_server(visit, make, tmp_path):
    folder, study = make(prompts=2, checks=1, static=True)
    alone = tmp_path / "elsewhere" / "page.html"
    alone.parent.mkdir()
    shutil.copy(folder / PAGE, alone)
    page = know(visit(alone.as_uri()), study)
    assert all(page.locator(".card img").evaluate_all("images => images.map(image => image.naturalWidth > 0)"))
    answer_all(page, 6)
    assert page.inner_text("#thanks").startswith("Download your answers")
    with page.expect_download() as download:
        page.click("#download")
    assert re.fullmatch(r"answers-[0-9a-f]{8}\.json", download.value.suggested_filename)
    path = tmp_path / "answers.json"
    download.value.save_as(path)
    answers = Answers(folder, study)
    assert answers.import_file(path) == (6, 6)
    results = evaluate(study, answers.read())
    assert (results.people.finished, results.people.failed) == (1, 0)
