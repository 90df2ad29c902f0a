"""The site that the docs make: what a reader sees first, that links lead somewhere, and that no page is too wide."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
import zlib
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urldefrag, urljoin

import numpy as np
import pytest
from PIL import Image

from tests.conftest import HANGS, ROOT
from tests.study.browser import PHONE
from tests.study.conftest import chromium as chromium

pytest.importorskip("mkdocs", reason="mkdocs is not installed (realignkit[docs])")

PUBLIC = (
    "realignkit",
    "realignkit.attention",
    "realignkit.evaluation",
    "realignkit.isolation",
    "realignkit.refl",
    "realignkit.report",
    "realignkit.testing",
)
"""Packages that say what they offer."""

DESKTOP = {"viewport": {"width": 1280, "height": 720}}


def build(folder, docs=ROOT):
    """``make docs``, to another folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=docs, env=variables, capture_output=True, text=True, timeout=HANGS)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Links(HTMLParser):
    """What a page refers to, and what on it can be referred to."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors, self.undescribed = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.anchors |= {known[name] for name in ("id", "name") if known.get(name)}
        self.targets += [known[name] for name in ("href", "src") if known.get(name)]
        if tag == "img" and not known.get("alt"):
            self.undescribed.append(known.get("src"))


@pytest.fixture(scope="module")
def pages(site):
    """Path in the site -> what the page refers to."""
    found = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*.html"))}
    return {name: Links(path.read_text(encoding="utf-8")) for name, path in found.items() if name != "404.html"}


def test_every_link_and_anchor_of_the_site_leads_somewhere(site, pages):
    broken = []
    for name, page in pages.items():
        for target in page.targets:
            address, anchor = urldefrag(urljoin(f"site:///{name}", target))
            if not address.startswith("site:"):
                continue
            path = unquote(address.removeprefix("site:///"))
            path = f"{path}index.html" if path.endswith("/") or not path else path
            leads = (site / path).is_file() and (
                not anchor or path not in pages or unquote(anchor) in pages[path].anchors
            )
            if not leads:
                broken.append((name, target))
    assert broken == []


def test_links_from_the_repositorys_own_pages_lead_to_anchors_that_are_there(pages):
    broken = []
    for page in ROOT.glob("*.md"):
        for path, anchor in re.findall(r"\]\(docs/([^)#\s]+)\.md#([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if anchor not in pages[f"{path}/index.html"].anchors:
                broken.append((page.name, path, anchor))
    assert broken == []


def test_every_picture_is_described(pages):
    assert {name: page.undescribed for name, page in pages.items() if page.undescribed} == {}


def test_broken_links_stop_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    head, validation = settings.partition("nav:")[0], settings.partition("validation:")[2]
    (tmp_path / "mkdocs.yml").write_text(f"{head.replace('hooks: [docs/hooks.py]', '')}\nvalidation:{validation}")
    shutil.copytree(ROOT / "docs" / "stylesheets", tmp_path / "docs" / "stylesheets")
    (tmp_path / "docs" / "index.md").write_text("# Home\n")
    assert build(tmp_path / "site", tmp_path).returncode == 0
    broken = ["[a](gone.md)", "[a](index.md#no-such-place)", "[a](/absolute.md)", "![a](gone.png)"]
    (tmp_path / "docs" / "index.md").write_text("# Home\n\n" + "\n\n".join(broken))
    done = build(tmp_path / "site", tmp_path)
    assert done.returncode != 0
    assert all(name in done.stderr for name in ("gone.md", "no-such-place", "/absolute.md", "gone.png"))
    assert done.stderr.count("WARNING") == len(broken)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_in_the_reference(site, package):
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    documented = {line.split()[0] for line in inventory.splitlines()}
    missing = []
    for name in (module := importlib.import_module(package)).__all__:
        offered = getattr(module, name)
        if inspect.isclass(offered) or inspect.isroutine(offered):
            known = f"{offered.__module__}.{name}" in documented
        else:  # a constant does not say where it is from
            known = any(each.startswith("realignkit.") and each.endswith(f".{name}") for each in documented)
        missing += [] if known else [name]
    assert missing == []


def test_the_pictures_are_what_the_embedded_model_draws(script_of_docs):
    for name, picture in script_of_docs("pictures").pictures().items():
        with Image.open(ROOT / "docs" / "images" / name) as kept:
            assert kept.size == picture.size, name
            far = np.abs(np.asarray(kept.convert("RGB"), int) - np.asarray(picture.convert("RGB"), int)).mean()
        assert far < 2, f"{name} is stale: run python docs/pictures.py"


@pytest.fixture
def script_of_docs(monkeypatch):
    """A script of docs/ as a module."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module


@pytest.fixture(scope="module")
def address(site):
    """Of the site, served on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def visit(chromium, address):
    """Open a page of the site; errors on it, and requests to elsewhere, fail the test."""
    contexts, complaints = [], []

    def asked(request):
        if not request.url.startswith((address, "data:", "blob:")):
            complaints.append(f"asked for {request.url}")

    def opened(**options):
        context = chromium.new_context(**options)
        context.set_default_timeout(1000 * HANGS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", asked)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.browser
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_first_screen_of_the_home_page_shows_the_picture(visit, screen):
    page = visit(**screen)
    for name in ("before", "after"):
        picture = page.locator(f"img[src$='{name}.png']")
        assert picture.evaluate("it => it.decode().then(() => it.naturalWidth)") > 0
        box = picture.bounding_box()
        assert box["y"] >= 0
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= screen["viewport"]["width"]
        assert box["y"] + box["height"] <= screen["viewport"]["height"]
        assert box["width"] >= 150


TOO_WIDE = """() => [...document.querySelectorAll('.md-content *')].filter(it => {
  const box = it.getBoundingClientRect();
  if (!box.width || box.right <= innerWidth + 1) return false;
  for (let up = it.parentElement; up && !up.matches('.md-content'); up = up.parentElement)
    if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) return false;  // it scrolls inside of that
  return true;
}).map(it => it.tagName + ' ' + it.textContent.slice(0, 60))"""


TABLES_ARE_WRAPPED = "!document.querySelector('.md-content table:not([class]):not(.md-typeset__table table)')"


@pytest.mark.browser
def test_no_page_scrolls_sideways_on_a_phone(visit, address, pages):
    page = visit(**PHONE)
    wide = {}
    for name in pages:
        page.goto(address + name)
        page.wait_for_function(TABLES_ARE_WRAPPED)
        sideways = page.evaluate("document.documentElement.scrollWidth > innerWidth || innerWidth > 390")
        if (found := page.evaluate(TOO_WIDE)) or sideways:
            wide[name] = found[:3]
    assert wide == {}


@pytest.mark.browser
@pytest.mark.parametrize(
    ("words", "leads_to"), [("heat maps", "how-to/figures/"), ("ModulationConfig", "reference/python/")]
)
def test_the_search_finds_pages(visit, words, leads_to):
    page = visit(**DESKTOP)
    page.locator("input[name=query]").fill(words)
    result = page.locator(f".md-search-result__link[href*='{leads_to}']").first
    result.wait_for()
    result.click()
    page.wait_for_url(f"**/{leads_to}*")
