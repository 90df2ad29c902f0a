"""Why a checkpoint cannot be loaded, in one sentence, and what to do about it in another."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from realignkit.errors import ModelError, in_one_line, out_of_memory, redacted
from realignkit_plugins.weight_folders import placeholder, unusable_weights
from realignkit_plugins.weight_formats import is_weight_file

_NO_SPACE = re.compile(r"no space left on device|not enough free disk space|os error 28\b", re.IGNORECASE)
_NO_NETWORK = re.compile(r"couldn't connect to|cannot find the requested files in the disk cache", re.IGNORECASE)
_CUT_SHORT = re.compile(r"consistency check failed|peer closed connection|connection reset", re.IGNORECASE)
_DAMAGED = re.compile(
    r"not a valid json|deserializing header|incompletemetadata|metadataincompletebuffer|headertoolarge|invalidheader|"
    r"error while initializing|expected value at line|"
    r"pytorchstreamreader failed (?!locating)|unexpected eof|file might be corrupted",
    re.IGNORECASE,
)
# A weight of another shape, as torch, diffusers and transformers' report say it: its name, the file's, the model's.
_SIZE = r"torch\.Size\(\[([\d, ]*)\]\)"
_EXPECTED_FIRST = re.compile(rf"because (?P<name>\S+) expected shape {_SIZE}, but got {_SIZE}")
_OF_ANOTHER_SHAPE = (
    re.compile(rf"size mismatch for (?P<name>\S+): copying a param with shape {_SIZE} from checkpoint.*? is {_SIZE}"),
    _EXPECTED_FIRST,
    re.compile(rf"^(?P<name>\S.*?) *\| MISMATCH \|.*?ckpt: {_SIZE} vs model: ?{_SIZE}", re.MULTILINE),
)
_MISSING = (
    re.compile(r"^(\S.*?) *\| MISSING \|", re.MULTILINE),
    re.compile(r"newly initialized: \['([^']+)'"),
)
_UNKNOWN_KIND = re.compile(r"model type `([^`]+)` but Transformers does not recognize")
_NEEDS = re.compile(
    r"(?:requires|need to install|install)\s+(?:the\s+)?`?([A-Za-z][\w-]*)`?(?=\s+(?:library|package|to be|but))"
)
_NO_TASK = re.compile(r"AutoPipeline can't find a pipeline linked to (\w+)")
_LACKS_PARTS = re.compile(
    r"Pipeline <class '[\w.]*?(?P<kind>\w+)'> expected (?P<needed>\[.*?\]), but only (?P<given>\{.*?\})"
)
_HALF_A_TOKENIZER = "`vocab` and `merges` must be both"
_FORBIDDEN = re.compile(r"permission denied|os error 13\b", re.IGNORECASE)
_NO_VARIANT = re.compile(r"variant=(\w+)`, but no such modeling files")
_NO_WEIGHTS = re.compile(
    r"(?:no|a) file named \S*(?:model|weights)|could not find the necessary|no such modeling files", re.IGNORECASE
)
_BROKEN = (json.JSONDecodeError, UnicodeDecodeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")
OWN_CODE = "wants to run code of its own, which is never done here"
KNOWN_CLASSES = "Use a checkpoint whose classes are part of transformers or diffusers."
_HUB = "https://huggingface.co"
_LIBRARIES = ("transformers", "diffusers", "huggingface_hub")


@contextlib.contextmanager
def loading(what: str, model: str) -> Iterator[None]:
    """Load quietly, and turn whatever goes wrong into a :class:`ModelError` that says what to do.

    Args:
        what: what is being loaded, for the message ("text-to-image pipeline").
        model: as the user gave it.

    Raises:
        ModelError: loading failed, or a library has filled weights that are missing with random numbers.
    """
    from transformers import dynamic_module_utils
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    # A checkpoint that wants to run code of its own is refused, not asked about on standard input.
    patience, dynamic_module_utils.TIME_OUT_REMOTE_CODE = dynamic_module_utils.TIME_OUT_REMOTE_CODE, 0
    logged: list[str] = []
    try:
        with _collected(logged), warnings.catch_warnings():
            # diffusers hands its downloads an argument that a newer hub library ignores.
            warnings.filterwarnings("ignore", ".*local_dir_use_symlinks", UserWarning)
            yield
        if missing := missing_weights(logged):
            raise ModelError(
                f"the {what} '{model}' holds no weights for {len(missing)} of its parameters ({missing[0]} …). Use a "
                f"complete checkpoint of this kind."
            )
    except ModelError:
        raise
    except Exception as error:  # the libraries raise a dozen types for a bad checkpoint
        reason = explain(model, error, is_local(model), logged)
        raise ModelError(f"the {what} '{model}' cannot be loaded {reason}") from error
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _collected(logged: list[str]) -> Iterator[None]:
    """What the libraries log goes into a list: an error that only points to it needs it, and one sentence is enough."""
    loggers = [logging.getLogger(name) for name in _LIBRARIES if name in sys.modules]
    before = [(logger, logger.handlers, logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers = [_Collector(logged)]
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)


class _Collector(logging.Handler):
    def __init__(self, logged: list[str]) -> None:
        super().__init__()
        self.logged = logged

    def emit(self, record: logging.LogRecord) -> None:
        self.logged.append(record.getMessage())


def explain(model: str, error: BaseException, local: bool, logged: Sequence[str] = ()) -> str:
    """Say what is wrong, in brackets, and what to do, by the error and everything that led to it.

    Args:
        model: as the user gave it: a hub id, a file or a folder.
        error: whatever a library raised.
        local: whether ``model`` is a file or a folder.
        logged: what the libraries logged meanwhile, where some put what the error only points to.

    Returns:
        ``"(reason). Advice."``, to stand behind "X cannot be loaded". The hub's token is not in it.
    """
    return redacted(_explain(model, error, local, logged), _hub_tokens())


def missing_weights(logged: Sequence[str]) -> list[str]:
    """Which weights a library has filled with random numbers, by what it logged."""
    text = _COLOURS.sub("", "\n".join(logged))
    return [name for pattern in _MISSING for name in pattern.findall(text)]


def _hub_tokens() -> list[str]:
    variables = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "HF_HUB_TOKEN")
    tokens = [os.environ.get(variable, "").strip() for variable in variables]
    try:
        from huggingface_hub import get_token

        tokens.append(get_token() or "")
    except Exception:  # no hub library, or a file of it that cannot be read: then no token was sent either
        pass
    return tokens


def _explain(model: str, error: BaseException, local: bool, logged: Sequence[str]) -> str:
    chain = list(_chain(error))
    text = _text(chain)
    numbers = {one.errno for one in chain if isinstance(one, OSError)}
    gist = _gist(error)
    if any(map(out_of_memory, chain)):
        return (
            f"(it does not fit into memory: {gist}). Close other programs, take a smaller model or another device, or "
            f"use fewer bytes a weight (options dtype and offload, or n_gpu_layers, where there are such)."
        )
    if "trust_remote_code" in text:
        return f"(it {OWN_CODE}). {KNOWN_CLASSES}"
    if errno.ENOSPC in numbers or errno.EDQUOT in numbers or _NO_SPACE.search(text):
        return (
            "(the disk is full). Free some space or set HF_HOME to a folder on another disk, and run again: what has "
            "been downloaded is kept."
        )
    if errno.EACCES in numbers or errno.EROFS in numbers or _FORBIDDEN.search(text):
        return f"({gist}). Make the file readable and its folder writable, or set HF_HOME to a folder of yours."
    if not local and (said := of_the_hub(model, error)):
        return said
    if said := _of_another_kind(chain, text, logged):
        return said
    if said := _of_the_weights(model, local, chain, text):
        return said
    if any(isinstance(one, _BROKEN) for one in chain) or _DAMAGED.search(text):
        if local and (said := placeholder(model)):
            return said
        which = "it" if is_weight_file(model) else "a file of it"
        return f"({which} is damaged or only half there: {gist}). {again(model, local)}"
    if local:
        return f"({gist}). Check that the file or folder is complete and of this kind."
    address = f"{_HUB}/{model.partition(':')[0]}"
    if "HfHubHTTPError" in _names(chain) and "EntryNotFoundError" not in _names(chain):
        return f"(the hub refuses: {gist}). Run again later, or give a local folder."
    lacks = "it lacks a file that is needed: " if "EntryNotFoundError" in _names(chain) else ""
    return (
        f"({lacks}{gist}). Check that {address} is of this kind and has weights as safetensors, or give a local folder."
    )


def _text(chain: Sequence[BaseException]) -> str:
    return "\n".join(f"{type(one).__name__}: {one}" for one in chain)


def _names(chain: Sequence[BaseException]) -> set[str]:
    return {cls.__name__ for one in chain for cls in type(one).__mro__}


def of_the_hub(model: str, error: BaseException) -> str | None:
    """Why the hub does not give it, as of :func:`explain`; None where the error is of another kind."""
    chain = list(_chain(error))
    names, text = _names(chain), _text(chain)
    repository = model.partition(":")[0]
    if "GatedRepoError" in names:
        return (
            f"(its authors let in only who accepts their terms). Accept them at {_HUB}/{repository}, log in with "
            f"'hf auth login', and run again."
        )
    if "RevisionNotFoundError" in names:
        return f"(it has no such revision). Correct the revision, or leave it out; see {_HUB}/{repository}."
    if "RepositoryNotFoundError" in names:
        return (
            f"(it is neither a file nor a folder here, and the hub knows no '{repository}', or shows it to "
            f"others only). Check the spelling at {_HUB}, log in with 'hf auth login' if it is private, or "
            f"give a local folder."
        )
    if "HFValidationError" in names:
        return "(that is no hub id). Give owner/name, or the path of a local folder."
    if "OfflineModeIsEnabled" in names:
        return (
            "(it is not on this machine, and HF_HUB_OFFLINE forbids to download it). Unset HF_HUB_OFFLINE, or give "
            "a local folder."
        )
    if _CUT_SHORT.search(text) or "RemoteProtocolError" in names:
        return "(the download broke off). Run again: it goes on where it stopped."
    away = {"LocalEntryNotFoundError", "NetworkError", "TimeoutException", "ConnectionError"}
    if names & away or _NO_NETWORK.search(text):
        return (
            "(it is not on this machine, and the hub cannot be reached). Check the network and run again, or copy "
            "the model here and give its folder."
        )
    return None


def _of_another_kind(chain: Sequence[BaseException], text: str, logged: Sequence[str]) -> str | None:
    """What is whole, but does not go with this model, these libraries, or what is installed."""
    everything = _COLOURS.sub("", "\n".join([text, *logged]))
    for pattern in _OF_ANOTHER_SHAPE:
        if match := pattern.search(everything):
            sizes = [_size(match[number]) for number in (2, 3)]
            theirs, ours = reversed(sizes) if pattern is _EXPECTED_FIRST else sizes
            return (
                f"(it was made for another model: {match['name']} is {theirs} where this one has {ours}). Use weights "
                f"and settings of the same model."
            )
    if missing := missing_weights(logged):
        return f"({_some_missing(missing)}). Use a complete checkpoint of this kind."
    if match := _UNKNOWN_KIND.search(text):
        return (
            f"(it is of a kind that the installed transformers does not know: '{match[1]}'). Check that it is the "
            f"right model, or install a newer transformers."
        )
    if match := _NO_TASK.search(text):
        return f"({_other_pipeline(match[1])}). Use a text-to-image checkpoint."
    if match := _LACKS_PARTS.search(text):
        return f"({_missing_parts(**match.groupdict())}). Use a complete checkpoint of this kind."
    if _HALF_A_TOKENIZER in text:
        return "(its tokenizer has one of vocab.json and merges.txt without the other). Copy or download both again."
    if "meta tensor" in text:
        return "(some of its weights are missing). Use a complete checkpoint of this kind."
    for one in chain:
        if isinstance(one, ImportError):
            packages = [one.name.partition(".")[0]] if one.name else _NEEDS.findall(str(one))
            if packages:
                name = packages[0]
                return f"(it needs {name}, which is not installed). Install it with 'pip install {name.lower()}'."
    return None


def _of_the_weights(model: str, local: bool, chain: Sequence[BaseException], text: str) -> str | None:
    """Weights that are not there by the name and in the form that is asked for."""
    if match := _NO_VARIANT.search(text):
        if said := unusable_weights(model, local, asked=match[1]):
            return said
        return f"(it has no weights of the variant {match[1]}). Leave the option variant out, or set it to null."
    if _NO_WEIGHTS.search(text) or "EntryNotFoundError" in _names(chain):
        return unusable_weights(model, local)
    return None


def _other_pipeline(kind: str) -> str:
    import diffusers

    if hasattr(diffusers, kind):
        return f"it is a {kind}, which diffusers does not list among those that draw from text alone"
    return f"its model_index.json names a {kind}, which the installed diffusers does not know"


def _missing_parts(kind: str, needed: str, given: str) -> str:
    import diffusers

    optional = getattr(getattr(diffusers, kind, None), "_optional_components", ())
    missing = sorted(set(re.findall(r"'(\w+)'", needed)) - set(re.findall(r"'(\w+)'", given)) - set(optional))
    return f"its model_index.json gives no {' and no '.join(missing)}, which a {kind} needs"


def _some_missing(names: Sequence[str]) -> str:
    more = " …" if len(names) > 3 else ""
    return f"it holds no weights for {', '.join(names[:3])}{more}"


def _size(numbers: str) -> str:
    return " × ".join(numbers.split(", ")) or "one number"


def _gist(error: BaseException) -> str:
    return f"{type(error).__name__}: {in_one_line(error)}"


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
