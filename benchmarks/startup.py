"""Where a command's seconds go, and how many there are beside those of importing its libraries.

    python benchmarks/startup.py                        # this checkout, idle and beside one busy process
    python benchmarks/startup.py --checkout ../older    # an older one as well, in turn with this one; repeatable
    python benchmarks/startup.py --training             # also beside a training run of the embedded model
    python benchmarks/startup.py --ui                   # only 'realignkit ui', until its page is there
    python benchmarks/startup.py --smoke                # one round of the quick commands

Every round starts each command of each checkout once, in turn, and the plain import between them; ratios are within a
round, so that what the machine does meanwhile hits both. Table: medians, with the smallest and largest in brackets.
Writes ``startup.md`` and ``startup.json`` to ``--out``, ``benchmarks/results/startup`` unless said. With ``--ui``,
``ui.md`` and ``ui.json``: there "plain imports" are ``import torch, diffusers``, and Python has to have gradio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = "from diffusers import StableDiffusionPipeline; from transformers import CLIPTextModel"
PLAIN = "the libraries alone"
RUN = "realignkit run"
COMMAND = ("-m", "realignkit.cli")
COMMANDS: dict[str, tuple[str, ...]] = {
    PLAIN: ("-c", LIBRARIES),
    "import realignkit": ("-c", "import realignkit"),
    "realignkit --help": (*COMMAND, "--help"),
    "realignkit plugins": (*COMMAND, "plugins"),
    "realignkit doctor": (*COMMAND, "doctor"),
    RUN: (
        *COMMAND,
        "run",
        "a green horse and a white clock",
        "--model",
        "micro",
        "--seed",
        "9",
        "--overwrite",
        "--out",
        "made",
    ),
}
TORCH, UI = "import torch, diffusers", "realignkit ui, to its page"
OF_UI: dict[str, tuple[str, ...]] = {TORCH: ("-c", TORCH), UI: (*COMMAND, "ui", "runs", "--port", "0")}
QUICK = ("import realignkit", "realignkit --help")
TRAINING = ("train", "--reward", "micro_clip", "--prompts", "micro:train", "--set", "training.iterations=1000000")
BUSY = ("-c", "while True: pass")
SHARE = 0.02
"""Packages that take less of the imports' time than this are summed up."""

_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def environment(checkout: Path) -> dict[str, str]:
    """The variables under which Python imports realignkit from a checkout, without any installed one."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), str(checkout / "plugins")])}


def started(arguments: Sequence[str], checkout: Path, folder: Path) -> tuple[float, str]:
    """Seconds on the clock that a process takes from start to end, and what it wrote to standard error."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment(checkout), capture_output=True, text=True
    )
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed in {checkout}:\n{done.stderr.strip()}")
    return seconds, done.stderr


def opened(arguments: Sequence[str], checkout: Path, folder: Path) -> tuple[float, str]:
    """Seconds from the start of a process that prints an address until what is there has been sent; and that."""
    begin = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, env=environment(checkout), stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            address = process.stdout.readline().strip()
            if not address.startswith("http://127.0.0.1:"):
                raise SystemExit(f"{' '.join(arguments)} served nothing in {checkout}")
            with urllib.request.urlopen(address) as page:
                text = page.read().decode()
            return time.perf_counter() - begin, text
        finally:
            process.kill()


@contextlib.contextmanager
def beside(arguments: Sequence[str], checkout: Path, folder: Path, ready: Path | None = None) -> Iterator[None]:
    """While another process works; from when it has written a file, if that is said."""
    if not arguments:
        yield
        return
    with (folder / "beside.log").open("w") as log:
        other = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=environment(checkout), stdout=log, stderr=log
        )
        try:
            while ready is not None and not (ready.is_file() and ready.stat().st_size):
                if other.poll() is not None:
                    raise SystemExit(f"{' '.join(arguments)} ended:\n{(folder / 'beside.log').read_text()}")
                time.sleep(0.2)
            yield
            if other.poll() is not None:
                raise SystemExit(f"{' '.join(arguments)} ended before the measurement")
        finally:
            other.kill()
            other.wait()


def rounds(checkouts: Mapping[str, Path], names: Sequence[str], repeats: int, folder: Path) -> dict[str, Any]:
    """Checkout -> command -> seconds of each round. All are started once before, so that files are in memory."""
    seconds: dict[str, dict[str, list[float]]] = {name: {command: [] for command in names} for name in checkouts}
    for turn in range(repeats + 1):
        for name, checkout in checkouts.items():
            for command in names:
                timed = opened if command == UI else started
                spent, _ = timed(OF_UI.get(command) or COMMANDS[command], checkout, folder)
                if turn:
                    seconds[name][command].append(spent)
    return seconds


