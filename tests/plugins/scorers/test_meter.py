from __future__ import annotations

import pytest

from realignkit.errors import ScorerError
from realignkit_plugins.scorers.meter import Meter
from tests.plugins.scorers.endpoint import (
    PROMPT,
    RIGHT,
    TAGS,
    Reply,
    completion,
    failure,
    right_answer,
    say,
    script,
    serving,
)


def test_tokens_and_money_are_counted_and_capped(scorer):
    with serving(script(say(right_answer()))) as service:
        chat = scorer(service, input_price=2.0, output_price=10.0, max_total_tokens=2500, cache=False)
        for _ in range(20):
            try:
                chat(PROMPT, TAGS)
            except ScorerError as problem:
                assert problem.reason == "over budget"
                break
        used = chat.usage
        assert used.requests == len(service.requests) < 20
        assert (used.prompt_tokens, used.completion_tokens) == (100 * used.requests, 20 * used.requests)
        assert used.cost == pytest.approx(used.requests * (100 * 2.0 + 20 * 10.0) / 1e6)
        assert used.tokens <= 2500
        poor = scorer(service, input_price=2.0, output_price=10.0, max_cost=1e-9, cache=False)
        assert failure(poor).reason == "over budget"


def test_what_was_refused_is_free_and_what_was_lost_is_not():
    meter = Meter(max_tokens=1000)
    with meter.charge(300, 100) as charge:
        charge.settle(0, 0)
    assert meter.usage.tokens == 0
    with pytest.raises(RuntimeError), meter.charge(300, 100):
        raise RuntimeError
    assert meter.usage.tokens == 400
    with meter.charge(300, 300), pytest.raises(ScorerError, match="cap"), meter.charge(1, 0):
        pass  # what others have reserved counts


@pytest.mark.parametrize("counts", [(-(10**9), -(10**9)), (10**30, 1), ("9", None), (True, 2.5)])
def test_counts_that_cannot_be_leave_the_estimate(scorer, counts):
    usage = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
    with serving(script(Reply(completion(right_answer(), usage=usage)))) as service:
        chat = scorer(service)
        assert chat(PROMPT, TAGS) == RIGHT
    assert 100 < chat.usage.prompt_tokens < 10_000
    assert chat.usage.completion_tokens == chat.options.max_output_tokens
