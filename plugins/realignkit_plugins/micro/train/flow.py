"""The flow model: a small MMDiT in Stable Diffusion 3's layout, on the base model's latents and captions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn.functional import pad
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from realignkit_plugins.micro import checkpoints
from realignkit_plugins.micro.train.base import (
    CAPTION_DROPOUT,
    SCENES,
    caption_ids,
    caption_noise,
    encode_scenes,
    place_phrases,
    save_pipeline,
)
from realignkit_plugins.micro.train.data import SCENE_SEEDS, Ahead, processes, scenes
from realignkit_plugins.micro.train.loop import Schedule
from realignkit_plugins.micro.train.patches import PatchHead, all_labels
from realignkit_plugins.micro.train.recipe import Recipe
from realignkit_plugins.micro.train.replay import Outcome, Replayed
from realignkit_plugins.micro.train.tokenizer import text_settings
from realignkit_plugins.micro.world import caption

_A = TypeVar("_A")

WIDTHS = (128, 64)
"""Of the two text encoders."""
MAX_NULLS = 256
"""The pipeline puts as many zero tokens where T5's would stand."""
HIDDEN = -1e4
"""What is added to the logits of tokens that stand behind."""
READ_AT = 2
"""The block after which image tokens must know what they show."""
READING = 0.1
"""Weight of that loss."""


def build_transformer() -> SD3Transformer2DModel:
    """Six joint blocks of 160 on 8 x 8 patches; queries and keys normalised, as in SD3.5."""
    model = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=5,
        joint_attention_dim=sum(WIDTHS),
        caption_projection_dim=160,
        pooled_projection_dim=sum(WIDTHS),
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        # Every block starts as the identity, and the output as zero (Peebles and Xie, 2023).
        if isinstance(module, nn.Linear) and (name == "proj_out" or "norm" in name):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int) -> CLIPTextModelWithProjection:
    """The transformer reads tokens before the last layer, and of the whole prompt what a projection makes of it.

    The projection starts as the identity, and so does the last layer.
    """
    encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            attn_implementation="eager",
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            **text_settings(tokenizer),
        )
    )
    nn.init.eye_(encoder.text_projection.weight)
    last = encoder.text_model.encoder.layers[-1]
    for branch in (last.self_attn.out_proj, last.mlp.fc2):
        nn.init.zeros_(branch.weight)
    return encoder


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Straight paths from noise to data; so few tokens need no shift towards noise."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


class ManyNulls:
    """Joint attention in which the last text token, a null, counts as many times as it is told.

    Null tokens are all alike and have no position, so that they stay alike in every block: to attend to n of them is to
    attend to one whose logit is higher by log n. In training this saves three quarters of the tokens.
    """

    def __init__(self) -> None:
        self.bias = torch.zeros(0)
        """Float (B,): the logarithm of how many they are."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image tokens (B, N, C) and text tokens (B, L, C) after joint attention."""
        image, text = hidden_states, encoder_hidden_states

        def heads(x: torch.Tensor, norm: nn.Module | None = None) -> torch.Tensor:
            x = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return norm(x) if norm else x

        query = torch.cat([heads(attn.to_q(image), attn.norm_q), heads(attn.add_q_proj(text), attn.norm_added_q)], 2)
        key = torch.cat([heads(attn.to_k(image), attn.norm_k), heads(attn.add_k_proj(text), attn.norm_added_k)], 2)
        value = torch.cat([heads(attn.to_v(image)), heads(attn.add_v_proj(text))], 2)
        # Written out: of a hundred tokens, the backward pass of the fused one takes longer than all the rest.
        bias = pad(self.bias[:, None, None, None], (key.shape[2] - 1, 0))
        scores = (query @ key.transpose(2, 3)).mul(query.shape[-1] ** -0.5) + bias.to(query.dtype)
        out = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        image, text = out.split([image.shape[1], text.shape[1]], 1)
        return attn.to_out[0](image), text if attn.context_pre_only else attn.to_add_out(text)


class Lesson(NamedTuple, Generic[_A]):
    """What a step learns from, in numpy's arrays or torch's tensors.

    Attributes:
        pick: numbers of the scenes, int64 (B,).
        ids: tokens of their captions and of phrases, as :func:`caption_ids`.
        sources: where the captions' states come from, likewise.
    """

    pick: _A
    ids: _A
    sources: _A


