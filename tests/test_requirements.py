"""A package of plugins that was made for another realignkit is refused before it is imported, in a sentence."""

from __future__ import annotations

import pytest

from realignkit import __version__
from realignkit.registry import Registry
from realignkit.requirements import requirements_on_us

CODE = """
import realignkit

@realignkit.hookimpl
def register_scorers(register):
    register("dated", "dated_dist:make", "a scorer")
"""


def metadata(tmp_path, *requirements):
    path = tmp_path / "dated_dist-1.0.dist-info" / "METADATA"
    path.write_text(path.read_text() + "".join(f"Requires-Dist: {line}\n" for line in requirements))


@pytest.mark.parametrize("specifier", [">=1", "<0.2", "==0.1.*", ">=0.2,<0.2"])
def test_another_version_is_refused_before_it_is_imported(installed, tmp_path, specifier):
    installed("dated_dist", "raise RuntimeError")
    metadata(tmp_path, "numpy>=99", f"realignkit{specifier}")
    message = Registry().broken["dated_dist:dated_dist_entry"]
    assert message.startswith("it requires realignkit ")
    assert f", and this is {__version__}. Update it, or install a realignkit that it was made for." in message


@pytest.mark.parametrize(
    "line",
    [
        *("realignkit", "realignkit>=0.2,<1", "RealignKit[gpt4]~=0.2", "realignkit-other>=9", "realignkit is nice"),
        *("realignkit>=9; extra == 'new'", "realignkit>=9; python_version < '3'"),
    ],
)
def test_what_fits_is_loaded(installed, tmp_path, line):
    installed("dated_dist", CODE)
    metadata(tmp_path, line)
    registry = Registry()
    assert registry.broken == {}
    assert registry.info("scorer", "dated")


def test_what_is_required_of_us_alone():
    lines = ["torch>=2", "realignkit>=0.2", "realignkit[gpt4]<1 ; extra == 'test'"]
    assert [str(each) for each in requirements_on_us(lines)] == ["realignkit>=0.2"]
