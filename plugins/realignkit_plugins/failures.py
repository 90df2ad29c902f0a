"""Why a checkpoint cannot be loaded, in one sentence, and what to do about it in another."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from realignkit.errors import out_of_memory
from realignkit.redaction import redacted

_NO_SPACE = re.compile(r"no space left on device|not enough free disk space|os error 28\b", re.IGNORECASE)
_NO_NETWORK = re.compile(r"couldn't connect to|cannot find the requested files in the disk cache", re.IGNORECASE)
_CUT_SHORT = re.compile(r"consistency check failed|peer closed connection|connection reset", re.IGNORECASE)
_DAMAGED = re.compile(
    r"not a valid json|incompletemetadata|metadataincompletebuffer|headertoolarge|invalidheader|pytorchstreamreader",
    re.IGNORECASE,
)
OWN_CODE = "wants to run code of its own, which is never done here"
KNOWN_CLASSES = "Use a checkpoint whose classes are part of transformers or diffusers."
_HUB = "https://huggingface.co"


def explain(model: str, error: BaseException, local: bool) -> str:
    """Say what is wrong, in brackets, and what to do, by the error and everything that led to it.

    Args:
        model: as the user gave it: a hub id, a file or a folder.
        error: whatever a library raised.
        local: whether ``model`` is a file or a folder.

    Returns:
        ``"(reason). Advice."``, to stand behind "X cannot be loaded". The hub's token is not in it.
    """
    return redacted(_explain(model, error, local), _hub_tokens())


def _hub_tokens() -> list[str]:
    variables = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_HUB_TOKEN")
    found = [os.environ.get(variable, "").strip() for variable in variables]
    try:
        from huggingface_hub import get_token

        found.append(get_token() or "")
    except Exception:  # no hub library, or a file of it that cannot be read: then no token was sent either
        pass
    return found


def _explain(model: str, error: BaseException, local: bool) -> str:
    chain = list(_chain(error))
    names = {cls.__name__ for one in chain for cls in type(one).__mro__}
    text = "\n".join(f"{type(one).__name__}: {one}" for one in chain)
    numbers = {one.errno for one in chain if isinstance(one, OSError)}
    first = f"{type(error).__name__}: {(str(error).strip() or 'no details').splitlines()[0][:300]}"
    repository = model.partition(":")[0]

    if any(map(out_of_memory, chain)):
        return (
            f"(it does not fit into memory: {first}). Close other programs, take a smaller model or another device, or "
            f"use fewer bytes a weight (options dtype and offload, or n_gpu_layers, where there are such)."
        )
    if "trust_remote_code" in text:
        return f"(it {OWN_CODE}). {KNOWN_CLASSES}"
    if errno.ENOSPC in numbers or errno.EDQUOT in numbers or _NO_SPACE.search(text):
        return (
            "(the disk is full). Free some space or set HF_HOME to a folder on another disk, and run again: what has "
            "been downloaded is kept."
        )
    if errno.EACCES in numbers or errno.EROFS in numbers:
        return f"({first}). Make the file readable and its folder writable, or set HF_HOME to a folder of yours."
    if not local:
        if "GatedRepoError" in names:
            return (
                f"(its authors let in only who accepts their terms). Accept them at {_HUB}/{repository}, log in with "
                f"'hf auth login', and run again."
            )
        if "RevisionNotFoundError" in names:
            return f"(it has no such revision). Correct the revision, or leave it out; see {_HUB}/{repository}."
        if "RepositoryNotFoundError" in names:
            return (
                f"(the hub knows no '{repository}', or shows it to others only). Check the spelling at {_HUB}, log in "
                f"with 'hf auth login' if it is private, or give a local folder."
            )
        if "HFValidationError" in names:
            return "(that is no hub id). Give owner/name, or the path of a local folder."
        if names & {"OfflineModeIsEnabled"}:
            return (
                "(it is not on this machine, and HF_HUB_OFFLINE forbids to download it). Unset HF_HUB_OFFLINE, or give "
                "a local folder."
            )
        if _CUT_SHORT.search(text) or "RemoteProtocolError" in names:
            return "(the download broke off). Run again: it goes on where it stopped."
        if names & {"LocalEntryNotFoundError", "NetworkError", "TimeoutException", "ConnectionError"} or (
            _NO_NETWORK.search(text)
        ):
            return (
                "(it is not on this machine, and the hub cannot be reached). Check the network and run again, or copy "
                "the model here and give its folder."
            )
    damaged = (json.JSONDecodeError, UnicodeDecodeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError)
    if any(isinstance(one, damaged) for one in chain) or "SafetensorError" in names or _DAMAGED.search(text):
        return f"(a file of it is damaged or only half there: {first}). {again(model, local)}"
    if not local:
        if "EntryNotFoundError" in names:
            return (
                f"(it lacks a file that is needed: {first}). Check that {_HUB}/{repository} is of this kind and has "
                f"weights as safetensors, or give a local folder."
            )
        if "HfHubHTTPError" in names:
            return f"(the hub refuses: {first}). Run again later, or give a local folder."
        return (
            f"({first}). Check that {_HUB}/{repository} is of this kind and has weights as safetensors, or give a "
            f"local folder."
        )
    return (
        f"({first}). Check that the file or folder is complete and of this kind; if it is damaged, copy or download it "
        f"again."
    )


def again(model: str, local: bool) -> str:
    """How to get an undamaged copy."""
    if local:
        return "Copy or download it again."
    return f"Delete it with 'hf cache rm model/{model.partition(':')[0]}' and run again, which downloads it anew."


def is_local(model: str) -> bool:
    """Whether a user's name of a model means a file, a folder, or a checkpoint inside the package."""
    return model.startswith("micro:") or Path(model).expanduser().exists()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what caused it, what caused that …"""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
