"""What a user may name as a model: a folder, a file, a hub id, a file on the hub, or an embedded checkpoint."""

from __future__ import annotations

import re
from pathlib import Path

from realignkit.errors import ModelError, redacted_urls
from realignkit_plugins.weight_formats import SUFFIXES

_MICRO = "micro:"
_HUB_FILE = re.compile(r"(?P<repository>\w[\w.-]*/[\w.-]+):(?P<file>[^\\:]+)")
_HUB_ADDRESS = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<repository>\w[\w.-]*/[\w.-]+)"
    r"(?:/(?:blob|resolve|raw|tree)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]+))?)?/?(?:[?#].*)?"
)


def resolve_model(model: str) -> str:
    """Turn an option into what ``from_pretrained`` takes.

    Args:
        model: a hub id (``owner/name``), a folder, or ``micro:<name>`` for a checkpoint inside the package.

    Raises:
        ModelError: it is a path, and nothing is there; a file, a file on the hub or an address on the web; or there is
            no such embedded checkpoint.
    """
    if model.startswith(_MICRO):
        from realignkit_plugins.micro import checkpoints

        return str(checkpoints.path(model.removeprefix(_MICRO)))
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder)
    refuse_address(model, "folder")
    if folder.exists() and not folder.is_file():
        raise ModelError(f"'{model}' is neither a folder nor a regular file. Give a folder or a hub id (owner/name).")
    if folder.suffix.lower() in SUFFIXES and not folder.exists() and hub_file(model) is None:
        raise no_such_file(model)
    if folder.is_file() or hub_file(model) is not None:
        raise ModelError(f"'{model}' is a file. Give the folder that save_pretrained wrote, or a hub id (owner/name).")
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model or not model:
        raise ModelError(f"there is no folder '{model}'. Check the path, or give a hub id (owner/name).")
    return model


def no_such_file(model: str | Path) -> ModelError:
    """The error for a file that is not there."""
    return ModelError(f"there is no file '{model}'. Check the path, or give a folder or a hub id (owner/name).")


def hub_file(model: str) -> tuple[str, str] | None:
    """``owner/name:file``, a file of a repository on the hub, in two parts; None for anything else."""
    match = None if Path(model).expanduser().exists() else _HUB_FILE.fullmatch(model)
    return None if match is None else (match["repository"], match["file"])


def local_file(model: str, revision: str | None = None) -> Path:
    """Where a file is, there or not: a path, or ``owner/name:file``, which is downloaded if it is not yet here.

    Raises:
        ModelError: it is an address on the web.
    """
    refuse_address(model, "file")
    if (on_hub := hub_file(model)) is None:
        return Path(model).expanduser()
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(*on_hub, revision=revision))


def refuse_address(model: str, wanted: str) -> None:
    """Refuse an address on the web, and say what to give instead.

    Args:
        model: as the user gave it.
        wanted: whether it would have to be a "file" or a "folder".

    Raises:
        ModelError: it is one.
    """
    if "://" not in model:
        return
    instead = f"Download it and give the path of the {wanted}, or give a hub id (owner/name)."
    if match := _HUB_ADDRESS.fullmatch(model):
        name = f"{match['repository']}:{match['file']}" if wanted == "file" and match["file"] else match["repository"]
        revision = "" if match["revision"] in (None, "main") else f" and the option revision={match['revision']}"
        instead = f"Give {name}{revision}, which is downloaded, or the path of a {wanted}."
    raise ModelError(f"'{redacted_urls(model)}' is an address on the web, which is not read. {instead}")
