"""A pipeline's networks as functions of tensors: read a prompt, predict noise, decode and encode images, and draw.

SD-1.x, SD-2.x, SDXL, SD3 and FLUX.1 text-to-image pipelines; everything is differentiable unless its caller switches
that off.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from realignkit.contracts import parse_options
from realignkit.errors import OptionError
from realignkit.pipelines import encoding, families
from realignkit.pipelines.families import check_size, image_size, place
from realignkit.pipelines.generate import generate
from realignkit.pipelines.images import Autoencoder, overflows
from realignkit.refl import losses
from realignkit.refl.denoisers import DENOISERS, Conditioning
from realignkit.refl.noise import noise_of
from realignkit.refl.refusals import check_trainable, text_encoders
from realignkit.resolve import SamplingOptions

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Text:
    """What the network reads: ``embeddings`` (B, K, C) and, for SDXL and flow transformers, ``pooled`` (B, P)."""

    embeddings: Tensor
    pooled: Tensor | None = None

    def followed_by(self, other: Text) -> Text:
        """Both, one after the other along the batch."""
        pooled = None if self.pooled is None or other.pooled is None else torch.cat([self.pooled, other.pooled])
        return Text(torch.cat([self.embeddings, other.embeddings]), pooled)

    def at(self, rows: Sequence[int]) -> Text:
        """Some of them, by their places in the batch, in this order; one may come several times."""
        return Text(self.embeddings[rows], None if self.pooled is None else self.pooled[rows])


class Networks:
    """The networks of a pipeline, frozen, on its device, in the training's precision.

    Args:
        pipeline: SD-1.x/2.x, SDXL, SD3 or FLUX.1; it is changed: moved, frozen, cast.
        device: where to compute.
        precision: ``no``, ``fp16`` or ``bf16``.
        height, width: of the images, in pixels; None: the model's own.
        negative_prompt: what guidance steers away from.
        learns: the parts whose own weights will, ``unet`` and ``text_encoder``. As the pipeline will be saved, nothing
            is rounded then; it runs in ``precision`` all the same.

    Attributes:
        unet: what :meth:`predict` runs, or the transformer in its place; may be exchanged.
        component: what the pipeline calls it.
        latent_shape: (C, h, w).
        image_size: (width, height) in pixels.
        noise: the noise that it was trained with, and what it predicts of it.
        learns_text: whether text encoders or adapters of theirs learn, with which :meth:`text` is differentiable.

    Raises:
        ModelError: a pipeline that cannot learn here.
        OptionError: ``height`` or ``width`` do not suit the model, or its own weights have been rounded.
    """

    def __init__(
        self,
        pipeline: Any,
        device: torch.device,
        precision: str,
        *,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str = "",
        learns: Collection[str] = (),
    ) -> None:
        check_trainable(pipeline)
        check_size(pipeline, height, width)
        if learns:
            check_full_precision(pipeline, learns)
        self.pipeline, self.device = pipeline, device
        self.dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        vae = pipeline.vae
        self.component = families.denoiser_name(pipeline)
        self.unet: Any = getattr(pipeline, self.component)
        kept = vae.dtype == torch.float32 != self.unet.dtype  # by whoever loaded the rest in half precision
        upcast = self.dtype != torch.float32 and (overflows(vae, self.dtype) or kept)
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                full = bool(learns) or (name == "vae" and upcast)
                place(part.requires_grad_(False).eval(), device, torch.float32 if full else self.dtype)
        self.autoencoder = Autoencoder(vae, self.dtype, upcast=upcast)
        self.decode, self.encode = self.autoencoder.decode, self.autoencoder.encode
        self.learns_text, self._negative_prompt = "text_encoder" in learns, negative_prompt
        self.image_size = image_size(pipeline, width, height)
        self._denoiser = DENOISERS[str(families.attention_family(pipeline))]
        if self.distilled and negative_prompt:
            raise OptionError(
                f"a {type(pipeline).__name__} is trained without true guidance, in which a negative prompt acts: leave "
                "sampling.negative_prompt out."
            )
        scale = pipeline.vae_scale_factor
        self.latent_shape = (
            int(self.unet.config.in_channels) // self._denoiser.packed,
            self.image_size[1] // scale,
            self.image_size[0] // scale,
        )
        tokens = self.latent_shape[1] * self.latent_shape[2] // self._denoiser.packed
        self.noise = noise_of(pipeline.scheduler, device, tokens)
        self._texts: dict[str, tuple[Tensor, Tensor | None]] = {}

    @property
    def distilled(self) -> bool:
        """Whether the model is told the guidance scale, or knows none: no unconditional prediction guides it."""
        return self._denoiser.distilled

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Half precision where the training uses it."""
        if self.dtype == torch.float32:
            yield
            return
        with torch.autocast(self.device.type, self.dtype):
            yield

    def text(self, prompts: Sequence[str]) -> Text:
        """Embeddings of prompts, the empty one and the negative one included.

        Each is computed once and kept; where the text encoder learns, anew, with a gradient.
        """
        return self._live_text(prompts) if self.learns_text else self._kept_text(prompts)

    def _live_text(self, prompts: Sequence[str]) -> Text:
        with self.autocast():
            embeddings, pooled = encoding.encode_texts(self.pipeline, list(prompts))
        if pooled is not None and getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False):
            filled = torch.tensor([bool(prompt) for prompt in prompts], device=pooled.device)
            embeddings, pooled = embeddings * filled.view(-1, 1, 1), pooled * filled.view(-1, 1)
        return Text(embeddings.to(self.device), None if pooled is None else pooled.to(self.device))

    @torch.no_grad()
    def _kept_text(self, prompts: Sequence[str]) -> Text:
        for prompt in prompts:
            if prompt not in self._texts:
                # One by one: rounding depends on what shares a batch, and a resumed run must not notice.
                embeddings, pooled = encoding.encode_texts(self.pipeline, [prompt])
                # As the pipeline does: SDXL was trained with zeros for the empty prompt.
                zero = bool(getattr(self.pipeline.config, "force_zeros_for_empty_prompt", False)) and pooled is not None
                factor = 0 if zero and not prompt else 1
                self._texts[prompt] = (
                    (embeddings[0] * factor).cpu(),
                    None if pooled is None else (pooled[0] * factor).cpu(),
                )
        kept = [self._texts[prompt] for prompt in prompts]
        both = [[item[part] for item in kept if item[part] is not None] for part in (0, 1)]
        stacked = [torch.stack(rows).to(self.device) if rows else None for rows in both]  # type: ignore[arg-type]
        assert stacked[0] is not None
        return Text(stacked[0], stacked[1])

    def unconditional(self, count: int) -> Text:
        """What guidance steers away from, for so many pictures."""
        return self.text([self._negative_prompt] * count)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance_scale: float | None = None) -> Tensor:
        """The network's prediction for latents (B, C, h, w) at a timestep () or (B,); float32.

        ``guidance_scale``: what a distilled network is told; None: 1, as for pictures that nothing guided.
        """
        scale = 1.0 if guidance_scale is None else guidance_scale
        with self.autocast():
            given = Conditioning(timestep, text.embeddings, text.pooled, self.image_size, scale)
            return self._denoiser.predict(self.unet, latents, given).float()

    def predict_x0(self, latents: Tensor, timestep: Tensor, prediction: Tensor) -> Tensor:
        """The clean latents (B, C, h, w) that a prediction for latents at a timestep () or (B,) jumps to."""
        return losses.predict_x0(latents, prediction, self.noise.level(timestep), self.noise.kind)

    def guided(self, latents: Tensor, timestep: Tensor, text: Text, guidance_scale: float) -> tuple[Tensor, Tensor]:
        """The guided prediction and the conditional one, gradients flowing through both halves of the guidance."""
        if guidance_scale <= 1 or self.distilled:
            prediction = self.predict(latents, timestep, text, guidance_scale)
            return prediction, prediction
        timestep = torch.cat([timestep, timestep]) if timestep.dim() else timestep
        both = self.predict(torch.cat([latents, latents]), timestep, self.unconditional(len(latents)).followed_by(text))
        unconditional, conditional = both.chunk(2)
        return losses.guide(unconditional, conditional, guidance_scale), conditional

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Mapping[str, Any]) -> list[Image]:
        """Pictures (RGB) of prompts as the pipeline itself draws them, by its own scheduler; seeds decide alone.

        The U-Net runs in the training's precision, text encoders in their own, and the VAE as in :attr:`decode`.

        Args:
            prompts: one per picture.
            seeds: one per picture.
            sampling: of :func:`realignkit.pipelines.generate.generate`.

        Raises:
            ModelError: the model computed NaN or infinity.
        """
        unet = getattr(self.pipeline, self.component)
        forward, before = unet.forward, vars(unet).get("forward")

        def predict(*arguments: Any, **options: Any) -> Any:
            with self.autocast():
                return forward(*arguments, **options)

        unet.forward = predict
        try:
            return generate(self.pipeline, list(prompts), list(seeds), **sampling)
        finally:
            del unet.forward
            if before is not None:  # a hook's
                unet.forward = before


