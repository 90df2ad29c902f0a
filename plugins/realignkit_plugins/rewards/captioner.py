"""Captioners as policies: sample captions of an image, and say how likely a caption is, with a gradient."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.errors import ModelError

if TYPE_CHECKING:
    from realignkit_plugins.rewards.preprocess import Preprocessing


class Captioner(ABC):
    """``p(caption | image)`` of an image-to-text network of transformers.

    The policy is the network as it is: no top-k, no repetition penalty, none of its generation defaults. So
    :meth:`sample` draws from exactly the distribution that :meth:`log_prob` states, cut at ``max_new_tokens``.

    *States* are what an image leaves in the network before a word is said, (B, …); computed once per image, with a
    gradient, and repeated for its captions. *Tokens* are int64 (N, L), N a multiple of B, of the caption alone.
    """

    def __init__(self, network: Any, tokenizer: Any, preprocessing: Preprocessing, max_new_tokens: int, prompt: str):
        self.network = network
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.speaker = self._speaker()
        defaults = self.speaker.generation_config
        ends, self.start = self._ends(), getattr(defaults, "decoder_start_token_id", None)
        if not ends:
            raise ModelError(
                f"{type(network).__name__} names no token that ends a caption. Set eos_token_id in its "
                f"generation_config.json."
            )
        self.ends = ends
        pads = (tokenizer.pad_token_id, defaults.pad_token_id, ends[0])
        self.pad = next(int(pad) for pad in pads if pad is not None)
        self.prefix = self._prefix(prompt)
        self.max_new_tokens = min(max_new_tokens, self._longest() - len(self.prefix))
        from transformers import GenerationConfig

        self.speaker.generation_config = GenerationConfig(
            eos_token_id=list(ends), pad_token_id=self.pad, decoder_start_token_id=self.start, max_length=None
        )

    @abstractmethod
    def encode(self, pixel_values: Tensor) -> Tensor:
        """States (B, …) of pixel values float (B, 3, h, w), differentiable."""

    @abstractmethod
    def logits(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Unnormalised log-probabilities (N, L, V) of each token given those before it; ``states``: (N, …)."""

    @abstractmethod
    def _generate(self, states: Tensor, **settings: Any) -> Tensor: ...

    def _speaker(self) -> Any:
        return self.network

    def _ends(self) -> tuple[int, ...]:
        for holder in (self.speaker.generation_config, self.network.generation_config, self.speaker.config):
            ends = getattr(holder, "eos_token_id", None)
            if ends is not None:
                return tuple(ends) if isinstance(ends, list | tuple) else (int(ends),)
        return () if self.tokenizer.eos_token_id is None else (int(self.tokenizer.eos_token_id),)

    def _prefix(self, prompt: str) -> list[int]:
        """Ids that captions continue."""
        start = next(i for i in (self.tokenizer.bos_token_id, self.tokenizer.cls_token_id, self.pad) if i is not None)
        return [int(start), *self.tokenizer(prompt, add_special_tokens=False)["input_ids"]]

    @torch.no_grad()
    def sample(self, states: Tensor, count: int) -> Tensor:
        """``count`` captions of each image, drawn from the policy with torch's global generator; (B * count, L)."""
        settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
        return self._generate(repeat(states.detach(), count), max_new_tokens=self.max_new_tokens, **settings)

    @torch.no_grad()
    def greedy(self, states: Tensor, num_beams: int = 1) -> Tensor:
        """The most likely caption of each image, word by word or by beam search; (B, L)."""
        settings = {"do_sample": False, "num_beams": num_beams}
        return self._generate(states.detach(), max_new_tokens=self.max_new_tokens, **settings)

    def mask(self, tokens: Tensor) -> Tensor:
        """Which tokens belong to the caption, bool (N, L): all up to and including the first that ends it."""
        ends = torch.isin(tokens, torch.tensor(self.ends, device=tokens.device))
        return ends.cumsum(-1) - ends.long() == 0

    def log_prob(self, states: Tensor, tokens: Tensor) -> Tensor:
        """``log p(caption | image)``, float32 (N,), differentiable in the states."""
        states = repeat(states, len(tokens) // len(states))
        each = self.logits(states, tokens).float().log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
        return (each * self.mask(tokens)).sum(-1)

    def decode(self, tokens: Tensor) -> list[str]:
        """The captions as text."""
        rows = [row[keep].tolist() for row, keep in zip(tokens, self.mask(tokens), strict=True)]
        return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]

    def pieces(self, tokens: Tensor) -> list[str]:
        """What each token of one caption (L,) adds to its text; the pieces joined are the text."""
        length = int(self.mask(tokens[None]).sum())
        texts = [self.tokenizer.decode(tokens[: i + 1].tolist(), skip_special_tokens=True) for i in range(length)]
        return [text[len(before) :] for before, text in zip(["", *texts], texts, strict=False)]

    def tokenize(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Texts as the network would say them, with the token that ends them; int64 (N, L), padded."""
        rows = [[*self._words(text), self.ends[0]] for text in texts]
        width = max(map(len, rows))
        return torch.tensor([row + [self.pad] * (width - len(row)) for row in rows], device=device)

    def _words(self, text: str) -> list[int]:
        words = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(words[: self._longest() - len(self.prefix) - 1])

    def _longest(self) -> int:
        """Most tokens, the prefix included."""
        config = self.network.config
        text = getattr(config, "text_config", None) or getattr(config, "decoder", None) or config
        return int(getattr(text, "max_position_embeddings", None) or 512)

    def _ids(self, count: int, device: torch.device, tokens: Tensor | None = None) -> Tensor:
        """The prefix, and all tokens but the last, which is only ever predicted."""
        prefix = torch.tensor(self.prefix, device=device).expand(count, -1)
        return prefix if tokens is None else torch.cat([prefix, tokens[:, :-1]], dim=1)


def repeat(states: Tensor, count: int) -> Tensor:
    """Each image's states ``count`` times in a row."""
    return states if count == 1 else states.repeat_interleave(count, dim=0)


class BLIPCaptioner(Captioner):
    """``BlipForConditionalGeneration``: the decoder attends to the vision encoder's states."""

    def _speaker(self) -> Any:
        return self.network.text_decoder

    def _ends(self) -> tuple[int, ...]:
        return (int(self.network.config.text_config.sep_token_id),)

    def _prefix(self, prompt: str) -> list[int]:
        words = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
        return [int(self.network.config.text_config.bos_token_id), *words]

    def encode(self, pixel_values: Tensor) -> Tensor:
        """The vision encoder's last hidden state (B, patches, D)."""
        states: Tensor = self.network.vision_model(pixel_values=pixel_values).last_hidden_state
        return states

    def logits(self, states: Tensor, tokens: Tensor) -> Tensor:
        """See :class:`Captioner`."""
        ids = self._ids(len(tokens), tokens.device, tokens)
        said = self.speaker(input_ids=ids, encoder_hidden_states=states, use_cache=False).logits
        return said[:, -tokens.shape[1] :]

    def _generate(self, states: Tensor, **settings: Any) -> Tensor:
        ids = self._ids(len(states), states.device)
        said = self.speaker.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=states, **settings
        )
        return said[:, ids.shape[1] :]


