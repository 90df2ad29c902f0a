"""Table II's rows: neither stage, each alone, both; with and without a choice among candidates."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, cast

from realignkit import selection
from realignkit.evaluation.models import BASE, Model
from realignkit.evaluation.plan import Part, Plan
from realignkit.named import Named
from realignkit.realigner import Realigner

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.realignment import Realignment


def stages_plan(
    models: Sequence[Model],
    *,
    fine: bool = True,
    candidates: int = 1,
    select_by: Named | None = None,
) -> Plan:
    """What to measure for Table II.

    Rows of a part that is not given are left out.

    Args:
        models: fine-tuned (the coarse stage); several are training seeds, which share the image seeds. May be empty.
        fine: whether the model's attention can be re-weighted.
        candidates: images per prompt of the rows "best of N"; 1: no such rows. The first candidate is the picture of
            the row without a choice.
        select_by: the reward that chooses.
    """
    stages = [("base", "fine", BASE, 0, 1)]
    stages += [("coarse", "both", model, i, len(models)) for i, model in enumerate(models)]
    parts = []
    for plain, refined, model, run, of in stages:
        rows = [plain, *([refined] if fine else [])]
        if candidates > 1:
            rows.append(best(plain, candidates))
            # Of the base's pictures only where there is no better model: a refinement costs as much as a picture.
            if fine and (plain == "coarse" or not models):
                rows.append(best(refined, candidates))
        drawer = _Drawer(plain, refined, candidates, select_by)
        parts.append(Part(plain, model, tuple(rows), drawer, run, of))
    if candidates == 1 or select_by is None:
        return Plan("stages", tuple(parts))
    settings = {"candidates": candidates, "select_by": {"name": select_by.name, "options": select_by.options}}
    selected = {row: select_by.name for part in parts for row in part.rows if row.endswith(_suffix(candidates))}
    return Plan("stages", tuple(parts), settings, selected)


def best(row: str, candidates: int) -> str:
    """The name of a row that starts from the best of several candidates."""
    return f"{row}{_suffix(candidates)}"


def _suffix(candidates: int) -> str:
    return f", best of {candidates}"


class _Drawer:
    """Draws the rows of one model; what they share is drawn once."""

    def __init__(self, plain: str, refined: str, candidates: int, select_by: Named | None) -> None:
        self.plain, self.refined, self.candidates, self.select_by = plain, refined, candidates, select_by

    def __call__(
        self, realigner: Realigner, prompts: Sequence[str], seeds: Sequence[int], wanted: Collection[str]
    ) -> dict[str, list[Image]]:
        chosen, refined_choice = best(self.plain, self.candidates), best(self.refined, self.candidates)
        count = self.candidates if {chosen, refined_choice} & set(wanted) else 1
        texts = [prompt for prompt in prompts for _ in range(count)]
        starts = [start for seed in seeds for start in selection.candidate_seeds(seed, count)]
        drawn = realigner.generate(texts, starts)
        found = {self.plain: drawn[::count]}
        if self.refined in wanted:
            found[self.refined] = refine(realigner, prompts, seeds, found[self.plain])
        if count > 1 and self.select_by is not None:
            picks = selection.choose(drawn, prompts, starts, self.select_by, realigner.batch_size)
            found[chosen] = [pick.image for pick in picks]
            if refined_choice in wanted:
                found[refined_choice] = refine(realigner, prompts, [pick.seed for pick in picks], found[chosen])
        return found


def refine(realigner: Realigner, prompts: Sequence[str], seeds: Sequence[int], coarse: Sequence[Image]) -> list[Image]:
    """The pictures that the fine stage makes of its own model's coarse ones, drawn from the same seeds."""
    done = cast("list[Realignment]", realigner(list(prompts), list(seeds), coarse=list(coarse)))
    return [realignment.image for realignment in done]
