"""Generators and sets of prompts held against their contracts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from realignkit import calls
from realignkit.attention.config import ModulationConfig
from realignkit.contracts import KINDS
from realignkit.layout import Truth
from realignkit.named import Named
from realignkit.pipelines.families import FAMILIES
from realignkit.realigner import Realigner
from realignkit.resolve import SamplingOptions
from realignkit.testing.examples import PROMPTS as EXAMPLES
from realignkit.testing.making import check_pickled

_QUICK = {"num_inference_steps": 2}


# --- generators -------------------------------------------------------------------------------------------------------


def _draw(generator: Named, prompts: list[str], seeds: list[int]) -> list[Any]:
    return Realigner(generator, sampling=_QUICK).generate(prompts, seeds)


def _draws(generator: Named) -> None:
    (image,) = _draw(generator, [EXAMPLES[0]], [1])
    if image.mode != "RGB":
        raise generator.breach(f"its pipeline draws {image.mode}, and images are RGB")
    with generator.blame():
        if generator.plugin.pipeline() is not generator.plugin.pipeline():
            raise generator.breach("pipeline() makes another one each time: load it once, and keep it")


def _seeds(generator: Named) -> None:
    first, again, other = _draw(generator, [EXAMPLES[0]] * 3, [1, 1, 2])
    if first.tobytes() != again.tobytes():
        raise generator.breach("the same prompt and seed give another picture")
    if first.tobytes() == other.tobytes():
        raise generator.breach("another seed gives the same picture: use the generator or latents that it is handed")


def _declares(generator: Named) -> None:
    plugin = generator.plugin
    families = [family.name for family in FAMILIES]
    if getattr(plugin, "attention_family", None) not in (None, *families):
        raise generator.breach(f"attention_family must be None, or one of {', '.join(families)}")
    known = {"sampling_defaults": SamplingOptions.model_fields, "refine_defaults": ModulationConfig.model_fields}
    for name, fields in known.items():
        if strangers := getattr(plugin, name, {}).keys() - fields.keys():
            raise generator.breach(f"{name} has '{min(strangers)}', which is no option. Options: {', '.join(fields)}")
    companions = getattr(plugin, "companions", {})
    if strangers := [kind for kind in companions if kind.partition(":")[0] not in KINDS]:
        raise generator.breach(f"companions are by kind, and '{strangers[0]}' is none")


GENERATOR: Mapping[str, Callable[[Named], object]] = {
    "answers": _draws,
    "seeds": _seeds,
    "declarations": _declares,
    "pickled": check_pickled,
}


# --- prompts ----------------------------------------------------------------------------------------------------------


def _prompts(prompts: Named) -> None:
    texts = calls.texts_of(prompts)
    with prompts.blame():
        count = len(prompts.plugin)
    if len(texts) != count:
        raise prompts.breach(f"it says that it has {count} prompts, and gives {len(texts)}")
    if not texts:
        raise prompts.breach("it has no prompts")
    if empty := [number for number, text in enumerate(texts, start=1) if not text.strip()]:
        raise prompts.breach(f"its prompt number {empty[0]} is empty")
    if calls.texts_of(prompts) != texts:
        raise prompts.breach("it gives other prompts, or another order, the second time")


def _told(prompts: Named) -> None:
    for name in ("source", "summary"):
        if not isinstance(getattr(prompts.plugin, name, ""), str):
            raise prompts.breach(f"its {name} must be text")


def _labels(prompts: Named) -> None:
    if not prompts.has("labels"):
        return
    with prompts.blame():
        labels = list(prompts.plugin.labels())
    if len(labels) != len(calls.texts_of(prompts)):
        raise prompts.breach(f"{len(labels)} labels for {len(calls.texts_of(prompts))} prompts")
    if not all(isinstance(value, str) for each in labels for value in each.values()):
        raise prompts.breach("labels are texts by name")
    identities = [each["id"] for each in labels if "id" in each]
    if len(set(identities)) != len(identities):
        raise prompts.breach("two of its prompts have the same id")


def _truth(prompts: Named) -> None:
    if prompts.has("truth"):
        with prompts.blame():
            said = prompts.plugin.truth(next(iter(prompts.plugin)), ["book", "cup"])
        if said is not None and not isinstance(said, Truth):
            raise prompts.breach("truth() must return a Truth, or None where it does not know")


PROMPTS: Mapping[str, Callable[[Named], object]] = {
    "answers": _prompts,
    "source and summary": _told,
    "labels": _labels,
    "truth": _truth,
    "pickled": check_pickled,
}
