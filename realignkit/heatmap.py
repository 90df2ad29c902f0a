"""A word's heat maps, and the file that keeps those of a realignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from realignkit.errors import DamagedError
from realignkit.files import atomic_write

Heat = npt.NDArray[np.float32]
"""How much attention a word gets at each cell of the latents, float32 (h, w), at least 0."""

HEAT_MAPS = "heat_maps.safetensors"
STAGES = ("coarse", "refined")


@dataclass(frozen=True, eq=False, repr=False)
class HeatMap:
    """Where the network attended to a word (figure 10), before and after the fine stage.

    Attributes:
        word: one word, or several, of the prompt.
        coarse: while it drew the coarse image; None where that was given.
        refined: while it drew the refined image; None where there was nothing to modulate.
    """

    word: str
    coarse: Heat | None = None
    refined: Heat | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeatMap):
            return NotImplemented
        pairs = ((getattr(self, stage), getattr(other, stage)) for stage in STAGES)
        return self.word == other.word and all(
            one is two if one is None or two is None else np.array_equal(one, two) for one, two in pairs
        )

    def __hash__(self) -> int:
        return hash(self.word)

    def __repr__(self) -> str:
        sizes = ((stage, getattr(self, stage)) for stage in STAGES)
        shown = (f"{stage}={'none' if heat is None else ' x '.join(map(str, heat.shape))}" for stage, heat in sizes)
        return f"HeatMap({self.word!r}, {', '.join(shown)})"


def write_heat_maps(folder: Path, heat_maps: Sequence[HeatMap]) -> None:
    """Write :data:`HEAT_MAPS`, exactly; nothing where there is none.

    Raises:
        OutputError: the folder cannot be written.
    """
    from safetensors.numpy import save

    # By number: words are no names for tensors.
    arrays = {
        f"{index}.{stage}": np.ascontiguousarray(heat)
        for index, item in enumerate(heat_maps)
        for stage in STAGES
        if (heat := getattr(item, stage)) is not None
    }
    if arrays:
        atomic_write(folder / HEAT_MAPS, save(arrays))


def read_heat_maps(folder: Path, words: Sequence[str], advice: str) -> tuple[HeatMap, ...]:
    """Read back what :func:`write_heat_maps` wrote.

    Args:
        folder: where it wrote.
        words: in the order of the maps.
        advice: what to do where the file is damaged, a sentence.

    Raises:
        DamagedError: the file is missing, no safetensors file, or holds other things than heat maps of these words.
    """
    from safetensors.numpy import load

    if not words:
        return ()
    path = folder / HEAT_MAPS
    try:
        arrays = load(path.read_bytes())
    except Exception as error:  # safetensors' own is no OSError or ValueError
        raise DamagedError(f"{path} is missing or damaged ({error})", advice) from error
    known = {f"{index}.{stage}" for index in range(len(words)) for stage in STAGES}
    if arrays.keys() - known or any(
        heat.ndim != 2 or heat.dtype != np.float32 or not np.isfinite(heat).all() for heat in arrays.values()
    ):
        raise DamagedError(f"{path} holds other things than heat maps of {len(words)} words", advice)
    return tuple(
        HeatMap(word, *(arrays.get(f"{index}.{stage}") for stage in STAGES)) for index, word in enumerate(words)
    )
