"""The fine stage's cost on networks of full size: seconds and memory of a refinement beside the stock pipeline's.

    python benchmarks/full_size.py                     # SD-1.5, SDXL and FLUX.1: a minute on a GPU of 40 GB
    python benchmarks/full_size.py --models sd15       # one of them
    python benchmarks/full_size.py --models flux --steps 4    # half a minute
    python benchmarks/full_size.py --smoke             # the smallest at 64 pixels and two steps, on a CPU

Denoiser and decoder have the shapes of the published checkpoints and random weights, which cost what trained ones do;
text encoders have a layer or two, for a prompt is read once. All ways draw one picture with the same steps, in turn,
from the same noise; of the seconds the median is shown. Modulated as by default (three tenths of the steps), and at
every step. The layout has three objects, which share the left three quarters. Beside whole pictures, decoding included,
stand the single steps: the denoiser's forward pass, modulated, beside one that is not.
Prints a Markdown table and writes ``benchmarks/results/full_size.json``.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realignkit.attention.config import ModulationConfig
from realignkit.attention.sampler import refine
from realignkit.files import atomic_write
from realignkit.pipelines.generate import generate
from realignkit.types import Layout, Likelihood, LocalCaption, Segment

PROMPT = "a red car, a blue bird and a green clock"
PHRASES = ("a red car", "a blue bird", "a green clock")
WAYS = ("stock", "modulated", "every step")


def clip_tokenizer() -> Any:
    """The embedded model's, which has as many places as CLIP's."""
    from transformers import CLIPTokenizer

    from realignkit_plugins.micro import checkpoints

    return CLIPTokenizer.from_pretrained(checkpoints.path("base") / "tokenizer", model_max_length=77)


def clip(kind: str, tokenizer: Any, width: int) -> Any:
    """A CLIP text encoder of two layers."""
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        eos_token_id=tokenizer.eos_token_id,
    )
    return getattr(transformers, kind)(config)


def t5() -> tuple[Any, Any]:
    """T5's tokenizer with letters for words, and an encoder of one layer, as wide as T5-XXL."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0)]
    pieces += [(piece, -2.0) for piece in ["▁", ",", *"abcdefghijklmnopqrstuvwxyz"]]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0)
    config = T5Config(vocab_size=len(tokenizer), d_model=4096, d_kv=64, d_ff=64, num_layers=1, num_heads=1)
    return tokenizer, T5EncoderModel(config)


