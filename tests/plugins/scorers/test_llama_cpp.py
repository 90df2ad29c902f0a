"""The GGUF scorer on a real model in this process (skipped where llama.cpp is not installed), and what needs none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from realignkit import calls
from realignkit.errors import ModelError, OptionError, ScorerError
from realignkit.named import chain
from realignkit.registry import default_registry
from realignkit.types import Likelihood, Tag
from realignkit_plugins.english.noun_phrases import noun_phrases
from realignkit_plugins.scorers import templates
from realignkit_plugins.scorers.answers import objects_form
from realignkit_plugins.scorers.lexical import LexicalScorer
from realignkit_plugins.scorers.likelihoods import Discriminant, TokenProbabilities, judged
from realignkit_plugins.scorers.llama_cpp import LlamaCppScorer, refuse_broken
from tests.plugins.scorers.endpoint import PROMPT, TRUTH

TAGS = tuple(Tag(name, 0.5) for name in TRUTH)


# --- without a model -------------------------------------------------------------------------------------------------

CHAT = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "u1"},
    {"role": "assistant", "content": "a1"},
    {"role": "user", "content": "u2"},
]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # As the models' authors publish them: what FastChat's templates "vicuna_v1.1" and "llama-2" give for CHAT
        # (the latter without the first <s>, which its tokenizer adds).
        ("vicuna", "S USER: u1 ASSISTANT: a1</s>USER: u2 ASSISTANT:"),
        ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nu1 [/INST] a1 </s><s>[INST] u2 [/INST]"),
    ],
)
def test_chat_templates(name, expected):
    assert templates.render_chat(templates.chat_template(name), CHAT) == expected


@pytest.mark.parametrize(
    "source", ["{{", "{{ raise_exception('no') }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"]
)
def test_a_bad_chat_template_is_a_clear_error(source):
    with pytest.raises(ModelError, match="chat template"):
        templates.render_chat(source, CHAT)


def test_templates_that_there_are_not():
    with pytest.raises(OptionError, match="Versions: v1"):
        templates.question(PROMPT, TAGS, "v0")


def test_the_question_holds_the_data_and_the_system_message_none():
    system, user = templates.question("a {cat} for $5 & <b>", [Tag('say "hi"'), Tag("naïve café")])
    assert "$5" not in system["content"]
    first, second = user["content"].splitlines()
    assert json.loads(first.removeprefix("Description: ")) == "a {cat} for $5 & <b>"
    assert json.loads(second.removeprefix("Objects: ")) == ['say "hi"', "naïve café"]


def test_the_examples_say_what_the_rules_say():
    # Certain by the lexical scorer's rules exactly where an example says so: no typing error moves the calibration.
    for example in templates.examples():
        for likelihood in Likelihood:
            tags = [Tag(name) for name in example[likelihood]]
            assert tags
            for caption in LexicalScorer()(example["prompt"], tags):
                assert (caption.likelihood is Likelihood.CERTAIN) == (likelihood is Likelihood.CERTAIN), caption


def test_the_discriminant_finds_the_bayes_rule_of_gaussians():
    rng = np.random.default_rng(0)
    means = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    covariance = np.array([[1.0, 0.3], [0.3, 0.5]])
    labels = np.repeat(np.arange(3), 20_000)
    points = means[labels] + rng.multivariate_normal([0, 0], covariance, len(labels))
    found = Discriminant(points, labels, shrinkage=0.0)
    inverse = np.linalg.inv(covariance)
    for point in rng.normal(1, 2, (50, 2)):
        densities = np.array([np.exp(-0.5 * (point - m) @ inverse @ (point - m)) for m in means])
        assert np.exp(found.log_probabilities(point)) == pytest.approx(densities / densities.sum(), abs=0.03)


def test_what_no_phrase_names_is_not_certain_whatever_the_probabilities():
    tags = [Tag("book"), Tag("desk"), Tag("sign"), Tag("pen")]
    probabilities = np.array([[0.9, 0.05, 0.05], [0.9, 0.06, 0.04], [0.9, 0.04, 0.06], [0.2, 0.5, 0.3]])
    found = judged(PROMPT, tags, probabilities)
    assert [(one.caption, one.likelihood.value) for one in found] == [
        ("a red book", "certain"),
        ("a desk", "possible"),
        ("a sign", "unlikely"),
        ("a pen", "possible"),
    ]


def test_what_is_missing_is_said_and_the_next_scorer_answers(tmp_path):
    for options in ({}, {"model": str(tmp_path / "no.gguf")}):
        scorer = LlamaCppScorer(**options)
        assert "GGUF file" in scorer.check()
        answer = calls.answer(chain([("llama_cpp", scorer), ("lexical", LexicalScorer())]), PROMPT, TAGS)
        assert answer.scorer == "lexical"
        assert "GGUF file" in answer.failures["llama_cpp"]


def test_presets():
    infos = {info.name: info for info in default_registry().infos("scorer")}
    assert LlamaCppScorer(**infos["llama_cpp_logprob"].options).options.mode == "logprob"
    for name in ("vicuna", "llama2"):
        options = LlamaCppScorer(**infos[name].options).options
        assert options.chat_template == name
        assert options.model.endswith(".gguf")
        assert infos[name].extra == "llama"


# --- with a model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def writer(gguf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return LlamaCppScorer(model=str(gguf), cache_dir=folder, attempts=1, n_ctx=1536, n_threads=1)


@pytest.fixture(scope="module")
def judge(gguf):
    return LlamaCppScorer(model=str(gguf), mode="logprob", n_ctx=1024, n_threads=1)


def test_what_is_written_follows_the_grammar(writer):
    tags = (Tag("book"), Tag('say "hi" \\ ü'), Tag("</s> <|im_end|>"))
    text = writer.complete(templates.question(PROMPT, tags), objects_form(tags), {})
    objects = json.loads(text)["objects"]
    assert [entry["tag"] for entry in objects] == [tag.name for tag in tags]
    for entry in objects:
        assert Likelihood(entry["likelihood"])
        assert entry["caption"]


def test_a_written_answer_is_right_in_form_or_handed_over(writer):
    answer = calls.answer(chain([("smollm", writer), ("lexical", LexicalScorer())]), PROMPT, TAGS)
    assert [caption.tag for caption in answer.captions] == list(TRUTH)
    words = set(PROMPT.split())
    for caption in answer.captions:
        if caption.likelihood is Likelihood.CERTAIN:
            assert set(caption.caption.split()) <= words


def test_the_same_is_written_from_disk_the_second_time(gguf, writer, tmp_path):
    try:
        first = writer(PROMPT, TAGS[:2])
    except ScorerError:
        pytest.skip("this build of the model has no usable answer to keep")
    again = LlamaCppScorer(**{**writer.options.model_dump(), "n_gpu_layers": 0})
    assert again(PROMPT, TAGS[:2]) == first
    assert "_llama" not in vars(again)  # nothing was loaded


def test_log_probabilities_are_those_of_one_long_evaluation(gguf):
    """Sharing what prompts have in common must not show: against a fresh context and a plain softmax."""
    from llama_cpp import Llama

    def load():
        threads = {"n_threads": 1, "n_threads_batch": 1}
        return Llama(str(gguf), n_ctx=256, n_batch=256, logits_all=True, verbose=False, **threads)

    shared, llama = TokenProbabilities(load(), 256), load()
    texts = ["The capital of France is", "The capital of France was", "A red book and"]
    words = [" Paris", " a very old town", " London"]
    for text in [*texts, texts[0]]:
        found = shared.log_probabilities(text, words)
        for word, value in zip(words, found, strict=True):
            llama.reset()
            prefix = llama.tokenize(text.encode(), add_bos=True)
            tokens = llama.tokenize((text + word).encode(), add_bos=True)
            assert tokens[: len(prefix)] == prefix
            llama.eval(tokens)
            logits = llama.scores[: len(tokens)].astype(np.float64)
            logs = (
                logits
                - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
                - logits.max(1, keepdims=True)
            )
            wanted = sum(logs[i - 1, tokens[i]] for i in range(len(prefix), len(tokens)))
            assert value == pytest.approx(wanted, abs=0.05)
    assert shared.log_probabilities(texts[0], words)[0] > shared.log_probabilities(texts[0], words)[2]


def test_a_small_model_tells_what_is_there_from_what_is_not(judge):
    # Prompts and tags that the calibration has not seen.
    cases = {
        "a brown dog and a blue car": (["dog", "car"], ["cup", "clock", "violin"]),
        "a pink cake and a white bear": (["cake", "bear"], ["bench", "boat", "keyboard"]),
        "a gold clock and a green banana": (["clock", "banana"], ["cow", "elephant", "tent"]),
    }
    right = count = 0
    for prompt, (named, others) in cases.items():
        captions = judge(prompt, [Tag(name) for name in (*named, *others)])
        assert [caption.tag for caption in captions] == [*named, *others]
        phrases = {phrase.text for phrase in noun_phrases(prompt)}
        for caption in captions:
            certain = caption.likelihood is Likelihood.CERTAIN
            assert not certain or caption.caption in phrases
            right += certain == (caption.tag in named)
            count += 1
        probabilities = judge._judge.probabilities([(prompt, tag) for tag in (*named, *others)])
        assert probabilities.sum(axis=1) == pytest.approx(1)
    assert right >= 0.8 * count


def test_a_prompt_longer_than_the_context_is_an_error_that_hands_over(judge, writer):
    for scorer in (judge, writer):
        with pytest.raises(ScorerError, match="n_ctx"):
            scorer("a red book and " * 1000, TAGS)
    assert judge(PROMPT, TAGS[:1])  # and the next prompt is fine


def test_a_file_that_is_no_model(gguf, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf.read_bytes()[:100_000])
    with pytest.raises(ModelError, match=r"cannot be loaded.*Copy or download it again"):
        LlamaCppScorer(model=str(broken), mode="logprob")(PROMPT, TAGS)


def test_a_file_of_another_kind_and_one_larger_than_the_memory(tmp_path):
    other, huge = tmp_path / "other.gguf", tmp_path / "huge.gguf"
    other.write_bytes(b"PK\x03\x04 a zip file")
    with pytest.raises(ModelError, match=r"is no GGUF file.*download it again"):
        refuse_broken(other, str(other))
    with huge.open("wb") as file:
        file.write(b"GGUF")
        file.truncate(2**43)  # sparse: it takes no room
    with pytest.raises(ModelError, match=r"8192\.0 GiB.*Take a smaller model"):
        refuse_broken(huge, str(huge))
    with pytest.raises(ModelError, match="no_such"):
        refuse_broken(tmp_path / "no_such.gguf", "no_such.gguf")
