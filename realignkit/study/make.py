"""A study made from the pictures of several systems: prompts that all have, chosen by a seed, and checks among them."""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Image as PILImage

from realignkit.errors import OptionError, PromptError
from realignkit.evaluation.folder import EvaluationFolder
from realignkit.evaluation.pictures import Picture, Stage, read_pictures
from realignkit.files import atomic_folder
from realignkit.images import png
from realignkit.study.folder import MOST_SYSTEMS, PAGE, PICTURES, RECORD, STUDY, Item, Question, Study
from realignkit.study.page import static_page

QUESTIONS = (
    Question(name="alignment", text="Which picture shows best what the text says?"),
    Question(name="fidelity", text="Which picture looks best by itself: clear, natural, without mistakes?"),
)
"""What Table I of the paper has people rank by."""

CONSENT = (
    "Your answers are saved under a random number and used for research. No name, address or other data of yours is "
    "kept. You take part of your own will and may stop at any time."
)
CHECK = (
    "This one checks that nobody answers by chance: put the picture with the number {number} in the first place, and "
    "the others as you like."
)
PROMPTS_PER_CHECK = 10


@dataclass(frozen=True)
class System:
    """Pictures of one system.

    Attributes:
        name: as tables have it; people who answer never see it.
        source: of the pictures, see :func:`realignkit.evaluation.pictures.read_pictures`.
    """

    name: str
    source: Path


@dataclass(frozen=True)
class StudyOptions:
    """What a study is like.

    Attributes:
        prompts: how many; all that there are where these are fewer.
        seed: of the choice of prompts and pictures.
        checks: how many attention checks. Default: one for ten prompts, or part of ten.
        consent: what people agree to before they begin.
        stage: of a run's pictures, ``refined`` or ``coarse``.
        side: pixels of the longer side; larger pictures are made smaller. Default: as they are.
    """

    prompts: int
    seed: int = 0
    checks: int | None = None
    consent: str = CONSENT
    stage: Stage = "refined"
    side: int | None = None


@dataclass(frozen=True)
class MadeStudy:
    """A study that was made, how many prompts all systems have, and the single file where one was asked for."""

    study: Study
    common: int
    page: Path | None


def named_systems(specs: Sequence[str]) -> list[System]:
    """Systems as they are typed: a path, called by its last part, or ``NAME=PATH``.

    Raises:
        OptionError: there are fewer than two or more than twelve, or two have one name.
    """
    systems = []
    for spec in specs:
        name, equals, path = spec.partition("=")
        if not equals or Path(spec).exists():
            place = Path(spec).resolve()
            name, path = place.stem if place.is_file() else place.name, spec
        systems.append(System(name.strip(), Path(path).expanduser()))
    names = [system.name for system in systems]
    if not 2 <= len(systems) <= MOST_SYSTEMS:
        raise OptionError(
            f"a study compares 2 to {MOST_SYSTEMS} systems, not {len(systems)}: name each one's pictures."
        )
    if twice := [name for name in names if not name or names.count(name) > 1]:
        raise OptionError(f"a system needs a name that no other has, not '{twice[0]}'. Name them: NAME=PATH.")
    return systems


