"""The BLIP reward: a tiny ``BlipForImageTextRetrieval`` with both of its heads."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from transformers import BlipConfig, BlipForImageTextRetrieval

from realignkit_plugins.micro.train.loop import Schedule
from realignkit_plugins.micro.train.rewards import MAX_LENGTH, VISION, Batch, Mistake, RewardRecipe
from realignkit_plugins.rewards.blip import BLIPReward

TEMPERATURE = 0.07


class BLIPRecipe(RewardRecipe):
    """Matching of pictures and captions, and the contrast of their features."""

    name = "blip"
    schedule = Schedule(steps=1300, batch_size=48, learning_rate=2.5e-3, warmup=100, ema=0.995)
    taught_words = True

    def build(self) -> BlipForImageTextRetrieval:
        """A 4-layer vision transformer on 8 x 8 patches and a 3-layer text encoder that attends to it."""
        tokens = self.tokenizer()
        text = {
            "vocab_size": len(tokens),
            "hidden_size": 96,
            "encoder_hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": MAX_LENGTH,
            "pad_token_id": tokens.pad_token_id,
            "sep_token_id": tokens.sep_token_id,
            "eos_token_id": tokens.sep_token_id,
            "bos_token_id": tokens.convert_tokens_to_ids("[DEC]"),
        }
        return BlipForImageTextRetrieval(BlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=64))

    def encode(self, captions: list[str], seen: torch.Tensor | None = None) -> torch.Tensor:
        """The text encoder's hidden states, perhaps having seen the pictures."""
        read = self.read(captions)
        hidden: torch.Tensor = self.model.text_encoder(
            input_ids=read["input_ids"], attention_mask=read["attention_mask"], encoder_hidden_states=seen
        ).last_hidden_state
        return hidden

    def objective(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Matching: the pair, two wrong captions, another picture's caption, and a malformed picture."""
        model, size = self.model, len(batch.images)
        seen, malformed = self.seeing.see(torch.cat([batch.images, batch.malformed]) * 2 - 1).chunk(2)
        second: Mistake = "replaced" if step % 2 else "missing"
        wrong = [*batch.wrong["swapped"], *batch.wrong[second]]
        captions = [*batch.captions, *wrong, *batch.captions[1:], batch.captions[0], *batch.captions]
        hidden = self.encode(captions, torch.cat([seen, seen, seen, seen, malformed]))
        logits = model.itm_head(hidden[:, 0])
        matches = torch.tensor([1, 0, 0, 0, 0]).repeat_interleave(size)
        # Four negatives to a positive: weigh them so that 0.5 stays the middle.
        itm = cross_entropy(logits, matches, torch.tensor([1 / 4, 1.0]))
        # And each pair before its own four spoilt ones: what is alike in all of a picture's captions drops out.
        better, *worse = (logits[:, 1] - logits[:, 0]).chunk(5)
        compared = -torch.stack([logsigmoid(better - each) for each in worse]).mean()
        true = self.words.loss(hidden, captions, [*batch.scenes * 4, *[None] * size])
        text = normalize(model.text_proj(self.encode([*batch.captions, *wrong])[:, 0]), dim=-1)
        image = normalize(model.vision_proj(torch.cat([seen, malformed])[:, 0]), dim=-1)
        target = torch.arange(size)
        itc = cross_entropy(image[:size] @ text.T / TEMPERATURE, target)
        itc = itc + cross_entropy(text[:size] @ image.T / TEMPERATURE, target)
        # The own wrong captions alone: with a hundred others around, a swapped colour hardly counts.
        margins = text.unflatten(0, (-1, size)).transpose(0, 1) @ image[:size, :, None] / TEMPERATURE
        itc = itc + cross_entropy(margins.squeeze(-1), torch.zeros(size, dtype=torch.long))
        patches = self.seeing.patch_loss(seen, batch.patches)
        parts = {"itm": itm, "compared": compared, "itc": itc, "patches": patches, "words": true}
        return itm + compared + 0.5 * itc + patches + true, parts

    def judges(self, folder: Path) -> dict[str, BLIPReward]:
        """Both heads."""
        return {f"blip, {head}": BLIPReward(model=str(folder), head=head) for head in ("itm", "itc")}
