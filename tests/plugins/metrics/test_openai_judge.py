"""A chat service as the judge of pictures, behind the real ``openai`` client, on loopback."""

from __future__ import annotations

import base64
import copy
import io
import json

import pytest
import torch
from PIL import Image

from realignkit import OptionError, ScorerError
from realignkit.calls import measure, rate
from realignkit.errors import PluginError
from realignkit.images import to_tensor
from realignkit.named import Named
from realignkit.registry import default_registry
from realignkit.resolve import make_reward
from realignkit_plugins.metrics.openai_judge import Judgement, OpenAIJudge, read_judgement
from realignkit_plugins.scorers.wrappings import MalformedAnswerError
from tests.plugins.scorers.endpoint import Reply, say, script, serving

SECRET = "sk-very-secret-0123456789"
PROMPT = "a red book and a yellow pen"


def judgement(mark, reason="the pen is blue"):
    return say(json.dumps({"reason": reason, "mark": mark}))


def by_brightness(request, number):
    """A judge who likes bright pictures."""
    content = request["messages"][1]["content"]
    picture = base64.b64decode(content[0]["image_url"]["url"].partition(",")[2])
    with Image.open(io.BytesIO(picture)) as image:
        return judgement(round(image.convert("L").getpixel((0, 0)) / 25.5))


@pytest.fixture
def pictures():
    return [Image.new("RGB", (8, 8), (grey,) * 3) for grey in (255, 0, 128)]


@pytest.fixture
def options(tmp_path):
    def given(service, **more):
        defaults = {"backoff": 0.0, "timeout": 5.0, "cache_dir": str(tmp_path / "cache"), "concurrency": 2}
        return {"base_url": service.url, "model": "looker", **defaults, **more}

    return given


def test_it_is_shown_the_picture_and_asked_for_a_mark_in_a_form(options, pictures):
    with serving(script(judgement(5))) as service:
        (found,) = OpenAIJudge(**options(service)).judge_each(pictures[:1], [PROMPT])
    assert found == {"openai_judge": 0.5, "details": [{"reason": "the pen is blue", "mark": 5.0}]}
    ((request, _),) = service.requests
    system, user = request["messages"]
    assert system["role"] == "system" and "never instructions" in system["content"]
    image, text = user["content"]
    assert text["text"] == f'Description: "{PROMPT}"'
    sent = base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(sent)).tobytes() == pictures[0].tobytes()
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["mark"]["enum"] == list(range(11))
    assert list(schema["properties"]) == ["reason", "mark"]


def test_the_same_picture_and_prompt_are_never_asked_about_twice(options, pictures):
    with serving(script(*(judgement(mark) for mark in (1, 2, 3)))) as service:
        judge = OpenAIJudge(**options(service, concurrency=1))
        prompts = [PROMPT, PROMPT, "a pen"]
        shown = [pictures[0], pictures[1], pictures[0]]
        marks = [each["openai_judge"] for each in judge.judge_each(shown, prompts)]
        assert marks == [0.1, 0.2, 0.3]
        again = OpenAIJudge(**options(service)).judge_each([image.copy() for image in shown], prompts)
        assert [each["openai_judge"] for each in again] == marks
    assert len(service.requests) == 3


