"""Running out of memory is told from other failures, and says what to do; keys stay out of texts."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from realignkit.contracts import Options, Plugin
from realignkit.errors import (
    TELL_AUTHOR,
    ModelError,
    OptionError,
    PluginError,
    blame,
    enough_memory,
    out_of_memory,
    redacted,
    redacted_urls,
    refuse_address,
    url_secrets,
    with_article,
)
from realignkit.named import Named

TOO_MUCH = 2**58
"""Bytes; no machine has them."""


def take_too_much():
    torch.empty(TOO_MUCH, dtype=torch.uint8)


def test_it_says_what_to_do():
    with (
        pytest.raises(ModelError, match=r"^tagging needs more memory than there is .*batch_size"),
        enough_memory("tagging"),
    ):
        take_too_much()
    with pytest.raises(ModelError, match="dtype and offload"), enough_memory("drawing"):
        bytearray(2**62)


@pytest.mark.parametrize(
    ("error", "about_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(2, "No such file"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory, says a text"), False),
    ],
)
def test_only_what_is_about_memory(error, about_memory):
    assert out_of_memory(error) is about_memory


def test_a_plugin_is_not_to_blame_for_it():
    with pytest.raises(ModelError, match="tagger 'big' needs more memory"), blame("tagger 'big'"):
        take_too_much()
    with pytest.raises(PluginError, match="failed: ValueError"), blame("tagger 'big'"):
        raise ValueError("no")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no. Really.", "ValueError: no. Really"),
        ("first\n  second", "ValueError: first second"),
        ("many words " * 500, "ValueError: " + "many words " * 27 + "…"),
        ("", "ValueError"),
    ],
)
def test_what_somebody_else_s_code_says_is_one_line_of_it(text, said):
    with pytest.raises(PluginError) as caught, blame("reward 'loud'"):
        raise ValueError(text)
    assert str(caught.value) == f"reward 'loud' failed: {said}. {TELL_AUTHOR}"


# --- keys -----------------------------------------------------------------------------------------------------------


KEY = "sk-Proj+0123456789/abcXYZ=="


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        KEY[::-1],
        KEY.upper(),
        KEY[:12],
        KEY[-12:],
        KEY[5:20],
        quote(KEY, safe=""),
        "".join(f"%{byte:02X}" for byte in KEY.encode()),
        KEY.encode().hex(),
    ],
)
def test_a_key_in_any_form_is_taken_out(form):
    assert redacted(f"before ({form}) behind", [KEY]) == "before (***) behind"


@pytest.mark.parametrize("before", ["", ":", "me:", "Bearer ", "Basic x:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_a_key_and_its_neighbours_is_taken_out(before, encode):
    encoded = encode(f"{before}{KEY} behind".encode()).decode()
    left = redacted(encoded, [KEY])
    assert "***" in left
    # No part of what is left decodes to a piece of the key that is worth having.
    for piece in left.split("***"):
        for start in range(4):
            part = piece[start : start + (len(piece) - start) // 4 * 4]
            decoded = base64.b64decode(part.replace("-", "+").replace("_", "/")).decode("latin-1")
            assert not any(KEY[i : i + 12] in decoded for i in range(len(KEY) - 11))


def test_what_is_no_key_stays():
    assert redacted("a red book, sk-Pro, 0123456789", [KEY, ""]) == "a red book, sk-Pro, 0123456789"
    assert redacted("İ " * 5 + KEY, [KEY]) == "İ " * 5 + "***"
    assert redacted("catalogue cat tac", ["cat"]) == "catalogue *** ***"


def test_addresses_lose_what_may_be_a_key():
    url = "https://me:pa%24s@host:8/v1;sig=abc?key=one&x=two#three"
    assert redacted_urls(f"no connection to {url} there") == "no connection to https://***@host:8/v1;*** there"
    assert {"me", "pa%24s", "pa$s", "abc", "one", "two", "three"} <= set(url_secrets(url))
    for plain in ("http://localhost:8000/v1", "https://[::1]:8000/v1/", "no address: a;b?c#d", "micro:unet"):
        assert redacted_urls(plain) == plain
        assert "://" not in plain or url_secrets(plain) == ()


def test_options_on_record_have_no_keys():
    class Remote(Plugin):
        class Options(Options):
            url: str
            more: list[str]
            api_key: str = ""

    plugin = Remote(url="http://me:secret99@h/v1?k=abcd", more=["http://h/#frag1234"], api_key="topsecret")
    named = Named("scorer", "remote", plugin)
    recorded = named.options
    assert recorded == {"url": "http://***@h/v1?***", "more": ["http://h/#***"], "api_key": "***"}
    assert {"secret99", "abcd", "frag1234", "topsecret"} <= set(named.secrets)


def test_who_is_blamed_quotes_no_keys():
    class Remote(Plugin):
        class Options(Options):
            api_key: str = ""

    named = Named("scorer", "remote", Remote(api_key="topsecret"))
    with (
        pytest.raises(PluginError, match=r"^scorer 'remote' failed: ValueError: \*\*\* at https://\*\*\*@h/x\. "),
        named.blame(),
    ):
        raise ValueError("topsecret at\nhttps://me:hunter2@h/x")


def test_keys_in_addresses_stay_secret():
    with pytest.raises(OptionError, match=r"'https://\*\*\*@a\.org/b\.png\?\*\*\*'") as caught:
        refuse_address("https://me:hunter2@a.org/b.png?key=hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("path", ["b.png", "C:/b.png", "C:\\b.png", "/tmp/a:b/c.png", "~/b.png", "./http/b.png", "-"])
def test_paths_are_no_addresses(path):
    refuse_address(path)
    refuse_address(Path(path))


@pytest.mark.parametrize(("name", "said"), [("int", "an int"), ("UNet2DModel", "a UNet2DModel"), ("list", "a list")])
def test_classes_have_their_article(name, said):
    assert with_article(name) == said