def autoencoder(channels: int, **config: Any) -> Any:
    """Of Stable Diffusion's shape."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=channels,
        **config,
    )


def sd15() -> Any:
    """Stable Diffusion 1.5."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer = clip_tokenizer()
    return StableDiffusionPipeline(
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        vae=autoencoder(4),
        text_encoder=clip("CLIPTextModel", tokenizer, 768),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    """Stable Diffusion XL."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=autoencoder(4),
        text_encoder=clip("CLIPTextModel", tokenizer, 768),
        tokenizer=tokenizer,
        text_encoder_2=clip("CLIPTextModelWithProjection", tokenizer, 1280),
        tokenizer_2=tokenizer,
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1),
        add_watermarker=False,
    )


def flux() -> Any:
    """FLUX.1-dev."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer = clip_tokenizer()
    tokenizer_2, text_encoder_2 = t5()
    return FluxPipeline(
        transformer=FluxTransformer2DModel(guidance_embeds=True),
        vae=autoencoder(16, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159),
        text_encoder=clip("CLIPTextModel", tokenizer, 768),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
    )


MODELS: dict[str, tuple[Callable[[], Any], int, int]] = {
    "sd15": (sd15, 512, 20),
    "sdxl": (sdxl, 1024, 10),
    "flux": (flux, 1024, 8),
}
"""What builds each, the pixels of a side, and steps: fewer than users take, as ratios hardly depend on them."""


def build(name: str, device: str, dtype: torch.dtype) -> Any:
    """A pipeline with random weights, made where it runs; nothing of it is NaN."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            pipeline = MODELS[name][0]()
    finally:
        torch.set_default_dtype(before)
    pipeline.to(device, dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def layout(side: int) -> Layout:
    """Three objects side by side, and a quarter of background."""
    masks = np.zeros((3, side, side), bool)
    for index, mask in enumerate(masks):
        mask[:, index * side // 4 : (index + 1) * side // 4] = True
    captions = [LocalCaption(phrase, phrase, Likelihood.CERTAIN) for phrase in PHRASES]
    return Layout(tuple(Segment(caption, mask) for caption, mask in zip(captions, masks, strict=True)))


class Clock:
    """Milliseconds of each forward pass of a network."""

    def __init__(self, network: Any, device: str) -> None:
        self.events = device == "cuda"
        self.marks: list[Any] = []
        network.register_forward_pre_hook(self._mark)
        network.register_forward_hook(self._mark)

    def _mark(self, *_: Any) -> None:
        if self.events:  # in the stream, so that nothing waits
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def read(self) -> list[float]:
        """Of all passes since it was last read."""
        pairs, self.marks = list(zip(self.marks[::2], self.marks[1::2], strict=True)), []
        return [begin.elapsed_time(end) if self.events else 1e3 * (end - begin) for begin, end in pairs]


def measured(name: str, device: str, dtype: torch.dtype, side: int, steps: int, repeats: int) -> dict[str, Any]:
    """Seconds and peak memory of all ways, and milliseconds of a forward pass with and without modulation."""
    pipeline, objects = build(name, device, dtype), layout(side)
    clock = Clock(pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet, device)
    passes: dict[str, list[float]] = {way: [] for way in WAYS}
    sizes: dict[str, Any] = {"num_inference_steps": steps, "height": side, "width": side}
    calls: dict[str, Callable[[], Any]] = {
        "stock": lambda: generate(pipeline, [PROMPT], [0], **sizes),
        "modulated": lambda: refine(pipeline, [PROMPT], [objects], [0], **sizes),
        "every step": lambda: refine(pipeline, [PROMPT], [objects], [0], ModulationConfig(share=1.0), **sizes),
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    peak = dict.fromkeys(WAYS, 0)
    for repeat in range(repeats + 1):
        for way in WAYS:
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            begin = time.perf_counter()
            calls[way]()
            if device == "cuda":
                torch.cuda.synchronize()
                peak[way] = max(peak[way], torch.cuda.max_memory_allocated())
            took, of_passes = time.perf_counter() - begin, clock.read()
            if repeat:  # the first one warms up
                seconds[way].append(took)
                passes[way] += of_passes
    return {
        "model": name,
        "side": side,
        "steps": steps,
        "seconds": {way: statistics.median(values) for way, values in seconds.items()},
        "all_seconds": seconds,
        "pass_ms": {way: statistics.median(passes[way]) for way in ("stock", "every step")},
        "all_pass_ms": passes,
        "peak_bytes": peak,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "| model | pixels | steps | stock s | modulated / stock | every step / stock | a pass, stock ms "
        "| modulated / stock | stock GB | modulated GB |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        stock, modulated, every = (row["seconds"][way] for way in WAYS)
        plain, modulated_pass = row["pass_ms"]["stock"], row["pass_ms"]["every step"]
        sizes = " | ".join(f"{row['peak_bytes'][way] / 1e9:.2f}" for way in WAYS[:2])
        lines.append(
            f"| {row['model']} | {row['side']} | {row['steps']} | {stock:.2f} | {modulated / stock:.2f} "
            f"| {every / stock:.2f} | {plain:.1f} | {modulated_pass / plain:.2f} | {sizes} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--smoke", action="store_true", help="SD-1.5 at 64 pixels, two steps; written only with --out")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, help="of each picture, instead of the model's own number")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    rows = []
    for name in ["sd15"] if options.smoke else options.models:
        _, side, steps = MODELS[name]
        side, steps, repeats = (64, 2, 1) if options.smoke else (side, options.steps or steps, options.repeats)
        rows.append(measured(name, options.device, dtype, side, steps, repeats))
        print(table(rows[-1:]), flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    print(table(rows))
    out = options.out or (None if options.smoke else Path(__file__).parent / "results" / "full_size.json")
    if out is not None:
        machine = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        setting = {"device": options.device, "machine": machine, "dtype": str(dtype), "torch": torch.__version__}
        atomic_write(out, (json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
