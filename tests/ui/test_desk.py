"""Work in a line: one after the other, watched, cancelled, bounded."""

from __future__ import annotations

import threading

import pytest

from realignkit.errors import ModelError, RealignKitError
from realignkit.ui.desk import Desk
from tests.conftest import HANGS


def over(job):
    assert job._over.wait(HANGS)
    return job


@pytest.fixture
def held():
    """A desk whose first job goes on until it is let go."""
    desk, go, begun = Desk(longest=2), threading.Event(), threading.Event()

    def work(progress):
        begun.set()
        while not go.wait(0.01):
            progress("refine", 1, 2)

    job = desk.submit(work)
    assert begun.wait(HANGS)
    yield desk, job, go
    go.set()


def test_jobs_wait_for_each_other_and_know_how_many_are_before_them(held):
    desk, first, go = held
    done = []
    second, third = (desk.submit(lambda progress, name=name: done.append(name)) for name in "ab")
    assert [desk.ahead(job) for job in (first, second, third)] == [0, 1, 2]
    with pytest.raises(RealignKitError, match="try again in a minute"):
        desk.submit(lambda progress: None)
    go.set()
    over(third)
    assert (done, second.state, third.state) == (["a", "b"], "done", "done")


def test_what_waits_is_cancelled_at_once_and_makes_room(held):
    desk, _, go = held
    second, third = desk.submit(lambda progress: None), desk.submit(lambda progress: None)
    second.cancel()
    assert (second.over, second.state, desk.ahead(third)) == (True, "cancelled", 1)
    fourth = desk.submit(lambda progress: None)
    go.set()
    assert over(fourth).state == "done"


def test_what_runs_stops_at_its_next_report(held):
    desk, first, _ = held
    assert [first.step, first.done, first.total] == ["refine", 1, 2] or first.step == ""
    first.cancel()
    assert over(first).state == "cancelled"
    assert list(first.watch())[-1] is first
    assert over(desk.submit(lambda progress: None)).state == "done"


def test_errors_are_put_down_in_words_and_the_desk_goes_on():
    def refused(progress):
        raise ModelError("the model is broken: mend it.")

    def ended(progress):
        raise SystemExit(3)

    desk = Desk()
    known, unknown = over(desk.submit(refused)), over(desk.submit(ended))
    assert (known.state, known.error) == ("failed", "the model is broken: mend it.")
    assert unknown.state == "failed" and unknown.error.startswith("something unexpected went wrong")
    assert over(desk.submit(lambda progress: None)).state == "done"
