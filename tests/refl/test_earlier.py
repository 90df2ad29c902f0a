"""Options as version 0.1 named them: refused where somebody sets one, with the new name or the reason."""

from __future__ import annotations

from functools import partial

import pytest

from realignkit.cli._settings import nested_names
from realignkit.contracts import parse_options
from realignkit.errors import OptionError
from realignkit.refl import ReFLConfig, preset
from realignkit.refl.earlier import REMOVED, RENAMED, translated


def make(**options: object) -> ReFLConfig:
    return parse_options(ReFLConfig, options, owner="training")


@pytest.mark.parametrize("options", [{"purify": (400, 650)}, {"purify_draws": 2}, {"hold_style": False}])
def test_what_was_removed_is_said_to_be_with_where_its_lesson_is(options):
    with pytest.raises(OptionError, match=rf"{next(iter(options))} was removed .*reward-hacking\.md"):
        make(**options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("margin", "training option margin is now training.refl.margin or training.reward_weighted.margin."),
        ("candidates", "training option candidates is now training.raft.candidates."),
        ("validate_every", "training option validate_every is now training.validation.every."),
        ("lora_rank", "training option lora_rank is now training.lora.rank."),
    ],
)
def test_former_names_are_refused_with_the_new_one(name, message):
    for attempt in (make, ReFLConfig, partial(preset, "paper")):
        with pytest.raises(OptionError) as caught:
            attempt(**{name: 3})
        assert str(caught.value) == message


def test_every_former_name_leads_to_an_option():
    options = set(nested_names(ReFLConfig))
    assert {now for names in RENAMED.values() for now in names} <= options
    assert not options & (RENAMED.keys() | REMOVED.keys())


def test_a_record_is_read_by_todays_names_without_what_its_algorithm_did_not_use():
    recorded = {"algorithm": "auto", "margin": 0.5, "candidates": 4, "lora_rank": 8, "purify": None, "seed": 1}
    shared = {"algorithm": "auto", "lora.rank": 8, "seed": 1}
    assert translated(recorded, "refl") == {**shared, "refl.margin": 0.5}
    assert translated(recorded, "raft") == {**shared, "raft.candidates": 4}
    assert translated(recorded, "reward_weighted") == {**shared, "reward_weighted.margin": 0.5}
    today = {**shared, "refl.margin": 0.5}
    assert translated(today, "refl") == today
