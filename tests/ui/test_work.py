"""What one person does, from a prompt to several refinements; with the tiny plugins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from realignkit.errors import OptionError, PromptError
from realignkit.realigner.draft import candidate_seeds
from realignkit.ui.settings import values_of
from realignkit.ui.work import Everybody, Request, Work
from tests.ui.conftest import finish

PROMPT = "a red book and a yellow pen"


def drawn(work, **more):
    work.draw(Request(PROMPT, "tiny", 3, **more))
    return finish(work)


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_what_is_drawn_is_what_calling_the_realigner_gives(work, make_realigner):
    drawn(work)
    assert work.version.realignment == make_realigner()(PROMPT, 3)
    assert tuple(item.caption for item in work.objects) == work.version.realignment.captions
    assert (work.candidate, work.changes) == (None, ())


def test_refining_again_from_the_same_noise_gives_the_same_and_with_another_layout_another(work):
    first = drawn(work).version.realignment
    work.refine_again()
    assert same(finish(work).version.realignment.refined, first.refined)
    assert work.version.realignment.settings == first.settings
    assert work.version.title == "the same again"
    work.change(likelihood="possible")
    work.paint(Image.new("L", (8, 8), 255))
    assert len(work.changes) == 1
    work.refine_again()
    third = finish(work).version
    assert third.title.startswith("'") and "is possible, not certain" in third.title
    assert third.realignment.notes[0] == f"the layout was changed by hand: {third.title}"
    assert third.realignment.settings["layout"] == "edited"
    assert third.realignment.layout.segments[0].area == 1
    assert not same(third.realignment.refined, first.refined)
    assert same(third.realignment.coarse, first.coarse)
    assert (len(work.versions), work.shown, work.changes) == (3, 2, ())
    work.show(0)
    assert work.objects == work.versions[0].objects


def test_objects_are_added_and_deleted(work):
    drawn(work)
    count = len(work.objects)
    work.add("a red sign")
    assert (len(work.objects), work.chosen) == (count + 1, count)
    work.paint(Image.new("L", (32, 32), 255))
    work.choose(0)
    work.delete()
    work.refine_again()
    made = finish(work).version.realignment
    assert "a red sign" in [caption.caption for caption in made.captions]
    assert "a red sign" in [tag.name for tag in made.tags]
    assert len(made.captions) == count


def test_another_candidate_is_a_run_of_its_own_seed(work, make_realigner):
    drawn(work, candidates=3)
    chosen = work.candidate
    assert len(work.draft.candidates) == 3
    other = (chosen + 1) % 3
    work.choose_candidate(other)
    made = finish(work).version.realignment
    assert (work.candidate, made.seed) == (other, candidate_seeds(3, 3)[other])
    assert made.notes[0] == f"candidate {other + 1} of 3 was chosen by hand"
    assert same(made.coarse, work.draft.candidates[other])
    again = make_realigner()(PROMPT, made.seed)
    assert np.abs(np.asarray(again.refined, dtype=int) - np.asarray(made.refined, dtype=int)).max() <= 1
    with pytest.raises(OptionError, match="no such candidate"):
        work.choose_candidate(7)


def test_a_picture_of_ones_own_is_refined(work, make_realigner, tmp_path):
    path = tmp_path / "mine.png"
    Image.effect_noise((40, 32), 90).convert("RGB").save(path)
    made = drawn(work, picture=path).version.realignment
    assert made == make_realigner()(PROMPT, 3, coarse=path)
    assert made.settings["coarse"] == "given"
    work.change(likelihood="possible")
    work.refine_again()
    assert finish(work).version.realignment.settings["contents"] == made.settings["contents"]


def test_a_picture_that_is_none_is_named_without_where_it_lies(work, tmp_path):
    path = tmp_path / "mine.png"
    path.write_text("no picture")
    with pytest.raises(OptionError, match=r"cannot read 'mine\.png' as an image"):
        work.draw(Request(PROMPT, "tiny", 3, picture=path))


def test_settings_act(work):
    drawn(work)
    values = values_of(work.models.realigner("tiny"))
    values[0] = 0.9
    work.refine_again(values)
    assert finish(work).version.realignment.settings["modulation"]["share"] == 0.9
    assert work.version.title == "with other settings"


def test_what_cannot_be_asked_for_is_refused_in_words(work):
    with pytest.raises(PromptError, match="the prompt is empty"):
        work.draw(Request(" ", "tiny", 3))
    with pytest.raises(OptionError, match="candidates must be 1 to 8"):
        work.draw(Request(PROMPT, "tiny", 3, candidates=99))
    with pytest.raises(OptionError, match="nothing to refine yet"):
        work.refine_again()
    with pytest.raises(OptionError, match="no picture to add an object to"):
        work.add("a cup")
    work.draw(Request(PROMPT, "/etc/passwd", 3))
    assert work.job._over.wait(600)
    assert work.job.error.startswith("this page offers tiny, not '/etc/passwd'")


def test_cancelled_work_leaves_what_was_there_and_takes_more(work, monkeypatch):
    work.draw(Request(PROMPT, "tiny", 3))
    with pytest.raises(OptionError, match="a picture is being drawn"):
        work.draw(Request(PROMPT, "tiny", 4))
    work.cancel()
    assert work.job._over.wait(600)
    assert work.job.state in ("cancelled", "done")
    first = drawn(work).version
    work.refine_again()
    work.cancel()
    assert work.job._over.wait(600)
    assert work.versions[0] is first


def test_a_saved_run_is_opened_and_goes_on(work, models, make_realigner, tmp_path):
    saved = make_realigner(candidates=2, select_by="colour", modulation={"share": 0.6})(PROMPT, 3)
    other = Work(models, work.desk)
    other.open(saved)
    assert (other.message, other.request.settings[0], other.version.realignment) == ("", 0.6, saved)
    other.refine_again()
    assert same(finish(other).version.realignment.refined, saved.refined)  # from the kept candidate's noise
    assert other.version.realignment.settings == saved.settings


def test_a_run_of_another_model_can_be_looked_at(work, make_realigner):
    saved = dataclasses.replace(make_realigner()(PROMPT, 3), plugins={"generator": "sd15"})
    work.open(saved)
    assert "can be looked at, not drawn again: this page offers tiny, not 'sd15'" in work.message
    assert work.version.realignment is saved
    with pytest.raises(OptionError, match="nothing to refine yet"):
        work.refine_again()


def test_everybody_has_work_of_their_own_and_the_longest_away_is_forgotten(work):
    everybody = Everybody(lambda: Work(work.models, work.desk), most=2)
    keys = [letter * 32 for letter in "abc"]
    first = everybody.work(keys[0])
    assert everybody.work(keys[1]) is not first
    assert everybody.work(keys[0]) is first
    everybody.work(keys[2])
    assert everybody.work(keys[0]) is first
    for key in ("", "short", "../" * 8, None, "a" * 65):
        with pytest.raises(OptionError, match="lost its key"):
            everybody.work(key)
