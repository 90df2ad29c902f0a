r"""What reward-guided sampling is worth: against the base, a control without information, and the best of several.

    python benchmarks/guidance.py --set guide_margin=-0.6 --out guidance/caption   # some 15 minutes on an idle core
    python benchmarks/guidance.py --reward blip --out guidance/blip
    python benchmarks/guidance.py --prompts systems/prompts.txt --seed 0 --seed 1 --seed 2 --set guide_margin=-0.6 \
        --out guidance/cc500                                                       # more than an hour
    python benchmarks/guidance.py --row guided --share 1/2 --out guidance/a        # for one of several processes: then
    realignkit ablate join guidance/a guidance/b --out guidance/all
    python benchmarks/guidance.py --smoke                                          # seconds; checks that it runs

Rows, on the same prompts from the same noise: the base; *guided*, by the reward for each picture's own prompt;
*control*, by that for another prompt of the list: the same network passes and changes of the same size, without
information about the prompt; and the best of so many pictures as cost about what guidance costs, by the same reward.
Judged by the oracle; verdicts are kept in ``rows.jsonl``, as ``realignkit ablate`` keeps them, and the same command
goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL.Image import Image
from torch import Tensor

from realignkit import Realigner, Reward, default_registry
from realignkit.arguments import value_of
from realignkit.calls import texts_of
from realignkit.cli._progress import Bars
from realignkit.evaluation.judging import Judging
from realignkit.evaluation.measure import Ablation, Pictures
from realignkit.evaluation.plan import Part, Plan
from realignkit.evaluation.write import write_tables
from realignkit.named import Named
from realignkit.prompts import prompt_set
from realignkit.realigner.draft import best_of_each, candidate_seeds
from realignkit.realigner.options import GUIDE_OPTIONS

PROMPTS = "micro:validation,size=200,objects=2"
ROWS = ("base", "guided", "control", "best")


class AnotherPrompts(Reward):
    """A reward for another prompt than the picture's: of a list the one half a list away."""

    def __init__(self, reward: Named, prompts: Sequence[str]) -> None:
        super().__init__()
        self.reward, self.margin = reward.by("guiding").plugin, reward.margin
        self.other = dict(zip(prompts, [*prompts[len(prompts) // 2 :], *prompts[: len(prompts) // 2]], strict=True))

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards (B,) of images (B, 3, H, W)."""
        rewards: Tensor = self.reward(images, [self.other[prompt] for prompt in prompts])
        return rewards


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", default="caption", help="an embedded reward that guides, and chooses")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="such as guide_margin=-0.6")
    parser.add_argument("--row", action="append", choices=ROWS, help="repeatable; default: all")
    parser.add_argument("--best-of", type=int, default=2, help="pictures that cost about what guidance costs")
    parser.add_argument("--prompts", default=PROMPTS, help="a file or a prompt set, such as systems.py writes")
    parser.add_argument("--size", type=int, help="the first so many prompts; default: all")
    parser.add_argument("--seed", type=int, action="append", help="of the noise; repeatable (default: 7)")
    parser.add_argument("--share", default="1/1", help="of the pictures: 1/2 and 2/2 are the two halves")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        with TemporaryDirectory() as folder:
            arguments.size, arguments.out = 2, Path(folder)
            print(measure(arguments, {"num_inference_steps": 4}))
    elif arguments.out is None:
        parser.error("--out DIR: where results are kept.")
    else:
        print(measure(arguments, {}))


def measure(arguments: argparse.Namespace, sampling: dict[str, Any]) -> str:
    """Measure what is missing; the table as Markdown."""
    registry = default_registry()
    options = {name: value_of(value) for name, _, value in (text.partition("=") for text in arguments.set)}
    reward = Named("reward", arguments.reward, registry.create("reward", f"micro_{arguments.reward}"))
    realigner = Realigner.from_pretrained("micro", sampling=sampling, batch_size=10, **options)
    prompts = texts_of(prompt_set(registry, arguments.prompts))[: arguments.size]
    control = Named("reward", "another prompt's", AnotherPrompts(reward, prompts))
    best = f"base, best of {arguments.best_of}"

    def draw(row: str, guide: Named | None) -> Any:
        def drawn(
            model: Realigner, texts: Sequence[str], seeds: Sequence[int], _: Collection[str]
        ) -> dict[str, list[Image]]:
            return {row: model.with_(guide_by=guide).generate(texts, seeds)}

        return drawn

    def draw_best(
        model: Realigner, texts: Sequence[str], seeds: Sequence[int], _: Collection[str]
    ) -> dict[str, list[Image]]:
        repeated = [text for text in texts for _ in range(arguments.best_of)]
        starts = [start for seed in seeds for start in candidate_seeds(seed, arguments.best_of)]
        images = model.generate(repeated, starts)
        return {best: [choice.image for choice in best_of_each(images, texts, starts, reward, model.batch_size)]}

    parts = {
        "base": Part("base", ("base",), draw=draw("base", None)),
        "guided": Part("guided", ("guided",), draw=draw("guided", reward)),
        "control": Part("control", ("control",), draw=draw("control", control)),
        "best": Part(best, (best,), draw=draw_best),
    }
    chosen = [part for name, part in parts.items() if name in (arguments.row or ROWS)]
    settings = {"guide_by": arguments.reward, **{name: getattr(realigner, name) for name in GUIDE_OPTIONS}}
    plan = Plan("stages", tuple(chosen), settings)

    def generator(**given: Any) -> Named:
        return Named("generator", "micro", registry.create("generator", "micro", **given))

    pictures = Pictures(realigner, Judging(registry, "micro_oracle"), generator, arguments.out)
    source = Path(arguments.prompts).name
    ablation = Ablation(plan, pictures, prompts, seeds=arguments.seed or [7], source=source)
    number, of = map(int, arguments.share.split("/"))
    ablation.jobs = ablation.jobs[number - 1 :: of]
    with Bars() as bars:
        ablation(bars.step)
    write_tables(arguments.out)
    return (arguments.out / "table.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
