"""What trainings cost is counted from their folders, and the best of N over all ways of taking N."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict

import pytest

from realignkit.types import Validation


@pytest.fixture(scope="module")
def cost(script):
    """The script as a module."""
    return script("training_cost")


@pytest.fixture
def training(tmp_path):
    def training(algorithm, **options):
        folder = tmp_path / algorithm
        folder.mkdir()
        history = [asdict(Validation(at, 0.1, judged)) for at, judged in ((0, 0.5), (2, 0.6), (4, 0.7))]
        config = {"iterations": 4, "batch_size": 3, "gradient_accumulation_steps": 2, algorithm: options}
        record = {"format": "realignkit.training", "version": 1, "identity": {"algorithm": algorithm}}
        (folder / "training.json").write_text(json.dumps({**record, "config": config, "history": history}))
        rows = [json.dumps({"iteration": at, "seconds": 60.0 * at}) + "\n" for at in (1, 2, 3, 4)]
        (folder / "log.jsonl").write_text("".join(rows))
        return folder

    return training


def test_pictures_of_rounds_count_from_the_iteration_that_needs_them(cost, training):
    folder = training("nft", iterations_per_round=3)
    for number, pictures in ((0, 5), (1, 7)):
        rated = folder / "rounds" / f"{number:03d}"
        rated.mkdir(parents=True)
        (rated / "metadata.jsonl").write_text("{}\n" * pictures)
    assert cost.curve(folder) == {
        "iterations": [0, 2, 4],
        "pictures": [0, 5, 12],
        "minutes": [0, 3, 10],
        "judged": [0.5, 0.6, 0.7],
    }


@pytest.mark.parametrize(
    ("algorithm", "options", "pictures"),
    [
        ("refl", {"gradients_per_rollout": 2}, [0, 12, 24]),
        ("raft", {"candidates": 4}, [0, 48, 96]),
        ("reward_weighted", {}, [0, 0, 0]),
    ],
)
def test_pictures_of_the_others(cost, training, algorithm, options, pictures):
    assert cost.curve(training(algorithm, **options))["pictures"] == pictures


def test_a_training_without_validations_is_refused(cost, training, tmp_path):
    with pytest.raises(SystemExit, match="no training with validations"):
        cost.curve(tmp_path / "nowhere")


def test_best_of_takes_every_subset_and_the_mean_where_the_reward_cannot_tell(cost, tmp_path):
    # Liked: 3 (right), 2 (wrong), 2 (right). Of two: {3,2}, {3,2} are right, {2,2} half.
    pictures = [(3.0, 1.0), (2.0, 0.0), (2.0, 1.0)]
    lines = [
        {"index": 0, "prompt": "a", "values": {"liking": {"liking": liked}, "micro_oracle": {"fully_right": right}}}
        for liked, right in pictures
    ]
    (tmp_path / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cost.best_of(tmp_path, "liking") == pytest.approx([2 / 3, 2.5 / 3, 1])


def test_numbers_are_kept_and_drawn(cost, training, tmp_path, monkeypatch, capsys):
    folder = training("raft", candidates=2)
    arguments = ["--results", tmp_path / "cost.json", "--svg", tmp_path / "cost.svg"]
    monkeypatch.setattr(sys, "argv", ["training_cost", f"mine={folder}", *map(str, arguments)])
    cost.main()
    first = (tmp_path / "cost.svg").read_text()
    assert "mine-minutes" in first and "| mine | 4 | 48 | 10.0 | 70.0% |  |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["training_cost", *map(str, arguments)])
    cost.main()
    assert (tmp_path / "cost.svg").read_text() == first


def test_a_control_is_read_beside_its_training(cost, training, tmp_path, monkeypatch, capsys):
    mine, control = training("raft", candidates=2), training("reward_weighted")
    arguments = [
        f"mine={mine}",
        "--results",
        str(tmp_path / "cost.json"),
        "--svg",
        str(tmp_path / "cost.svg"),
        "--control",
    ]
    monkeypatch.setattr(sys, "argv", ["training_cost", *arguments, f"mine={control}"])
    cost.main()
    assert "| mine | 4 | 48 | 10.0 | 70.0% | 70.0% |" in capsys.readouterr().out
    drawn = (tmp_path / "cost.svg").read_text()
    assert "mine-control-pictures" in drawn and "mine-control-minutes" in drawn
    monkeypatch.setattr(sys, "argv", ["training_cost", *arguments, f"yours={control}"])
    with pytest.raises(SystemExit):
        cost.main()
    record = json.loads((control / "training.json").read_text())
    (control / "training.json").write_text(json.dumps({**record, "history": record["history"][:2]}))
    with pytest.raises(SystemExit, match=r"has validations at \[0, 2\], its training at \[0, 2, 4\]"):
        cost.control_of({"iterations": [0, 2, 4]}, control)


def test_what_is_drawn_is_gained_over_the_base(cost):
    def heights(base):
        points = {"pictures": [0, 10, 20], "minutes": [0, 1, 2], "judged": [base, base + 0.1, base + 0.2]}
        drawn = cost.draw({"trainings": {"mine": points}, "best_of": [0.4, 0.5]})
        path = re.search(r'id="mine-minutes">\s*<path d="([^"]*)"', drawn).group(1)
        lines = re.findall(r'<path d="M [\d.]+ ([\d.]+)\nL [\d.]+ \1\n" [^>]*stroke-dasharray', drawn)
        return [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)], [float(y) for y in lines]

    trained, lines = heights(0.6)
    assert trained[:2] == pytest.approx(lines[:2], abs=1e-4), "nothing gained is the base, 10 points the best of two"
    assert heights(0.2) == (trained, lines)