class BLIP2Captioner(Captioner):
    """``Blip2ForConditionalGeneration``: the language model continues the Q-Former's queries, or encodes them (T5)."""

    def _speaker(self) -> Any:
        return self.network.language_model

    def _prefix(self, prompt: str) -> list[int]:
        if self.speaker.config.is_encoder_decoder:
            return list(self.tokenizer(prompt)["input_ids"])
        words = self.tokenizer(prompt, add_special_tokens=False)["input_ids"] if prompt else []
        return [int(self.network.config.text_config.bos_token_id), *words]

    def _longest(self) -> int:
        heard = 0 if self.speaker.config.is_encoder_decoder else int(self.network.config.num_query_tokens)
        return super()._longest() - heard

    def encode(self, pixel_values: Tensor) -> Tensor:
        """The Q-Former's queries as the language model takes them (B, queries, D)."""
        states: Tensor = self.network.get_image_features(pixel_values=pixel_values).pooler_output
        return states

    def logits(self, states: Tensor, tokens: Tensor) -> Tensor:
        """See :class:`Captioner`."""
        if self.speaker.config.is_encoder_decoder:
            begin = torch.full_like(tokens[:, :1], int(self.start or 0))
            decoder_ids = torch.cat([begin, tokens[:, :-1]], dim=1)
            said: Tensor = self.speaker(
                inputs_embeds=self._embeds(states), decoder_input_ids=decoder_ids, use_cache=False
            ).logits
            return said
        said = self.speaker(inputs_embeds=self._embeds(states, tokens), use_cache=False).logits
        return said[:, -tokens.shape[1] :]

    def _generate(self, states: Tensor, **settings: Any) -> Tensor:
        embeds = self._embeds(states)
        mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        said: Tensor = self.speaker.generate(inputs_embeds=embeds, attention_mask=mask, **settings)
        return said[:, 1:] if self.speaker.config.is_encoder_decoder else said

    def _embeds(self, states: Tensor, tokens: Tensor | None = None) -> Tensor:
        words = self.speaker.get_input_embeddings()(self._ids(len(states), states.device, tokens))
        return torch.cat([states.to(words.dtype), words], dim=1)


