"""A new project works as it is: its tests, ruff, and what an author is told to type."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from realignkit.errors import OptionError
from realignkit.isolation import environments
from realignkit.scaffold import ISOLATED_KINDS, LICENSES, PROJECT_KINDS, isolated_requires, new_project
from tests.conftest import HANGS, ROOT
from tests.isolation.conftest import make_environment
from tests.testing.test_fixtures import pytest_in


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """A project of each kind, side by side, called after its kind."""
    folder = tmp_path_factory.mktemp("projects")
    return {kind: new_project(f"new-{kind}", kind, folder / kind, publish=kind == "reward") for kind in PROJECT_KINDS}


@pytest.fixture(scope="module")
def isolated_projects(tmp_path_factory):
    """A project of each kind whose work is done elsewhere, called after its kind."""
    folder = tmp_path_factory.mktemp("isolated")
    return {kind: new_project(f"far-{kind}", kind, folder / kind, isolated=True) for kind in ISOLATED_KINDS}


def announce(project, site):
    """Lay a project's entry point down as pip does."""
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = site / f"{table['name'].replace('-', '_')}-{table['version']}.dist-info"
    info.mkdir()
    required = "".join(f"Requires-Dist: {line}\n" for line in table["dependencies"])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {table['name']}\nVersion: 0.1.0\n{required}")
    points = "".join(f"{name} = {value}\n" for name, value in table["entry-points"]["realignkit"].items())
    (info / "entry_points.txt").write_text(f"[realignkit]\n{points}")


def test_the_tests_of_every_kind_pass(projects, tmp_path):
    for project in projects.values():
        announce(project, tmp_path)
    tests = [str(project / "tests") for project in projects.values()]
    done = pytest_in(tmp_path, "--import-mode=importlib", *tests, path=[tmp_path, *projects.values()])
    assert done.returncode == 0, done.stdout
    count = sum(path.read_text().count("def test_") for each in projects.values() for path in each.rglob("test_*.py"))
    assert f"{count} passed" in done.stdout
    assert count >= 3 * len(PROJECT_KINDS)


def test_isolated_ones_work_in_their_environments(isolated_projects, tmp_path, monkeypatch):
    monkeypatch.setenv(environments.FOLDER_VARIABLE, str(tmp_path / "environments"))
    monkeypatch.setenv("REALIGNKIT_PLUGIN_TIMEOUT", "3600")
    (tmp_path / "site").mkdir()
    for project in isolated_projects.values():
        announce(project, tmp_path / "site")
    tests = [str(project / "tests") for project in isolated_projects.values()]

    def run():
        paths = [tmp_path / "site", *isolated_projects.values()]
        return pytest_in(tmp_path, "-rs", "--import-mode=importlib", *tests, path=paths).stdout

    said = run()
    assert f"{len(tests)} passed, {2 * len(tests)} skipped" in said, said
    for kind in ISOLATED_KINDS:
        assert f"run {environments.remedy(f'far-{kind}', isolated_requires(kind))}" in " ".join(said.split())
        make_environment(tmp_path / "environments" / f"far-{kind}", *isolated_requires(kind))
    said = run()
    assert f"{3 * len(tests)} passed" in said, said


