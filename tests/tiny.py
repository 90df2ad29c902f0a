"""A complete set of small, honest plugins: real classes, random weights, answers that depend on the image.

Registered by tests, in this process or in a child (``python -m tests.tiny run …`` is the command line with them).
The image is divided into four quadrants: the brightest "is" a book, the darkest a pen, the second brightest a desk,
the second darkest a sign.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from pydantic import Field

import realignkit
from realignkit import contracts
from realignkit.types import Likelihood, LocalCaption, Mask, Tag

RANKS = ("pen", "sign", "desk", "book")
WORDS = ("a", "red", "book", "and", "yellow", "pen", "desk", "sign", "on", "the")
MAX_TOKENS = 32


def tokenizer() -> Any:
    """A CLIP tokenizer: BPE over letters, whole words for ``WORDS``."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz,"
    merges = [
        f"{word[:i]} {word[i]}{'</w>' if i == len(word) - 1 else ''}" for word in WORDS for i in range(1, len(word))
    ]
    merges = list(dict.fromkeys(merges))
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {entry: i for i, entry in enumerate([*entries, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)


def build_pipeline() -> Any:
    """A StableDiffusionPipeline of 32 x 32 images, always with the same weights."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    words = tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        unet = UNet2DConditionModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=4,
            cross_attention_dim=32,
            attention_head_dim=2,
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
                pad_token_id=words.pad_token_id,
            )
        )
        with torch.no_grad():  # untrained models answer in greys, and hardly look at the text
            vae.decoder.conv_out.weight.mul_(2)
            for name, parameter in unet.named_parameters():
                if ".attn" in name and name.endswith("weight"):
                    parameter.mul_(4)
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=words,
        unet=unet.eval(),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


shared_pipeline = functools.cache(build_pipeline)


class TinyGenerator(contracts.Generator):
    attention_family = "unet"
    companions: Mapping[str, str] = {"tagger": "quadrants", "segmenter": "quadrants", "scorer": "wordy"}
    refine_defaults: Mapping[str, Any] = {"share": 0.5, "cross_weight": 2.0}
    sampling_defaults: Mapping[str, Any] = {"num_inference_steps": 4}

    def pipeline(self) -> Any:
        return shared_pipeline()


class BrokenGenerator(TinyGenerator):
    """A checkpoint with one damaged weight."""

    def pipeline(self) -> Any:
        import torch

        pipeline = build_pipeline()
        with torch.no_grad():
            pipeline.unet.conv_in.weight[0, 0, 0, 0] = float("nan")
        return pipeline


class TransformerGenerator(TinyGenerator):
    """A model of another family; loading it would be a mistake."""

    attention_family = None

    def pipeline(self) -> Any:
        raise AssertionError("was loaded although it cannot be modulated")


def quadrants(image: Image) -> dict[str, Mask]:
    """The four quadrants by name (see the module)."""
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    rows, columns = np.indices(grey.shape)
    top, left = rows < grey.shape[0] // 2, columns < grey.shape[1] // 2
    masks = [top & left, top & ~left, ~top & left, ~top & ~left]
    return dict(zip(RANKS, sorted(masks, key=lambda mask: grey[mask].mean()), strict=True))


class QuadrantTagger(contracts.Tagger):
    class Options(contracts.Options):
        threshold: float = Field(0.0, ge=0, le=1, description="how sure a tag must be")

    def __call__(self, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
        return [self._tag(image) for image in images]

    def _tag(self, image: Image) -> tuple[Tag, ...]:
        values = np.asarray(image.convert("L"), dtype=np.float64)
        sure = {name: round(float(values[mask].mean() / 255), 6) for name, mask in quadrants(image).items()}
        tags = sorted((Tag(name, value) for name, value in sure.items()), key=lambda tag: -tag.confidence)
        return tuple(tag for tag in tags if tag.confidence >= self.options.threshold)


class QuadrantSegmenter(contracts.Segmenter):
    class Options(contracts.Options):
        blind_to: tuple[str, ...] = Field((), description="names that it does not find")

    def __call__(self, image: Image, phrases: Sequence[str]) -> list[tuple[Mask, float] | None]:
        masks = quadrants(image)
        heads = [phrase.split()[-1] for phrase in phrases]
        return [None if head in self.options.blind_to or head not in masks else (masks[head], 0.75) for head in heads]


class WordyScorer(contracts.Scorer):
    """Named in the prompt: certain, with the word before it; a desk is possible; the rest unlikely."""

    class Options(contracts.Options):
        api_key: str = Field("", description="not used; shows that secrets stay secret")
        max_tokens: int = Field(7, description="not used either")

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        words = prompt.split()
        return tuple(self._judge(words, tag.name) for tag in tags)

    def _judge(self, words: list[str], name: str) -> LocalCaption:
        if name in words:
            before = words[max(words.index(name) - 1, 0)]
            return LocalCaption(name, f"{before} {name}" if before != name else name, Likelihood.CERTAIN)
        return LocalCaption(name, name, Likelihood.POSSIBLE if name == "desk" else Likelihood.UNLIKELY)


@realignkit.hookimpl
def register_generators(register: Any) -> None:
    register("tiny", TinyGenerator, "random weights, 32 x 32")
    register("tiny-broken", BrokenGenerator, "computes NaN")
    register("tiny-transformer", TransformerGenerator, "cannot be modulated")


@realignkit.hookimpl
def register_taggers(register: Any) -> None:
    register("quadrants", QuadrantTagger, "names quadrants by brightness")


@realignkit.hookimpl
def register_scorers(register: Any) -> None:
    register("wordy", WordyScorer, "certain when the prompt says the word")
    register("distant", WordyScorer, "not installed", requires=["no_such_module_anywhere"], extra="distant-thing>=1")


@realignkit.hookimpl
def register_segmenters(register: Any) -> None:
    register("quadrants", QuadrantSegmenter, "finds quadrants by brightness")


@realignkit.hookimpl
def register_rewards(register: Any) -> None:
    for name in ("Colour", "Blind", "Noisy", "Darkness"):
        register(name.lower(), f"tests.refl.rewards:{name}", "of mean colours")


def realigner(**options: Any) -> realignkit.Realigner:
    """A realigner of these plugins, which another process can make too."""
    from realignkit.registry import Registry
    from tests import tiny

    registry = Registry(discover=False)
    registry.register(tiny, "tiny")
    return realignkit.Realigner.from_pretrained("tiny", registry=registry, **options)


class DiesAfter:
    """A plugin that kills its process, as losing power would, after so many realignments or training steps."""

    def __init__(self, count: int) -> None:
        self.left = count

    @realignkit.hookimpl
    def after_realign(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    @realignkit.hookimpl
    def after_train_step(self) -> None:
        self.after_realign()


if __name__ == "__main__":
    import sys

    from realignkit.cli import main
    from realignkit.registry import default_registry
    from tests import tiny as plugins  # under its own name, not __main__: classes are then the same everywhere

    default_registry().register(plugins, "tiny")
    if count := os.environ.get("TINY_DIES_AFTER"):
        default_registry().register(plugins.DiesAfter(int(count)), "dies")
    sys.exit(main())


def certain(name: str) -> LocalCaption:
    """An object that is called what it is."""
    return LocalCaption(name, name, Likelihood.CERTAIN)
