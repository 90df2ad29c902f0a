"""``docs/explanation/architecture.md`` is the plan of the house that stands: floors, rooms, and where the paper is."""

from __future__ import annotations

import graphlib
import importlib.util
import re

import grimp
import pytest

from tests.conftest import ROOT

PLAN = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def floors():
    """Room -> number of its floor."""
    specification = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generate)
    floors = generate.floors(PLAN)
    rooms = [room for floor in floors for room in floor]
    assert len(rooms) == len(set(rooms))
    return {room: number for number, floor in enumerate(reversed(floors)) for room in floor}


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("realignkit", exclude_type_checking_imports=False, cache_dir=None)


def test_every_room_is_on_one_floor(floors, graph):
    assert {name.partition(".")[2] for name in graph.find_children("realignkit")} == set(floors)


def test_every_import_goes_down(floors, graph):
    upwards = [
        f"{importer} -> {imported}"
        for importer in graph.modules - {"realignkit"}
        for imported in graph.find_modules_directly_imported_by(importer)
        if imported != "realignkit" and floors[importer.split(".")[1]] < floors[imported.split(".")[1]]
    ]
    assert upwards == []


def test_no_file_imports_itself_by_way_of_others(graph):
    """What is imported on use, and what for type checkers alone, counts too; the package's face does not."""
    files = graph.modules - {"realignkit"}
    imports = {name: graph.find_modules_directly_imported_by(name) & files for name in files}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_every_file_that_is_named_exists():
    names = set(re.findall(r"`([\w/]+(?:\.py|/))`", PLAN))
    assert len(names) > 50
    assert [name for name in names if not any((ROOT / base / name).exists() for base in (".", "realignkit"))] == []