@pytest.mark.parametrize("kind", ISOLATED_KINDS)
def test_an_isolated_one_is_installed_and_made_with_its_program(isolated_projects, kind):
    project = isolated_projects[kind]
    table = tomllib.loads((project / "pyproject.toml").read_text())
    modules = table["tool"]["setuptools"]["py-modules"]
    assert sorted(modules) == sorted(path.stem for path in project.glob("*.py"))
    for module in modules:
        lines = [line for line in (project / f"{module}.py").read_text().splitlines() if line.strip()]
        assert len(lines) < 30
    workflow = yaml.safe_load((project / ".github" / "workflows" / "test.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    making = environments.remedy(f"far-{kind}", isolated_requires(kind))
    assert steps[-4:] == [making, "ruff check .", "pytest", "realignkit plugins validate ."]
    assert (project / "README.md").read_text().count(making) == 2


def test_what_cannot_be_isolated(tmp_path):
    for kind in set(PROJECT_KINDS) - set(ISOLATED_KINDS):
        with pytest.raises(OptionError, match=f"a {kind} works in realignkit's own process. Isolated can be: tagger, "):
            new_project("x", kind, tmp_path / "x", isolated=True)


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")])
def test_ruff_has_nothing_to_say(projects, isolated_projects, arguments):
    folders = [str(project) for project in (*projects.values(), *isolated_projects.values())]
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", PROJECT_KINDS)
def test_a_module_is_short(projects, kind):
    (module,) = projects[kind].glob("*.py")
    lines = [line for line in module.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 30


@pytest.mark.parametrize("kind", PROJECT_KINDS)
def test_the_files_of_a_project(projects, kind):
    project = projects[kind]
    table = tomllib.loads((project / "pyproject.toml").read_text())
    assert table["project"]["dependencies"] == ["realignkit>=0.2,<1"]
    assert table["project"]["entry-points"]["realignkit"] == {f"new-{kind}": f"realignkit_new_{kind}"}
    assert (project / table["project"]["license-files"][0]).is_file()
    workflows = {path.name: yaml.safe_load(path.read_text()) for path in (project / ".github/workflows").iterdir()}
    assert set(workflows) == ({"test.yml", "publish.yml"} if kind == "reward" else {"test.yml"})
    steps = [step.get("run", "") for step in workflows["test.yml"]["jobs"]["test"]["steps"]]
    assert steps[-3:] == ["ruff check .", "pytest", "realignkit plugins validate ."]
    text = "".join(path.read_text() for path in project.rglob("*") if path.is_file())
    assert not re.search(r"\{%|\{\{ (?!matrix)|Undefined", text)


@pytest.mark.parametrize("license", LICENSES)
def test_the_licence_of_ones_choice(tmp_path, license):
    project = new_project("x", "scorer", tmp_path / "x", license=license, author='Ada "A"  O\'Brien\n')
    assert 'Ada "A" O\'Brien' in (project / "LICENSE").read_text()
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert table["license"] == license
    assert table["authors"] == [{"name": 'Ada "A" O\'Brien'}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("2fast", "scorer"), "'2fast' will not do as a name: take letters, digits and hyphens, such as night-vision."),
        (("../x", "scorer"), "will not do as a name"),
        (("x", "scorers"), "there is no template for the kind 'scorers'. Take one of: generator, "),
        (("x", "scorer", None, "GPL"), "there is no template for the licence 'GPL'. Take one of: Apache-2.0, "),
    ],
)
def test_what_will_not_do(arguments, message):
    name, kind, *rest = arguments
    with pytest.raises(OptionError, match=re.escape(message)):
        new_project(name, kind, None, **({"license": rest[1]} if rest else {}))


def test_nothing_is_written_over(tmp_path):
    (tmp_path / "mine.py").write_text("")
    with pytest.raises(OptionError, match="is there already"):
        new_project("x", "scorer", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_the_prefix_is_written_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new_project("realignkit-Night_Vision", "tagger") == Path("realignkit-night-vision")
    assert Path("realignkit-night-vision/realignkit_night_vision.py").is_file()


@pytest.mark.slow
def test_one_is_installed_as_authors_do(projects, tmp_path):
    """``pip install -e`` into an environment that sees the libraries of this one."""
    source = shutil.copytree(projects["scorer"], tmp_path / "source")  # building leaves files behind
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}

    def run(*command):
        done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=HANGS)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    quietly = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    run(python, "-m", "pip", "install", *quietly, "-e", source)
    shown = run(python, "-m", "realignkit.cli", "plugins", "new-scorer")
    assert "from realignkit-new-scorer:new-scorer, package realignkit-new-scorer 0.1.0" in shown
    assert "--set scorer.scenery" in shown
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "keeps or installed")
    validated = run(python, "-m", "realignkit.cli", "plugins", "validate", "realignkit-new-scorer")
    assert "scorer 'new-scorer'" in validated
