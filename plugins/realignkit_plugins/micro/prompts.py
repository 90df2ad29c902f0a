"""Prompts of the embedded world's own language, by split and number of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from realignkit.contracts import Options, PromptSet
from realignkit.types import Expected, Truth
from realignkit_plugins.micro.world.vocabulary import COLOURS, NOUNS, TAGS, article, held_out

_SEEDS = {"validation": 101, "test": 202, "train": 303}


class WorldPromptsOptions(Options):
    """Which prompts, and how many."""

    purpose: Literal["validation", "test", "train"] = Field(
        "validation", description="train for fine-tuning, validation for choosing settings, test for the end"
    )
    pairs: Literal["seen", "held_out", "mixed"] = Field(
        "mixed", description="colour-noun pairs that training showed, never showed, or as they come"
    )
    objects: int = Field(2, ge=1, le=3, description="how many objects a prompt names")
    size: int = Field(200, ge=1, le=100_000, description="how many prompts")


class WorldPrompts(PromptSet):
    """Prompts such as "a red book and a yellow pen" (CC-500's form), nouns all different; fixed by the options."""

    Options = WorldPromptsOptions
    options: WorldPromptsOptions
    source = "the embedded world's vocabulary, drawn at random with a fixed seed"

    @cached_property
    def _prompts(self) -> tuple[str, ...]:
        o = self.options
        group = ("mixed", "seen", "held_out").index(o.pairs)
        rng = np.random.default_rng([_SEEDS[o.purpose], o.objects, group])
        return tuple(self._prompt(rng) for _ in range(o.size))

    def _prompt(self, rng: np.random.Generator) -> str:
        # Not every noun has a held-out colour.
        nouns = rng.choice([noun for noun in NOUNS if self._colours(noun)], size=self.options.objects, replace=False)
        phrases = []
        for noun in map(str, nouns):
            colour = str(rng.choice(self._colours(noun)))
            phrases.append(f"{article(colour)} {colour} {noun}")
        return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))

    def _colours(self, noun: str) -> list[str]:
        pairs = self.options.pairs
        return [colour for colour in COLOURS if pairs == "mixed" or held_out(colour, noun) == (pairs == "held_out")]

    def truth(self, prompt: str, tags: Sequence[str]) -> Truth | None:
        """From how the prompts are made, by no rules of a scorer's; None for a prompt of another form."""
        parts = [re.fullmatch(r"an? (\w+) (\w+)", part) for part in re.split(r", | and ", prompt)]
        objects = [(part[1], part[2]) for part in parts if part and part[1] in COLOURS and part[2] in NOUNS]
        if len(objects) < len(parts):
            return None
        expected = {}
        for tag in tags:
            colours = tuple(frozenset({colour}) for colour, noun in objects if noun == tag)
            others = frozenset({*TAGS, *tags}) - {tag}
            expected[tag] = Expected(bool(colours), colours, frozenset(colour for colour, _ in objects), others)
        return Truth(expected, len(objects), sum(noun in tags for _, noun in objects))

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return self.options.size
