"""What question answerers with a network of their own share: batches, and probabilities of first tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.contracts import VQA
from realignkit.machine import full_precision
from realignkit_plugins.loading import CheckpointPlugin, DTypeName

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Choices = Sequence[Sequence[str]] | None


class NetworkVQA(CheckpointPlugin, VQA):
    """A question answerer whose work is a network's forward pass, so many questions at a time.

    A child says how a batch is answered (:meth:`answer`) and what the first token of its answers may be
    (:meth:`first_tokens`).
    """

    role = "question answerer"
    remedy = "Try the option dtype=fp32; if it stays, download or train the checkpoint again."

    class Options(CheckpointPlugin.Options):
        """Options of a question answerer with a network."""

        dtype: DTypeName = Field("fp32", description="fp32 to compare with others; auto: fp16 on CUDA, fp32 elsewhere")
        batch_size: int = Field(32, ge=1, description="questions per forward pass")
        max_new_tokens: int = Field(20, ge=1, description="length of an answer, at most")

    def __call__(self, images: Sequence[Image], questions: Sequence[str], choices: Choices = None) -> list[str]:
        """The most likely answer to each question about the image at its place, token by token."""
        import torch

        said: list[str] = []
        with torch.inference_mode(), full_precision():
            for part in self._parts(len(questions)):
                shown = None if choices is None else choices[part]
                said += self.answer(images[part], questions[part], shown)
        return said

    def probabilities(
        self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Per pair, of each of its answers, the probability that the first token said is the first of this one.

        Of answers that begin with the same token, the first has it, and the others 0.
        """
        import torch

        found: list[list[float]] = []
        with torch.inference_mode(), full_precision():
            for part in self._parts(len(questions)):
                likely = self.finite(self.first_tokens(images[part], questions[part])).float().softmax(-1).cpu()
                rows = zip(likely, answers[part], strict=True)
                found += [self._of_each(row, candidates) for row, candidates in rows]
        return found

    def _parts(self, count: int) -> Iterator[slice]:
        size = self.options.batch_size
        return (slice(start, start + size) for start in range(0, count, size))

    def _of_each(self, likely: Tensor, answers: Sequence[str]) -> list[float]:
        tokens = [self.first_token(answer) for answer in answers]
        return [
            0.0 if token is None or token in tokens[:place] else float(likely[token])
            for place, token in enumerate(tokens)
        ]

    def first_token(self, text: str) -> int | None:
        """The id of a text's first token, spelt as it is; None for no text."""
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return int(tokens[0]) if tokens else None

    @property
    def tokenizer(self) -> Any:
        """What reads the answers."""
        return self.loaded.tokenizer

    @abstractmethod
    def answer(self, images: Sequence[Image], questions: Sequence[str], choices: Choices) -> list[str]:
        """Answers to a batch of pairs."""

    @abstractmethod
    def first_tokens(self, images: Sequence[Image], questions: Sequence[str]) -> Tensor:
        """Logits (B, vocabulary) of the first token of the answers to a batch of pairs."""


def unique(images: Sequence[Image]) -> tuple[list[Image], list[int]]:
    """The images that are different objects, and for each image its place among them."""
    pictures = {id(image): image for image in images}
    places = {each: place for place, each in enumerate(pictures)}
    return list(pictures.values()), [places[id(image)] for image in images]


def decoded(tokenizer: Any, tokens: Tensor) -> list[str]:
    """Answers (B, L) as texts, without blanks around them."""
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
