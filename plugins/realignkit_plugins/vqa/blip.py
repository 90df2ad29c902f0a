"""BLIP's visual question answering."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from realignkit.images import to_rgb
from realignkit_plugins.loading import Checkpoint, image_processor, text_tokenizer
from realignkit_plugins.vqa.network import Choices, NetworkVQA, decoded, unique

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class BlipVQA(NetworkVQA):
    """Short answers by a ``BlipForQuestionAnswering`` checkpoint (Li et al., 2022), of which TIFA knows two.

    It reads the question as it is and is shown no choices. Only questions of one length pass the network together, so
    an answer does not depend on what else is asked: transformers' BLIP attends to the padding of shorter ones.

    Raises:
        ModelError: (on use) the checkpoint is missing, damaged, not BLIP for this task, or computes NaN.
    """

    checkpoint = Checkpoint(
        "BLIP for question answering",
        {"blip": "BlipForQuestionAnswering"},
        refusal="a {} checkpoint, not BLIP. Use one such as Salesforce/blip-vqa-base, or another vqa plugin.",
        processor=image_processor,
        tokenizer=text_tokenizer,
    )

    class Options(NetworkVQA.Options):
        """Options of :class:`BlipVQA`."""

        model: str = Field("Salesforce/blip-vqa-base", description="hub id, folder, or micro:<name>", min_length=1)

    options: BlipVQA.Options

    def answer(self, images: Sequence[Image], questions: Sequence[str], choices: Choices) -> list[str]:
        """The likeliest word after word."""
        kept = self.loaded
        config = kept.network.config.text_config
        said = [""] * len(questions)
        for rows, hidden in self._read(images, questions):
            start = self._start(len(rows))
            tokens = kept.network.text_decoder.generate(
                input_ids=start,
                attention_mask=start.new_ones(start.shape),
                encoder_hidden_states=hidden,
                eos_token_id=config.sep_token_id,
                pad_token_id=config.pad_token_id,
                max_new_tokens=min(self.options.max_new_tokens, config.max_position_embeddings - 1),
                do_sample=False,
                num_beams=1,
            )
            for row, text in zip(rows, decoded(kept.tokenizer, tokens[:, 1:]), strict=True):
                said[row] = text
        return said

    def first_tokens(self, images: Sequence[Image], questions: Sequence[str]) -> Tensor:
        """What the decoder says after its start."""
        import torch

        network, logits = self.loaded.network, [torch.empty(0)] * len(questions)
        for rows, hidden in self._read(images, questions):
            start = self._start(len(rows))
            said = network.text_decoder(input_ids=start, encoder_hidden_states=hidden, use_cache=False).logits[:, -1]
            for row, values in zip(rows, said, strict=True):
                logits[row] = values
        return torch.stack(logits)

    def _start(self, count: int) -> Tensor:
        import torch

        network = self.loaded.network
        return torch.full((count, 1), network.decoder_start_token_id, device=network.device)

    def _read(self, images: Sequence[Image], questions: Sequence[str]) -> Iterator[tuple[list[int], Tensor]]:
        """By length of question: which ones they are, and their hidden states (B, L, D), having seen the images."""
        import torch

        kept = self.loaded
        network = kept.network
        pictures, places = unique(images)
        pixels = kept.processor(images=[to_rgb(picture) for picture in pictures], return_tensors="pt")["pixel_values"]
        seen = network.vision_model(pixel_values=pixels.to(network.device, network.dtype)).last_hidden_state
        limit = network.config.text_config.max_position_embeddings
        read = kept.tokenizer(list(questions), truncation=True, max_length=limit)["input_ids"]
        for length in sorted({len(ids) for ids in read}):
            rows = [row for row, ids in enumerate(read) if len(ids) == length]
            ids = torch.tensor([read[row] for row in rows], device=network.device)
            asked = seen[[places[row] for row in rows]]
            yield rows, network.text_encoder(input_ids=ids, encoder_hidden_states=asked).last_hidden_state
