"""The paper's caption reward (eq. 4), and three ways to get a gradient through a caption.

``R_cap = cos(f_enc(t_g), f_enc(t_p))`` with ``t_g`` a caption of the image. A decoded caption is discrete, so eq. 4 as
printed has no gradient with respect to the image; see ``docs/explanation/method.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from realignkit.contracts import Options as PluginOptions
from realignkit_plugins.loading import Checkpoint, DTypeName, text_tokenizer
from realignkit_plugins.rewards.base import PixelReward, check_inputs, differentiable

if TYPE_CHECKING:
    from torch import Tensor

    from realignkit_plugins.rewards.captioner import Captioner
    from realignkit_plugins.rewards.preprocess import Preprocessing
    from realignkit_plugins.rewards.text_features import TextFeatures

Estimator = Literal["expected", "likelihood", "contrast", "soft"]


class CaptionReward(PixelReward):
    """Similarity of the prompt and a caption of the image (eq. 4), by an estimator with a gradient.

    - ``expected``: ``E[cos(f_enc(c), f_enc(t_p))]`` over captions ``c ~ p(. | image)``, estimated from ``num_samples``
      sampled captions; its gradient by the score function with a leave-one-out baseline (RLOO), with one sample by the
      greedy caption's reward as baseline (self-critical). Unbiased, for any captioner and text encoder. Margin 1.
    - ``likelihood``: ``log p(t_p | image)`` per token (in nats, the end of the caption counted as a token). Low
      variance, but not eq. 4. Margin 0.
    - ``contrast``: by how much the prompt is less likely, per token, than the greedy caption:
      ``log p(t_p | image) / |t_p| - log p(t_g | image) / |t_g|``. What makes every caption likelier earns nothing.
      Margin 0.
    - ``soft``: eq. 4 itself, with a straight-through gradient: the distributions over the greedy caption's words,
      mapped to ``f_enc``'s input embeddings by the words' text. Biased. Margin 1.

    :meth:`guiding`, which guides sampling, is the likelihood where ``expected`` is chosen: the gradient of that is
    mostly noise for a single image. :meth:`reported` is eq. 4 with the greedy (or beam) caption, whatever the
    estimator. :meth:`ranked`, which chooses among candidates, is the likelihood, whatever the estimator: it tells apart
    what gets the same caption. Sampling uses torch's global random generator.
    """

    checkpoint = Checkpoint(
        "captioner",
        {"vision-encoder-decoder": "VisionEncoderDecoderModel"},
        other="AutoModelForImageTextToText",
        processor=differentiable,
        tokenizer=text_tokenizer,
        frozen=True,
    )

    training_options = ("estimator", "num_samples")
    checkpoint_options = (("captioner", "captioner_revision"), ("text_encoder", "text_encoder_revision"))

    class Options(PluginOptions):
        """Options of :class:`CaptionReward`."""

        captioner: str = Field(
            "Salesforce/blip2-opt-2.7b",
            description="image-to-text model: hub id, folder, or micro:<name>",
            min_length=1,
        )
        text_encoder: str = Field(
            "Salesforce/blip2-itm-vit-g", description="f_enc: a BLIP-2 (Q-Former) or CLIP checkpoint", min_length=1
        )
        captioner_revision: str | None = Field(None, description="branch, tag or commit of the captioner")
        text_encoder_revision: str | None = Field(None, description="branch, tag or commit of the text encoder")
        estimator: Estimator = Field("expected", description="where the gradient comes from")
        num_samples: int = Field(4, ge=1, le=256, description="captions sampled per image (expected)")
        max_new_tokens: int = Field(20, ge=1, le=512, description="longest caption, in tokens")
        num_beams: int = Field(1, ge=1, le=64, description="beams of the reported caption; 1: greedy")
        caption_prompt: str = Field("", description="text that captions continue, or the captioner's task token")
        device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps …")
        dtype: DTypeName = Field("auto", description="auto: bf16 on CUDA, fp32 elsewhere")

    options: CaptionReward.Options

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.margin = 0.0 if self.options.estimator in ("likelihood", "contrast") else 1.0
        self.estimated_gradient = self.options.estimator in ("expected", "soft")
        self._words: Tensor | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """As the captioner's processor says."""
        captioner: Captioner = self.loaded[0]
        return captioner.preprocessing

    def judge(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        """The estimator's rewards (B,)."""
        states = self._encode(pixel_values)
        estimators = {
            "expected": self._expected,
            "likelihood": self._likelihood,
            "contrast": self._contrast,
            "soft": self._soft,
        }
        return estimators[self.options.estimator](states, prompts)

    def guiding(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """The estimator's rewards, float32 (B,), with a gradient; the likelihood instead of ``expected``.

        Raises:
            OptionError, ModelError: as for calling it.
        """
        if self.options.estimator != "expected":
            return self(images, prompts)
        check_inputs(images, prompts)
        rewards = self._likelihood(self._encode(self.preprocessing(images.float())), prompts)
        return self.finite(rewards.float()).to(images.device)

    def captions(self, images: Tensor) -> list[str]:
        """``t_g``: the greedy (or beam) caption of each image, float (B, 3, H, W) in [0, 1]."""
        import torch

        captioner, _ = self.loaded
        with torch.no_grad():
            states = self._encode(self.preprocessing(images.float()))
            return captioner.decode(captioner.greedy(states, self.options.num_beams))

    def _judge_for_report(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._cosines(self._greedy(self._encode(pixel_values))[1], prompts)

    def _judge_for_ranking(self, pixel_values: Tensor, prompts: Sequence[str]) -> Tensor:
        # Eq. 4 is the same for all images that get the same caption.
        return self._likelihood(self._encode(pixel_values), prompts)

    def _encode(self, pixel_values: Tensor) -> Tensor:
        captioner, _ = self.loaded
        weight = next(captioner.network.parameters())
        return captioner.encode(pixel_values.to(weight.device, captioner.network.dtype))

    def _greedy(self, states: Tensor) -> tuple[Tensor, list[str]]:
        captioner, _ = self.loaded
        tokens = captioner.greedy(states, self.options.num_beams)
        return tokens, captioner.decode(tokens)

    def _cosines(self, captions: Sequence[str], prompts: Sequence[str]) -> Tensor:
        _, features = self.loaded
        return (features(captions) * features(prompts)).sum(-1)

    def _expected(self, states: Tensor, prompts: Sequence[str]) -> Tensor:
        captioner, _ = self.loaded
        count = self.options.num_samples
        tokens = captioner.sample(states, count)
        repeated = [prompt for prompt in prompts for _ in range(count)]
        rewards = self._cosines(captioner.decode(tokens), repeated).unflatten(0, (-1, count))
        mean = rewards.mean(1)
        if not states.requires_grad:
            return mean
        baseline = leave_one_out(rewards) if count > 1 else self._cosines(self._greedy(states)[1], prompts)[:, None]
        log_probs = captioner.log_prob(states, tokens).unflatten(0, (-1, count))
        surrogate = score_function(log_probs, rewards.to(log_probs.device), baseline.to(log_probs.device))
        return mean.to(surrogate.device) + surrogate - surrogate.detach()

    def _likelihood(self, states: Tensor, prompts: Sequence[str]) -> Tensor:
        captioner, _ = self.loaded
        return self._per_token(states, captioner.tokenize(prompts, states.device))

    def _contrast(self, states: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._likelihood(states, prompts) - self._per_token(states, self._greedy(states)[0])

    def _per_token(self, states: Tensor, tokens: Tensor) -> Tensor:
        captioner, _ = self.loaded
        return captioner.log_prob(states, tokens) / captioner.mask(tokens).sum(-1)

    def _soft(self, states: Tensor, prompts: Sequence[str]) -> Tensor:
        captioner, features = self.loaded
        tokens, captions = self._greedy(states)
        if not states.requires_grad:
            return self._cosines(captions, prompts)
        if self._words is None:
            size = len(captioner.tokenizer)
            texts = captioner.tokenizer.batch_decode([[i] for i in range(size)], skip_special_tokens=True)
            self._words = features.embeddings_of(texts)
        chances = captioner.logits(states, tokens).float().softmax(-1)[..., : len(self._words)]
        soft = chances.to(self._words.device) @ self._words
        pieces = [captioner.pieces(row) for row in tokens]
        # The value is that of the real words; what they could have been instead gives the gradient.
        changes = features.alignment(captions, pieces, tokens.shape[1]) @ (soft - soft.detach())
        return (features.nudged(captions, changes) * features(prompts)).sum(-1)

    @property
    def model(self) -> str:
        """The captioner."""
        return str(self.options.captioner)

    def load(self) -> tuple[Captioner, TextFeatures]:
        """The captioner and the text encoder."""
        from realignkit_plugins.rewards.captioner import captioner_class
        from realignkit_plugins.rewards.text_features import TEXT_ENCODER, TextFeatures

        chosen, place = self.options, (self.device, self.dtype)
        speaker = self.checkpoint.load(chosen.captioner, chosen.captioner_revision, *place)
        captioner = captioner_class(speaker.network)(
            speaker.network, speaker.tokenizer, speaker.processor, chosen.max_new_tokens, chosen.caption_prompt
        )
        encoder = TEXT_ENCODER.load(chosen.text_encoder, chosen.text_encoder_revision, *place)
        return captioner, TextFeatures(encoder.network, encoder.tokenizer)


def leave_one_out(rewards: Tensor) -> Tensor:
    """For each of K rewards (B, K) the mean of the K - 1 others, (B, K)."""
    return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


def score_function(log_probs: Tensor, rewards: Tensor, baseline: Tensor) -> Tensor:
    """A surrogate (B,) whose gradient is ``mean_k (r_k - b_k) d log p_k``.

    Args:
        log_probs: of K sampled captions, (B, K), with a gradient.
        rewards: theirs, (B, K).
        baseline: (B, K) or (B, 1); must not depend on caption k itself, or the estimate is biased.
    """
    return ((rewards - baseline).detach() * log_probs).mean(1)
