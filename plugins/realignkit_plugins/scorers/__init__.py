"""Scorers: judge and describe tags in the light of a prompt (eq. 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from realignkit import hookimpl

if TYPE_CHECKING:
    from realignkit.hookspecs import Register


@hookimpl
def register_scorers(register: Register) -> None:
    """The rule-based scorer, which always answers and so ends every fallback chain, and the language models."""
    register(
        "lexical",
        "realignkit_plugins.scorers.lexical:LexicalScorer",
        "rules over the prompt's noun phrases; no model, no network, always answers",
    )
    openai = "realignkit_plugins.scorers.openai_chat:OpenAIChatScorer"
    for name, description, options in (
        ("openai_chat", "any service with OpenAI's chat protocol, local servers included (base_url)", {}),
        ("gpt4", "OpenAI's GPT-4 class, by default gpt-4o; key from OPENAI_API_KEY", {"model": "gpt-4o"}),
        ("chatgpt", "OpenAI's small models, by default gpt-4o-mini; key from OPENAI_API_KEY", {"model": "gpt-4o-mini"}),
    ):
        register(name, openai, description, requires=("openai", "httpx2"), extra="gpt4", options=options)
    llama = "realignkit_plugins.scorers.llama_cpp:LlamaCppScorer"
    vicuna = {"model": "TheBloke/vicuna-7B-v1.5-GGUF:vicuna-7b-v1.5.Q4_K_M.gguf", "chat_template": "vicuna"}
    llama2 = {"model": "TheBloke/Llama-2-7B-Chat-GGUF:llama-2-7b-chat.Q4_K_M.gguf", "chat_template": "llama2"}
    community = "Llama 2 Community License"
    for name, description, options, license in (
        ("llama_cpp", "any GGUF file, in this process, without network", {}, ""),
        ("llama_cpp_logprob", "the same by probabilities of words, which small models need", {"mode": "logprob"}, ""),
        ("vicuna", "Vicuna-7b v1.5, 4 bits, from the hub (4 GB)", vicuna, community),
        ("llama2", "Llama-2-7b chat, 4 bits, from the hub (4 GB)", llama2, community),
    ):
        register(name, llama, description, requires=("llama_cpp",), extra="llama", options=options, license=license)
