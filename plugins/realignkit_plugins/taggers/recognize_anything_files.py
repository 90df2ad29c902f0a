"""From what the user names to a loaded tagging network: files on disk or on the hub, read strictly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from realignkit.errors import ModelError
from realignkit_plugins.model_names import hub_file, refuse_address, resolve_model
from realignkit_plugins.taggers.recognize_anything_config import (
    IN_THE_SPACE,
    PUBLISHED,
    PUBLISHED_AT,
    TAG_LISTS,
    THRESHOLD_LISTS,
    VOCABULARY_REVISION,
    VOCABULARY_SPACE,
    Architecture,
    NetworkConfig,
)

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit_plugins.taggers.recognize_anything_networks import TaggingNetwork

EMBEDDED = "model.safetensors"
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
OLD_HEAD, HEAD = "vision_multi.", "tagging_head."
UNUSED_PREFIXES = ("tag_encoder.", "text_decoder.")
"""The captioning half of the published models."""
UNUSED_SUFFIXES = (".relative_position_index", ".attn_mask", ".position_ids")
"""Tables that follow from the network's shape; computed here."""


@dataclass(frozen=True)
class Source:
    """Where a checkpoint and what belongs to it are: exactly one of ``folder`` and ``repository`` is set.

    Attributes:
        file: name of the file with the weights.
        folder: the folder around it.
        repository: its hub id.
        revision: branch, tag or commit of ``repository``.
    """

    file: str
    folder: Path | None = None
    repository: str | None = None
    revision: str | None = None

    def weights(self) -> Path:
        """The file with the weights, downloaded if it is not yet in the hub's cache."""
        if self.folder is not None:
            return self.folder / self.file
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(str(self.repository), self.file, revision=self.revision))

    def neighbour(self, names: Iterable[str]) -> Path | None:
        """The first of these files that is there, downloaded if need be."""
        if self.folder is not None:
            return next((self.folder / name for name in names if (self.folder / name).is_file()), None)
        if self.repository in PUBLISHED_AT:
            return None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        for name in names:
            try:
                return Path(hf_hub_download(str(self.repository), name, revision=self.revision))
            except LocalEntryNotFoundError:  # no network: whether there is such a file is not known
                raise
            except EntryNotFoundError:
                continue
        return None


def find(model: str, file: str, revision: str | None) -> Source:
    """Say where a checkpoint is; nothing is downloaded yet.

    Args:
        model: a file, a folder, ``micro:<name>``, a hub id, or a file on the hub (``owner/name:file``).
        file: the file's name in a folder or on the hub; a folder may have ``model.safetensors`` instead.
        revision: branch, tag or commit on the hub.

    Raises:
        ModelError: it should be on disk, and is not.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return Source(path.name, path.parent)
    if on_hub := hub_file(model):
        return Source(on_hub[1], repository=on_hub[0], revision=revision)
    refuse_address(model, "file")
    if path.suffix in SUFFIXES:
        raise ModelError(f"there is no file '{model}'. Check the path, or give a hub id (owner/name).")
    place = resolve_model(model)
    if not Path(place).is_dir():
        return Source(file, repository=place, revision=revision)
    for name in (file, EMBEDDED):
        if (Path(place) / name).is_file():
            return Source(name, Path(place))
    raise ModelError(f"'{model}' holds neither '{file}' nor '{EMBEDDED}'. Name its weights in the option file.")


def read_config(source: Source, model: str, architecture: Architecture, given: Path | None) -> NetworkConfig:
    """The shape of the network: as given, from the checkpoint's folder, or as published."""
    path = given
    if (
        path is None and not Path(model).expanduser().is_file()
    ):  # a single file's neighbours may belong to something else
        path = source.neighbour(["config.json"])
    return NetworkConfig.read(path) if path else PUBLISHED[architecture]


