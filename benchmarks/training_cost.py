r"""What a training gained against what it cost: pictures and minutes, beside the best of N of the base's pictures.

    realignkit train … --set validation.every=40 --out runs/nft    # a training with validations, and so on
    realignkit eval --model micro --prompts micro:validation,size=128 --seed 1000 --seed 2000 --seed 3000 \
        --metric micro_oracle --metric micro_caption --set metric.micro_caption.as_trained=true \
        --set 'metric.micro_caption.options={"estimator": "likelihood"}' --out runs/base
    python benchmarks/training_cost.py nft=runs/nft dpo=runs/dpo --base runs/base   # adds to what has been read
    python benchmarks/training_cost.py --control nft=runs/nft-control               # beside the training of that name
    python benchmarks/training_cost.py                                              # draws that again

``--base`` is an evaluation of the base's pictures, several of each prompt, by the oracle and by a reward (the caption's
likelihood, by which ``--select-by caption`` chooses): for each N it is worked out how often the picture that the reward
likes best of N is fully right, over all ways of taking N. A training's pictures are those that it drew to learn from,
not those of its validations; its minutes those of its iterations, drawing and rating included. A control is drawn where
its training is after as many iterations; what it cost itself is not read. Writes
``benchmarks/results/training-cost.json`` and ``.md``, and with matplotlib (the extra ``plots``)
``docs/images/training-cost.svg``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from realignkit.evaluation.pictures import PICTURES as PICTURES_OF_A_RUN
from realignkit.files import atomic_write
from realignkit.plots import STYLE, document
from realignkit.refl.run import LOG, read_record

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "training-cost.json"
DRAWING = ROOT / "docs" / "images" / "training-cost.svg"
COLOURS = ("#1f5fa8", "#b3471b", "#1b7a3d", "#7a3d8f", "#8a6d00", "#555555")


def curve(folder: Path) -> dict[str, list[float]]:
    """A training's validations: ``iterations``, ``pictures`` drawn by then, ``minutes``, and what was ``judged``."""
    record, points = validations(folder)
    config, algorithm = record["config"], record["identity"]["algorithm"]
    seconds = {row["iteration"]: row["seconds"] for row in map(json.loads, (folder / LOG).read_text().splitlines())}
    return {
        "iterations": [*points],
        "pictures": [_pictures(folder, algorithm, config, at) for at in points],
        "minutes": [round(sum(s for i, s in seconds.items() if i <= at) / 60, 2) for at in points],
        "judged": [*points.values()],
    }


def control_of(points: Mapping[str, Any], folder: Path) -> list[float]:
    """What the control of a training with such a curve was judged, after as many iterations each time."""
    _, judged = validations(folder)
    if [*judged] != points["iterations"]:
        raise SystemExit(
            f"the control in {folder} has validations at {[*judged]}, its training at {points['iterations']}: train it "
            f"with the same validation.every and iterations."
        )
    return [*judged.values()]


def validations(folder: Path) -> tuple[Mapping[str, Any], dict[int, float]]:
    """The record of a training, and the judgement after so many iterations, in order."""
    record = read_record(folder)
    if record is None or not record["history"]:
        raise SystemExit(f"there is no training with validations in {folder}: set validation.every above 0.")
    if any(item["judgement"] is None for item in record["history"]):
        raise SystemExit(f"the validations in {folder} have no judge: train with --judge.")
    return record, dict(sorted({item["iteration"]: item["judgement"] for item in record["history"]}.items()))


def _pictures(folder: Path, algorithm: str, config: Mapping[str, Any], iteration: int) -> int:
    """How many pictures had been drawn to learn from when an iteration was done."""
    options = config[algorithm]
    prompts = config["batch_size"] * config["gradient_accumulation_steps"]
    if algorithm == "reward_weighted":
        return 0
    if algorithm in ("refl", "raft"):
        return iteration * prompts * options.get("candidates", 1)
    rounds = sorted((folder / "rounds").iterdir())
    each = options["iterations_per_round"] or config["iterations"]
    begun = 0 if iteration == 0 else (iteration - 1) // each + 1
    return sum(len((each / "metadata.jsonl").read_text().splitlines()) for each in rounds[:begun])


def best_of(folder: Path, reward: str) -> list[float]:
    """How often the best of 1, 2, … pictures of a prompt by a reward is fully right, in [0, 1].

    Of pictures that the reward likes equally the mean counts.
    """
    prompts: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for line in (folder / PICTURES_OF_A_RUN).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        liked = next(iter(row["values"][reward].values()))
        prompts.setdefault((row["index"], row["prompt"]), []).append(
            (liked, row["values"]["micro_oracle"]["fully_right"])
        )
    count = min(map(len, prompts.values()))
    return [fmean(_expected(pictures[:count], n) for pictures in prompts.values()) for n in range(1, count + 1)]


