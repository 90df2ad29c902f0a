"""A new project for a plugin, from templates: package, module, tests, licence, workflows. It works as it is."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from realignkit import KINDS, __version__
from realignkit.errors import OptionError
from realignkit.files import atomic_write
from realignkit.isolation.environments import remedy
from realignkit.requirements import compatible

PROJECT_KINDS = (*KINDS, "hook")
"""Kinds of plugin that there are templates for: those with a name, and a hook that looks at what passes through."""

LICENSES = ("Apache-2.0", "MIT", "BSD-3-Clause")
"""Licences whose texts are here, as SPDX calls them."""

ISOLATED_KINDS = ("tagger", "scorer", "segmenter", "vqa", "metric", "reward")
"""Kinds whose work can be done in an environment of its own."""


def isolated_requires(kind: str) -> tuple[str, ...]:
    """What a new plugin's environment holds."""
    return ("torch", "numpy") if kind == "reward" else ("numpy",)


_CLASSES = {"prompts": "Prompts", "vqa": "VQA"}
_FILES: Mapping[str, str] = {
    "pyproject.toml": "pyproject.toml.jinja",
    "README.md": "README.md.jinja",
    ".gitignore": "gitignore.jinja",
    ".github/workflows/test.yml": "workflows/test.yml.jinja",
}


def short_name(name: str) -> str:
    """What a plugin is called by users: lower case, hyphens, and no ``realignkit-`` before it."""
    return name.strip().lower().replace("_", "-").removeprefix("realignkit-")


def new_project(
    name: str,
    kind: str,
    folder: str | Path | None = None,
    *,
    license: str = LICENSES[0],
    author: str = "",
    publish: bool = False,
    isolated: bool = False,
) -> Path:
    """Write a project; the folder it is in.

    Args:
        name: of the plugin, as users will type it: letters, digits and hyphens.
        kind: of :data:`PROJECT_KINDS`.
        folder: where; None: ``realignkit-NAME`` in the working folder.
        license: of :data:`LICENSES`.
        author: whom the licence names; "": the authors of the project.
        publish: whether with a workflow that publishes releases on PyPI.
        isolated: whether its work is done in an environment of its own, by a second file.

    Raises:
        OptionError: a name, kind or licence that will not do, or a folder that holds something already.
    """
    short = short_name(name)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", short):
        raise OptionError(f"'{name}' will not do as a name: take letters, digits and hyphens, such as night-vision.")
    for what, value, known in (("kind", kind, PROJECT_KINDS), ("licence", license, LICENSES)):
        if value not in known:
            raise OptionError(f"there is no template for the {what} '{value}'. Take one of: {', '.join(known)}.")
    if isolated and kind not in ISOLATED_KINDS:
        raise OptionError(f"a {kind} works in realignkit's own process. Isolated can be: {', '.join(ISOLATED_KINDS)}.")
    project = f"realignkit-{short}"
    target = Path(folder or project)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OptionError(f"{target} is there already. Give another folder, or take it away.")
    module = project.replace("-", "_")
    camel = "".join(part.capitalize() for part in short.split("-"))
    author = " ".join(author.split())
    values = {
        "name": short,
        "kind": kind,
        "project": project,
        "module": module,
        "class_name": camel + _CLASSES.get(kind, kind.capitalize()),
        "base": f"Isolated{_CLASSES.get(kind, kind.capitalize())}",
        "isolated": isolated,
        "requires": isolated_requires(kind),
        "making": remedy(short, isolated_requires(kind)),
        "requirement": f"realignkit{compatible(__version__)}",
        "license": license,
        "author": author and json.dumps(author, ensure_ascii=False),
        "holder": author or f"the authors of {project}",
        "year": datetime.datetime.now(tz=datetime.UTC).year,
        "publish": publish,
    }
    files = {
        **_FILES,
        "LICENSE": f"licenses/{license}.jinja",
        f"{module}.py": "isolated/module.py.jinja" if isolated else f"modules/{kind}.py.jinja",
        f"tests/test_{module.removeprefix('realignkit_')}.py": (
            "isolated/tests.py.jinja" if isolated else f"tests/{kind}.py.jinja"
        ),
    }
    if isolated:
        files[f"{module}_program.py"] = f"isolated/programs/{kind}.py.jinja"
    if publish:
        files[".github/workflows/publish.yml"] = "workflows/publish.yml.jinja"
    templates = Environment(
        loader=PackageLoader("realignkit.scaffold"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for path, template in files.items():
        atomic_write(target / path, templates.get_template(template).render(values))
    return target
