"""A scorer: a tag is certain where the prompt says it, and its caption is the part of the prompt that does."""

import re

import realignkit
from realignkit import Likelihood, LocalCaption, Options, Scorer


class KeywordScorer(Scorer):
    class Options(Options):
        scenery: tuple[str, ...] = ("desk", "grass", "road", "room", "sky")

    def __call__(self, prompt, tags):
        return tuple(self.judge(prompt, tag.name) for tag in tags)

    def judge(self, prompt, name):
        for part in re.split(r",|\band\b", prompt):
            if re.search(rf"\b{re.escape(name)}s?\b", part, re.IGNORECASE):
                return LocalCaption(name, part.strip(), Likelihood.CERTAIN)
        likelihood = Likelihood.POSSIBLE if name in self.options.scenery else Likelihood.UNLIKELY
        return LocalCaption(name, name, likelihood)


@realignkit.hookimpl
def register_scorers(register):
    register("keyword", "realignkit_keyword_scorer:KeywordScorer", "what the prompt names is certain, scenery possible")
