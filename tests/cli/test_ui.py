"""``realignkit ui``, as it is typed."""

from __future__ import annotations

import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from realignkit.cli import app
from realignkit.cli.ui import check_gradio
from realignkit.errors import PluginError
from realignkit.registry import default_registry


@pytest.mark.parametrize("version", ["3.50.2", "6.28.9"])
def test_an_old_gradio_is_refused_with_what_to_do(cli, monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    result = cli("ui")
    assert result.exit_code == 2
    assert f"gradio {version} is too old for the page, which needs 6.29 or later" in result.stderr
    assert "pillow<13" in result.stderr


def test_a_gradio_that_is_not_there_is_named_with_its_extra(cli, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    result = cli("ui")
    assert (result.exit_code, "install realignkit[ui]" in result.stderr) == (2, True)


@pytest.mark.parametrize("version", ["6.29.0", "6.31.0", "7.0.0rc1"])
def test_a_gradio_that_will_do(monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    check_gradio()


def test_a_gradio_in_the_future_is_compared_as_numbers(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "6.9.9")
    with pytest.raises(PluginError, match="too old"):
        check_gradio()


def test_plugins_are_found_before_the_servers_threads_are_about(monkeypatch):
    pytest.importorskip("gradio", minversion="6.29", reason="no gradio of realignkit[ui] is installed")
    from realignkit.ui import server

    found = []
    monkeypatch.setattr(server, "serve", lambda *arguments: found.append(default_registry.cache_info().currsize))
    default_registry.cache_clear()
    assert CliRunner().invoke(app, ["ui"]).exit_code == 0
    assert found == [1]


@pytest.fixture
def offered(cli, monkeypatch):
    """What ``ui``, with these options, lets the page make; the page itself wants gradio."""
    given = []
    monkeypatch.setattr(metadata, "version", lambda name: "6.29.0")
    server = SimpleNamespace(serve=lambda makers, *more: given.append(makers))
    monkeypatch.setitem(sys.modules, "realignkit.ui.server", server)

    def models(*options):
        assert cli("ui", *options).exit_code == 0
        return given[-1]

    return models


@pytest.mark.parametrize("model", ["micro", "micro_256"])
def test_the_models_that_the_page_is_given_can_be_made(offered, model):
    """What ``ui`` passes on is what making a realigner asks for."""
    assert offered("--model", model)[model]().generator.options.companions["tagger"] == "micro"


def test_the_page_begins_with_large_pictures_and_goes_on_from_runs_of_any_embedded_model(offered):
    assert list(offered()) == ["micro_256", "micro", "micro_flow"]
    assert list(offered("--model", "micro_flow", "--model", "micro")) == ["micro_flow", "micro"]
