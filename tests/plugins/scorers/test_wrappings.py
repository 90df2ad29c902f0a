"""Around an answer: thoughts, fences, prose, calls. One answer is found, two are refused, and so is half of one."""

from __future__ import annotations

import json
import time

import pytest

from realignkit_plugins.scorers.wrappings import MalformedAnswerError, entries
from tests.plugins.scorers.endpoint import right_answer

RIGHT = json.loads(right_answer())["objects"]
WRONG = [{**entry, "likelihood": "unlikely"} for entry in RIGHT]
R, W = right_answer(), json.dumps({"objects": WRONG})
INDENTED = json.dumps({"objects": RIGHT}, indent=2)
CALL = {"name": "objects", "arguments": {"objects": RIGHT}}


def harmony(*messages):
    return "<|start|>assistant".join(f"<|channel|>{name}<|message|>{text}<|end|>" for name, text in messages)


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{W}</think>{R}",
        f'<think>\nI will answer {{"objects": [...]}}\n</think>\n\n{R}',
        f"{W} is a draft, {{book: certain}}.\n</think>\n{R}",  # the chat template opened it
        f"<thinking>{W}</thinking>\n```json\n{INDENTED}\n```",
        f"<reasoning>{W}</reasoning>{R}",
        f"<THINK>{W}</THINK>{R}",
        f"[THINK]maybe {{x}} {W}[/THINK]{R}",
        f"<think>{W}<think>{W}</think>{W}</think>{R}",
        f"<think></think>{R}<think>is {W} better? no</think>",
        f"◁think▷{W}◁/think▷{R}",
        f"<seed:think>{W}</seed:think>{R}",
        f"<|START_THINKING|>{W}<|END_THINKING|><|START_RESPONSE|>{R}<|END_RESPONSE|>",
        f"<|channel>thought\n{W}<channel|>{R}<turn|>",
        harmony(("analysis", f"use {{tag}} {W}"), ("final", R)),
        harmony(("analysis", W), ("commentary", "I write it now."), ("final", R)),
        f"analysis<|message|>{W}<|end|><|start|>assistant<|channel|>final<|message|>{R}<|return|>",
        f"analysisWe need {W}.assistantfinal{R}",
        f"<|channel|>analysis<|message|>{W}<|end|><|start|>assistant<|channel|>commentary to=functions.objects "
        f"<|constrain|>json<|message|>{R}<|call|>",
    ],
)
def test_thoughts_are_no_answer(text):
    assert entries(text) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{R}",
        f"{R}<think>or rather",
        f"[THINK]{R}",
        harmony(("analysis", R)),
        harmony(("analysis", "so"), ("commentary", R)),
        f"analysisWe could say {R}",
        f"<|channel>thought\n{R}",
    ],
)
def test_an_unfinished_thought_is_no_answer_either(text):
    with pytest.raises(MalformedAnswerError, match="finished to think") as refused:
        entries(text)
    assert refused.value.reason == "truncated"


@pytest.mark.parametrize(
    "text",
    [
        f"```json {R} ```",
        f'Here:\n```json\n{R}\n```\nNote: {{tag}} names are kept, and {{"objects": […]}} is the form.',
        f"~~~\n{R}\n~~~",
        f"```json\n{R}",
        f"Sure! {json.dumps(RIGHT)} That is all.",
        f"Sure!\n```json\n{json.dumps(RIGHT)}\n```",
        f'The objects are ["book", "pen"] [1], {{tag}} by {{tag}}:\n{R}',
        "\n".join(map(json.dumps, RIGHT)),
        "Line by line:\n" + ",\n".join(map(json.dumps, RIGHT)),
        f"{R}\n{R}",
        f"```json\n{R}\n```\nThat is: {R}",
        json.dumps(R),
        json.dumps({"Objects": RIGHT}),
        json.dumps({"answer": RIGHT}),
        json.dumps({"objects": [{name.title(): value for name, value in entry.items()} for entry in RIGHT]}),
        json.dumps(CALL),
        json.dumps({**CALL, "arguments": R}),
        json.dumps([CALL]),
        json.dumps({"name": "objects", "parameters": {"objects": json.dumps(RIGHT)}}),
        json.dumps({"tool_calls": [{"type": "function", "function": {**CALL, "arguments": R}}]}),
        f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>",
        f"[TOOL_CALLS]{json.dumps([CALL])}",
        f"[TOOL_CALLS]objects[ARGS]{R}",
        f"<tool_call><function=objects><parameter=objects>{json.dumps(RIGHT)}</parameter></function></tool_call>",
        f"{R}</s>",
        f"{R}<|im_end|>\n<|im_start|>user\n{W}",
        f"<answer>{R}</answer>",
    ],
)
def test_an_answer_in_other_wrappings(text):
    assert [{name: entry[name] for name in RIGHT[0]} for entry in entries(text)] == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        INDENTED.replace("}\n  ]", "},\n  ]"),
        repr({"objects": RIGHT}),
        R.replace('"', "”"),
        "".join("“”"[i % 2] + part for i, part in enumerate(R.split('"'))).removeprefix("”")[1:],
        INDENTED.replace("\n    {", '\n    // the next one\'s "name"\n    {', 1),
        R.replace("[", "[ /* {all} */ "),
        f"Here it is: { {'objects': RIGHT}!r}",
    ],
)
def test_json_as_people_write_it_where_it_reads_one_way(text):
    assert entries(text) == RIGHT


def test_strings_keep_what_looks_like_a_comment_or_a_comma():
    caption = 'a "red" // book, ]'
    said = [{**RIGHT[0], "caption": caption}, *RIGHT[1:]]
    assert entries(repr({"objects": said}))[0]["caption"] == caption
    assert entries(json.dumps({"objects": said})[:-2] + ",]}")[0]["caption"] == caption


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{R} or rather {W}", "broken JSON"),
        (f"```json\n{R}\n```\nor\n```json\n{W}\n```", "broken JSON"),
        (f"```json\n{R}\n```\nActually: {W}", "broken JSON"),
        (f"{W[:-20]}\n{R}", "broken JSON"),
        (f"It is {{}}: {R}", "form"),
        (R[1:], "broken JSON"),
        (f"{R[:-30]}", "broken JSON"),
        (f"<tool_call>{json.dumps(CALL)[:-4]}</tool_call>", "broken JSON"),
        ("{'caption': 'a man's hat'}", "broken JSON"),
        ("I'm sorry, but I can't help with that request.", "no JSON"),
        ("<think>done</think>", "empty"),
        ('{"a": ' * 12 + R + "}" * 12, "form"),
    ],
)
def test_nothing_is_guessed(text, reason):
    with pytest.raises(MalformedAnswerError) as refused:
        entries(text)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 100_000,
        "</think>" * 100_000,
        "[" * 60_000,
        "{" * 60_000,
        "```json\n{}\n```\n" + "[\n" * 30_000,
        "/*" * 30_000 + "{",
        "{" + "/*" * 30_000,
        "{" + "'" * 60_001,
        "``` {" * 12_000,
        "<|channel|>" * 50_000,
        "{a}" * 20_000,
    ],
)
def test_no_text_takes_long(text):
    start = time.process_time()
    with pytest.raises(MalformedAnswerError):
        entries(text)
    assert time.process_time() - start < 30  # a quadratic reading takes minutes