def where(checkout: Path, folder: Path) -> dict[str, float]:
    """Seconds of one ``run`` by what they went to: Python itself, each package's imports, each step, and the rest."""
    python, _ = started(("-c", "pass"), checkout, folder)
    total, log = started(("-X", "importtime", *COMMANDS[RUN]), checkout, folder)
    packages: Counter[str] = Counter()
    for microseconds, module in _IMPORT.findall(log):
        packages[module.partition(".")[0]] += int(microseconds)
    small = SHARE * packages.total()
    spent = {"Python itself": python}
    spent |= {f"import {name}": own / 1e6 for name, own in packages.most_common() if own >= small}
    spent["import of other packages"] = sum(own for own in packages.values() if own < small) / 1e6
    timings = json.loads((folder / "made" / "realignment.json").read_text())["timings"]
    spent |= {step: float(seconds) for step, seconds in timings.items()}
    spent["loading models, writing files"] = max(0.0, total - sum(spent.values()))
    return spent


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median, with the smallest and the largest."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def report(result: Mapping[str, Any], libraries: str = PLAIN) -> str:
    """The results as Markdown: a row for each command, checkout and setting; then where one ``run`` went.

    ``libraries`` is the command whose time is the unit of plain imports.
    """
    lines = ["| beside | checkout | command | seconds | in plain imports | in its own idle time |"]
    lines.append("| --- | --- | --- | --: | --: | --: |")
    idle = result["seconds"]["idle"]
    for setting, checkouts in result["seconds"].items():
        for checkout, commands in checkouts.items():
            for command, seconds in commands.items():
                plain, alone = commands.get(libraries, []), statistics.median(idle[checkout][command])
                ratio = spread([own / other for own, other in zip(seconds, plain, strict=True)]) if plain else ""
                slower = "" if setting == "idle" else spread([own / alone for own in seconds])
                lines.append(f"| {setting} | {checkout} | {command} | {spread(seconds)} | {ratio} | {slower} |")
    parts = result["where"]
    if parts:
        names = list(dict.fromkeys(name for spent in parts.values() for name in spent))
        lines += ["", f"| seconds of one `{RUN}` | {' | '.join(parts)} |", f"| --- |{' --: |' * len(parts)}"]
        for name in names:
            cells = [f"{spent[name]:.2f}" if name in spent else "" for spent in parts.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        totals = [f"{sum(spent.values()):.2f}" for spent in parts.values()]
        lines.append(f"| all, with `-X importtime` | {' | '.join(totals)} |")
    return "\n".join(lines) + "\n"


def measure(
    checkouts: Mapping[str, Path], names: Sequence[str], repeats: int, training: bool, parts: bool
) -> dict[str, Any]:
    """Some commands, and the parts of one ``run``, as it is written to ``startup.json``."""
    this = next(iter(checkouts.values()))
    result: dict[str, Any] = {
        "setting": {
            "machine": platform.machine(),
            "cpu cores": os.cpu_count(),
            "python": platform.python_version(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
            "rounds": repeats,
        },
        "seconds": {},
        "where": {},
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        others: dict[str, tuple[tuple[str, ...], Path | None]] = {"idle": ((), None), "a busy process": (BUSY, None)}
        if training:
            others["a training run"] = ((*COMMAND, *TRAINING, "--out", "trained"), folder / "trained" / "log.jsonl")
        for setting, (arguments, ready) in others.items():
            print(f"{setting} …", file=sys.stderr)
            with beside(arguments, this, folder, ready):
                result["seconds"][setting] = rounds(checkouts, names, repeats, folder)
        if parts:
            result["where"] = {name: where(checkout, folder) for name, checkout in checkouts.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, action="append", default=[], help="another checkout; repeatable")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--training", action="store_true", help="also beside a training run of the embedded model")
    parser.add_argument("--ui", action="store_true", help="only 'realignkit ui', until its page is there")
    parser.add_argument("--smoke", action="store_true", help="one round of the quick commands; written only with --out")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    checkouts = {"this": ROOT} | {path.resolve().name: path.resolve() for path in options.checkout}
    names = tuple(OF_UI) if options.ui else QUICK if options.smoke else tuple(COMMANDS)
    parts = not options.ui and not options.smoke
    result = measure(checkouts, names, 1 if options.smoke else options.repeats, options.training, parts)
    table = report(result, TORCH if options.ui else PLAIN)
    print(table)
    out = options.out or (None if options.smoke else Path(__file__).parent / "results" / "startup")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        stem = "ui" if options.ui else "startup"
        (out / f"{stem}.md").write_text(table, encoding="utf-8")
        (out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
