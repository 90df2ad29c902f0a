from __future__ import annotations

from tests.plugins.scorers.endpoint import (
    PROMPT,
    RIGHT,
    TAGS,
    right_answer,
    say,
    script,
    serving,
)


def test_the_same_is_never_asked_twice(scorer, tmp_path):
    with serving(script(say("nonsense"), say(right_answer()))) as service:
        assert scorer(service)(PROMPT, TAGS) == RIGHT
        assert scorer(service)(PROMPT, TAGS) == RIGHT  # another instance, the same disk
        assert len(service.requests) == 2
        scorer(service, model="another")(PROMPT, TAGS)
        scorer(service, temperature=0.5)(PROMPT, TAGS)
        assert len(service.requests) == 4
        for path in (tmp_path / "cache").rglob("*.json"):
            path.write_bytes(path.read_bytes()[:-20])
        assert scorer(service)(PROMPT, TAGS) == RIGHT
        assert len(service.requests) == 5


def test_a_full_disk_costs_no_answer(scorer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with serving(script(say(right_answer()))) as service:
        assert scorer(service, cache_dir=tmp_path / "file" / "cache")(PROMPT, TAGS) == RIGHT