class GeneralCaptioner(Captioner):
    """Any other image-to-text network: encoder-decoders (Florence-2, ViT + GPT-2 …) and decoders (GIT …).

    Their states are the pixel values themselves, so each sampled caption costs a pass through the vision encoder.
    """

    def _speaker(self) -> Any:
        network = self.network
        self.seq2seq = bool(getattr(network.config, "is_encoder_decoder", False))
        self.takes_text = "input_ids" in inspect.signature(network.forward).parameters
        return network

    def _prefix(self, prompt: str) -> list[int]:
        if self.seq2seq:
            if self.start is None:
                config = self.network.config
                self.start = getattr(config, "decoder_start_token_id", None) or self.tokenizer.bos_token_id or self.pad
            prefix = self.tokenizer(prompt)["input_ids"] if self.takes_text else []
        else:
            prefix = super()._prefix(prompt)
        token = getattr(self.network.config, "image_token_id", None)
        return list(prefix) if token is None else [int(token)] * self._image_tokens() + list(prefix)

    def _image_tokens(self) -> int:
        """How many placeholders stand for one image in the text."""
        with torch.no_grad():
            weight = next(self.network.parameters())
            blank = self.preprocessing(torch.zeros(1, 3, 64, 64)).to(weight.device, weight.dtype)
            seen = self.network.get_image_features(pixel_values=blank)
            seen = getattr(seen, "pooler_output", seen)
        return int(seen[0].shape[0] if isinstance(seen, list | tuple) else seen.shape[-2])

    def _words(self, text: str) -> list[int]:
        if not self.seq2seq:
            return super()._words(text)
        words = list(self.tokenizer(text)["input_ids"])
        words = words[1:] if words[:1] == [self.start] else words
        return (words[:-1] if words[-1:] == [self.ends[0]] else words)[: self._longest() - 2]

    def encode(self, pixel_values: Tensor) -> Tensor:
        """The pixel values."""
        return pixel_values

    def logits(self, states: Tensor, tokens: Tensor) -> Tensor:
        """See :class:`Captioner`."""
        if self.seq2seq:
            begin = torch.full_like(tokens[:, :1], int(self.start or 0))
            given = {"decoder_input_ids": torch.cat([begin, tokens[:, :-1]], dim=1)}
            if self.takes_text:
                given["input_ids"] = self._ids(len(tokens), tokens.device)
        else:
            given = {"input_ids": self._ids(len(tokens), tokens.device, tokens)}
        said: Tensor = self.network(pixel_values=states, **given, use_cache=False).logits
        return said[:, -tokens.shape[1] :]

    def _generate(self, states: Tensor, **settings: Any) -> Tensor:
        ids = self._ids(len(states), states.device)
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} if self.takes_text else {}
        said: Tensor = self.network.generate(pixel_values=states, **given, **settings)
        return said[:, 1:] if self.seq2seq else said[:, ids.shape[1] :]


def captioner_class(network: Any) -> type[Captioner]:
    """Which of the classes above speaks for a network."""
    kinds = {"blip": BLIPCaptioner, "blip-2": BLIP2Captioner}
    return kinds.get(network.config.model_type, GeneralCaptioner)
