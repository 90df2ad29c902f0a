"""Runs in the environment image-reward."""

from __future__ import annotations

import functools

import torch

torch.load = functools.partial(torch.load, weights_only=True)

import ImageReward  # noqa: E402
from ImageReward.models.BLIP import blip, blip_pretrain  # noqa: E402
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize  # noqa: E402

MAX_LENGTH = 35
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Plugin:
    """See :class:`realignkit_plugins.isolated.image_reward.ImageRewardPackage`."""

    def __init__(self, model, med_config, tokenizer, device):
        self.device = device
        blip_pretrain.init_tokenizer = functools.partial(_tokenizer, tokenizer)
        self.model = self.load(model, med_config).requires_grad_(False).eval()
        size = self.model.blip.visual_encoder.patch_embed.img_size[0]
        # As the package's ReFL, but that pixels are not left out where pictures shrink.
        resize = Resize(size, interpolation=InterpolationMode.BICUBIC, antialias=True)
        self.preprocess = Compose([resize, CenterCrop(size), Normalize(MEAN, STD)])

    def load(self, model, med_config):
        """The package's model."""
        return ImageReward.load(model, device=self.device, med_config=med_config or None)

    def __call__(self, images, prompts):
        """Standardised rewards (B,) of images (B, 3, H, W) in [0, 1]."""
        tokens = self.model.blip.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
        ).to(self.device)
        pixels = self.preprocess(images.to(self.device))
        return self.model.score_gard(tokens.input_ids, tokens.attention_mask, pixels)[:, 0]


def _tokenizer(name):
    tokenizer = blip.BertTokenizer.from_pretrained(name)
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    tokenizer.enc_token_id = tokenizer.additional_special_tokens_ids[0]
    return tokenizer
