"""The paper's tables as rows: whose pictures each row has, and how they are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from realignkit.errors import ModelError, OptionError
from realignkit.evaluation.results import SCORERS
from realignkit.named import Named
from realignkit.realigner import Realigner
from realignkit.realigner.draft import best_of_each, candidate_seeds
from realignkit.realigner.options import GUIDE_OPTIONS
from realignkit.refl.run import read_record
from realignkit.resolve import parse_weights, rewards_in

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.realignment import Realignment

WHOLE = "model"
"""Where a training of the whole U-Net keeps its pipeline."""

Drawer = Callable[[Realigner, Sequence[str], Sequence[int], Collection[str]], Mapping[str, Sequence["Image"]]]
"""``draw(realigner, prompts, noise seeds, wanted rows)`` -> at least those rows' pictures."""


@dataclass(frozen=True)
class Model:
    """What makes a generator another one.

    Attributes:
        options: of the generator, over the user's.
        record: what results say about it: ``weights`` (a digest; None: as it came), and of its training ``reward``,
            ``reward_weight``, ``iteration`` (of the weights), ``seed``, ``status``. No paths.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=lambda: {"weights": None})


BASE = Model()


@dataclass(frozen=True)
class Part:
    """Rows that are measured together, because they share pictures or what was found in them.

    Attributes:
        name: for progress.
        rows: what it has results of.
        model: whose weights are loaded.
        draw: how its pictures are drawn.
        run, of: it is number ``run`` of ``of`` models of these rows, and draws the seeds with ``seed % of == run``.
    """

    name: str
    rows: tuple[str, ...]
    model: Model = BASE
    draw: Drawer | None = None
    run: int = 0
    of: int = 1


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        kind: ``rewards``, ``stages`` or ``scorers``.
        parts: in the order that they are measured in.
        settings: what the rows' pictures depend on beside the models and the realigner.
        selected: row -> the reward that its pictures were chosen or guided by.
    """

    kind: str
    parts: tuple[Part, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    selected: Mapping[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, list[Model]]:
        """Row -> its models, in the table's order."""
        models: dict[str, list[Model]] = {}
        for part in self.parts:
            for row in part.rows:
                models.setdefault(row, []).append(part.model)
        return models

    @property
    def most_models(self) -> int:
        """How many seeds it takes at least to ask every model of every row."""
        return max(part.of for part in self.parts)


def noise_seed(seed: int, index: int) -> int:
    """Where the noise of a prompt comes from: prompts that shared it would not be independent pictures."""
    return 100_000 * seed + index - 1


def scorers_plan(taggers: Sequence[str], scorers: Sequence[str]) -> Plan:
    """Table IV: every scorer asked about what every tagger has seen.

    Raises:
        OptionError: there is no tagger, or no scorer.
    """
    if not taggers or not scorers:
        raise OptionError("name at least one tagger and one scorer.")
    return Plan(SCORERS, tuple(Part(f"tags {name}", tuple(asked(name, s) for s in scorers)) for name in taggers))


def asked(tagger: str, scorer: str) -> str:
    """The name of the row of a scorer that is asked about a tagger's tags."""
    return f"{tagger} x {scorer}"


def rewards_plan(rows: Mapping[str, Sequence[Model]]) -> Plan:
    """Table III: the base, and each row's models, which share the seeds among them."""
    parts = [Part("base", ("base",), draw=_coarse("base"))]
    for name, models in rows.items():
        parts += [Part(name, (name,), model, _coarse(name), i, len(models)) for i, model in enumerate(models)]
    return Plan("rewards", tuple(parts))


def _coarse(row: str) -> Drawer:
    def draw(realigner: Realigner, prompts: Sequence[str], seeds: Sequence[int], _: Collection[str]) -> Any:
        return {row: realigner.generate(prompts, seeds)}

    return draw


def stages_plan(
    models: Sequence[Model],
    *,
    fine: bool = True,
    candidates: int = 1,
    select_by: Named | None = None,
    guided: Realigner | None = None,
) -> Plan:
    """Table II: neither stage, each alone, both; with and without a choice among candidates, or a reward that guides.

    Rows of a part that is not given are left out.

    Args:
        models: fine-tuned (the coarse stage); several are training seeds, which share the image seeds. May be empty.
        fine: whether the model's attention can be re-weighted.
        candidates: images per prompt of the rows "best of N"; 1: no such rows. The first candidate is the picture of
            the row without a choice.
        select_by: the reward that chooses.
        guided: has the ``guide_by`` of the rows "…, guided", and its options; None: no such rows.
    """
    stages = [("base", "fine", BASE, 0, 1)]
    stages += [("coarse", "both", model, i, len(models)) for i, model in enumerate(models)]
    parts: list[Part] = []
    selected: dict[str, str] = {}
    for plain, refined, model, run, of in stages:
        rows = [plain, *([refined] if fine else [])]
        if candidates > 1 and select_by is not None:
            chosen = [best(plain, candidates)]
            # Of the base's pictures only where there is no better model: a refinement costs as much as a picture.
            if fine and (plain == "coarse" or not models):
                chosen.append(best(refined, candidates))
            rows += chosen
            selected |= dict.fromkeys(chosen, select_by.name)
        if guided is not None and guided.parts.guide is not None:
            chosen = [guided_row(row) for row in (plain, *([refined] if fine else []))]
            rows += chosen
            selected |= dict.fromkeys(chosen, guided.parts.guide.name)
        draw = _StageDrawer(plain, refined, candidates, select_by, guided)
        parts.append(Part(plain, tuple(rows), model, draw, run, of))
    settings: dict[str, Any] = {}
    if guided is not None:
        settings |= {name: guided.settings[name] for name in ("guide_by", *GUIDE_OPTIONS)}
    if candidates > 1 and select_by is not None:
        settings |= {"candidates": candidates, "select_by": {"name": select_by.name, "options": select_by.options}}
    return Plan("stages", tuple(parts), settings, selected)


def best(row: str, candidates: int) -> str:
    """The name of a row that starts from the best of several candidates."""
    return f"{row}, best of {candidates}"


def guided_row(row: str) -> str:
    """The name of a row whose sampling is guided by a reward."""
    return f"{row}, guided"


@dataclass(frozen=True)
class _StageDrawer:
    """Draws the rows of one model; what they share is drawn once."""

    plain: str
    refined: str
    candidates: int
    select_by: Named | None
    guided: Realigner | None = None

    def __call__(
        self, realigner: Realigner, prompts: Sequence[str], seeds: Sequence[int], wanted: Collection[str]
    ) -> dict[str, list[Image]]:
        chosen, chosen_refined = best(self.plain, self.candidates), best(self.refined, self.candidates)
        count = self.candidates if {chosen, chosen_refined} & set(wanted) else 1
        texts = [prompt for prompt in prompts for _ in range(count)]
        starts = [start for seed in seeds for start in candidate_seeds(seed, count)]
        drawn = realigner.generate(texts, starts)
        pictures = {self.plain: drawn[::count]}
        if self.refined in wanted:
            pictures[self.refined] = refine(realigner, prompts, seeds, pictures[self.plain])
        if count > 1 and self.select_by is not None:
            picks = best_of_each(drawn, prompts, starts, self.select_by, realigner.batch_size)
            pictures[chosen] = [pick.image for pick in picks]
            if chosen_refined in wanted:
                best_seeds = [pick.seed for pick in picks]
                pictures[chosen_refined] = refine(realigner, prompts, best_seeds, pictures[chosen])
        if {guided_row(self.plain), guided_row(self.refined)} & set(wanted):
            pictures |= self._guided(realigner, prompts, seeds, wanted)
        return pictures

    def _guided(
        self, realigner: Realigner, prompts: Sequence[str], seeds: Sequence[int], wanted: Collection[str]
    ) -> dict[str, list[Image]]:
        assert self.guided is not None
        options = {name: getattr(self.guided, name) for name in GUIDE_OPTIONS}
        guided = realigner.with_(guide_by=self.guided.parts.guide, **options)
        plain = guided.generate(prompts, seeds)
        pictures = {guided_row(self.plain): plain}
        if guided_row(self.refined) in wanted:
            pictures[guided_row(self.refined)] = refine(guided, prompts, seeds, plain)
        return pictures


def refine(realigner: Realigner, prompts: Sequence[str], seeds: Sequence[int], coarse: Sequence[Image]) -> list[Image]:
    """The pictures that the fine stage makes of its own model's coarse ones, drawn from the same seeds."""
    done = cast("list[Realignment]", realigner(list(prompts), list(seeds), coarse=list(coarse)))
    return [realignment.image for realignment in done]


def trained_model(folder: str | Path) -> Model:
    """The model in a folder that ``realignkit train`` wrote (adapters, or a whole U-Net), or a ``.safetensors`` file.

    Raises:
        ModelError: there are no weights.
        OutputError: its ``training.json`` is damaged.
    """
    path = Path(folder).expanduser()
    whole = path / WHOLE / "model_index.json"
    if path.is_file() and path.suffix == ".safetensors":
        files, options = [path], {"lora": str(path)}
    elif whole.is_file():
        files, options = sorted((path / WHOLE).rglob("*.safetensors")), {"model": str(path / WHOLE)}
    else:
        files, options = sorted(path.glob("*.safetensors")), {"lora": str(path)}
    if not files:
        why = "no such folder" if not path.exists() else "it has no .safetensors file"
        raise ModelError(
            f"{folder} holds no trained weights ({why}). Give the --out folder of a 'realignkit train' that has "
            f"got as far as its first validation."
        )
    return Model(options, {"weights": _digest(files), **_training(path)})


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:12]


def _training(path: Path) -> dict[str, Any]:
    record = read_record(path) if path.is_dir() else None
    if record is None:
        return {}
    config, identity = record.get("config", {}), record.get("identity", {})
    best = record.get("best")
    return {
        "reward": identity.get("reward"),
        "reward_weight": config.get("reward_weight"),
        "iteration": record.get("iteration") if best is None else best,
        "seed": config.get("seed"),
        "status": record.get("status"),
    }


def raised(record: Mapping[str, Any], scores: Iterable[str], companions: Mapping[str, str]) -> list[str]:
    """The scores that a model (its ``record``) was trained to raise, alone or in a sum: no fair measures of it.

    Args:
        record: see :class:`Model`.
        scores: reward specs.
        companions: the generator's, by which one reward may have two names.
    """
    reward, weight = record.get("reward"), record.get("reward_weight")
    if not isinstance(reward, str) or weight == 0:
        return []
    # Earlier versions took two names of one reward, which is refused now: the record is read all the same.
    trained_by = {companions.get(f"reward:{name}", name) for name in parse_weights(reward)}
    return [score for score in scores if trained_by & {*rewards_in(score, companions).values()}]
