"""Question answerers that say what a test wants them to say."""

from __future__ import annotations

from pydantic import Field

from realignkit import VQA, hookimpl
from realignkit.contracts import Options


class Scripted(VQA):
    """Answers by the brightness of the image: what ``said`` has for a question if it is dark, else "no"."""

    class Options(Options):
        said: dict[str, str] = Field({})
        sure: float = 0.75

    def __call__(self, images, questions, choices=None):
        pairs = zip(images, questions, strict=True)
        return [self.options.said.get(q, "yes") if dark(image) else "no" for image, q in pairs]

    def probabilities(self, images, questions, answers):
        sure = [self.options.sure if dark(image) else 1 - self.options.sure for image in images]
        # All of it for the first spelling, none for the others.
        return [[p if place == 0 else 0.0 for place in range(len(each))] for p, each in zip(sure, answers, strict=True)]


def dark(image):
    return image.convert("L").getpixel((0, 0)) < 128


class Plugin:
    @hookimpl
    def register_vqa(self, register):
        register("scripted", Scripted, "says what a test wants")
