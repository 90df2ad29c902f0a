"""Prompt sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register


@hookimpl
def register_prompts(register: Register) -> None:
    """Prompts of your own, from a file, and published sets, whose files you get from where they are published."""
    register("file", "realignkit_plugins.prompts.file:FilePrompts", "a text file (a prompt a line) or a CSV column")
    for name, place, description in (
        ("abc6k", "attributes:ABC6K", "6,434 captions with colours, plain and swapped"),
        ("cc500", "attributes:CC500", "two objects with a colour each, 602 prompts"),
        ("coco", "coco:CocoCaptions", "captions of COCO's validation pictures, a seeded draw of 5,000"),
        ("drawbench", "benchmarks:DrawBench", "200 prompts in eleven categories"),
        ("geneval2", "benchmarks:GenEval2", "800 prompts of 3 to 10 atoms"),
        ("partiprompts", "benchmarks:PartiPrompts", "1,632 prompts by category and challenge"),
        ("tifa", "benchmarks:TifaPrompts", "TIFA v1.0's 4,081 captions"),
        ("vilg300", "attributes:ViLG300", "300 prompts in 16 categories; split=train or test"),
    ):
        register(name, f"realignkit_plugins.prompts.{place}", description)
