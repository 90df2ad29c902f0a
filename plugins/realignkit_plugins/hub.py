"""What one quick question tells about a checkpoint on the hub, before minutes of work that need it."""

from __future__ import annotations

import re
from pathlib import Path

from realignkit.errors import ModelError
from realignkit_plugins.failures import is_local, of_the_hub
from realignkit_plugins.model_names import hub_file, resolve_model

_HUB_ID = re.compile(r"\w[\w.-]*(?:/[\w.-]+)?")
_PATIENCE = 5
"""Seconds to wait for an answer."""


def out_of_reach(model: str, revision: str | None = None) -> str:
    """Why a checkpoint is neither on this machine nor can be downloaded.

    Args:
        model: as the user gave it.
        revision: branch, tag or commit.

    Returns:
        ``"(reason). Advice."``, as of :func:`realignkit_plugins.failures.explain`; "" where it is here, at least in
        part, or where the hub has it.
    """
    if is_local(model):
        return ""
    if (on_hub := hub_file(model)) is None:
        try:
            resolve_model(model)
        except ModelError as error:
            reason, _, advice = str(error).partition(". ")
            return f"({reason}). {advice}"
    repository = model if on_hub is None else on_hub[0]
    if not _HUB_ID.fullmatch(repository) or _is_kept(repository):
        return ""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(repository, revision=revision, timeout=_PATIENCE)
    except Exception as error:  # of the hub or the network; others are left to loading
        return of_the_hub(model, error) or ""
    return ""


def _is_kept(repository: str) -> bool:
    """Whether something of it has been downloaded."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    return any(folder.glob("snapshots/*/*"))
