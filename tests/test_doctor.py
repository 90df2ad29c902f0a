"""``realignkit doctor`` on plugins in every state."""

from __future__ import annotations

import json

import pytest
from pydantic import Field

from realignkit.cli.doctor import Finding, commands, examine, hub_repository
from realignkit.contracts import Options, Scorer
from realignkit.registry import PluginInfo

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


def test_only_commands_that_will_work():
    findings = [
        Finding("generator", "micro", "ready"),
        Finding("generator", "anything", "ready", "needs model with each use"),
        Finding("generator", "far", "on first use", "downloads owner/far from the hub"),
        Finding("generator", "sick", "broken", "…"),
        Finding("scorer", "lexical", "ready"),
        Finding("scorer", "gpt4", "not ready", "no key"),
        Finding("scorer", "local", "ready"),
    ]
    text = "\n".join(commands(findings))
    assert "--model micro" in text
    assert "--model far   # downloads owner/far" in text
    assert "--scorer local,lexical" in text
    assert not any(name in text for name in ("anything", "sick", "gpt4"))


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
