"""Grounded-SAM: phrases to boxes by Grounding DINO, boxes to masks by SAM or SAM 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Segmenter
from realignkit.errors import ModelError
from realignkit.images import to_rgb
from realignkit.types import Mask
from realignkit_plugins.loading import (
    Checkpoint,
    CheckpointPlugin,
    Loaded,
    check_vocabulary,
    image_processor,
    load_tokenizer,
    text_tokenizer,
)
from realignkit_plugins.segmenters.originals import load_grounding_dino
from realignkit_plugins.weight_formats import is_weight_file

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from realignkit_plugins.segmenters.sam import BoxMasker

BERT = "google-bert/bert-base-uncased"


class GroundedSamSegmenter(CheckpointPlugin, Segmenter):
    """Where a phrase is in an image: every box that Grounding DINO detects for it, filled by SAM, united.

    All phrases go into one caption ("a red book. a yellow pen."), in several passes where it gets too long for the
    text encoder. A box is kept when some word of the caption reaches ``box_threshold`` and no better box overlaps it
    by more than ``nms_threshold``. It counts for the phrase of its most probable word, or, with ``exclusive`` off,
    for every phrase that has a word above ``text_threshold``. A phrase without a box is not found.

    The confidence is that of the phrase's best box. Checkpoints: ``GroundingDinoForObjectDetection``, and
    ``SamModel`` or ``Sam2Model``.

    Raises:
        ModelError: (on use) a checkpoint is missing, damaged, of another family, or computes NaN.
    """

    role = "detector"
    remedy = "Download it again."
    checkpoint_options = (("model", "revision"), ("sam", "sam_revision"))
    checkpoint = Checkpoint(
        "Grounding DINO checkpoint",
        {"grounding-dino": "GroundingDinoForObjectDetection"},
        refusal="a {} checkpoint, not Grounding DINO. Use one such as IDEA-Research/grounding-dino-tiny.",
        # Not GroundingDinoProcessor: parts and phrases are kept apart here, and it hides the tokens.
        processor=image_processor,
        tokenizer=text_tokenizer,
        original=load_grounding_dino,
    )

    class Options(CheckpointPlugin.Options):
        """Options of :class:`GroundedSamSegmenter`; the thresholds are those of Grounded-SAM."""

        model: str = Field(
            "IDEA-Research/grounding-dino-tiny",
            description="Grounding DINO: hub id, folder, or the authors' groundingdino_….pth",
            min_length=1,
        )
        revision: str | None = Field(None, description="branch, tag or commit of the detector on the hub")
        tokenizer: str | None = Field(
            None, description=f"for the authors' file: hub id or folder of its tokenizer; None: {BERT}", min_length=1
        )
        sam: str = Field(
            "facebook/sam-vit-huge",
            description="SAM or SAM 2: hub id, folder, or the authors' sam_vit_….pth",
            min_length=1,
        )
        sam_revision: str | None = Field(None, description="branch, tag or commit of SAM on the hub")
        box_threshold: float = Field(0.25, ge=0, le=1, description="least probability of a box's best word")
        text_threshold: float = Field(0.2, ge=0, le=1, description="least probability of a word that names a box")
        nms_threshold: float = Field(0.5, ge=0, le=1, description="most overlap (IoU) with a better box")
        exclusive: bool = Field(True, description="each box counts for its most probable phrase alone")
        mask_threshold: float = Field(0.0, description="least logit of a pixel in a mask", allow_inf_nan=False)

    options: GroundedSamSegmenter.Options

    def __call__(self, image: Image, phrases: Sequence[str]) -> list[tuple[Mask, float] | None]:
        """For each phrase the union of its instances' masks, bool (H, W), and a confidence; None if not found."""
        import torch

        image = to_rgb(image)
        unique = list(dict.fromkeys(phrases))
        detected = self.detect(image, unique)
        every = torch.cat([boxes for boxes, _ in detected]) if detected else torch.zeros(0, 4)
        if not len(every):
            return [None] * len(phrases)
        masks = self.masks(image, every)
        masked: dict[str, tuple[Mask, float] | None] = {}
        start = 0
        for phrase, (boxes, scores) in zip(unique, detected, strict=True):
            union = masks[start : start + len(boxes)].any(0)
            start += len(boxes)
            masked[phrase] = (union.numpy(), min(float(scores.max()), 1.0)) if union.any() else None
        return [masked[phrase] for phrase in phrases]

    def detect(self, image: Image, phrases: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """For each phrase its boxes, float (n, 4) in pixels (left, top, right, bottom), and their scores (n,).

        Best first, on the CPU; n may be 0. An empty phrase has no box.
        """
        import torch

        from realignkit_plugins.segmenters.boxes import from_centres

        detections = [(torch.zeros(0, 4), torch.zeros(0)) for _ in phrases]
        for which, probabilities, boxes, spans in self._passes(to_rgb(image), phrases):
            corners = from_centres(boxes, image.width, image.height)
            for i, boxes_and_scores in zip(which, self.select(probabilities, corners, spans), strict=True):
                detections[i] = boxes_and_scores
        return detections

    def select(self, probabilities: Tensor, boxes: Tensor, spans: Sequence[slice]) -> list[tuple[Tensor, Tensor]]:
        """From the detector's answers to the phrases' boxes, by the thresholds.

        Args:
            probabilities: (queries, tokens), of each query for each token of the caption.
            boxes: (queries, 4), corners.
            spans: each phrase's tokens.

        Returns:
            For each phrase its boxes (n, 4) and scores (n,), best first.
        """
        import torch

        from realignkit_plugins.segmenters.boxes import nms

        chosen = self.options
        # (queries, phrases): how sure the most probable word of each phrase is.
        words = torch.stack([probabilities[:, span].amax(1) for span in spans], dim=1)
        best = words.amax(1)
        kept = (best > chosen.box_threshold).nonzero()[:, 0]
        kept = kept[nms(boxes[kept], best[kept], chosen.nms_threshold)]
        words, best, boxes = words[kept], best[kept], boxes[kept]
        named = words > chosen.text_threshold
        if chosen.exclusive:
            named &= torch.nn.functional.one_hot(words.argmax(1), len(spans)).bool()
        answers = []
        for i in range(len(spans)):
            order = words[named[:, i], i].argsort(descending=True, stable=True)
            answers.append((boxes[named[:, i]][order], words[named[:, i], i][order]))
        return answers

    def masks(self, image: Image, boxes: Tensor) -> Tensor:
        """A mask, bool (H, W), for each box, float (n, 4) in pixels: bool (n, H, W) on the CPU."""
        return self._masker(image, boxes, self.options.mask_threshold)

    @cached_property
    def _masker(self) -> BoxMasker:
        from realignkit_plugins.segmenters.sam import BoxMasker

        return BoxMasker(self.options.sam, self.options.sam_revision, self.device)

    def _passes(self, image: Image, phrases: Sequence[str]) -> Iterator[tuple[list[int], Tensor, Tensor, list[slice]]]:
        """Which phrases, their probabilities (queries, tokens), boxes (queries, 4; centres) and spans, pass by pass."""
        import torch

        network, processor, tokenizer = self.loaded.network, self.loaded.processor, self.loaded.tokenizer
        begin, end, stop = (tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]", "."))
        limit = min(int(network.config.max_text_len), int(network.config.text_config.max_position_embeddings))
        words = [_tokens(tokenizer, phrase)[: limit - 3] for phrase in phrases]
        inputs = processor(images=image, return_tensors="pt") if any(words) else {}
        for which in _groups(words, limit - 2):
            ids, spans = [begin], []
            for i in which:
                spans.append(slice(len(ids), len(ids) + len(words[i])))
                ids += [*words[i], stop]
            ids.append(end)
            tokens = torch.tensor([ids], device=network.device)
            with torch.inference_mode():
                out = network(
                    pixel_values=inputs["pixel_values"].to(network.device, network.dtype),
                    pixel_mask=inputs["pixel_mask"].to(network.device),
                    input_ids=tokens,
                    token_type_ids=torch.zeros_like(tokens),
                    attention_mask=torch.ones_like(tokens),
                )
            probabilities, boxes = out.logits[0].float().sigmoid().cpu(), out.pred_boxes[0].float().cpu()
            yield which, self.finite(probabilities), self.finite(boxes), spans

    def load(self) -> Loaded:
        """The detector. The authors' file leaves the tokenizer out: then that first, as it is the smaller one."""
        if not is_weight_file(self.model):
            return super().load()
        words = self.options.tokenizer or BERT
        tokenizer = load_tokenizer("tokenizer of Grounding DINO (option tokenizer)", words)
        if {"[CLS]", "[SEP]", "[PAD]"} - tokenizer.get_vocab().keys():
            raise ModelError(
                f"'{words}' (option tokenizer) is a {type(tokenizer).__name__}, not the tokenizer of BERT that "
                f"Grounding DINO was trained with. Give {BERT} or a folder of it."
            )
        loaded = super().load()
        check_vocabulary(tokenizer, words, loaded.network.config.text_config.vocab_size)
        return Loaded(loaded.network, loaded.processor, tokenizer)


def _tokens(tokenizer: Any, phrase: str) -> list[int]:
    """A phrase's tokens. Full stops and question marks part phrases in the detector's captions, so they go."""
    text = re.sub(r"[.?\s]+", " ", phrase.lower()).strip()
    return [int(i) for i in tokenizer(text, add_special_tokens=False).input_ids] if text else []


def _groups(words: Sequence[Sequence[int]], room: int) -> Iterator[list[int]]:
    """Phrases that fit into one caption together, a full stop behind each; empty ones are left out."""
    group: list[int] = []
    used = 0
    for i, tokens in enumerate(words):
        if not tokens:
            continue
        if used + len(tokens) + 1 > room and group:
            yield group
            group, used = [], 0
        group.append(i)
        used += len(tokens) + 1
    if group:
        yield group