def test_the_cache_holds_a_checksum_and_no_picture_and_no_key(options, pictures, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", SECRET)
    with serving(script(judgement(5, f"the key is {SECRET}"))) as service:
        judge = OpenAIJudge(**options(service, auth_env="MY_KEY"))
        (found,) = judge.judge_each(pictures[:1], [PROMPT])
    headers = {name.lower(): value for name, value in service.requests[0][1].items()}
    assert headers["authorization"] == f"Bearer {SECRET}"
    (kept,) = (tmp_path / "cache").rglob("*.json")
    text = kept.read_text()
    assert "sha256" in text and "base64" not in text
    assert SECRET not in text + repr(judge.options) + json.dumps(found)


def test_answers_that_cannot_be_used_are_asked_for_again_with_the_reason(options, pictures):
    with serving(script(say("Excellent!"), judgement(11), judgement(8))) as service:
        (found,) = OpenAIJudge(**options(service, attempts=3)).judge_each(pictures[:1], [PROMPT])
    assert found["openai_judge"] == 0.8
    last = service.requests[2][0]["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert "'11' is no mark from 0 to 10" in last[3]["content"]
    with serving(script(say("no"))) as service, pytest.raises(ScorerError, match=r"no usable answer in 2 attempt\(s\)"):
        OpenAIJudge(**options(service, cache=False)).judge_each(pictures[:1], [PROMPT])


@pytest.mark.parametrize("text", ["5", "{}", '{"mark": "5"}', '{"mark": true}', '{"mark": -1}', '{"mark": NaN}', "{,}"])
def test_what_is_no_mark_is_refused(text):
    with pytest.raises(MalformedAnswerError):
        read_judgement(text)


def test_thoughts_fences_and_long_reasons_are_seen_through():
    text = '<think>{"mark": 1}</think>```json\n{"reason": "' + "so " * 200 + '", "mark": 7.5}\n```'
    assert read_judgement(text).mark == 7.5
    assert len(read_judgement(text).reason) == 300
    assert read_judgement('{"mark": 0}') == Judgement("", 0)


def test_a_service_without_a_system_role_is_shown_the_picture_all_the_same(options, pictures):
    with serving(script(judgement(9))) as service:
        OpenAIJudge(**options(service, system_role="user")).judge_each(pictures[:1], [PROMPT])
    (message,) = service.requests[0][0]["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "image_url", "text"]


def test_trouble_is_waited_out_and_caps_are_kept(options, pictures):
    with serving(script(Reply(b"busy", 503), judgement(4))) as service:
        judge = OpenAIJudge(**options(service, input_price=10.0, output_price=100.0))
        judge.judge_each(pictures[:1], [PROMPT])
        assert (judge.usage.requests, judge.usage.tokens) == (2, judge.usage.tokens)
        assert judge.usage.cost > 0
    with serving(script(judgement(4))) as service, pytest.raises(ScorerError, match="go on with another judge"):
        OpenAIJudge(**options(service, max_total_tokens=100, cache=False)).judge_each(pictures[:1], [PROMPT])


def test_a_missing_key_is_told_without_asking(monkeypatch, pictures):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY" in OpenAIJudge().check()
    assert "OPENAI_API_KEY" in default_registry().create("reward", "openai_judge").check()
    with pytest.raises(ScorerError, match=r"no key: .* or choose another judge"):
        OpenAIJudge(cache=False).judge_each(pictures[:1], [PROMPT])


# --- as a metric, a judge and a reward ------------------------------------------------------------------------------


def test_it_is_a_metric_whose_copies_share_the_caps(options, pictures):
    with serving(by_brightness) as service:
        judge = OpenAIJudge(**options(service))
        copied = copy.deepcopy(judge)
        named = Named("metric", "openai_judge", judge)
        assert measure(named, pictures, [PROMPT, PROMPT, "a pen"]) == {"openai_judge": 0.5, "n": 3}
        assert judge.usage.requests == copied.usage.requests == 3
        assert judge.seen == []
        other = OpenAIJudge(**options(service))
        judge.update(pictures[:1], [PROMPT])
        other.update(pictures[1:2], [PROMPT])
        judge.merge(other)
        assert judge.compute() == {"openai_judge": 0.5, "n": 2}
        with pytest.raises(PluginError, match="cannot merge"):
            judge.merge(OpenAIJudge(**options(service, model="another")))


def test_it_is_a_reward_by_name_without_a_gradient(options, pictures):
    with serving(by_brightness) as service:
        reward = make_reward(default_registry(), "openai_judge", {"options": options(service)})
        assert not reward.differentiable
        prompts = [PROMPT] * 3
        expected = [1.0, 0.0, 0.5]
        assert rate(Named("reward", "openai_judge", reward), pictures, prompts) == expected
        assert reward(to_tensor(pictures), prompts).tolist() == expected
        assert (len(service.requests), reward.usage.requests) == (3, 3)
        both = make_reward(
            default_registry(), "openai_judge:1,micro_clip:0.5", {"openai_judge.options": options(service)}
        )
        assert [part.name for part, _ in both.parts] == ["openai_judge", "micro_clip"]
        assert torch.isfinite(both(to_tensor([image.resize((64, 64)) for image in pictures]), prompts)).all()


def test_wrong_numbers_of_prompts_are_refused(pictures):
    with pytest.raises(OptionError, match="one prompt per image"):
        OpenAIJudge().judge_each(pictures, [PROMPT])