def load_weights(network: TaggingNetwork, weights: Mapping[str, Tensor], model: str, skip: Sequence[str] = ()) -> None:
    """Put weights into a network, strictly; both spellings of the head are understood, unused parts left out by name.

    The network takes the tensors over as they are, so it may have been built on the meta device.

    Args:
        network: as built by ``build_network``.
        weights: tensors by published name.
        model: the user's name of the checkpoint, for messages.
        skip: prefixes of further names to leave out.

    Raises:
        ModelError: a name is missing, unexpected or there twice, or a shape differs.
    """
    used: dict[str, Tensor] = {}
    wrong: dict[str, list[str]] = {"missing": [], "unexpected": [], "there twice": [], "of another shape": []}
    expected = network.state_dict()
    for old, tensor in weights.items():
        name = HEAD + old.removeprefix(OLD_HEAD) if old.startswith(OLD_HEAD) else old
        if old.startswith((*UNUSED_PREFIXES, *skip)) or name.endswith(UNUSED_SUFFIXES):
            continue
        if name in used:
            wrong["there twice"].append(name)
        elif name not in expected:
            wrong["unexpected"].append(old)
        elif tensor.shape != expected[name].shape or not tensor.is_floating_point():
            holds, expects = list(tensor.shape), list(expected[name].shape)
            wrong["of another shape"].append(f"{name} {holds} instead of {expects}")
        used[name] = tensor
    wrong["missing"] = [name for name in expected if name not in used]
    if any(wrong.values()):
        problems = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in wrong.items() if names)
        raise ModelError(
            f"the weights of '{model}' do not fit the architecture '{network.config.architecture}': {problems}. Check "
            f"the options architecture and config, or download the file again; name parts that nothing uses in skip."
        )
    network.load_state_dict(used, strict=True, assign=True)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def read_tags(source: Source, config: NetworkConfig, model: str, given: Path | None) -> tuple[str, ...]:
    """The tag list: as given, from beside the checkpoint, or, for a checkpoint from the hub, from its authors' Space.

    Raises:
        ModelError: there is none, or it is of another length.
    """
    names = TAG_LISTS[config.architecture]
    path = given or source.neighbour(names) or _from_space(source, IN_THE_SPACE[config.architecture][0])
    if path is None:
        raise ModelError(
            f"'{model}' comes without its tag list. Put {names[0]} ({config.num_tags} lines, one tag each) beside it, "
            f"or set the option tag_list; it is part of the authors' repository (xinyu1205/recognize-anything)."
        )
    tags = tuple(line.strip() for line in _read_text(path, "tag list").splitlines())
    if len(tags) != config.num_tags or not all(tags):
        raise ModelError(
            f"the tag list '{path}' has {len(tags)} lines, {sum(map(bool, tags))} of them not empty; '{model}' knows "
            f"{config.num_tags} tags. Set the option tag_list to the list that it was trained with."
        )
    return tags


def read_thresholds(source: Source, config: NetworkConfig, model: str, given: Path | None) -> tuple[float, ...]:
    """The least probability of each tag: as given, by the config, or from where the tag list is looked for.

    Raises:
        ModelError: there are none, or they are of another number or out of range.
    """
    if given is None and config.threshold is not None:
        return tuple(config.own_thresholds.get(index, config.threshold) for index in range(config.num_tags))
    path = given or source.neighbour(THRESHOLD_LISTS) or _from_space(source, IN_THE_SPACE[config.architecture][1])
    if path is None:
        raise ModelError(
            f"'{model}' comes without its thresholds. Put {THRESHOLD_LISTS[0]} ({config.num_tags} lines, one number "
            f"each) beside it, set the option thresholds to that file, or give one threshold for all tags."
        )
    # One number a line, or a Python list of them (the older form): nothing is executed.
    text = _read_text(path, "thresholds").partition("[")
    try:
        values = tuple(float(part) for part in (text[2] or text[0]).replace("]", " ").replace(",", " ").split())
    except ValueError as error:
        raise ModelError(f"'{path}' is no list of thresholds ({error}). Give a file with one number a line.") from None
    if len(values) != config.num_tags or not all(0 <= value <= 1 for value in values):
        raise ModelError(
            f"'{path}' has {len(values)} thresholds; '{model}' needs {config.num_tags} numbers from 0 to 1. "
            f"Set the option thresholds to the right file, or give one threshold for all tags."
        )
    return values


def _from_space(source: Source, name: str | None) -> Path | None:
    # The network is used for checkpoints from the hub only: a local file asks for nothing from elsewhere.
    if source.repository is None or name is None:
        return None
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(VOCABULARY_SPACE, name, repo_type="space", revision=VOCABULARY_REVISION))


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"the {what} '{path}' cannot be read ({error}). Check the path.") from error