def check_full_precision(pipeline: Any, learns: Collection[str]) -> None:
    """Refuse to let weights of the model itself learn that have been rounded while they were loaded.

    Args:
        pipeline: to be trained.
        learns: see :class:`Networks`.

    Raises:
        OptionError: they are in half precision.
    """
    denoiser = (families.denoiser_name(pipeline),) if "unet" in learns else ()
    for name in (*denoiser, *(text_encoders(pipeline) if "text_encoder" in learns else ())):
        part = getattr(pipeline, name, None)
        dtypes = set() if part is None else {p.dtype for p in part.parameters()} - {torch.float32, torch.float64}
        if dtypes:
            rounded = str(dtypes.pop()).removeprefix("torch.")
            raise OptionError(
                f"trainable={'unet' if 'unet' in learns else 'text_encoder'} would start from weights of the {name} "
                f"that were rounded to {rounded}. Load the model in float32 (generator.dtype=fp32); training still "
                f"computes as mixed_precision says."
            )


def drawing_options(pipeline: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """How the model is used, for :meth:`Networks.draw`: as given, else by the pipeline's defaults.

    Args:
        pipeline: whose defaults.
        given: see :class:`realignkit.resolve.SamplingOptions`.

    Raises:
        OptionError: an unknown name or a bad value.
    """
    defaults = inspect.signature(type(pipeline).__call__).parameters
    names = ("num_inference_steps", "guidance_scale")
    chosen = parse_options(SamplingOptions, given, owner="sampling").model_dump(exclude_none=True)
    return {**{name: defaults[name].default for name in names}, **chosen}
