"""BLIP's image-text matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit.errors import ModelError
from realignkit_plugins.loading import (
    DTypeName,
    hub_options,
    image_processor,
    load_model,
    loading,
    model_config,
    resolve_model,
    text_tokenizer,
)
from realignkit_plugins.rewards.base import PixelReward, place, tokenize, workplace

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit_plugins.rewards.preprocess import Preprocessing


@dataclass(frozen=True)
class _Loaded:
    network: Any
    tokenizer: Any
    preprocessing: Preprocessing


class BLIPReward(PixelReward[_Loaded]):
    """How well BLIP thinks image and text go together (the paper's Table III, "BLIP").

    By a ``BlipForImageTextRetrieval`` checkpoint: ``head="itm"`` is the probability of a match, in [0, 1], by the
    encoder that attends to the image while reading; ``head="itc"`` is the cosine of separate features, in [-1, 1].
    The margin is 1.
    """

    margin = 1.0

    class Options(PluginOptions):
        """Options of :class:`BLIPReward`."""

        model: str = Field(
            "Salesforce/blip-itm-large-coco", description="hub id, folder, or micro:<name>", min_length=1
        )
        revision: str | None = Field(None, description="branch, tag or commit on the hub")
        head: Literal["itm", "itc"] = Field("itm", description="matching probability, or cosine of features")
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
        dtype: DTypeName = Field("auto", description="auto: bf16 on CUDA, fp32 elsewhere")

    options: BLIPReward.Options

    @property
    def preprocessing(self) -> Preprocessing:
        """As the checkpoint's processor says."""
        return self.loaded.preprocessing

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

    def _load(self) -> _Loaded:
        from transformers import BlipForImageTextRetrieval

        from realignkit_plugins.rewards.preprocess import Preprocessing

        chosen = self.options
        folder, hub = resolve_model(chosen.model), hub_options(chosen.revision)
        with loading("BLIP matching model", chosen.model):
            family = model_config(folder, **hub).model_type
            if family != "blip":
                raise ModelError(
                    f"'{chosen.model}' is a {family} checkpoint, not BLIP. Use one such as "
                    f"Salesforce/blip-itm-large-coco."
                )
            where, dtype = workplace(chosen.device, chosen.dtype)
            network = place(load_model(BlipForImageTextRetrieval, folder, chosen.model, dtype, **hub), where)
            tokenizer = text_tokenizer(folder, **hub)
            preprocessing = Preprocessing.of(image_processor(folder, **hub))
        return _Loaded(network, tokenizer, preprocessing)