def _expected(pictures: Sequence[tuple[float, float]], n: int) -> float:
    def right_of_the_best(taken: Sequence[tuple[float, float]]) -> float:
        most = max(liked for liked, _ in taken)
        return fmean(right for liked, right in taken if liked == most)

    return fmean(map(right_of_the_best, combinations(pictures, n)))


def table(measured: Mapping[str, Any]) -> str:
    """The curves as Markdown, a line per validation, and the best of N."""
    lines = [
        "| training | iterations | pictures drawn | minutes | fully right | its control |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for name, points in measured["trainings"].items():
        controls = [f"{judged:.1%}" for judged in points.get("control", ())] or [""] * len(points["judged"])
        rows = zip(points["iterations"], points["pictures"], points["minutes"], points["judged"], controls, strict=True)
        lines += [
            f"| {name} | {at} | {drawn:,} | {took:.1f} | {judged:.1%} | {control} |"
            for at, drawn, took, judged, control in rows
        ]
    if measured["best_of"]:
        lines += ["", "| base, best of | fully right |", "| --: | --: |"]
        lines += [f"| {n} | {right:.1%} |" for n, right in enumerate(measured["best_of"], 1)]
    return "\n".join(lines) + "\n"


def draw(measured: Mapping[str, Any]) -> str:
    """The curves as SVG: against pictures on the left, against minutes on the right; a line is its training's id.

    Controls are dashed.

    A training's pictures are compared with the base's of the same noise and guidance, the best of N with the base's
    others: what is drawn are points gained, each over its own.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axis, cost, label in ((left, "pictures", "pictures drawn"), (right, "minutes", "minutes on one core")):
            for (name, points), colour in zip(measured["trainings"].items(), COLOURS, strict=False):
                gained = [100 * (judged - points["judged"][0]) for judged in points["judged"]]
                (line,) = axis.plot(points[cost], gained, "o-", color=colour, markersize=3, label=name)
                line.set_gid(f"{name}-{cost}")
                if "control" in points:
                    gained = [100 * (judged - points["control"][0]) for judged in points["control"]]
                    (line,) = axis.plot(points[cost], gained, "--", color=colour, linewidth=1, alpha=0.6)
                    line.set_gid(f"{name}-control-{cost}")
            for n, share in enumerate(measured["best_of"], 1):
                gained = 100 * (share - measured["best_of"][0])
                axis.axhline(gained, color="#999999", linestyle=":", linewidth=1)
                axis.annotate(
                    "base" if n == 1 else f"best of {n}", (0.99, gained), xycoords=("axes fraction", "data"),
                    ha="right", va="bottom", fontsize=8, color="#666666",
                )  # fmt: skip
            axis.set_xlabel(label)
            axis.grid(axis="y", color="#eeeeee")
            axis.spines[["right", "top"]].set_visible(False)
        left.set_ylabel("fully right, points gained over the base")
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=6, frameon=False)
        return document(figure, "svg", "Fully right against pictures drawn and against minutes").decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainings", nargs="*", metavar="NAME=RUN", help="a training's folder, and what to call it")
    parser.add_argument(
        "--control", action="append", default=[], metavar="NAME=RUN", help="of the training of that name"
    )
    parser.add_argument("--base", type=Path, help="an evaluation of the base, several pictures of each prompt")
    parser.add_argument("--reward", default="micro_caption", help="of that evaluation, which chooses")
    parser.add_argument("--results", type=Path, default=RESULTS, help="numbers; the table goes beside them")
    parser.add_argument("--svg", type=Path, default=DRAWING)
    options = parser.parse_args()
    measured = {"trainings": {}, "best_of": []}
    if options.results.exists():
        measured = json.loads(options.results.read_text())
    for each in (*options.trainings, *options.control):
        if "=" not in each:
            parser.error(f"{each} is not NAME=RUN")
    for name, _, folder in (each.partition("=") for each in options.trainings):
        measured["trainings"][name] = curve(Path(folder))  # without the control of the one before
    for name, _, folder in (each.partition("=") for each in options.control):
        if name not in measured["trainings"]:
            parser.error(f"there is no training {name} that this could be the control of")
        measured["trainings"][name]["control"] = control_of(measured["trainings"][name], Path(folder))
    if options.base is not None:
        measured["best_of"] = best_of(options.base, options.reward)
    if not measured["trainings"]:
        parser.error("nothing has been read yet: name a training")
    atomic_write(options.results, json.dumps(measured, indent=1) + "\n")
    atomic_write(options.results.with_suffix(".md"), table(measured))
    atomic_write(options.svg, draw(measured))
    print(table(measured))


if __name__ == "__main__":
    main()
