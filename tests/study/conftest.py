"""Small studies: pictures of three systems whose colours tell them apart, and answers of people with a taste."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from realignkit.study.answers import Answer, Answers
from realignkit.study.make import StudyOptions, make_study, named_systems
from tests.conftest import HANGS
from tests.study.browser import CHROMIUM
from tests.study.serving import served

COLOURS = {"base": (170, 40, 40), "ours": (40, 150, 60), "third": (50, 60, 180)}
PROMPTS = ("a red cow", "two blue clocks", "a cat on a chair", "a bird", "a green train")


def system(folder: Path, name: str, prompts=PROMPTS) -> Path:
    """Pictures of one system: a JSON object prompt -> path."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for number, prompt in enumerate(prompts):
        paths[prompt] = f"{name}-{number}.png"
        Image.new("RGB", (48, 48), COLOURS[name]).save(folder / paths[prompt])
    list_of_pictures = folder / f"{name}.json"
    list_of_pictures.write_text(json.dumps(paths))
    return list_of_pictures


@pytest.fixture
def sources(tmp_path):
    return [f"{name}={system(tmp_path / 'pictures', name)}" for name in COLOURS]


@pytest.fixture
def make(tmp_path, sources):
    """Make a study in ``tmp_path / "study"``; the folder and what is in it."""

    def made(prompts=4, static=False, **options):
        folder = tmp_path / "study"
        result = make_study(named_systems(sources), folder, StudyOptions(prompts=prompts, **options), static)
        return folder, result.study

    return made


def person(number):
    return f"{number:032x}"


def ranking(item, order):
    """The pictures of an item, by the numbers of their systems: ``[0, (1, 2)]`` has a tie."""
    groups = [[place] if isinstance(place, int) else list(place) for place in order]
    return [[item.pictures[place] for place in group] for group in groups]


def answer(study, item, order, question="alignment", of=0, at="2026-01-01T00:00:00+00:00"):
    return Answer(
        person=person(of), item=item.id, question=question, ranking=ranking(item, order), shown=sorted(item.pictures),
        seconds=3.5, at=at,
    )  # fmt: skip


def dutiful(study, item, order):
    """The order, but of a check what it asks for."""
    if not item.first:
        return order
    first = item.pictures.index(item.first)
    return [first, *(place for place in range(len(item.pictures)) if place != first)]


@pytest.fixture
def answered(make):
    """A study with the answers of three people who like ``ours`` best and ``base`` least."""
    folder, study = make()
    answers = Answers(folder, study)
    answers.save(
        answer(study, item, dutiful(study, item, [1, 2, 0]), question.name, of=number)
        for number in range(3)
        for item in study.items
        for question in study.questions
    )
    return folder, study


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian's package is 'chromium')")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (realignkit[browser])")
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox"] if os.getuid() == 0 else []  # its sandbox refuses root
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open an address as a new person; whatever the page complains of fails the test."""
    contexts, complaints = [], []

    def opened(address, begin=True, **options):
        context = chromium.new_context(**options)
        context.set_default_timeout(1000 * HANGS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
        page.goto(address)
        if begin:
            page.click("#begin")
            page.wait_for_selector(".card")
        return page

    opened.complaints = complaints
    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def running(make):
    """A study of four prompts and a check, served: its folder, the study and the address."""
    folder, study = make()
    with served(folder) as (_, address):
        yield folder, study, address
