"""Evaluations that are broken off, killed or shared by processes: they come to what one would that was not."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from realignkit.evaluation.evaluate import Evaluation
from realignkit.evaluation.folder import EvaluationFolder
from realignkit.evaluation.pictures import read_pictures
from realignkit.evaluation.processes import Launch
from realignkit.named import Named
from tests.conftest import HANGS, ROOT
from tests.evaluation.judges import Redness, Spread, metrics, results


def test_cut_off_lines_and_batches_are_measured_again_as_they_were(folder: Path, tmp_path: Path):
    pictures, whole, cut = read_pictures(folder), tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        Evaluation(pictures, metrics(), out, batch_size=4)()
    lines = (cut / "pictures.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "pictures.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:30])
    Evaluation(pictures, metrics(), cut, batch_size=4)()
    assert results(cut) == results(whole)


def test_ctrl_c_waits_for_the_batch_in_hand_and_keeps_it(folder: Path, tmp_path: Path):
    class Interrupting(Redness):
        def judge_each(self, images, prompts):
            if "a blue pen" in prompts and not (tmp_path / "once").exists():
                (tmp_path / "once").touch()
                signal.raise_signal(signal.SIGINT)
            return super().judge_each(images, prompts)

    def made():
        return [Named("metric", "redness", Interrupting()), Named("metric", "spread", Spread())]

    pictures, out = read_pictures(folder), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        Evaluation(pictures, made(), out, batch_size=4)()
    assert len((out / "pictures.jsonl").read_text().splitlines()) == 4
    assert len(EvaluationFolder(out).states("spread")[0][1]) == 4
    Evaluation(pictures, made(), out, batch_size=4)()
    Evaluation(pictures, made(), tmp_path / "whole", batch_size=4)()
    assert results(out) == results(tmp_path / "whole")


def test_processes_share_batches_and_their_results_are_joined(folder: Path, tmp_path: Path):
    pictures, out = read_pictures(folder), tmp_path / "out"
    Evaluation(pictures, metrics(), tmp_path / "one", batch_size=2)()

    class NoWait(Launch):
        def wait(self) -> None:
            pass

    first, second = (Evaluation(pictures, metrics(), out, batch_size=2, launch=NoWait(rank, 2)) for rank in (0, 1))
    first.results.open(first._record)
    second()
    assert (out / "pictures-1.jsonl").is_file()
    first()
    assert not (out / "pictures-1.jsonl").exists()
    assert results(out)["lines"] == results(tmp_path / "one")["lines"]
    assert results(out)["whole"]["spread"] == pytest.approx(results(tmp_path / "one")["whole"]["spread"], rel=1e-12)
    Evaluation(pictures, metrics(), out, batch_size=2)()  # and one alone has nothing to do
    assert results(out)["lines"] == results(tmp_path / "one")["lines"]


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand pictures of 500 prompts, and how they are measured, as a script."""
    folder, random, rows = tmp_path_factory.mktemp("thousand"), np.random.default_rng(2), []
    for number in range(1000):
        Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": f"a book, number {number % 500}", "seed": number // 500})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "measure.py").write_text(
        "import os, signal, sys\n"
        "open(sys.argv[2] + '.pid', 'w').write(str(os.getpid()))\n"
        "from realignkit.evaluation import evaluate\n"
        "from realignkit.evaluation.pictures import read_pictures\n"
        "from realignkit.evaluation.processes import Launch\n"
        "from tests.evaluation.judges import Redness, metrics\n"
        "judge, seen = Redness.judge_each, []\n"
        "def judge_each(self, images, prompts):\n"
        "    if sys.argv[3:] and len(seen) >= int(sys.argv[3]):\n"
        "        open(sys.argv[2] + '.waits', 'w').close()\n"
        "        signal.pause()  # to be killed\n"
        "    seen.extend(images)\n"
        "    return judge(self, images, prompts)\n"
        "Redness.judge_each = judge_each\n"
        "evaluate.KEEP_EVERY = 0.0  # after every batch\n"
        "pictures = read_pictures(sys.argv[1])\n"
        "evaluate.Evaluation(pictures, metrics(), sys.argv[2], launch=Launch.of_environment())()\n"
    )
    return folder


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}


@pytest.mark.slow
def test_killed_five_times_it_equals_one_that_was_not(thousand: Path, tmp_path: Path, quick: Path):
    command = [quick / "python", thousand / "measure.py", thousand]
    subprocess.run([*command, tmp_path / "whole"], env=environment(), check=True, timeout=HANGS)
    lines, waits, kept = tmp_path / "killed" / "pictures.jsonl", tmp_path / "killed.waits", 0
    for _ in range(5):
        with subprocess.Popen([*command, tmp_path / "killed", "150"], env=environment()) as process:
            while process.poll() is None and not waits.exists():
                time.sleep(0.01)
            os.kill(int((tmp_path / "killed.pid").read_text()), signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        waits.unlink()
        before, kept = kept, lines.read_bytes().count(b"\n")
        assert before < kept < 1000
    subprocess.run([*command, tmp_path / "killed"], env=environment(), check=True, timeout=HANGS)
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.slow
def test_two_launched_processes_give_the_numbers_of_one(thousand: Path, tmp_path: Path, quick: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(port)]
    for command, out in (([quick / "python"], "one"), (launch, "two")):
        subprocess.run(
            [*command, thousand / "measure.py", thousand, tmp_path / out], env=environment(), check=True, timeout=HANGS
        )
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert two["lines"] == one["lines"]
    assert two["whole"]["spread"] == pytest.approx(one["whole"]["spread"], rel=1e-12)
