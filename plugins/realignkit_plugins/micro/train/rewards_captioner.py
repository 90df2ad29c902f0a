"""The caption reward's captioner: a tiny BLIP-2 (vision transformer, Q-Former, OPT)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import softplus
from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

from realignkit_plugins.micro.train.attack import attacked
from realignkit_plugins.micro.train.loop import Schedule, fit
from realignkit_plugins.micro.train.rewards import MISTAKES, VISION, Batch, Mistake, RewardRecipe
from realignkit_plugins.micro.train.tokenizer import MAX_LENGTH, build_tokenizer, text_settings
from realignkit_plugins.rewards.caption import CaptionReward

RADIUS = 6.0
"""How far attacked pictures may be from the clean ones (L2); another colour for one object is three times that."""
NOTHING = "a picture"
"""What malformed pictures are captioned, so that they earn nothing."""
MARGIN = 3.0
"""By how many nats a true caption should be likelier than one with a mistake."""
QUERIES = 12


class CaptionerRecipe(RewardRecipe):
    """What a picture is called, and by how much a wrong caption is less likely; then the same on attacked pictures."""

    name = "captioner"
    schedule = Schedule(steps=1600, batch_size=48, learning_rate=3e-3, warmup=100, ema=0.995)
    hardening = Schedule(steps=260, batch_size=32, learning_rate=1.5e-3, warmup=20, ema=0.99)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.hardening = self.shortened(self.hardening)

    def build(self) -> Blip2ForConditionalGeneration:
        """A 4-layer vision transformer on 8 x 8 patches, a 2-layer Q-Former of 12 queries, a 2-layer OPT."""
        tokens = self.tokenizer()
        q_former = {
            "hidden_size": 96,
            "encoder_hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "cross_attention_frequency": 1,
            "vocab_size": 8,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        speaker = OPTConfig(
            hidden_size=96,
            word_embed_proj_dim=96,
            ffn_dim=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            dropout=0.0,
            **{**text_settings(tokens), "max_position_embeddings": MAX_LENGTH + QUERIES},
        )
        config = Blip2Config(
            vision_config=VISION,
            qformer_config=q_former,
            text_config=speaker.to_dict(),
            num_query_tokens=QUERIES,
            image_token_index=tokens.convert_tokens_to_ids("<image>"),
        )
        model = Blip2ForConditionalGeneration(config)
        torch.nn.init.normal_(
            model.query_tokens, std=0.5
        )  # as published they start at zero, and would all stay the same
        return model

    def tokenizer(self) -> Any:
        """The base model's words, and BLIP-2's placeholder for the image."""
        tokens = build_tokenizer()
        tokens.add_special_tokens({"additional_special_tokens": ["<image>"]})
        return tokens

    def log_prob(self, states: torch.Tensor, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """``log p(caption | image)`` and the number of tokens, each (B,)."""
        rows = self.read(captions)
        ids, mask = rows["input_ids"], rows["attention_mask"]
        speaker = self.model.language_model
        embeds = torch.cat([states, speaker.get_input_embeddings()(ids[:, :-1])], dim=1)
        logits = speaker(inputs_embeds=embeds).logits[:, QUERIES:]
        each = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1) * mask[:, 1:]
        return each.sum(-1), mask[:, 1:].sum(-1)

    def look(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tower's hidden states, and what the language model is given of them."""
        hidden = self.seeing.see(pictures * 2 - 1)
        queries = self.model.query_tokens.expand(len(hidden), -1, -1)
        read = self.model.qformer(query_embeds=queries, encoder_hidden_states=hidden).last_hidden_state
        return hidden, self.model.language_projection(read)

    def objective(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Of all clean pictures, and a quarter of the malformed ones."""
        return self.judged(self.shown(batch), batch, MISTAKES[step % len(MISTAKES)])

    def shown(self, batch: Batch) -> torch.Tensor:
        """The clean pictures, then some malformed ones."""
        return torch.cat([batch.images, batch.malformed[: len(batch.images) // 4]])

    def judged(
        self, pictures: torch.Tensor, batch: Batch, kind: Mistake
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The objective of pictures in the order of :meth:`shown`."""
        size, some = len(batch.images), len(pictures) - len(batch.images)
        hidden, states = self.look(pictures)
        said, length = self.log_prob(states, [*batch.captions, *[NOTHING] * some])
        spoken = -said.sum() / length.sum()
        wrong, _ = self.log_prob(states[:size], batch.wrong[kind])
        spoilt, _ = self.log_prob(states[size:], batch.captions[:some])
        told_apart = softplus(MARGIN - (said[:size] - wrong)).mean() + softplus(MARGIN - (said[:some] - spoilt)).mean()
        patches = self.seeing.patch_loss(hidden[:size], batch.patches)
        parts = {"spoken": spoken, "apart": told_apart, "patches": patches}
        return spoken + 0.1 * told_apart + patches, parts

    def hardened(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The same of pictures changed towards what they are not."""
        batch = self.pairs.batch(self.schedule.steps + step, self.hardening.batch_size, generator)
        some, kind = len(batch.images) // 4, MISTAKES[step % len(MISTAKES)]
        true, lured = [*batch.captions, *[NOTHING] * some], [*batch.wrong[kind], *batch.captions[:some]]

        def gain(pictures: torch.Tensor) -> torch.Tensor:
            states = self.look(pictures)[1]
            return self.log_prob(states, lured)[0] - self.log_prob(states, true)[0]

        radius = RADIUS * min(1.0, (step + 1) / (0.4 * self.hardening.steps))
        return self.judged(attacked(self.shown(batch), gain, radius, generator), batch, kind)

    def fit(self) -> None:
        """Both trainings."""
        super().fit()
        fit(self.learner, self.hardened, self.hardening, self.seed, self.work / "captioner_hardened")

    def judges(self, folder: Path) -> dict[str, Any]:
        """The likelihood and eq. 4, where there is a text encoder."""
        text_encoder = self.out / "caption_text_encoder"
        if not text_encoder.is_dir():
            return {}
        given = {"captioner": str(folder), "text_encoder": str(text_encoder)}
        likelihood = CaptionReward(**given, estimator="likelihood")
        return {"caption, likelihood": likelihood, "caption, eq. 4": CaptionReward(**given).reported}
