"""The rules of the house: lazy imports, declared dependencies, layers, packaging."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import realignkit
from tests.conftest import HANGS, ROOT

PACKAGES = {"realignkit": ROOT / "realignkit", "realignkit_plugins": ROOT / "plugins" / "realignkit_plugins"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOOLS = ("browser", "docs", "test", "dev")  # extras for working on realignkit
MISSING = {"llama_cpp": "llama-cpp-python"}  # what has to be compiled may not be here to say whose module it is
HEAVY = ("torch", "diffusers", "transformers", "scipy", "jinja2", "PIL")


def python(code, *arguments, cwd=ROOT):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=HANGS)


def imported_by(code):
    """The modules that a fresh interpreter has loaded after running ``code``."""
    result = python(f"{code}\nimport json, sys; sys.__stdout__.write('\\n' + json.dumps(sorted(sys.modules)))")
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_realignkit_loads_nothing_heavy():
    assert not imported_by("import realignkit").intersection(HEAVY)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["plugins"], ["plugins", "--json"], ["--version"]]
)
def test_the_command_line_answers_without_torch(arguments):
    code = f"""
import sys
from realignkit.cli import main
sys.argv = ["realignkit", *{arguments}]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    loaded = imported_by(code)
    assert "realignkit.cli" in loaded
    assert not loaded.intersection({"torch", "diffusers", "transformers"})


def test_the_module_runs_as_a_command():
    result = subprocess.run([sys.executable, "-m", "realignkit.cli", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert "realignkit" in result.stdout


def test_every_public_name_exists_and_is_listed():
    for name in realignkit.__all__:
        assert getattr(realignkit, name) is not None
    assert set(realignkit.__all__) <= set(dir(realignkit))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = realignkit.nonsense


def test_the_names_for_type_checkers_are_the_names_at_run_time():
    tree = ast.parse((ROOT / "realignkit" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    checked = {alias.name for node in block.body for alias in node.names}
    assert checked == set(realignkit.__all__) - {"__version__"}


def test_the_layers_hold():
    executable = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([executable], cwd=ROOT, capture_output=True, text=True, timeout=HANGS)
    assert result.returncode == 0, result.stdout


def test_plugins_may_import_what_is_public_and_nothing_else():
    public = {
        *("advantages", "calls", "contracts", "errors", "files", "frechet", "hookspecs", "images", "isolation"),
        *("layout", "machine", "named", "prompts", "questions", "realignment", "records", "registry", "resolve"),
        *("tables", "types"),
    }
    contracts = {contract["name"]: contract for contract in PYPROJECT["tool"]["importlinter"]["contracts"]}
    forbidden = {name.partition(".")[2] for name in contracts["plugins use what is public"]["forbidden_modules"]}
    modules = {
        path.stem
        for path in PACKAGES["realignkit"].iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert not public & forbidden
    assert public | forbidden == modules - {"__init__"}


def imports(folder):
    """Top-level names of all modules that are imported anywhere under a folder, with one file that does.

    Programs that run in another environment declare what they need themselves.
    """
    files = {}
    for path in folder.rglob("*.py"):
        if path.match("isolated/*_program.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            else:
                continue
            files |= {name.partition(".")[0]: path.relative_to(ROOT) for name in names}
    return files


def test_everything_that_is_imported_is_declared():
    project = PYPROJECT["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name not in TOOLS for line in lines]
    declared = {canonicalize_name(Requirement(line).name) for line in (*project["dependencies"], *extras)}
    homes = packages_distributions()
    undeclared = {
        module: path
        for folder in PACKAGES.values()
        for module, path in imports(folder).items()
        if module not in sys.stdlib_module_names
        and module not in PACKAGES
        and module != "triton"  # torch for GPUs brings the one version that suits it
        # A module that several distributions share is fine if one of them is declared.
        and not declared.intersection(map(canonicalize_name, homes.get(module, [MISSING.get(module, module)])))
    }
    assert undeclared == {}


def test_torchvision_is_never_imported():
    assert not any("torchvision" in imports(folder) for folder in PACKAGES.values())


def test_the_tested_set_is_within_the_declared_ranges():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    assert pins["torch"] == "2.13.0"
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    # gradio wants a Pillow below the tested one, whose resizing the original taggers' outputs were made with.
    lines = [*project["dependencies"], *(line for name, extra in extras.items() if name != "ui" for line in extra)]
    for requirement in map(Requirement, lines):
        if requirement.name != "realignkit":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_every_entry_point_names_a_module():
    for value in PYPROJECT["project"]["entry-points"]["realignkit"].values():
        base = PACKAGES["realignkit_plugins"].parent.joinpath(*value.split("."))
        assert base.with_suffix(".py").is_file() or (base / "__init__.py").is_file(), value


@pytest.mark.slow
def test_the_wheel_carries_both_packages_and_their_data(tmp_path):
    # Built outside the checkout, as building leaves files behind.
    source = tmp_path / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout: the files that belong to the project are not known")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("docs/", "benchmarks/", "tests/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", tmp_path]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, source], check=True, timeout=HANGS)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    data = re.compile(r".*\.(py|jinja|typed|safetensors|json|txt|css|html|js)$")
    expected = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if data.match(path.name) and "__pycache__" not in path.parts
    }
    assert expected <= names, sorted(expected - names)
    assert {name.partition("/")[0] for name in names} == {
        *PACKAGES,
        f"realignkit-{realignkit.__version__}.dist-info",
    }
