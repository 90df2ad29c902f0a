"""Where the embedded checkpoints are."""

from __future__ import annotations

from pathlib import Path

from realignkit.errors import ModelError

FOLDER = Path(__file__).parent


def path(name: str) -> Path:
    """The folder of an embedded checkpoint ("base", "tagger", "segmenter", "oracle").

    Raises:
        ModelError: there is none of that name.
    """
    folder = FOLDER / name
    if not folder.is_dir():
        known = sorted(p.name for p in FOLDER.iterdir() if p.is_dir() and not p.name.startswith("_"))
        raise ModelError(
            f"there is no embedded checkpoint '{name}'. There are: {', '.join(known) or 'none'}. "
            f"Rebuild it with: python -m realignkit_plugins.micro.train {name}"
        )
    return folder
