"""``f_enc`` of eq. 4: the text encoder in whose space captions and prompts are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from realignkit.errors import ModelError
from realignkit_plugins.loading import Checkpoint, text_tokenizer
from realignkit_plugins.rewards.base import tokenize

TEXT_ENCODER = Checkpoint(
    "text encoder",
    {
        "blip-2": "Blip2TextModelWithProjection",
        "clip": "CLIPTextModelWithProjection",
        "clip_text_model": "CLIPTextModelWithProjection",
    },
    refusal="a {} model. As text encoder, give a BLIP-2 or a CLIP checkpoint.",
    tokenizer=text_tokenizer,
    frozen=True,
)
_CACHE = 8192


class TextFeatures:
    """Unit vectors of texts, by BLIP-2's text branch (``Blip2TextModelWithProjection``) or CLIP's text encoder.

    Args:
        network: on its device, frozen.
        tokenizer: its own.
    """

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self._seen: dict[str, Tensor] = {}

    @property
    def limit(self) -> int:
        """Most tokens that it reads."""
        config = self.network.config
        text = getattr(config, "qformer_config", None) or config
        return int(text.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors float32 (B, D), without a gradient; texts over the limit are cut. Those seen before are kept."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._seen]
        if missing:
            if len(self._seen) + len(missing) > _CACHE:
                self._seen.clear()
                missing = list(dict.fromkeys(texts))
            tokens = tokenize(self.tokenizer, missing, self.limit, self.network.device)
            self._seen.update(zip(missing, self._encode(tokens), strict=True))
        return torch.stack([self._seen[text] for text in texts])

    def nudged(self, texts: Sequence[str], changes: Tensor) -> Tensor:
        """Unit vectors of texts with ``changes`` (B, tokens, D) added to their embeddings; differentiable in them."""
        tokens = tokenize(self.tokenizer, texts, self.limit, self.network.device)
        changes = changes[:, : tokens["input_ids"].shape[1]]

        def add(_module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
            return embedded + changes.to(embedded.dtype)

        hook = self.network.get_input_embeddings().register_forward_hook(add)
        try:
            return self._encode(tokens)
        finally:
            hook.remove()

    def _encode(self, tokens: Any) -> Tensor:
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        features = self.network(input_ids=ids, attention_mask=mask).text_embeds
        if features.ndim == 3:  # BLIP-2 projects every token; [CLS] speaks for the text
            features = features[:, 0]
        return normalize(features.float(), dim=-1)

    def embeddings_of(self, pieces: Sequence[str]) -> Tensor:
        """An input embedding for each piece of text, float32 (pieces, D): the mean of those of its tokens.

        A piece without a token stands for the end of the text, and gets the embedding of the token that ends texts.
        """
        weight = self.network.get_input_embeddings().weight.detach().float()
        rows = self.tokenizer([piece.strip() for piece in pieces], add_special_tokens=False)["input_ids"]
        end = self.tokenizer.sep_token_id if self.tokenizer.sep_token_id is not None else self.tokenizer.eos_token_id
        rows = [row or [end] for row in rows]
        counts = torch.tensor([len(row) for row in rows], device=weight.device)
        owner = torch.repeat_interleave(torch.arange(len(rows), device=weight.device), counts)
        ids = torch.tensor([token for row in rows for token in row], device=weight.device)
        return (
            torch.zeros(len(rows), weight.shape[1], device=weight.device).index_add_(0, owner, weight[ids])
            / counts[:, None]
        )

    def alignment(self, texts: Sequence[str], pieces: Sequence[Sequence[str]], width: int) -> Tensor:
        """Which pieces of each text its tokens come from; float32 (B, tokens, width), rows sum to 1 or 0.

        Args:
            texts: stripped.
            pieces: consecutive pieces of each text; joined and stripped they are the text.
            width: pieces are counted up to here.

        Raises:
            ModelError: the tokenizer cannot say where its tokens come from.
        """
        if not self.tokenizer.is_fast:
            raise ModelError(
                "the soft estimator needs a tokenizer with offsets. Use another text encoder or estimator."
            )
        tokens = tokenize(self.tokenizer, texts, self.limit, "cpu", return_offsets_mapping=True)
        table = torch.zeros(len(texts), tokens["input_ids"].shape[1], width)
        for i, offsets in enumerate(tokens["offset_mapping"].tolist()):
            begin = len("".join(pieces[i]).lstrip()) - len("".join(pieces[i]))  # leading space, counted backwards
            for j, piece in enumerate(pieces[i][:width]):
                end = begin + len(piece)
                for k, (first, last) in enumerate(offsets):
                    if first < last and first < end and begin < last:
                        table[i, k, j] = 1
                begin = end
        return (table / table.sum(-1, keepdim=True).clamp(min=1)).to(self.network.device)
