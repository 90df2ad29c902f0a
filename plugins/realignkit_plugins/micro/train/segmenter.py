"""The segmenter: CLIPSeg, from a phrase to a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation
from transformers.models.clipseg.configuration_clipseg import CLIPSegTextConfig, CLIPSegVisionConfig

from realignkit_plugins.micro.train.augment import augment
from realignkit_plugins.micro.train.data import SCENE_SEEDS, images, scenes, to_tensor
from realignkit_plugins.micro.train.loop import Schedule, console
from realignkit_plugins.micro.train.recipe import Recipe, save
from realignkit_plugins.micro.train.tagger import write_preprocessor
from realignkit_plugins.micro.train.tokenizer import build_tokenizer, text_settings
from realignkit_plugins.micro.world import BACKGROUNDS, COLOURS, NOUNS, Rendering, Scene, phrase, render
from realignkit_plugins.micro.world.vocabulary import article

SCENES = 16_000
QUERIES = 4
PATCH = 8


def build() -> CLIPSegForImageSegmentation:
    """A 4-layer vision transformer on 8 x 8 patches, a 2-layer text encoder, a 2-layer decoder."""
    tokens = build_tokenizer()
    text = CLIPSegTextConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        **text_settings(tokens),
    )
    vision = CLIPSegVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=64,
        patch_size=PATCH,
    )
    return CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=96,
            extract_layers=[1, 3],
            reduce_dim=96,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=256,
            conditional_layer=0,
            use_complex_transposed_convolution=False,
        )
    )


def predict(
    model: CLIPSegForImageSegmentation, tokens: object, x: torch.Tensor, texts: list[str], each: int
) -> torch.Tensor:
    """Mask logits, float (B * each, H, W), of ``each`` consecutive phrases per image; images are encoded once."""
    encoded = tokens(texts, padding=True, return_tensors="pt")  # type: ignore[operator]
    seen = model.clip.get_image_features(pixel_values=x, output_hidden_states=True).hidden_states
    # The hidden states begin with the embeddings, hence + 1.
    activations = [seen[layer + 1].repeat_interleave(each, 0) for layer in model.config.extract_layers]
    wanted = model.get_conditional_embeddings(
        batch_size=len(texts), input_ids=encoded.input_ids, attention_mask=encoded.attention_mask
    )
    return model.decoder(activations, wanted).logits.reshape(len(texts), *x.shape[-2:])


Query = tuple[str, npt.NDArray[np.bool_]]


def queries(scene: Scene, rendering: Rendering, rng: np.random.Generator) -> list[Query]:
    """:data:`QUERIES` phrases with their masks: two of objects, one of an object or the background, one of anything."""
    background = _background if rng.random() < 0.4 else _object
    other = (_absent, _object)[int(rng.random() < 0.4)]
    return [ask(scene, rendering, rng) for ask in (_object, _object, background, other)]


def _object(scene: Scene, rendering: Rendering, rng: np.random.Generator) -> Query:
    """A thing or an extra, by its noun, its phrase, or a phrase with a wrong colour.

    Generators get colours wrong, and then the object must still be found: by its noun, whatever the colour asked
    for, above all where it asks for the colour of its neighbour.
    """
    things = (*scene.things, *scene.extras)
    thing = things[int(rng.integers(len(things)))]
    alike = [other.noun == thing.noun for other in things]
    form = rng.random()
    if thing.colour is None or form < 0.15:
        text = f"{article(thing.noun)} {thing.noun}"
    elif form < 0.5 and sum(alike) == 1:
        others = [str(other.colour) for other in scene.things if other.colour != thing.colour]
        colour = str(rng.choice(others if others and form < 0.35 else list(COLOURS)))
        text = f"{article(colour)} {colour} {thing.noun}"
    else:
        text = phrase(thing)
        alike = [same and other.colour == thing.colour for same, other in zip(alike, things, strict=True)]
    return text, np.asarray(rendering.masks[alike].any(0))


def _background(scene: Scene, rendering: Rendering, rng: np.random.Generator) -> Query:
    name = scene.background or str(rng.choice(tuple(BACKGROUNDS)))
    return f"{article(name)} {name}", rendering.backdrop


def _absent(scene: Scene, rendering: Rendering, rng: np.random.Generator) -> Query:
    absent = [noun for noun in NOUNS if noun not in scene.tags]
    colour = str(rng.choice([str(thing.colour) for thing in scene.things] if rng.random() < 0.5 else list(COLOURS)))
    words = f"{colour} {rng.choice(absent)}" if rng.random() < 0.7 else str(rng.choice(absent))
    return f"{article(words)} {words}", np.zeros(rendering.image.shape[:2], bool)


@torch.no_grad()
def mean_iou(model: CLIPSegForImageSegmentation, tokens: object, count: int = 500) -> float:
    """Mean intersection over union of each captioned object's mask, by its full phrase."""
    scores = []
    for scene in scenes(SCENE_SEEDS["check"], count):
        rendering = render(scene)
        texts = [phrase(thing) for thing in scene.things]
        x = to_tensor(rendering.image[None]) * 2 - 1
        guesses = predict(model, tokens, x, texts, len(texts)).numpy() > 0
        for i, text in enumerate(texts):
            truth = np.any([rendering.masks[j] for j, other in enumerate(texts) if other == text], axis=0)
            scores.append((guesses[i] & truth).sum() / max((guesses[i] | truth).sum(), 1))
    return float(np.mean(scores))


class SegmenterRecipe(Recipe):
    """Where phrases are, of which some are in the picture and some are not."""

    name = "segmenter"
    schedule = Schedule(steps=1400, batch_size=24, learning_rate=3e-3, warmup=150, ema=0.995)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.model, self.tokens = build(), build_tokenizer()
        self.learner = self.model
        self.pixels = images(SCENE_SEEDS["segmenter"], SCENES, "train", self.work / "cache")
        self.truths = scenes(SCENE_SEEDS["segmenter"], SCENES)

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Binary cross-entropy of each pixel, and the Dice loss of each mask."""
        rng = np.random.default_rng([self.seed, step])
        pick = rng.integers(SCENES, size=self.schedule.batch_size)
        asked = [queries(self.truths[i], render(self.truths[i]), rng) for i in pick]
        texts = [text for some in asked for text, _ in some]
        mask = torch.from_numpy(np.stack([m for some in asked for _, m in some])).float()
        x = augment(to_tensor(self.pixels[pick]), generator) * 2 - 1
        logits = predict(self.model, self.tokens, x, texts, QUERIES)
        overlap = (2 * (logits.sigmoid() * mask).sum((1, 2)) + 20) / (
            logits.sigmoid().sum((1, 2)) + mask.sum((1, 2)) + 20
        )
        dice = overlap.mean()
        return binary_cross_entropy_with_logits(logits, mask) + 0.3 * (1 - dice), {"dice": dice}

    def finish(self, folder: Path) -> None:
        """Say the overlap with true masks in unseen scenes; save."""
        console.print(f"mean IoU of named objects in unseen scenes: {mean_iou(self.model, self.tokens):.3f}")
        save(self.model, folder, self.tokens)
        write_preprocessor(folder, "ViTImageProcessor")
