"""Which realignkit a package of plugins is made for: what it requires of us, as every package says what it requires."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from realignkit import __version__
from realignkit.errors import PluginError

if TYPE_CHECKING:
    from importlib.metadata import Distribution

    from packaging.requirements import Requirement

NAME = "realignkit"


def check_version(distribution: Distribution | None) -> None:
    """Refuse a package that requires another realignkit than this one (``realignkit>=0.2,<1`` in its dependencies).

    Raises:
        PluginError: it does.
    """
    for requirement in requirements_on_us((distribution and distribution.requires) or ()):
        if not requirement.specifier.contains(__version__, prereleases=True):
            raise PluginError(
                f"it requires realignkit {requirement.specifier}, and this is {__version__}. Update it, or install a "
                f"realignkit that it was made for."
            )


def requirements_on_us(requirements: Iterable[str]) -> list[Requirement]:
    """Those of a package's requirements that are of realignkit, and apply here without extras."""
    if not (lines := [line for line in requirements if line.lower().startswith(NAME)]):
        return []
    from packaging.requirements import InvalidRequirement, Requirement

    ours = []
    for line in lines:
        with contextlib.suppress(InvalidRequirement):
            requirement = Requirement(line)
            if requirement.name.lower() == NAME and (
                requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ):
                ours.append(requirement)
    return ours


def compatible(version: str) -> str:
    """What a plugin requires that is written with a version: that one, less than the next big one (``>=0.2,<1``)."""
    major, minor, *_ = version.split(".")
    return f">={major}.{minor},<{int(major) + 1}"
