"""``realignkit ablate rewards --train``: the trainings that the table needs, one after the other, resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realignkit.cli._progress import err
from realignkit.errors import OptionError

GROUPS = ("training.", "reward.", "judge.", "generator.")
"""What ``--set`` says of trainings; the generator's options are the measurement's too."""
CONTROL = "control"


def specs(texts: Sequence[str]) -> dict[str, str]:
    """Row -> reward of ``--train``: names with commas between them, or a weighted sum such as ``caption:1,clip:0.5``.

    Raises:
        OptionError: a reward is given twice, or is no reward.
    """
    from realignkit.rewards import parse_weights

    found: dict[str, str] = {}
    for text in texts:
        for spec in [text] if ":" in text else text.split(","):
            parse_weights(spec)
            name = " + ".join(part.strip().replace(":", " ") for part in spec.split(","))
            if name in found or name in ("base", CONTROL):
                raise OptionError(f"--train {text}: '{name}' is there already. Give each reward once.")
            found[name] = spec.strip()
    return found


def train_rows(
    wanted: Mapping[str, Any], rewards: Mapping[str, str], count: int, assignments: Sequence[str], first_seed: int = 42
) -> dict[str, list[Path]]:
    """Train a control (without a reward) and each reward, ``count`` times with seeds of their own.

    Args:
        wanted: as for :class:`realignkit.cli.train.TrainingJob`, without the reward; ``out`` is where the runs go.
        rewards: row -> reward.
        count: training seeds.
        assignments: those of ``--set`` that are about trainings; ``reward.NAME.option`` only goes to that reward.
        first_seed: the others follow it; ``training.seed`` over it.

    Returns:
        Row -> the folders of its runs.
    """
    from realignkit.cli.train import TrainingJob

    given = [text for text in assignments if text.partition("=")[0].strip() == "training.seed"]
    if given:
        first_seed = _integer(given[-1])
    root = Path(wanted["out"])
    found: dict[str, list[Path]] = {CONTROL: [], **{name: [] for name in rewards}}
    for number in range(count):
        # The control knows no reward; it shares everything else with the first one.
        for name, spec in {CONTROL: next(iter(rewards.values())), **rewards}.items():
            folder = root / f"{name.replace(' + ', '+').replace(' ', '-')}-{number + 1}"
            own = [text for text in assignments if text not in given and _concerns(text, spec)]
            job = TrainingJob({**wanted, "reward": spec}, [*own, f"training.seed={first_seed + number}"])
            title = f"train {name} {number + 1} of {count}"
            err().print(title, style="dim", markup=False)
            job.run(folder, resume=True, control=name == CONTROL, title=title)
            found[name].append(folder)
    return found


def _concerns(assignment: str, spec: str) -> bool:
    from realignkit.rewards import parse_weights

    parts = assignment.partition("=")[0].strip().split(".")
    return not (parts[0] == "reward" and len(parts) > 2) or parts[1] in parse_weights(spec)


def _integer(assignment: str) -> int:
    try:
        return int(assignment.partition("=")[2])
    except ValueError:
        raise OptionError(f"--set {assignment}: a seed is a whole number.") from None