def make_study(systems: Sequence[System], folder: str | Path, options: StudyOptions, static: bool = False) -> MadeStudy:
    """Write the folder of a study.

    Of each prompt one picture per system is taken: with the same seed where all have one in common.

    Args:
        systems: two to twelve.
        folder: where; must not hold anything yet.
        options: see there.
        static: write :data:`realignkit.study.folder.PAGE` too, the whole study in one file.

    Raises:
        OptionError: a source cannot be read, or the folder is not empty.
        PromptError: no prompt is common to all systems.
        OutputError: it cannot be written.
    """
    folder, chance = Path(folder), random.Random(options.seed)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} is not empty, and a study's answers belong to its pictures. Use another --out.")
    by_prompt = [_by_prompt(read_pictures(system.source, stage=options.stage)) for system in systems]
    common = [prompt for prompt in by_prompt[0] if all(prompt in pictures for pictures in by_prompt[1:])]
    if not common:
        counts = ", ".join(f"{s.name} {len(p)}" for s, p in zip(systems, by_prompt, strict=True))
        raise PromptError(
            f"no prompt is common to all systems (different prompts: {counts}): draw the same prompts with each."
        )
    values = [_values(system.source) for system in systems]
    with atomic_folder(folder) as new:
        (new / PICTURES).mkdir()
        items = []
        for prompt in chance.sample(common, min(options.prompts, len(common))):
            chosen = _one_of_each([pictures[prompt] for pictures in by_prompt], chance)
            images = [_sized(picture.open(), options.side) for picture in chosen]
            items.append(Item(id="0", prompt=prompt, pictures=_saved(images, new), values=_joined(values, chosen)))
        count = math.ceil(len(items) / PROMPTS_PER_CHECK) if options.checks is None else options.checks
        for number in (chance.randrange(len(systems)) for _ in range(count)):
            names = _saved([_numbered(place + 1) for place in range(len(systems))], new)
            items.append(Item(id="0", prompt=CHECK.format(number=number + 1), pictures=names, first=names[number]))
        chance.shuffle(items)
        study = Study(
            id=secrets.token_hex(16),
            consent=options.consent,
            questions=list(QUESTIONS),
            systems=[system.name for system in systems],
            items=[item.model_copy(update={"id": str(place)}) for place, item in enumerate(items, start=1)],
            seed=options.seed,
        )
        (new / RECORD).write_text(STUDY.dumps(study.model_dump()), encoding="utf-8")
        if static:
            (new / PAGE).write_text(static_page(new, study), encoding="utf-8")
    return MadeStudy(study, len(common), folder / PAGE if static else None)


def _by_prompt(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        found.setdefault(picture.prompt, []).append(picture)
    return found


def _one_of_each(pictures: Sequence[Sequence[Picture]], chance: random.Random) -> list[Picture]:
    """A picture of each system: of a seed that all have, where there is one."""
    seeds = [{(picture.seed, picture.number) for picture in each} for each in pictures]
    shared = sorted(pair for pair in set.intersection(*seeds) if pair[0] is not None)
    if not shared:
        return [chance.choice(each) for each in pictures]
    pair = chance.choice(shared)
    return [next(p for p in each if (p.seed, p.number) == pair) for each in pictures]


def _saved(images: Sequence[PILImage], folder: Path) -> list[str]:
    """Pictures under names that say nothing; the names."""
    names = [secrets.token_hex(16) for _ in images]
    for name, image in zip(names, images, strict=True):
        (folder / PICTURES / f"{name}.png").write_bytes(png(_bare(image)))
    return names


def _bare(image: PILImage) -> PILImage:
    """The pixels alone: notes beside them may say what drew them."""
    return Image.frombytes("RGB", image.size, image.convert("RGB").tobytes())


def _sized(image: PILImage, side: int | None) -> PILImage:
    if side is None or max(image.size) <= side:
        return image
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _numbered(number: int) -> PILImage:
    """A number as a picture, for a check."""
    image = Image.new("RGB", (256, 256), "#e8e4da")
    font = ImageFont.load_default(150)
    ImageDraw.Draw(image).text((128, 128), str(number), fill="#333", font=font, anchor="mm")
    return image


def _values(source: Path) -> Mapping[str, Mapping[str, float]]:
    """What an evaluation's folder says of its pictures: id -> ``metric`` or ``metric.value`` -> number."""
    if not source.is_dir():
        return {}
    return {name: _numbers(line["values"]) for name, line in EvaluationFolder(source).lines().items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        metric if name == metric else f"{metric}.{name}": float(value)
        for metric, by_name in values.items()
        for name, value in by_name.items()
        if isinstance(value, int | float)
    }


def _joined(
    values: Sequence[Mapping[str, Mapping[str, float]]], chosen: Sequence[Picture]
) -> dict[str, list[float | None]]:
    """Of each number that two pictures have: that of each picture, None where it has none."""
    of_each = [known.get(picture.id, {}) for known, picture in zip(values, chosen, strict=True)]
    names = list(dict.fromkeys(name for known in of_each for name in known))
    return {name: [known.get(name) for known in of_each] for name in names if sum(name in k for k in of_each) > 1}
