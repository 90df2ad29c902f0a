"""Ordinary plugins that a worker imports: what they say depends on what they are asked, and on where."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, SecretStr

import realignkit
from realignkit import contracts
from realignkit.errors import ScorerError
from realignkit.layout import Likelihood, LocalCaption, Tag


class Tagger(contracts.Tagger):
    """Names where it works; it is killed where the file is there that the variable POISON names, which it eats."""

    class Options(contracts.Options):
        key: SecretStr = Field(SecretStr(""), description="of a service")

    def __call__(self, images):
        if (poison := Path(os.environ.get("POISON", "/nowhere"))).exists():
            poison.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if "refused" in self.options.key.get_secret_value():
            raise ValueError(f"no such key: {self.options.key.get_secret_value()}")
        return [(Tag(str(os.getpid()), 0.5), Tag(self.options.key.get_secret_value() or "none", 0.25)) for _ in images]

    def check(self):
        return f"asked in {os.getpid()}"


class Scorer(contracts.Scorer):
    concurrency = 3

    def __call__(self, prompt, tags):
        if prompt == "stumble":
            raise ScorerError("no answer in time. Wait.", "timeout", final=True)
        if prompt == "fall":
            raise ValueError("a hole")
        return tuple(LocalCaption(tag.name, f"a {tag.name}", Likelihood.POSSIBLE) for tag in tags)

    def notes(self, prompt, captions):
        return tuple(f"{caption.tag} is {caption.likelihood.value}" for caption in captions)


class Reward(contracts.Reward):
    margin = 2.0

    def __init__(self, **options):
        super().__init__(**options)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.network = torch.nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False).eval()

    def __call__(self, images, prompts):
        return torch.tanh(self.network(images)).mean((1, 2, 3)) + images.new_tensor([len(text) for text in prompts])

    def guiding(self, images, prompts):
        return 2 * self(images, prompts)

    def reported(self, images, prompts):
        return torch.tensor([float(np.asarray(image).mean()) for image in images])


class Metric(contracts.Metric):
    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def update(self, images, prompts):
        self.seen += [float(np.asarray(image).mean()) for image in images]

    def compute(self):
        return {"light": float(np.mean(self.seen)), "count": float(len(self.seen))}

    def merge(self, other):
        self.seen += other.seen

    def state(self):
        return {"seen": np.array(self.seen)}

    def restore(self, state):
        self.seen = state["seen"].tolist()


class Prompts(contracts.PromptSet):
    source = "made up"

    def __iter__(self):
        yield from ("a cat", f"a dog of {os.getpid()}")

    def __len__(self):
        return 2

    def labels(self):
        return [{"id": "cat"}, {"id": "dog"}]


class Poisoned:
    def __init__(self, **options):
        import no_such_module  # noqa: F401


@realignkit.hookimpl
def register_taggers(register):
    register("foreign", "tests.isolation.foreign:Tagger", "names where it works")
    register("poisoned", Poisoned, "cannot be made")


@realignkit.hookimpl
def register_scorers(register):
    register("foreign", Scorer, "a class, not its address")


@realignkit.hookimpl
def register_rewards(register):
    register("foreign", "tests.isolation.foreign:Reward", "a convolution")


@realignkit.hookimpl
def register_metrics(register):
    register("foreign", "tests.isolation.foreign:Metric", "how light pictures are")


@realignkit.hookimpl
def register_prompts(register):
    register("foreign_prompts", "tests.isolation.foreign:Prompts", "two prompts")
