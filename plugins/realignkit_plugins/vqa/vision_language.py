"""Any vision-language model of transformers as a question answerer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from realignkit.images import to_rgb
from realignkit_plugins.loading import Checkpoint, DTypeName, image_processor, model_config, text_tokenizer
from realignkit_plugins.vqa.network import Choices, NetworkVQA
from realignkit_plugins.vqa.wording import short, worded

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor


def pil_processor(folder: str, **kwargs: Any) -> Any:
    """The checkpoint's processor of texts with images, in its PIL form, and without parts for video and sound.

    Those insist on torchvision and the like, and nobody needs them here.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    settings, _ = transformers.ProcessorMixin.get_processor_dict(folder, **kwargs)
    name = settings.get("processor_class") or PROCESSOR_MAPPING_NAMES[model_config(folder, **kwargs).model_type]
    # It would refuse to be made without them, though it does without them.
    cls: Any = type(name, (getattr(transformers, name),), {"check_argument_for_proper_class": lambda *given: None})
    parts = {"image_processor": image_processor(folder, **kwargs), "tokenizer": text_tokenizer(folder, **kwargs)}
    return cls.from_args_and_dict([parts.get(part) for part in cls.get_attributes()], settings)


class VisionLanguageVQA(NetworkVQA):
    """Answers by a model that transformers knows as image-text-to-text: Qwen-VL, LLaVA, SmolVLM, BLIP-2 and others.

    The question goes through the model's own chat template, the image before it; a model without one reads it as
    ``prompt`` says. Control tokens in a question are left out. Probabilities are those of the first token of its
    answer to the question as it is; for answers in words it is asked to be brief, or to choose.

    Raises:
        ModelError: (on use) the checkpoint is missing, damaged, of another kind, or computes NaN.
    """

    checkpoint = Checkpoint("vision-language model", other="AutoModelForImageTextToText", processor=pil_processor)

    class Options(NetworkVQA.Options):
        """Options of :class:`VisionLanguageVQA`."""

        model: str = Field("Qwen/Qwen3-VL-8B-Instruct", description="hub id or folder", min_length=1)
        dtype: DTypeName = Field("auto", description="auto: bf16 on CUDA, fp32 elsewhere")
        batch_size: int = Field(8, ge=1, description="questions per forward pass")
        show_choices: bool = Field(True, description="tell the model the choices, where a question has some")
        prompt: str = Field(
            "Question: {} Answer:", description="what a model without a chat template reads; {} is the question"
        )

    options: VisionLanguageVQA.Options

    @property
    def dtype(self) -> torch.dtype:
        """``"auto"`` is bfloat16 on CUDA devices that have it, since these models' activations leave fp16's range."""
        import torch

        if self.options.dtype == "auto" and self.device.startswith("cuda") and torch.cuda.is_bf16_supported():
            return torch.bfloat16
        return super().dtype

    def answer(self, images: Sequence[Image], questions: Sequence[str], choices: Choices) -> list[str]:
        """What the model says, word after word."""
        shown: Sequence[Sequence[str] | None] = [None] * len(questions)
        if choices is not None and self.options.show_choices:
            shown = choices
        asked = [worded(question, some) for question, some in zip(questions, shown, strict=True)]
        said = self._say(images, asked, self.options.max_new_tokens)
        # Some give back what they were asked too, some do not: the answer is as long as there are logits.
        tokens = said.sequences[:, -len(said.logits) :]
        return [short(text) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def first_tokens(self, images: Sequence[Image], questions: Sequence[str]) -> Tensor:
        """The logits of the first token."""
        logits: Tensor = self._say(images, questions, 1).logits[0]
        return logits

    @property
    def tokenizer(self) -> Any:
        """The processor's."""
        return self.loaded.processor.tokenizer

    def _say(self, images: Sequence[Image], texts: Sequence[str], length: int) -> Any:
        network = self.loaded.network
        inputs = self._inputs([to_rgb(image) for image in images], [self._plain(text) for text in texts])
        inputs = inputs.to(network.device)
        for name, value in inputs.items():
            if hasattr(value, "is_floating_point") and value.is_floating_point():
                inputs[name] = value.to(network.dtype)
        return network.generate(
            **inputs,
            max_new_tokens=length,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            return_dict_in_generate=True,
            output_logits=True,
        )

    def _inputs(self, images: Sequence[Image], texts: Sequence[str]) -> Any:
        """What the network takes, padded on the left, where it does not come between a question and its answer."""
        processor = self.loaded.processor
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if getattr(processor, "chat_template", None) is None:
            asked = [self.options.prompt.replace("{}", text) for text in texts]
            return processor(images=list(images), text=asked, padding=True, return_tensors="pt")
        talks = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]
            for image, text in zip(images, texts, strict=True)
        ]
        return processor.apply_chat_template(
            talks,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )

    def _plain(self, text: str) -> str:
        """A text without the model's control tokens: a prompt may hold anything, and an image has its place already."""
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, " ")
        return text
