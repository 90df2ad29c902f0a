from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from realignkit.errors import ModelError, OptionError
from realignkit.evaluation import Processes, run_many
from realignkit.realignment import Realignment
from tests import tiny
from tests.conftest import HANGS

PROMPTS = ["a red book", "a yellow pen", "word " * 99, "a red desk", "a sign"]


@pytest.mark.slow
def test_several_processes_make_what_one_makes(tmp_path: Path):
    make = functools.partial(tiny.realigner, batch_size=1)
    counts: list[tuple[int, int]] = []
    alone = run_many(make(), PROMPTS, tmp_path / "alone")
    shared = run_many(
        make(),
        PROMPTS,
        tmp_path / "shared",
        processes=Processes(2, make),
        on_done=lambda done, total: counts.append((done, total)),
    )
    assert (shared.made, shared.failures) == (4, alone.failures)
    assert counts == [(done, 5) for done in (1, 2, 3, 4, 5)]
    for folder in (tmp_path / "alone").glob("0*"):
        here, there = (Realignment.load(place) for place in (folder, tmp_path / "shared" / folder.name))
        assert (here.prompt, here.captions, here.settings) == (there.prompt, there.captions, there.settings)
        assert np.array_equal(np.asarray(here.refined), np.asarray(there.refined))
    again = run_many(make(), PROMPTS[:2], tmp_path / "shared", processes=Processes(2, make))
    assert (again.made, again.skipped) == (0, 2)


@pytest.mark.slow
def test_a_process_that_the_system_ends(tmp_path: Path):
    with pytest.raises(ModelError, match="a process ended before its work was done"):
        run_many(
            tiny.realigner(batch_size=1), PROMPTS[:2], tmp_path, processes=Processes(2, functools.partial(os._exit, 9))
        )
    assert not list(tmp_path.glob("0*"))


@pytest.mark.slow
def test_what_goes_wrong_while_a_process_starts(tmp_path: Path):
    make = functools.partial(tiny.realigner, tagger="nobody")
    with pytest.raises(ModelError, match="nobody"):
        run_many(tiny.realigner(batch_size=1), PROMPTS[:2], tmp_path, processes=Processes(2, make))


@pytest.mark.parametrize("count", [0, "2", 1.5, True])
def test_a_number_of_processes_is_a_whole_number(count: object):
    with pytest.raises(OptionError, match="processes"):
        Processes(count, tiny.realigner)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_command_shares_prompts(tmp_path: Path, quick: Path):
    (tmp_path / "prompts.txt").write_text("a red book\na yellow pen\n")
    pictures = []
    for out, more in (("alone", ()), ("shared", ("--processes", "2"))):
        command = [quick / "realignkit", "run", "--prompts", "prompts.txt", "--batch-size", "1", "--out", out, *more]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=HANGS)
        folders = sorted((tmp_path / out).glob("0*"))
        pictures.append([np.asarray(Realignment.load(folder).refined) for folder in folders])
    assert [len(each) for each in pictures] == [2, 2]
    assert all(np.array_equal(*pair) for pair in zip(*pictures, strict=True))
