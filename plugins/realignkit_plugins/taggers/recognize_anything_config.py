"""The shapes of the Recognize Anything networks, and what is published under which name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from realignkit.errors import ModelError

Architecture = Literal["ram", "ram_plus", "tag2text"]
Probability = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[int, Field(ge=1)]


class NetworkConfig(BaseModel):
    """Everything about a tagging network that its weights do not say; ``config.json`` of a checkpoint folder.

    Defaults are what all published checkpoints share.

    Attributes:
        architecture: ``ram`` (arXiv:2306.03514), ``ram_plus`` (arXiv:2310.15200) or ``tag2text`` (arXiv:2303.05657).
        num_tags: length of the tag list.
        image_size: pixels; images are squashed to this square.
        embed_dim, depths, num_heads, window_size, patch_size: the Swin image encoder (arXiv:2103.14030).
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: the tagging head.
        label_size: width of the label embeddings of RAM and RAM++, and of the image tokens that they attend to.
        descriptions_per_tag: RAM++ only; label embeddings for each tag.
        threshold: a tag is given when its probability is above this; None: a file of thresholds is needed.
        own_thresholds: tags (by index) with a threshold of their own.
        deleted_tags: tags (by index) that are never given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Architecture
    num_tags: Size
    image_size: Size
    embed_dim: Size
    depths: tuple[Size, ...]
    num_heads: tuple[Size, ...]
    window_size: Size
    patch_size: Size = 4
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Size = 2
    num_attention_heads: Size = 4
    label_size: Size = 512
    descriptions_per_tag: Size = 51
    threshold: Probability | None = None
    own_thresholds: dict[int, Probability] = {}
    deleted_tags: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> NetworkConfig:
        if len(self.depths) != len(self.num_heads):
            raise ValueError("depths and num_heads must have the same length")
        for stage, (resolution, heads) in enumerate(zip(self.resolutions, self.num_heads, strict=True)):
            side = self.patch_size << stage
            if resolution * side != self.image_size or resolution % min(self.window_size, resolution):
                raise ValueError(f"image_size {self.image_size} does not divide into patches and windows")
            if (self.embed_dim << stage) % heads:
                raise ValueError(f"{heads} heads do not divide the width {self.embed_dim << stage}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("num_attention_heads must divide hidden_size")
        if any(not 0 <= index < self.num_tags for index in (*self.own_thresholds, *self.deleted_tags)):
            raise ValueError("own_thresholds and deleted_tags must be indices of tags")
        return self

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Tokens per side in each stage of the image encoder."""
        return tuple(self.image_size // (self.patch_size << stage) for stage in range(len(self.depths)))

    @property
    def vision_width(self) -> int:
        """Width of the image encoder's output."""
        return self.embed_dim << (len(self.depths) - 1)

    @classmethod
    def read(cls, path: Path) -> NetworkConfig:
        """Read a JSON file.

        Raises:
            ModelError: it cannot be read, or describes no network.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise ModelError(f"'{path}' cannot be read ({error.strerror}). Check the path.") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ModelError(f"'{path}' describes no tagging network ({where}: {first['msg']}). Correct it.") from None


RAM_SWIN_LARGE = NetworkConfig(
    architecture="ram",
    num_tags=4585,
    image_size=384,
    embed_dim=192,
    depths=(2, 2, 18, 2),
    num_heads=(6, 12, 24, 48),
    window_size=12,
)
RAM_PLUS_SWIN_LARGE = RAM_SWIN_LARGE.model_copy(update={"architecture": "ram_plus"})
TAG2TEXT_SWIN_BASE = NetworkConfig(
    architecture="tag2text",
    num_tags=3429,
    image_size=384,
    embed_dim=128,
    depths=(2, 2, 18, 2),
    num_heads=(4, 8, 16, 32),
    window_size=12,
    threshold=0.68,
    own_thresholds={1167: 0.7, 2701: 0.7, 2828: 0.7},
    deleted_tags=(127, 2961, 3351, 3265, 3338, 3355, 3359),
)
PUBLISHED: dict[Architecture, NetworkConfig] = {
    "ram": RAM_SWIN_LARGE,
    "ram_plus": RAM_PLUS_SWIN_LARGE,
    "tag2text": TAG2TEXT_SWIN_BASE,
}

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation per channel, of pixels in [0, 1]."""

PUBLISHED_AT = ("xinyu1205/recognize_anything_model", "xinyu1205/recognize-anything-plus-model")
"""Hub ids whose files are the published checkpoints; they hold weights only."""

VOCABULARY_SPACE = "xinyu1205/recognize-anything"
VOCABULARY_REVISION = "83529fe4e19973764ac018a5549c201a9a4426c8"
"""The authors' Space on the hub, at a commit that has the vocabulary files below in its folder ``data``."""

TAG_LISTS: dict[Architecture, tuple[str, ...]] = {
    "ram": ("ram_tag_list.txt", "tag_list.txt"),
    "ram_plus": ("ram_tag_list.txt", "tag_list.txt"),
    "tag2text": ("tag2text_ori_tag_list.txt", "tag_list.txt"),
}
"""Names under which a tag list may lie beside a checkpoint, best first; one tag a line."""

THRESHOLD_LISTS = ("ram_tag_list_threshold.txt", "ram_tag_list_threshold.py", "tag_list_threshold.txt")
"""Names under which per-tag thresholds may lie beside a checkpoint, best first."""

IN_THE_SPACE: dict[Architecture, tuple[str, str | None]] = {
    "ram": ("data/ram_tag_list.txt", "data/ram_tag_list_threshold.py"),
    "ram_plus": ("data/ram_tag_list.txt", "data/ram_tag_list_threshold.py"),
    "tag2text": ("data/tag_list.txt", None),
}
"""The tag list and the thresholds in :data:`VOCABULARY_SPACE`."""