class FlowRecipe(Recipe):
    """Transformer and text encoders together, on cached latents of the base model's autoencoder.

    The first text encoder starts as the base model's. A head that is dropped reads from half-way up the transformer
    what each patch of the true picture shows: from the noise, or else from the caption.
    """

    name = "flow"
    anywhere = True
    schedule = Schedule(steps=8000, batch_size=256, learning_rate=3e-3, warmup=100, cooldown=0.4)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        base, cache = checkpoints.path("base"), self.work / "cache"
        self.tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        self.vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32)
        self.vae.register_to_config(shift_factor=0.0)  # of which the pipeline takes no None
        self.transformer = build_transformer()
        self.text_encoder = build_text_encoder(self.tokenizer, WIDTHS[0], layers=3)
        self.text_encoder_2 = build_text_encoder(self.tokenizer, WIDTHS[1], layers=2)
        trained = CLIPTextModel.from_pretrained(base / "text_encoder", torch_dtype=torch.float32)
        # With or without the prefix, by transformers' version.
        weights = {name.removeprefix("text_model."): tensor for name, tensor in trained.state_dict().items()}
        self.text_encoder.text_model.load_state_dict(weights, strict=False)
        self.nulls = ManyNulls()
        self.transformer.set_attn_processor(self.nulls)
        # The last block's text tokens end there: what they attend to is nobody's business.
        self.transformer.transformer_blocks[-1].attn.add_q_proj.requires_grad_(False)
        self.head = PatchHead(self.transformer.inner_dim)
        parts = {name: getattr(self, name) for name in ("transformer", "text_encoder", "text_encoder_2", "head")}
        device = self.machine.device
        with processes(self.machine.workers):
            self.described = scenes(SCENE_SEEDS["base"], SCENES)
            self.labels = torch.from_numpy(all_labels(SCENE_SEEDS["base"], SCENES, cache)).to(device)
            self.latents = encode_scenes(self.vae.to(device), SCENES, cache).to(device)
        self.learner = nn.ModuleDict(parts).to(device)
        self.lessons = Ahead(self._lesson, self.machine.workers)
        self._read: torch.Tensor | None = None
        self.transformer.transformer_blocks[READ_AT].register_forward_hook(self._keep)
        self.replayed = Replayed(self._compare, self.learner, record=self.latents.is_cuda)

    def loss(self, step: int, generator: torch.Generator) -> Outcome:
        """The velocity's squared error at logit-normal times, and what the patches fail to say."""
        lesson = Lesson(*(self._there(array) for array in self.lessons.of(step)))
        count, device, ids = len(lesson.pick), self.latents.device, lesson.ids
        if self.replayed.record:  # of one shape in all steps: room for as many phrases as there are captions
            ids = pad(ids, (0, 0, 0, max(0, 2 * count - len(ids))))
        noise = torch.randn((count, *self.latents.shape[1:]), generator=generator, device=device)
        # One time from each of B equal slices: the same distribution, less variance.
        uniform = torch.rand(count, generator=generator, device=device) + torch.arange(count, device=device)
        sigma = torch.special.ndtri((uniform / count).clamp(1e-4, 1 - 1e-4)).sigmoid()
        # None of the numbers of nulls that a pipeline may ask for (max_sequence_length) is to be strange.
        nulls = torch.rand(count, generator=generator, device=device) * math.log(MAX_NULLS)
        return self.replayed(lesson.pick, ids, lesson.sources, noise, sigma, nulls)

    def _compare(
        self,
        pick: torch.Tensor,
        ids: torch.Tensor,
        sources: torch.Tensor,
        noise: torch.Tensor,
        sigma: torch.Tensor,
        nulls: torch.Tensor,
    ) -> Outcome:
        """The loss of a :class:`Lesson` with noise (B, C, H, W), at times (B,), with the logarithms of nulls (B,)."""
        x, at = self.latents[pick].float(), sigma[:, None, None, None]
        self.nulls.bias = nulls
        with torch.autocast(x.device.type, torch.bfloat16):
            text, pooled = self._encode(ids, sources)
            predicted = self.transformer((1 - at) * x + at * noise, text, pooled, sigma * 1000).sample
        error = (predicted.float() - (noise - x)).square().mean()
        read, self._read = self._read, None
        assert read is not None
        reading = self.head.patch_loss(read.float(), self.labels[pick].long())
        return error + READING * reading, {"mse": error, "reading": reading}

    def _lesson(self, step: int) -> Lesson:
        """Which scenes a step shows, and what they are called."""
        rng = np.random.default_rng([self.seed, step])
        pick = rng.integers(SCENES, size=self.schedule.batch_size)
        prompts = [
            "" if rng.random() < CAPTION_DROPOUT else caption(self.described[i], rng, caption_noise(step)) for i in pick
        ]
        ids, sources = caption_ids(self.tokenizer, prompts, rng)
        return Lesson(pick, ids.numpy(), sources.numpy())

    def _there(self, array: npt.NDArray[np.int64]) -> torch.Tensor:
        """On the device, without waiting for what it is still busy with."""
        tensor = torch.from_numpy(array)
        if self.latents.is_cuda:
            tensor = tensor.pin_memory()
        return tensor.to(self.latents.device, non_blocking=True)

    def _keep(self, module: nn.Module, arguments: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._read = output[1]

    def _encode(self, ids: torch.Tensor, sources: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the pipeline makes of captions, with one null: float (B, 33, C) and (B, C)."""
        # Causal, as the encoders' own would be, which is made by asking the device.
        behind = torch.full((ids.shape[1], ids.shape[1]), HIDDEN, device=ids.device).triu(1)
        mask = behind.expand(len(ids), 1, -1, -1)
        encoders = self.text_encoder, self.text_encoder_2
        outputs = [each(ids, attention_mask=mask, output_hidden_states=True) for each in encoders]
        hidden = place_phrases(torch.cat([output.hidden_states[-2] for output in outputs], -1), sources)
        pooled = torch.cat([output.text_embeds for output in outputs], -1)[: len(sources)]
        return torch.cat([hidden, torch.zeros_like(hidden[:, :1])], 1), pooled

    def pipeline(self) -> StableDiffusion3Pipeline:
        """What is trained, as a plain pipeline without T5."""
        return StableDiffusion3Pipeline(
            transformer=self.transformer,
            scheduler=scheduler(),
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        )

    def finish(self, folder: Path) -> None:
        """Write a plain ``StableDiffusion3Pipeline`` folder in fp16 safetensors."""
        save_pipeline(self.pipeline(), folder)
