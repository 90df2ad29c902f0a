"""What one quick question tells about a checkpoint on the hub, before minutes of work that need it."""

from __future__ import annotations

import re
from pathlib import Path

from realignkit_plugins.failures import is_local, of_the_hub
from realignkit_plugins.model_names import hub_file

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_PATIENCE = 5
"""Seconds to wait for an answer."""


def out_of_reach(model: str, revision: str | None = None) -> str:
    """Why a checkpoint that is not on this machine cannot be downloaded either.

    Args:
        model: as the user gave it. Whatever is no hub id, or no file on the hub, is left to loading.
        revision: branch, tag or commit.

    Returns:
        ``"(reason). Advice."``, as of :func:`realignkit_plugins.failures.explain`; "" where it is here, at least in
        part, or where the hub has it.
    """
    repository = (hub_file(model) or (model,))[0]
    if is_local(model) or not _HUB_ID.fullmatch(repository) or _is_kept(repository):
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
