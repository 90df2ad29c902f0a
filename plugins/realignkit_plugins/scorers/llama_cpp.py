"""Scorer for any GGUF model, in this process, through llama.cpp."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from realignkit.errors import ModelError, ScorerError
from realignkit.types import LocalCaption, Tag
from realignkit_plugins.failures import again, is_local, loading
from realignkit_plugins.model_names import hub_file, local_file

from . import templates
from .answers import AnswerForm
from .language_model import LanguageModelOptions, LanguageModelScorer, T, Task
from .likelihoods import LikelihoodJudge

if TYPE_CHECKING:
    from llama_cpp import Llama


class LlamaCppOptions(LanguageModelOptions):
    """Options of :class:`LlamaCppScorer`."""

    model: str | None = Field(None, description="path of a .gguf file, or of one on the hub: owner/name:file.gguf")
    mode: Literal["generate", "logprob"] = Field(
        "generate",
        description="generate: writes JSON under a grammar; logprob: compares the three words' probabilities",
    )
    chat_template: Literal["model", "vicuna", "llama2"] = Field("model", description="model: the one inside the file")
    calibrate: bool = Field(True, description="logprob: take off what the model answers about no description at all")
    n_ctx: int = Field(2048, ge=256, description="tokens of context")
    n_gpu_layers: int = Field(0, ge=-1, description="layers on the GPU; -1: all")
    n_threads: int | None = Field(None, ge=1, description="CPU threads; None: llama.cpp's choice")
    max_output_tokens: int = Field(1024, ge=64, description="generate: length of an answer")


class LlamaCppScorer(LanguageModelScorer):
    """Asks a model in a GGUF file, without network.

    ``mode="generate"`` lets the model write the answer under a grammar that admits nothing else. Small models cannot
    do that (a model of 135 M parameters calls everything unlikely when it must write JSON): ``mode="logprob"`` has
    them complete one word per tag and takes the captions from the prompt's noun phrases, see :class:`LikelihoodJudge`.
    """

    Options = LlamaCppOptions
    options: LlamaCppOptions  # type: ignore[assignment]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._lock = threading.RLock()  # a llama.cpp context is no place for two

    def check(self) -> str:
        """What is missing; loads nothing."""
        model = self.options.model
        if model is None:
            return "no model: give a GGUF file with --set scorer.model=path/to/model.gguf"
        on_hub = hub_file(model) is not None and model.endswith(".gguf")
        if not on_hub and not Path(model).expanduser().is_file():
            return f"there is no file '{model}': give a GGUF file, or one on the hub as owner/name:file.gguf"
        return ""

    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        """One local caption per tag, in order.

        Raises:
            ScorerError: no usable answer within the attempts, no model, or a prompt longer than the context.
            ModelError: the model cannot be loaded.
        """
        with self._lock:
            if self.options.mode == "logprob":
                return self._judge(prompt, tags)
            return super().__call__(prompt, tags)

    def ask(self, task: Task[T]) -> T:
        """What the model writes, read; one question after the other."""
        with self._lock:
            return super().ask(task)

    def identity(self) -> Mapping[str, Any]:
        """The file and how it is asked."""
        path = self._path
        o = self.options
        return {
            "scorer": "llama_cpp",
            # Hashing gigabytes would take longer than the answer.
            "model": [path.name, path.stat().st_size, path.stat().st_mtime_ns],
            **{name: getattr(o, name) for name in ("chat_template", "n_ctx", "max_output_tokens", "template")},
        }

    def complete(self, messages: templates.Messages, form: AnswerForm, state: dict[str, Any]) -> str:
        """One answer, written under the form's grammar.

        Raises:
            ScorerError: the prompt is longer than the context, or the answer was cut off.
        """
        from llama_cpp import LlamaGrammar

        llama, o = self._llama, self.options
        text = templates.render_chat(self._chat_template, messages, **self._special_tokens)
        begins = str(self._special_tokens["bos_token"])
        tokens = llama.tokenize(text.encode(), add_bos=not (begins and text.startswith(begins)), special=True)
        if form.grammar:
            grammar = LlamaGrammar.from_string(form.grammar, verbose=False)
        else:
            grammar = LlamaGrammar.from_json_schema(json.dumps(form.schema), verbose=False)
        room = o.n_ctx - len(tokens)
        if room < 64:
            raise ScorerError(f"the prompt fills the context of {o.n_ctx} tokens. Raise n_ctx.", "too long", final=True)
        result: Any = llama.create_completion(
            prompt=tokens,
            max_tokens=min(o.max_output_tokens, room),
            temperature=0.0,
            repeat_penalty=1.0,
            grammar=grammar,
        )
        choice = result["choices"][0]
        if choice["finish_reason"] == "length":
            limit = min(o.max_output_tokens, room)
            name = "max_output_tokens" if limit == o.max_output_tokens else "n_ctx"
            raise ScorerError(f"the answer was cut off at {limit} tokens. Raise {name}.", "truncated", final=True)
        return str(choice["text"])

    @cached_property
    def _judge(self) -> LikelihoodJudge:
        o = self.options
        return LikelihoodJudge(self._llama, o.n_ctx, o.calibrate, o.template, self._cache, self.identity())

    @cached_property
    def _path(self) -> Path:
        if missing := self.check():
            raise ScorerError(f"{missing}, or choose another scorer.", "no model")
        model = str(self.options.model)
        with loading("language model", model):
            return local_file(model)

    @cached_property
    def _llama(self) -> Llama:
        path, o = self._path, self.options
        refuse_broken(path, str(o.model))
        from llama_cpp import Llama

        try:
            return Llama(
                str(path),
                n_ctx=o.n_ctx,
                n_batch=min(512, o.n_ctx),
                n_gpu_layers=o.n_gpu_layers,
                n_threads=o.n_threads,
                n_threads_batch=o.n_threads,
                logits_all=o.mode == "logprob",
                seed=0,
                verbose=False,
            )
        except Exception as error:  # a damaged file, an architecture that is too new, no memory
            raise ModelError(
                f"'{o.model}' cannot be loaded by llama.cpp ({type(error).__name__}: {str(error)[:200]}). Check that "
                f"it fits into memory (n_ctx counts too) and that llama-cpp-python is recent; if the file is "
                f"damaged or only half there: {again(str(o.model), is_local(str(o.model)))}"
            ) from None

    @cached_property
    def _chat_template(self) -> str:
        o = self.options
        if o.chat_template != "model":
            return templates.chat_template(o.chat_template)
        source = (self._llama.metadata or {}).get("tokenizer.chat_template")
        if not source:
            raise ModelError(
                f"'{o.model}' has no chat template inside. Choose one with chat_template='vicuna' or 'llama2', or "
                f"use mode='logprob', which needs none."
            )
        return str(source)

    @cached_property
    def _special_tokens(self) -> dict[str, str]:
        llama = self._llama
        ids = {"bos_token": llama.token_bos(), "eos_token": llama.token_eos()}
        return {
            name: llama.detokenize([token], special=True).decode(errors="replace") if token >= 0 else ""
            for name, token in ids.items()
        }


def refuse_broken(path: Path, model: str) -> None:
    """Say what llama.cpp would not: that a file is no GGUF, or that it is larger than the memory.

    Raises:
        ModelError: see above.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f"'{path}' cannot be read ({error.strerror}). Check the file and its permissions.") from error
    if magic != b"GGUF":
        raise ModelError(f"'{model}' is no GGUF file, or a damaged one. {again(model, is_local(model))}")
    if "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if (size := path.stat().st_size) > memory:
            raise ModelError(
                f"'{model}' has {size / 2**30:.1f} GiB and this machine {memory / 2**30:.1f} GiB of memory. Take a "
                f"smaller model, or the same with fewer bits a weight."
            )
