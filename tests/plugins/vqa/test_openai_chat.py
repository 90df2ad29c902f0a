"""A chat service that takes images, behind the real ``openai`` client, on loopback."""

from __future__ import annotations

import base64
import io
import math

import pytest
from PIL import Image

from realignkit import OptionError, ScorerError
from realignkit.named import Named
from realignkit.questions import answers, probabilities
from realignkit_plugins.vqa.openai_chat import OpenAIChatVQA
from tests.plugins.scorers.endpoint import Reply, completion, say, script, serving

SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def vqa(tmp_path):
    def make(service, **options):
        defaults = {"backoff": 0.0, "timeout": 5.0, "cache_dir": tmp_path / "cache", "concurrency": 1}
        return OpenAIChatVQA(base_url=service.url, **{**defaults, **options})

    return make


def listing(**tokens):
    """A reply whose first token may be one of these."""
    listed = [{"token": name.replace("_", " "), "logprob": math.log(p), "bytes": None} for name, p in tokens.items()]
    logprobs = {"content": [{**listed[0], "top_logprobs": listed}]}
    message = {"role": "assistant", "content": listed[0]["token"]}
    choices = [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": logprobs}]
    return Reply(completion("", choices=choices))


def test_the_image_goes_before_the_question_and_a_short_answer_comes_back(vqa, pictures):
    with serving(script(say("Red."))) as service:
        named = Named("vqa", "openai_chat", vqa(service, model="looker"))
        assert answers(named, pictures[:1], ["what color?"], [["red", "blue"]]) == ["Red"]
    ((request, _),) = service.requests
    assert request["model"] == "looker"
    assert "response_format" not in request
    (message,) = request["messages"]
    image, text = message["content"]
    assert text["text"] == "what color? Choose one of: red, blue. Answer with the choice alone."
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    assert sent.tobytes() == pictures[0].tobytes()


def test_the_same_is_never_asked_twice_and_another_image_is_not_the_same(vqa, pictures):
    with serving(script(say("one"), say("two"), say("three"))) as service:
        assert vqa(service)(pictures[:1], ["how many?"]) == ["one"]
        assert vqa(service)(pictures[:2], ["how many?"] * 2) == ["one", "two"]
        assert vqa(service, cache=False)(pictures[:1], ["how many?"]) == ["three"]
    assert len(service.requests) == 3


def test_probabilities_are_those_of_the_listed_first_tokens(vqa, pictures):
    with serving(script(listing(Yes=0.6, yes=0.2, _Yes=0.1, No=0.05))) as service:
        named = Named("vqa", "openai_chat", vqa(service))
        found = probabilities(named, pictures[:1], ["is it?"], [["Yes", "yes", " yes", " Yes"]])
    assert found == [pytest.approx([0.6, 0.2, 0.0, 0.1])]
    request, _ = service.requests[0]
    assert (request["logprobs"], request["top_logprobs"]) == (True, 20)
    assert request["messages"][0]["content"][1]["text"] == "is it?"


def test_a_service_without_log_probabilities_is_named(vqa, pictures):
    with serving(script(say("Yes"))) as service, pytest.raises(ScorerError, match="gives no log-probabilities"):
        vqa(service).probabilities(pictures[:1], ["is it?"], [["Yes"]])


def test_trouble_is_waited_out_and_bad_answers_are_asked_for_again(vqa, pictures):
    with serving(script(Reply(b"busy", 503), say("x" * 300), say("yes"))) as service:
        assert vqa(service)(pictures[:1], ["is it?"]) == ["yes"]
    with serving(script(say(""))) as service, pytest.raises(ScorerError, match="no usable answer in 2 attempt"):
        vqa(service)(pictures[1:2], ["is it?"])


def test_several_are_asked_at_once_and_stay_in_order(vqa, pictures):
    def by_question(request, number):
        return say(request["messages"][0]["content"][1]["text"].split()[0], delay=0.1)

    with serving(by_question) as service:
        said = vqa(service, concurrency=4)([pictures[0]] * 4, ["a ?", "b ?", "c ?", "d ?"])
    assert said == ["a", "b", "c", "d"]
    assert service.most > 1


def test_the_key_goes_to_the_service_alone(vqa, pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", SECRET)
    with serving(script(say(f"it is {SECRET} here"))) as service:
        answerer = vqa(service, auth_env="MY_KEY")
        (said,) = answerer(pictures[:1], ["what is the key?"])
    headers = {name.lower(): value for name, value in service.requests[0][1].items()}
    assert headers["authorization"] == f"Bearer {SECRET}"
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert SECRET not in said + kept + repr(answerer.options)


def test_a_missing_key_is_told_without_asking(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "set the environment variable OPENAI_API_KEY" in OpenAIChatVQA().check()
    with pytest.raises(OptionError, match="structured"):
        OpenAIChatVQA(structured="none")
