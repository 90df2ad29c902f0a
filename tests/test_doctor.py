"""``realignkit doctor`` on plugins in every state."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import ClassVar

import pytest
from pydantic import Field

from realignkit import hookimpl
from realignkit.cli.doctor import Finding, commands, examine, hub_repositories, hub_repository, machine_facts
from realignkit.contracts import Generator, Options, Scorer
from realignkit.registry import PluginInfo, Registry, default_registry

SECRET = "sk-very-secret-0123456789"


class Fussy(Scorer):
    """Says itself what is wrong."""

    class Options(Options):
        model: str = Field("micro:judge", description="a checkpoint")

    def check(self):
        return "no key: set FUSSY_KEY" if self.options.model == "secretive" else ""

    def __call__(self, prompt, tags):
        raise AssertionError("the doctor does not operate")


class Needy(Fussy):
    class Options(Options):
        path: str = Field(description="must be given")


class Lemon(Fussy):
    def __init__(self, **options):
        raise RuntimeError("squeezed")


class Stranger:
    """Keeps the contract without any of our base classes."""


def info(factory, requires=(), extra=None, **options):
    return PluginInfo("scorer", "patient", "", factory, tuple(requires), extra, options)


@pytest.mark.parametrize(
    ("speedup", "said"),
    [(0.05, "0.05 times as fast .*leave dtype and mixed_precision to 'auto'"), (1.9, "1.9 times .*worth dtype=bf16")],
)
def test_the_doctor_measures_bf16(monkeypatch, speedup, said):
    monkeypatch.setitem(machine_facts.__globals__, "bf16_speedup", lambda: speedup)
    assert re.match(said, machine_facts()["bf16 on the cpu"])


@pytest.mark.parametrize(
    ("patient", "state", "remedy"),
    [
        (info(Fussy), "ready", ""),
        (info(Stranger), "ready", ""),
        (info(Fussy, model="owner/cached"), "ready", ""),
        (info(Fussy, model="owner/cached:file.gguf"), "ready", ""),
        (info(Fussy, model="owner/absent"), "on first use", "owner/absent"),
        (info(Fussy, model="secretive"), "not ready", "set FUSSY_KEY"),
        (info(Fussy, requires=["no_such_module"], extra="judge"), "not installed", "pip install 'realignkit[judge]'"),
        (info(Fussy, nonsense=1), "broken", "nonsense"),
        (info(Lemon), "broken", "squeezed"),
        (info("no_such_module:Fussy"), "broken", "cannot be imported"),
        (info(Needy), "ready", "needs path"),
    ],
)
def test_every_state(patient, state, remedy):
    finding = examine(patient, frozenset({"owner/cached"}))
    assert (finding.kind, finding.name, finding.state) == ("scorer", "patient", state)
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("model", "repository"),
    [
        ("owner/name", "owner/name"),
        ("owner/name:file.gguf", "owner/name"),
        ("micro:base", None),
        ("gpt-4o", None),
        ("./folder/name", None),
        ("/absolute/name", None),
        ("a/b/c", None),
        (None, None),
    ],
)
def test_what_a_model_option_means(model, repository):
    assert hub_repository(model) == repository


def test_a_folder_is_no_repository(tmp_path, monkeypatch):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_repository("owner/name") is None


class Painter(Generator):
    """A model that names no companions."""

    def __init__(self, family):
        super().__init__()
        self.attention_family = family

    def pipeline(self):
        raise AssertionError("the doctor does not paint")


@pytest.fixture
def painters():
    """A registry with generators of both sorts, and what may go with them."""
    registry = Registry(discover=False)

    class Plugins:
        @hookimpl
        def register_generators(self, register):
            register("modulated", Painter, "", options={"family": "unet"})
            register("own_tagger", Matched, "")
            register("draws_only", Painter, "", options={"family": None})

        @hookimpl
        def register_taggers(self, register):
            register("ram", Fussy, "", options={"model": "owner/ram"})
            register("small", Fussy, "")

        @hookimpl
        def register_segmenters(self, register):
            register("clipseg", Fussy, "")

    registry.register(Plugins(), "painters")
    return registry


class Matched(Painter):
    companions: ClassVar = {"tagger": "small"}

    def __init__(self):
        super().__init__("unet")


def findings(registry, **states):
    return [
        Finding(i.kind, i.name, *states.get(i.name, ("ready",))) for i in registry.infos() if states.get(i.name, True)
    ]


def run(model):
    return f'realignkit run "a red book and a yellow pen" --model {model} --out realignments/{model}'


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, [f"{run('modulated')}", f"{run('own_tagger')}"]),
        ({"ram": ("not ready", "no file")}, [f"{run('modulated')} --tagger small", f"{run('own_tagger')}"]),
        (
            {"ram": ("on first use", "downloads owner/ram from the hub", ("owner/ram",))},
            [f"{run('own_tagger')}", f"{run('modulated')}   # downloads owner/ram from the hub"],
        ),
        ({"modulated": ("ready", "needs model with each use"), "own_tagger": ("broken", "…")}, []),
        ({"clipseg": ("not installed", "pip install …")}, []),
    ],
)
def test_only_commands_that_will_work(painters, states, expected):
    assert commands(findings(painters, **states), painters) == expected


def test_a_chain_of_the_scorers_that_answer(painters):
    scorers = [
        Finding("scorer", "lexical", "ready"),
        Finding("scorer", "gpt4", "not ready", "no key"),
        Finding("scorer", "local", "ready"),
    ]
    chains = [command for command in commands([*findings(painters), *scorers], painters) if "--scorer" in command]
    assert len(chains) == 1
    assert chains[0].endswith("--scorer local,lexical")


def test_every_command_that_needs_no_download_works(quick, tmp_path):
    def run(command):
        environment = {**os.environ, "PATH": f"{quick}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)

    report = json.loads(run("realignkit doctor --json").stdout)
    able = [command for command in report["commands"] if "#" not in command and "gpt" not in command]
    assert any("--model micro" in command for command in able)
    for command in able:
        done = run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_what_run_refuses_is_not_recommended():
    registry = default_registry()
    every = [Finding(info.kind, info.name, "ready") for info in registry.infos()]
    recommended = {command.rpartition("/")[2] for command in commands(every, registry) if "--model" in command}
    refused = {i.name for i in registry.infos("generator") if i.create().attention_family is None}
    assert refused >= {"deepfloyd_if", "promptist", "structure_diffusion"}
    assert recommended == {i.name for i in registry.infos("generator")} - refused


@pytest.mark.parametrize(
    ("kind", "name", "repositories"),
    [
        ("reward", "micro_clip", []),
        ("reward", "clip", ["openai/clip-vit-large-patch14"]),
        ("metric", "caption", ["Salesforce/blip2-opt-2.7b", "Salesforce/blip2-itm-vit-g"]),
        ("segmenter", "grounded_sam", ["IDEA-Research/grounding-dino-tiny", "facebook/sam-vit-huge"]),
        ("metric", "tifa", ["sentence-transformers/all-mpnet-base-v2", "Salesforce/blip-vqa-base"]),
        ("generator", "structure_diffusion", ["stable-diffusion-v1-5/stable-diffusion-v1-5"]),
        ("scorer", "gpt4", []),
        ("metric", "fid", []),
        ("metric", "clip_score", ["openai/clip-vit-base-patch32"]),
        ("metric", "cmmd", ["openai/clip-vit-large-patch14-336", "openai/clip-vit-large-patch14"]),
    ],
)
def test_every_checkpoint_that_a_plugin_downloads_is_named(kind, name, repositories):
    assert hub_repositories(default_registry().create(kind, name)) == repositories


def test_the_command_tells_no_secret(cli, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    result = cli("doctor", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["machine"]["OPENAI_API_KEY"], report["machine"]["HF_TOKEN"]) == ("set", "not set")
    states = {(finding["kind"], finding["name"]): finding["state"] for finding in report["plugins"]}
    assert states["scorer", "lexical"] == states["generator", "micro"] == "ready"
    assert states["scorer", "gpt4"] == "ready"
    assert states["scorer", "distant"] == "not installed"
    monkeypatch.delenv("OPENAI_API_KEY")
    shown = cli("doctor")
    assert "set the environment variable OPENAI_API_KEY" in " ".join(shown.output.split())
    assert "realignkit run" in shown.output
    assert SECRET not in result.output + shown.output
