"""What the fine stage depends on, by the oracle's "fully right", same prompts and seeds, paired.

What it does as it is, ``realignkit ablate stages`` measures. Here its parts are exchanged:

    python benchmarks/alignment.py compare --masks world --out benchmarks/results/world-masks    # ground-truth layouts
    python benchmarks/alignment.py compare --ask noun --out benchmarks/results/segment-by-noun   # of the segmenter
    python benchmarks/alignment.py sweep --out benchmarks/results/sweep              # settings, on validation prompts
    python benchmarks/alignment.py sweep --which clamp --group "two objects" --size 400 --out benchmarks/results/clamp
    python benchmarks/alignment.py sweep --which strength --group "two objects" --out benchmarks/results/strength
    python benchmarks/alignment.py sweep --which flow --model micro_flow --group "two objects" --out /tmp/flow
    python benchmarks/alignment.py steps --out benchmarks/results/steps              # each step against ground truth
    python benchmarks/alignment.py steps --smoke --out /tmp/smoke                    # seconds; checks that it runs

The oracle shares neither weights nor training scenes nor noise with the tagger and the segmenter. Per-image results are
kept in ``rows.jsonl`` (a ``compare`` that was stopped goes on from them, as ``realignkit ablate`` does), the summary by
groups of prompts in ``summary.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import track
from segmenters import WAYS  # the scripts beside this one
from sweeps import PAPER, SWEEPS, sweep_summary

from realignkit import (
    Layout,
    Likelihood,
    LocalCaption,
    Realigner,
    Segment,
    Tag,
    default_registry,
)
from realignkit.cli._progress import Bars
from realignkit.evaluation.judging import Judging
from realignkit.evaluation.measure import Ablation, Pictures
from realignkit.evaluation.plan import Part, Plan, noise_seed, stages_plan
from realignkit.evaluation.results import Measurement, digest
from realignkit.evaluation.statistics import HEADER, HOW, compare
from realignkit.evaluation.write import write_tables
from realignkit.files import atomic_write, only_writer
from realignkit.named import Named
from realignkit_plugins.micro.oracle import Oracle, expected, fully_right, in_vocabulary
from realignkit_plugins.micro.prompts import WorldPrompts
from realignkit_plugins.micro.world import TAGS, held_out, phrase, render, scene
from realignkit_plugins.micro.world.scenes import sample_scene

CHUNK = 32
PLUGIN_KINDS = ("tagger", "segmenter", "sampling")
GROUPS = {
    "seen pairs": {"pairs": "seen", "objects": 2},
    "held-out pairs": {"pairs": "held_out", "objects": 2},
    "three objects": {"pairs": "mixed", "objects": 3},
}
MORE_GROUPS = {"two objects": {"pairs": "mixed", "objects": 2}}
"""On request: what `micro:validation,objects=2` is."""


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["compare", "sweep", "steps"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--prompts", type=Path, help="a prompt a line; only those of CC-500's form in the vocabulary")
    parser.add_argument("--purpose", choices=["validation", "test"], default="validation", help="without --prompts")
    parser.add_argument(
        "--group", action="append", choices=[*GROUPS, *MORE_GROUPS], help="without --prompts; repeatable"
    )
    parser.add_argument("--which", choices=list(SWEEPS), default="settings", help="sweep: which settings")
    parser.add_argument("--size", type=int, default=100, help="prompts per group, without --prompts")
    parser.add_argument("--seeds", type=int, default=1, help="images per prompt")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option: share=0.5, tagger.threshold=0.1, sampling.guidance_scale=4",
    )
    parser.add_argument("--model", choices=["micro", "micro_flow"], default="micro", help="the generator")
    parser.add_argument("--tagger", help="another tagger than micro's own, by name")
    parser.add_argument("--only", action="append", default=[], help="sweep: only the setting of this name")
    parser.add_argument("--masks", choices=["world"], help="compare: ground-truth layouts instead of the segmenter's")
    parser.add_argument(
        "--ask", choices=[*WAYS], help="compare: ask the segmenter for nouns; tag: with the phrase as tie-break"
    )
    parser.add_argument("--smoke", action="store_true", help="a handful of prompts, few steps")
    arguments = parser.parse_args()
    if arguments.command == "compare" and not (arguments.masks or arguments.ask):
        parser.error("give --masks or --ask; the fine stage as it is, is measured by 'realignkit ablate stages'.")
    with only_writer(arguments.out):
        {"compare": run_compare, "sweep": run_sweep, "steps": run_steps}[arguments.command](arguments)


def grouped_prompts(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """(group, prompt) of everything to do."""
    if arguments.prompts:
        lines = [line.strip() for line in arguments.prompts.read_text().splitlines()]
        return [(group_of(line), line) for line in lines if in_vocabulary(line)]
    size = 2 if arguments.smoke else arguments.size
    groups = {name: {**GROUPS, **MORE_GROUPS}[name] for name in arguments.group or GROUPS}
    sets = {name: WorldPrompts(purpose=arguments.purpose, size=size, **how) for name, how in groups.items()}
    return [(name, prompt) for name, texts in sets.items() for prompt in texts]


def seeds_of(arguments: argparse.Namespace) -> range:
    """One per picture of a prompt."""
    return range(arguments.first_seed, arguments.first_seed + arguments.seeds)


def group_of(prompt: str) -> str:
    """The group that a prompt from a file belongs to."""
    wanted = expected(prompt)
    if sum(count for *_, count in wanted) > 2:
        return "three objects"
    return "held-out pairs" if any(held_out(colour, noun) for noun, colour, _ in wanted) else "seen pairs"


def make_realigner(arguments: argparse.Namespace, how: Mapping[str, Any] | None = None) -> Realigner:
    """The embedded realigner with the asked-for settings, those of ``how`` over those of ``--set``."""
    settings: dict[str, Any] = {}
    for name, _, value in (pair.partition("=") for pair in arguments.set):
        kind, _, option = name.rpartition(".")
        settings.update({option: _value(value)} if kind in ("", "modulation") else {})
        if kind in PLUGIN_KINDS:
            settings.setdefault(kind, {})[option] = _value(value)
    settings |= how or {}
    options = {kind: settings.pop(kind) for kind in PLUGIN_KINDS if kind in settings}
    sampling = options.pop("sampling", {}) | ({"num_inference_steps": 4} if arguments.smoke else {})
    own = default_registry().create("segmenter", "micro")
    return Realigner.from_pretrained(
        arguments.model,
        tagger=arguments.tagger,
        segmenter=WAYS[arguments.ask](own) if arguments.ask in WAYS else None,
        modulation=settings,
        options=options,
        sampling=sampling,
        batch_size=CHUNK,
    )


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def run_compare(arguments: argparse.Namespace) -> None:
    """Base against fine stage, as rows of an ablation."""
    registry = default_registry()
    prompts = grouped_prompts(arguments)
    plan = stages_plan([])
    if arguments.masks == "world":
        part = Part("base", ("base", "fine"), draw=draw_with_world_layouts)
        plan = Plan("stages", (part,), settings={"masks": arguments.masks})

    def generator(**options: Any) -> Named:
        return Named("generator", arguments.model, registry.create("generator", arguments.model, **options))

    pictures = Pictures(make_realigner(arguments), Judging(registry, "micro_oracle"), generator, arguments.out)
    source = str(arguments.prompts.name if arguments.prompts else arguments.purpose)
    ablation = Ablation(plan, pictures, [text for _, text in prompts], seeds=seeds_of(arguments), source=source)
    with Bars() as bars:
        ablation(bars.step)
    write_tables(arguments.out)
    groups = {digest(text): group for group, text in prompts}
    text = summary(paired_rows(ablation.results.read(features=False), groups))
    atomic_write(arguments.out / "summary.md", text)
    print(text)


def paired_rows(measurements: Sequence[Measurement], groups: Mapping[str, str]) -> list[dict[str, Any]]:
    """Base and fine stage of each picture, as :func:`summary` takes them."""
    fine = {m.pair: m for m in measurements if m.row == "fine"}
    return [
        {
            "group": groups[m.prompt],
            "prompt": m.prompt,
            "base": m.values["fully_right"],
            "fine": fine[m.pair].values["fully_right"],
            "base_share": m.values["objects_right"],
            "fine_share": fine[m.pair].values["objects_right"],
        }
        for m in measurements
        if m.row == "base"
    ]


def chunks(todo: list[Any]) -> Iterator[list[Any]]:
    """Pieces of at most ``CHUNK``."""
    return (todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK))


def draw_with_world_layouts(
    realigner: Realigner, prompts: Sequence[str], seeds: Sequence[int], _: Any
) -> dict[str, list[Any]]:
    """The rows "base" and "fine", with ground truth in the place of the segmenter."""
    coarse = realigner.generate(list(prompts), list(seeds))
    layouts = [world_layout(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
    refined = realigner.refine(list(prompts), layouts, list(seeds), coarse).images
    # Nothing can be lost that the coarse image did not have.
    seen = [{tag.name for tag in tags} for tags in realigner.tag(coarse)]
    captions = [[s.caption for s in layout if s.caption.tag in n] for layout, n in zip(layouts, seen, strict=True)]
    return {"base": coarse, "fine": verified(realigner, captions, coarse, refined)}


def verified(realigner: Realigner, captions: Sequence[Sequence[LocalCaption]], coarse: Any, refined: Any) -> list[Any]:
    """The images that stand, as in calling the realigner: verification applies where its settings ask for it."""
    if not realigner.modulation.verify:
        return list(refined)
    lost = realigner.lost(captions, refined)
    return [old if gone else new for old, new, gone in zip(coarse, refined, lost, strict=True)]


def world_layout(prompt: str, seed: int) -> Layout:
    """A layout that the world itself could have drawn for a prompt: ground-truth masks of the right objects."""
    wanted = [(noun, colour) for noun, colour, count in expected(prompt) for _ in range(count)]
    drawn = sample_scene(np.random.default_rng([7, seed]), "all", len(wanted))
    things = [
        replace(thing, noun=noun, colour=colour) for thing, (noun, colour) in zip(drawn.things, wanted, strict=True)
    ]
    things = [
        replace(t, left=min(t.left, 64 - t.sprite.solid.shape[1]), top=min(t.top, 64 - t.sprite.solid.shape[0]))
        for t in things
    ]
    masks = render(replace(drawn, things=tuple(things), extras=())).masks
    captions = [LocalCaption(t.noun, phrase(t), Likelihood.CERTAIN) for t in things]
    return Layout(tuple(Segment(c, m) for c, m in zip(captions, masks, strict=True) if m.any()))


def summary(rows: list[dict[str, Any]]) -> str:
    """A table over all prompts and by group."""
    lines = [HEADER]
    groups = [None, *dict.fromkeys(row["group"] for row in rows)]
    for group in groups:
        some = [row for row in rows if group in (None, row["group"])]
        flags = ([bool(row[key]) for row in some] for key in ("base", "fine"))
        lines.append(compare(*flags, clusters=[row["prompt"] for row in some]).row(group or "all"))
    if rows:
        shares = [100 * np.mean([row[key] for row in rows]) for key in ("base_share", "fine_share")]
        lines.append(f"\nObjects right: {shares[0]:.1f} % before, {shares[1]:.1f} % after.")
    lines.append(f"\n{HOW}")
    return "\n".join(lines) + "\n"


def run_sweep(arguments: argparse.Namespace) -> None:
    """Every setting of a sweep on the same coarse images."""
    realigner, oracle = make_realigner(arguments), Oracle.load()
    # A noise seed for every prompt and repetition: prompts that share one would share their noise.
    todo = [
        (group, text, noise_seed(seed, index))
        for seed in seeds_of(arguments)
        for index, (group, text) in enumerate(grouped_prompts(arguments), start=1)
    ]
    wanted = {
        name: how for name, how in SWEEPS[arguments.which].items() if not arguments.only or name in arguments.only
    }
    generator = Named("generator", arguments.model, realigner.generator)  # one pipeline for all
    variants = {
        name: make_realigner(arguments, {**PAPER, **how}).with_(generator=generator) for name, how in wanted.items()
    }
    settings = {name: variant.settings for name, variant in variants.items()}
    atomic_write(arguments.out / "settings.json", json.dumps(settings, indent=1))
    before: list[bool] = []
    after: dict[str, list[bool]] = {name: [] for name in wanted}
    done: list[tuple[str, str, int]] = []  # group, prompt, seed
    for part in track(list(chunks(todo)), description="sweeping", disable=not sys.stderr.isatty()):
        prompts, seeds = [prompt for _, prompt, _ in part], [seed for *_, seed in part]
        done += [(group, digest(prompt), seed) for group, prompt, seed in part]
        coarse = realigner.generate(prompts, seeds)
        before += judge(oracle, prompts, coarse)
        found: dict[str, tuple[list[Layout], list[tuple[LocalCaption, ...]]]] = {}
        drawn: dict[str, list[Any]] = {}  # verification judges pictures, it does not change them
        for name, variant in variants.items():
            steps = json.dumps([wanted[name].get(kind) for kind in ("tagger", "segmenter")])
            if steps not in found:
                found[steps] = find_layouts(variant, prompts, coarse)
            layouts, captions = found[steps]
            key = steps + variant.modulation.model_dump_json(exclude={"verify"})
            if key not in drawn:
                drawn[key] = variant.refine(prompts, layouts, seeds, coarse).images
            refined = verified(variant, captions, coarse, drawn[key])
            after[name] += judge(oracle, prompts, refined)
        rows = [
            {"group": group, "prompt": prompt, "seed": seed, "base": b, **{n: after[n][i] for n in wanted}}
            for i, ((group, prompt, seed), b) in enumerate(zip(done, before, strict=True))
        ]
        atomic_write(arguments.out / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        atomic_write(arguments.out / "summary.md", sweep_summary(rows))
    print((arguments.out / "summary.md").read_text())


def judge(oracle: Oracle, prompts: list[str], images: list[Any]) -> list[bool]:
    """Which images are fully right."""
    return [fully_right(prompt, found) for prompt, found in zip(prompts, oracle.detect(images), strict=True)]


def find_layouts(
    realigner: Realigner, prompts: list[str], coarse: list[Any]
) -> tuple[list[Layout], list[tuple[LocalCaption, ...]]]:
    """Tag, score and segment: layouts, and the captions that they came from."""
    captions = [realigner.score(p, tags).captions for p, tags in zip(prompts, realigner.tag(coarse), strict=True)]
    return [realigner.segment(image, some)[0] for image, some in zip(coarse, captions, strict=True)], captions


def run_steps(arguments: argparse.Namespace) -> None:
    """Tagger, scorer and segmenter, each given perfect input, against the truth of unseen renderings."""
    realigner = make_realigner(arguments)
    count = 20 if arguments.smoke else 500
    found, hit, wanted, right, judged, overlaps = 0, 0, 0, 0, 0, []
    for index in range(count):
        truth = scene(77, index, "all")
        rendering = render(truth)
        image = Image.fromarray(rendering.image)
        names = {tag.name for tag in realigner.tag([image])[0]}
        found, hit, wanted = found + len(names), hit + len(names & truth.tags), wanted + len(truth.tags)
        prompt = " and ".join(phrase(thing) for thing in truth.things)
        named = {thing.noun for thing in truth.things}
        answer = realigner.score(prompt, [Tag(name) for name in TAGS if name in truth.tags])
        right += sum((c.likelihood is Likelihood.CERTAIN) == (c.tag in named) for c in answer.captions)
        judged += len(answer.captions)
        phrases = list(dict.fromkeys(phrase(thing) for thing in truth.things))
        for text, result in zip(phrases, realigner.segmenter(image, phrases), strict=True):
            mask = np.any([m for t, m in zip(truth.things, rendering.masks, strict=False) if phrase(t) == text], axis=0)
            overlaps.append(0.0 if result is None else (result[0] & mask).sum() / (result[0] | mask).sum())
    lines = [
        "| step | measured on its own, unseen renderings of all pairs | value |\n| --- | --- | --- |",
        f"| tagger | precision / recall over {wanted} tags | {hit / found:.3f} / {hit / wanted:.3f} |",
        f"| scorer | certain exactly for what the prompt names, {judged} tags | {right / judged:.3f} |",
        f"| segmenter | mean IoU of {len(overlaps)} objects (share found) | "
        f"{np.mean(overlaps):.3f} ({np.mean(np.array(overlaps) > 0):.3f}) |",
    ]
    atomic_write(arguments.out / "summary.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
