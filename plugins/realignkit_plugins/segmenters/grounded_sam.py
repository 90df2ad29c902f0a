"""Grounded-SAM: phrases to boxes by Grounding DINO, boxes to masks by SAM or SAM 2."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.contracts import Segmenter
from realignkit.errors import ModelError
from realignkit.images import to_rgb
from realignkit.types import Mask
from realignkit_plugins.loading import (
    hub_options,
    image_processor,
    load_model,
    loading,
    model_config,
    resolve_device,
    resolve_model,
    text_tokenizer,
)
from realignkit_plugins.weight_files import is_weight_file

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from realignkit_plugins.segmenters.sam import BoxMasker

BERT = "google-bert/bert-base-uncased"


class GroundedSamSegmenter(Segmenter):
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

    class Options(PluginOptions):
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
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")

    options: GroundedSamSegmenter.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._detector: tuple[Any, Any, Any] | None = None
        self._masker: BoxMasker | None = None

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
        found: dict[str, tuple[Mask, float] | None] = {}
        start = 0
        for phrase, (boxes, scores) in zip(unique, detected, strict=True):
            union = masks[start : start + len(boxes)].any(0)
            start += len(boxes)
            found[phrase] = (union.numpy(), min(float(scores.max()), 1.0)) if union.any() else None
        return [found[phrase] for phrase in phrases]

    def detect(self, image: Image, phrases: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """For each phrase its boxes, float (n, 4) in pixels (left, top, right, bottom), and their scores (n,).

        Best first, on the CPU; n may be 0. An empty phrase has no box.
        """
        import torch

        from realignkit_plugins.segmenters.boxes import from_centres

        found = [(torch.zeros(0, 4), torch.zeros(0)) for _ in phrases]
        for which, probabilities, boxes, spans in self._passes(to_rgb(image), phrases):
            corners = from_centres(boxes, image.width, image.height)
            for i, boxes_and_scores in zip(which, self.select(probabilities, corners, spans), strict=True):
                found[i] = boxes_and_scores
        return found

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
        if self._masker is None:
            from realignkit_plugins.segmenters.sam import BoxMasker

            chosen = self.options
            self._masker = BoxMasker(chosen.sam, chosen.sam_revision, resolve_device(chosen.device))
        return self._masker(image, boxes, self.options.mask_threshold)

    def _passes(self, image: Image, phrases: Sequence[str]) -> Iterator[tuple[list[int], Tensor, Tensor, list[slice]]]:
        """Which phrases, their probabilities (queries, tokens), boxes (queries, 4; centres) and spans, pass by pass."""
        import torch

        network, processor, tokenizer = self._load()
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
            if probabilities.isnan().any() or boxes.isnan().any():
                raise ModelError(f"the detector '{self.options.model}' computed NaN. Download it again.")
            yield which, probabilities, boxes, spans

    def _load(self) -> tuple[Any, Any, Any]:
        if self._detector is None:
            from transformers import GroundingDinoForObjectDetection

            chosen = self.options
            if is_weight_file(chosen.model):
                self._detector = self._load_original()
                return self._detector
            folder, hub = resolve_model(chosen.model), hub_options(chosen.revision)
            with loading("Grounding DINO checkpoint", chosen.model):
                family = model_config(folder, **hub).model_type
                if family != "grounding-dino":
                    raise ModelError(
                        f"'{chosen.model}' is a {family} checkpoint, not Grounding DINO. Use one such as "
                        f"IDEA-Research/grounding-dino-tiny."
                    )
                network = load_model(GroundingDinoForObjectDetection, folder, chosen.model, **hub)
                network = network.to(resolve_device(chosen.device))
                # Not GroundingDinoProcessor: parts and phrases are kept apart here, and it hides the tokens.
                self._detector = (network, image_processor(folder, **hub), text_tokenizer(folder, **hub))
        return self._detector

    def _load_original(self) -> tuple[Any, Any, Any]:
        """From the authors' file, which leaves the tokenizer out: that first, as it is the smaller one."""
        from realignkit_plugins.segmenters.originals import load_grounding_dino

        chosen = self.options
        words = chosen.tokenizer or BERT
        with loading("tokenizer of Grounding DINO (option tokenizer)", words):
            tokenizer = text_tokenizer(resolve_model(words))
        with loading("Grounding DINO checkpoint", chosen.model):
            network, processor = load_grounding_dino(Path(chosen.model).expanduser(), chosen.model)
        known = network.config.text_config.vocab_size
        if len(tokenizer) > known:
            raise ModelError(
                f"the tokenizer '{words}' has {len(tokenizer)} tokens, the model only {known}. Give the tokenizer that "
                f"the model was trained with."
            )
        return network.to(resolve_device(chosen.device)), processor, tokenizer


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
