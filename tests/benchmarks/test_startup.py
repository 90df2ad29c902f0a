"""What start-up takes: processes are timed in turn, ratios are within a round, and one run's seconds add up."""

from __future__ import annotations

import json
import os

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def startup(script):
    """The script as a module."""
    return script("startup")


def test_smoke(smoke):
    lines = smoke("startup").splitlines()
    settings = [line.split(" | ")[0].strip("| ") for line in lines[2:] if line]
    assert settings == ["idle"] * 2 + ["a busy process"] * 2


def test_ratios_are_of_the_same_round(startup):
    seconds = {startup.PLAIN: [2.0, 4.0, 3.0], startup.RUN: [3.0, 6.0, 4.5]}
    beside = {startup.PLAIN: [4.0, 4.0, 4.0], startup.RUN: [9.0, 9.0, 18.0]}
    found = startup.report({"seconds": {"idle": {"this": seconds}, "busy": {"this": beside}}, "where": {}})
    _, _, _, alone, _, together = (line.strip("| ").split(" | ") for line in found.splitlines())
    assert alone[3:5] == ["4.50 [3.00, 6.00]", "1.50 [1.50, 1.50]"]
    assert together[3:] == ["9.00 [9.00, 18.00]", "2.25 [2.25, 4.50]", "2.00 [2.00, 4.00]"]


def test_each_checkout_is_imported_from_its_own_folder(startup, tmp_path, monkeypatch):
    other = tmp_path / "older"
    (other / "realignkit").mkdir(parents=True)
    (other / "realignkit" / "__init__.py").write_text("open('imported', 'w')\n")
    monkeypatch.setattr(startup, "COMMANDS", {"import": ("-c", "import realignkit")})
    found = startup.rounds({"this": ROOT, "other": other}, ["import"], 2, tmp_path)
    assert (tmp_path / "imported").is_file()
    assert {name: len(commands["import"]) for name, commands in found.items()} == {"this": 2, "other": 2}


def test_where_a_run_goes(startup, tmp_path, monkeypatch):
    """The parts of a run, of a program that stands in for it: imports by package, steps as recorded, and the rest."""
    record = json.dumps({"timings": {"generate": 0.5, "refine": 0.25}})
    program = (
        f"import time, json, wave; from pathlib import Path; Path('made').mkdir(); "
        f"Path('made/realignment.json').write_text({record!r}); time.sleep(1.5)"
    )
    monkeypatch.setitem(startup.COMMANDS, startup.RUN, ("-c", program))
    monkeypatch.setattr(startup, "SHARE", 0.0)
    spent = startup.where(ROOT, tmp_path)
    assert spent["import json"] > 0 and spent["import wave"] > 0
    assert not [name for name in spent if "." in name]
    assert (spent["generate"], spent["refine"]) == (0.5, 0.25)
    assert sum(spent.values()) >= 1.5
    table = startup.report({"seconds": {"idle": {}}, "where": {"this": spent}})
    assert "| generate | 0.50 |" in table


def test_the_process_beside_ends_with_the_measurement(startup, tmp_path):
    ready = tmp_path / "ready"
    code = "import os, time; open('ready', 'w').write(str(os.getpid())); time.sleep(600)"
    with startup.beside(("-c", code), ROOT, tmp_path, ready):
        process = int(ready.read_text())
        os.kill(process, 0)  # is there
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_process_that_fails_is_told(startup, tmp_path):
    with pytest.raises(SystemExit, match="no measurement"):
        startup.started(("-c", "raise SystemExit('no measurement')"), ROOT, tmp_path)
    failing = ("-c", "raise SystemExit('not ready')")
    with pytest.raises(SystemExit, match="not ready"), startup.beside(failing, ROOT, tmp_path, tmp_path / "never"):
        pass


def test_a_page_is_timed_until_it_has_been_sent(startup, tmp_path, monkeypatch):
    program = (
        "import http.server, time; time.sleep(0.5); "
        "server = http.server.HTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler); "
        "print(f'http://127.0.0.1:{server.server_port}/page.txt', flush=True); server.serve_forever()"
    )
    (tmp_path / "page.txt").write_text("the page")
    seconds, text = startup.opened(("-c", program), ROOT, tmp_path)
    assert (text, seconds >= 0.5) == ("the page", True)
    with pytest.raises(SystemExit, match="served nothing"):
        startup.opened(("-c", "print('no address')"), ROOT, tmp_path)
    monkeypatch.setattr(startup, "OF_UI", {startup.TORCH: ("-c", ""), startup.UI: ("-c", program)})
    found = startup.rounds({"this": ROOT}, [startup.TORCH, startup.UI], 1, tmp_path)
    table = startup.report({"seconds": {"idle": found}, "where": {}}, startup.TORCH)
    assert len(table.splitlines()) == 4
    assert " | 1.00 [1.00, 1.00] | " in table
