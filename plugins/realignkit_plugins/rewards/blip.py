"""BLIP's image-text matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from realignkit_plugins.loading import Checkpoint, text_tokenizer
from realignkit_plugins.rewards.base import PixelReward, differentiable, tokenize

if TYPE_CHECKING:
    from torch import Tensor


class BLIPReward(PixelReward):
    """How well BLIP thinks image and text go together (the paper's Table III, "BLIP").

    By a ``BlipForImageTextRetrieval`` checkpoint: ``head="itm"`` is the probability of a match, in [0, 1], by the
    encoder that attends to the image while reading; ``head="itc"`` is the cosine of separate features, in [-1, 1].
    The margin is 1.
    """

    margin = 1.0
    checkpoint = Checkpoint(
        "BLIP matching model",
        {"blip": "BlipForImageTextRetrieval"},
        refusal="a {} checkpoint, not BLIP. Use one such as Salesforce/blip-itm-large-coco.",
        processor=differentiable,
        tokenizer=text_tokenizer,
        frozen=True,
    )

    class Options(PixelReward.Options):
        """Options of :class:`BLIPReward`."""

        model: str = Field(
            "Salesforce/blip-itm-large-coco", description="hub id, folder, or micro:<name>", min_length=1
        )
        head: Literal["itm", "itc"] = Field("itm", description="matching probability, or cosine of features")

    options: BLIPReward.Options

    def judge(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        """Probabilities or cosines (B,)."""
        from torch.nn.functional import normalize

        kept = self.loaded
        network = kept.network
        limit = network.config.text_config.max_position_embeddings
        tokens = tokenize(kept.tokenizer, prompts, limit, network.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        seen = network.vision_model(pixel_values=pixel_values.to(network.device, network.dtype)).last_hidden_state
        # The network's own forward pairs every image with every text for the cosine; rewards need the pairs alone.
        if self.options.head == "itm":
            read = network.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen)
            return network.itm_head(read.last_hidden_state[:, 0]).float().softmax(-1)[:, 1]
        read = network.text_encoder(input_ids=ids, attention_mask=mask)
        image = normalize(network.vision_proj(seen[:, 0]).float(), dim=-1)
        text = normalize(network.text_proj(read.last_hidden_state[:, 0]).float(), dim=-1)
        return (image * text).sum(-1)
