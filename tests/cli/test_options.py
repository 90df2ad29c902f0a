"""``--isolate``: the same results from plugins in processes of their own, one of which may be killed."""

from __future__ import annotations

import json

import pytest

from realignkit.cli.run import realigner_of
from realignkit.isolation.hosted import isolated
from realignkit.registry import default_registry
from tests.isolation import foreign

PROMPT = "a red book and a yellow pen"
TINY = ("--model", "tiny", "--set", "sampling.num_inference_steps=2")


@pytest.fixture
def plugins(cli):
    default_registry().register(foreign, "foreign")
    yield cli
    default_registry().unregister(foreign)


def test_the_same_picture(cli, tmp_path):
    for name, isolated_kinds in {"near": [], "far": ["--isolate", "tagger", "--isolate", "scorer.wordy"]}.items():
        done = cli("run", PROMPT, *TINY, *isolated_kinds, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    for file in ("refined.png", "layout.png"):
        assert (tmp_path / "near" / file).read_bytes() == (tmp_path / "far" / file).read_bytes()


def test_a_worker_is_killed_and_the_same_command_goes_on(plugins, tmp_path, monkeypatch):
    poison, prompts = tmp_path / "poison", tmp_path / "prompts.txt"
    prompts.write_text("a red book\na yellow pen\n")
    poison.touch()
    monkeypatch.setenv("POISON", str(poison))
    command = ("run", "--prompts", prompts, *TINY, "--batch-size", 1, "--isolate", "tagger", "--tagger", "foreign")
    command += ("--out", tmp_path / "out")
    first, second = plugins(*command), plugins(*command)
    assert first.exit_code == 1, first.output
    assert "failed: prompt 1, seed 42: the worker of tagger 'foreign' was killed (SIGKILL)" in first.stderr
    assert "1 made, 0 there already, 1 failed" in first.stdout
    assert second.exit_code == 0, second.output
    assert "1 made, 1 there already, 0 failed" in second.stdout


def test_the_same_numbers(plugins, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\na desk\n")
    assert plugins("run", "--prompts", tmp_path / "prompts.txt", *TINY, "--out", tmp_path / "runs").exit_code == 0
    for name, isolated_kinds in {"near": [], "far": ["--isolate", "metric"]}.items():
        done = plugins(
            *("eval", "--pictures", tmp_path / "runs", "--metric", "foreign", "--metric", "micro_clip"),
            *("--out", tmp_path / name, *isolated_kinds),
        )
        assert done.exit_code == 0, done.output
    for file in ("metrics.json", "eval.json"):  # with the digests of weights
        assert json.loads((tmp_path / "near" / file).read_text()) == json.loads((tmp_path / "far" / file).read_text())


def test_it_ends_with_the_command(plugins, tmp_path):
    done = plugins("run", PROMPT, *TINY, "--isolate", "taggre", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "'taggre' is neither a kind of plugin nor the name of one. Did you mean 'tagger'?" in done.stderr
    assert plugins("run", PROMPT, *TINY, "--isolate", "tagger", "--out", tmp_path / "out").exit_code == 0
    assert isinstance(default_registry().create("tagger", "foreign"), foreign.Tagger)


def test_further_processes_are_told(plugins):
    specs = {"tagger": "foreign", "scorer": None, "segmenter": None}
    with isolated(default_registry(), []):
        realigner_of("tiny", specs, [], {"select_by": None, "guide_by": None}, ["tagger"])
        assert type(default_registry().create("tagger", "foreign")) is not foreign.Tagger
