"""Tags by Florence-2 (arXiv:2311.06242): a small vision-language model that writes what it sees."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from realignkit.contracts import Tagger
from realignkit.images import to_rgb
from realignkit.types import Tag
from realignkit_plugins.loading import (
    Checkpoint,
    CheckpointPlugin,
    image_processor,
    text_tokenizer,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

TaskName = Literal["objects", "regions", "caption"]
QUESTIONS: dict[TaskName, str] = {
    "objects": "Locate the objects with category name in the image.",
    "regions": "Locate the objects in the image, with their descriptions.",
    "caption": "Describe in detail what is shown in the image.",
}
"""What the published models were trained to be asked, word for word."""
_PLACE = re.compile(r"<loc_\d+>")
_CONTROL = re.compile(r"</?[A-Za-z_]+(?:_\d+)?>")


def _in_todays_form(config: Any) -> bool:
    """Not as the original repositories have it, whose vision tower needs their code."""
    return getattr(getattr(config, "vision_config", None), "model_type", "") == "florence_vision"


class Florence2Tagger(CheckpointPlugin, Tagger):
    """What Florence-2 writes about an image, as tags.

    ``task="objects"`` has it list objects (its detection task), ``"regions"`` describe regions and ``"caption"``
    describe the whole; of descriptions, the heads of their noun phrases are the tags. The confidence of a tag is the
    geometric mean of the probabilities of the tokens that it was written with, in (0, 1]; of several places the best.

    Checkpoints: ``Florence2ForConditionalGeneration`` as transformers reads it without code from elsewhere, for example
    ``florence-community/Florence-2-base``; the original repositories (``microsoft/Florence-2-base``) need such code
    and are refused.

    Raises:
        ModelError: (on use) the checkpoint is missing, damaged, of another family, or computes NaN.
    """

    role = "tagger"
    remedy = "Download it again."
    checkpoint = Checkpoint(
        "Florence-2 checkpoint",
        {"florence2": "Florence2ForConditionalGeneration"},
        refusal="a {} checkpoint that transformers' Florence-2 cannot read. Use one such as "
        "florence-community/Florence-2-base.",
        fits=_in_todays_form,
        processor=image_processor,
        tokenizer=text_tokenizer,
    )

    class Options(CheckpointPlugin.Options):
        """Options of :class:`Florence2Tagger`."""

        model: str = Field("florence-community/Florence-2-base", min_length=1, description="hub id or folder")
        task: TaskName = Field("objects", description="list objects, describe regions, or describe the image")
        num_beams: int = Field(3, ge=1, description="width of the beam search, as published")
        max_new_tokens: int = Field(1024, ge=1, description="most tokens that it writes about an image")
        threshold: float = Field(0.0, ge=0, le=1, description="least confidence")
        top_k: int | None = Field(None, ge=1, description="most tags per image; None: no limit")
        batch_size: int = Field(4, ge=1, description="images at once")

    options: Florence2Tagger.Options

    def __call__(self, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
        """One tuple of tags per image, most confident first."""
        size = self.options.batch_size
        return [
            self._tags(tokens, probabilities)
            for start in range(0, len(images), size)
            for tokens, probabilities in self.write(images[start : start + size])
        ]

    def write(self, images: Sequence[Image]) -> list[tuple[list[str], list[float]]]:
        """What the model writes about each image: its tokens, and the logarithm of each one's probability."""
        import torch

        network, chosen = self.loaded.network, self.options
        pixels = self.loaded.processor(images=[to_rgb(image) for image in images], return_tensors="pt")["pixel_values"]
        ids = self._question(pixels.shape[-2:])
        asked: dict[str, Tensor] = {
            "pixel_values": pixels.to(network.device, network.dtype),
            "input_ids": torch.tensor([ids] * len(images), device=network.device),
        }
        asked["attention_mask"] = torch.ones_like(asked["input_ids"])
        with torch.inference_mode():
            written = network.generate(
                **asked, do_sample=False, num_beams=chosen.num_beams, max_new_tokens=chosen.max_new_tokens
            )
            # Beams carry sums over paths that were given up; what was written is read once more instead.
            logits = network(**asked, decoder_input_ids=written[:, :-1]).logits.float()
        logs = self.finite(logits).log_softmax(-1).gather(-1, written[:, 1:, None])[..., 0].cpu()
        texts = [self.loaded.tokenizer.convert_ids_to_tokens(row) for row in written[:, 1:].tolist()]
        return list(zip(texts, logs.tolist(), strict=True))

    def _question(self, size: tuple[int, int]) -> list[int]:
        """The image's places, then the question, in token ids."""
        config, tokenizer = self.loaded.network.config, self.loaded.tokenizer
        vision = config.vision_config
        places = 1  # the mean of them all, behind them
        cells = [int(side) for side in size]
        for kernel, stride, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
            cells = [(cell + 2 * padding - kernel) // stride + 1 for cell in cells]
        places += cells[0] * cells[1]
        words = tokenizer(QUESTIONS[self.options.task], add_special_tokens=False).input_ids
        return [config.image_token_id] * places + [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]

    def _tags(self, tokens: Sequence[str], logs: Sequence[float]) -> tuple[Tag, ...]:
        import math

        confidences: dict[str, float] = {}
        for name, log in self._names(tokens, logs):
            confidence = min(math.exp(log), 1.0)
            if confidence >= self.options.threshold:
                confidences[name] = max(confidence, confidences.get(name, 0.0))
        tags = sorted((Tag(name, p) for name, p in confidences.items()), key=lambda tag: -tag.confidence)
        return tuple(tags[: self.options.top_k])

    def _names(self, tokens: Sequence[str], logs: Sequence[float]) -> Iterator[tuple[str, float]]:
        """Names with the mean logarithm of their tokens' probabilities; of a name before several places, once."""
        tokenizer = self.loaded.tokenizer
        label: list[tuple[str, float]] = []
        for token, log in zip(tokens, logs, strict=True):
            if _PLACE.fullmatch(token) or token == tokenizer.eos_token:
                if label and (self.options.task == "caption" or token != tokenizer.eos_token):
                    yield from self._objects(label)
                label = []
                if token == tokenizer.eos_token:
                    return
            elif not _CONTROL.fullmatch(token):
                label.append((token, log))
        if self.options.task == "caption" and label:
            yield from self._objects(label)  # cut short

    def _objects(self, label: Sequence[tuple[str, float]]) -> Iterator[tuple[str, float]]:
        """A label itself, or the objects that a description names."""
        tokenizer = self.loaded.tokenizer
        pieces = [tokenizer.convert_tokens_to_string([token]) for token, _ in label]
        logs = [log for _, log in label]
        text = "".join(pieces)
        if self.options.task == "objects":
            if name := " ".join(text.split()):
                yield name, sum(logs) / len(logs)
            return
        from realignkit_plugins.english.noun_phrases import noun_phrases

        ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
        for phrase in noun_phrases(text):
            inside = [
                log
                for log, piece, end in zip(logs, pieces, ends, strict=True)
                if end > phrase.start and end - len(piece) < phrase.end
            ]
            if inside and not phrase.negated:
                yield phrase.head, sum(inside) / len(inside)
