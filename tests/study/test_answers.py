"""Answers: checked, kept, replaced, imported; and there after a kill."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from realignkit.errors import DamagedError, OptionError, OutputError
from realignkit.study.answers import ANSWERS, FILE, Answers, passed
from tests.conftest import HANGS
from tests.study.conftest import answer, person, ranking


@pytest.fixture
def study_and_answers(make):
    folder, study = make()
    return study, Answers(folder, study)


def test_what_is_saved_is_read_back(study_and_answers):
    study, answers = study_and_answers
    given = [answer(study, study.items[0], [2, (0, 1)]), answer(study, study.items[1], [0, 1, 2], "fidelity")]
    assert answers.save(given) == 2
    assert answers.read() == given


def test_a_later_answer_takes_the_place_of_an_earlier_one(study_and_answers):
    study, answers = study_and_answers
    answers.save([answer(study, study.items[0], [0, 1, 2])])
    later = answer(study, study.items[0], [2, 1, 0])
    assert answers.save([later]) == 0
    assert answers.read() == [later]


def test_people_come_in_the_order_in_which_they_began(study_and_answers):
    study, answers = study_and_answers
    early, late = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    answers.save(
        [
            answer(study, study.items[0], [0, 1, 2], of=1, at=late),
            answer(study, study.items[1], [0, 1, 2], of=2, at=early),
            answer(study, study.items[2], [0, 1, 2], of=2, at=late),
        ]
    )
    assert [given.person for given in answers.read()] == [person(2), person(2), person(1)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranking": [[0]]},
        {"ranking": [[0], [1], [1], [2]]},
        {"ranking": [[0], [1], [], [2]]},
        {"shown": [0, 1]},
        {"item": "999"},
        {"question": "beauty"},
    ],
)
def test_an_answer_that_is_none_of_the_study_is_refused_with_all_others(study_and_answers, wrong):
    study, answers = study_and_answers
    item = study.items[0]
    if "ranking" in wrong:
        wrong = {"ranking": [[item.pictures[place] for place in group] for group in wrong["ranking"]]}
    elif "shown" in wrong:
        wrong = {"shown": [item.pictures[place] for place in wrong["shown"]]}
    good = answer(study, item, [0, 1, 2])
    with pytest.raises(OptionError):
        answers.save([good, good.model_copy(update=wrong)])
    assert answers.read() == []


def test_pictures_of_another_item_are_refused(study_and_answers):
    study, answers = study_and_answers
    wrong = answer(study, study.items[0], [0, 1, 2]).model_copy(update={"item": study.items[1].id})
    with pytest.raises(OptionError, match="does not rank each of its pictures once"):
        answers.save([wrong])


def test_answers_of_another_study_are_not_mixed_in(make):
    folder, study = make()
    Answers(folder, study)
    with pytest.raises(OutputError, match="holds the answers of another study"):
        Answers(folder, study.model_copy(update={"id": "0" * 32}))


def test_a_file_that_is_no_database(make):
    folder, study = make()
    (folder / FILE).write_bytes(b"something else " * 100)
    with pytest.raises(DamagedError, match="Move it out"):
        Answers(folder, study)


def test_a_row_that_is_no_answer(study_and_answers):
    study, answers = study_and_answers
    answers.save([answer(study, study.items[0], [0, 1, 2])])
    with sqlite3.connect(answers.path) as connection:
        connection.execute("UPDATE answers SET ranking = '[]'")
    with pytest.raises(DamagedError, match="holds what is no answer"):
        answers.read()


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("ranking", '[["someone"]]', "ranking.0.0: is not of the form that it should have"),
        ("ranking", 7, "ranking: is no list (an array)"),
        ("seconds", "long", "seconds: is no number"),
        ("person", "me", "person: is not of the form that it should have"),
    ],
)
def test_a_row_that_somebody_has_edited_is_said_in_words(study_and_answers, column, value, why):
    study, answers = study_and_answers
    answers.save([answer(study, study.items[0], [0, 1, 2])])
    with sqlite3.connect(answers.path) as connection:
        connection.execute(f"UPDATE answers SET {column} = ?", (value,))
    with pytest.raises(DamagedError) as raised:
        answers.read()
    assert str(raised.value) == f"{answers.path} holds what is no answer ({why}). Move it out of the folder."


def test_checks_are_passed_by_the_one_picture_in_the_first_place(study_and_answers):
    study, _ = study_and_answers
    (check,) = [item for item in study.items if item.first]
    right = check.pictures.index(check.first)
    others = [place for place in range(3) if place != right]
    assert passed(check, answer(study, check, [right, *others])) is True
    assert passed(check, answer(study, check, [right, tuple(others)])) is True
    assert passed(check, answer(study, check, [(right, others[0]), others[1]])) is False
    assert passed(check, answer(study, check, [*others, right])) is False
    item = next(item for item in study.items if not item.first)
    assert passed(item, answer(study, item, [0, 1, 2])) is None


def test_many_at_once_lose_nothing(study_and_answers):
    study, answers = study_and_answers

    def take_part(number):
        for item in study.items:
            answers.save([answer(study, item, [0, 1, 2], of=number)])

    threads = [threading.Thread(target=take_part, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers.read()) == 8 * len(study.items)


def test_what_was_saved_survives_a_kill(study_and_answers, tmp_path):
    study, answers = study_and_answers
    given = answer(study, study.items[0], [2, 1, 0])
    code = (
        "import os, signal, sys\n"
        "from realignkit.study.answers import Answer, Answers\n"
        "from realignkit.study.folder import read_study\n"
        "Answers(sys.argv[1], read_study(sys.argv[1])).save([Answer.model_validate_json(sys.argv[2])])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, str(answers.path.parent), given.model_dump_json()]
    assert subprocess.run(command, timeout=HANGS, env=os.environ).returncode == -signal.SIGKILL
    assert answers.read() == [given]


def written(path, of, rows, **changes):
    values = {"study": of.id, "answers": [given.model_dump() for given in rows]} | changes
    path.write_text(ANSWERS.dumps(values))
    return path


def test_a_downloaded_file_is_taken_in_once(study_and_answers, tmp_path):
    study, answers = study_and_answers
    given = [answer(study, item, [1, 0, 2]) for item in study.items]
    path = written(tmp_path / "answers.json", study, given)
    assert answers.import_file(path) == (len(given), len(given))
    assert answers.import_file(path) == (len(given), 0)
    assert answers.read() == given


def test_of_two_answers_the_later_one_counts_whichever_is_imported_first(study_and_answers, tmp_path):
    study, answers = study_and_answers
    item = study.items[0]
    before = answer(study, item, [0, 1, 2], at="2026-01-01T10:00:00+02:00")
    after = answer(study, item, [2, 1, 0], at="2026-01-01T09:00:00Z")  # an hour later, though its text is less
    first = written(tmp_path / "first.json", study, [before])
    second = written(tmp_path / "second.json", study, [after, before])
    said = []
    assert answers.import_file(first, said.append) == (1, 1)
    assert said == []
    assert answers.import_file(second, said.append) == (2, 0)
    assert answers.read() == [after]
    assert answers.import_file(first, said.append) == (1, 0)
    assert answers.read() == [after]
    assert said == [
        f"{second}: 1 answers take the place of earlier ones",
        f"{second}: 1 answers are older than those that are there, and are left out",
        f"{first}: 1 answers are older than those that are there, and are left out",
    ]


@pytest.mark.parametrize("at", ["yesterday", "2026-01-01T10:00:00", ""])
def test_an_answer_that_came_at_no_time_is_refused(study_and_answers, tmp_path, at):
    study, answers = study_and_answers
    path = written(tmp_path / "answers.json", study, [answer(study, study.items[0], [0, 1, 2], at=at)])
    with pytest.raises(DamagedError, match=rf"came at '{at}', which is no time\. Ask for the file again"):
        answers.import_file(path)
    assert answers.read() == []


def test_files_that_are_refused(study_and_answers, tmp_path):
    study, answers = study_and_answers
    good = answer(study, study.items[0], [1, 0, 2])
    with pytest.raises(OptionError, match="is not there"):
        answers.import_file(tmp_path / "no.json")
    with pytest.raises(OptionError, match="answers to another study"):
        answers.import_file(written(tmp_path / "a.json", study, [good], study="0" * 32))
    wrong = good.model_copy(update={"ranking": ranking(study.items[0], [0])})
    with pytest.raises(OptionError, match=r"b\.json.*rank each of its pictures"):
        answers.import_file(written(tmp_path / "b.json", study, [good, wrong]))
    (tmp_path / "c.json").write_text(json.dumps({"format": "something", "version": 1}))
    with pytest.raises(OutputError, match="is no file of answers of this realignkit"):
        answers.import_file(tmp_path / "c.json")
    with pytest.raises(DamagedError, match="Ask for the file again"):
        answers.import_file(written(tmp_path / "d.json", study, [], answers=[{"person": "x"}]))
    assert answers.read() == []
