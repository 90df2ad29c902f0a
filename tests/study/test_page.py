"""The page: everything inside, everything escaped, nothing that tells the systems."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape

from realignkit.study.page import policy, served_page, static_page

HOSTILE = '</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> {{SCRIPT}} \u2028 "&amp;'


def data(page):
    return json.loads(re.search(r'<script id="study" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def with_prompt(study, prompt):
    return study.model_copy(update={"items": [item.model_copy(update={"prompt": prompt}) for item in study.items]})


def test_a_hostile_prompt_is_data(make):
    _, study = make()
    page = served_page(with_prompt(study, HOSTILE))
    assert {item["prompt"] for item in data(page)["items"]} == {HOSTILE}
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img src=x" not in page
    assert "<!--" not in page


def test_no_page_tells_whose_a_picture_is(make):
    folder, study = make()
    study = study.model_copy(update={"systems": ["Piet", "Kasimir", "Hilma"]})
    for page in (served_page(study), static_page(folder, study)):
        assert not any(name in page for name in study.systems)
        for item in data(page)["items"]:
            names = [picture["name"] for picture in item["pictures"]]
            assert names == sorted(names)
        assert "first" not in data(page)["items"][0]


def test_the_policy_lets_this_style_and_script_run_and_no_other(make):
    folder, study = make()
    for page, server in ((served_page(study), True), (static_page(folder, study), False)):
        given = unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])
        assert given == policy(server)
        assert given.startswith("default-src 'none'")
        for tag in ("style", "script"):
            text = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{tag}-src 'sha256-{digest}'" in given
        assert "unsafe" not in given


def test_the_single_file_needs_no_other(make):
    folder, study = make()
    page = static_page(folder, study)
    assert not re.search(r"""(?:src|href|action)=["'](?!data:)""", page)
    for item in data(page)["items"]:
        for picture in item["pictures"]:
            encoded = picture["source"].removeprefix("data:image/png;base64,")
            assert base64.b64decode(encoded) == (folder / "pictures" / f"{picture['name']}.png").read_bytes()
