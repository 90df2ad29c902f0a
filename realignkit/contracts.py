"""The kinds of plugin, as base classes whose docstrings are the contract.

Subclassing is the comfortable way (typed options come with it), not an obligation: the engine only
calls what is documented here, so any object with these methods will do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from realignkit import KINDS as KINDS
from realignkit.arguments import mapping
from realignkit.errors import OptionError
from realignkit.layout import LocalCaption, Mask, Tag, Truth

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image
    from pydantic._internal._model_construction import ModelMetaclass
    from torch import Tensor
else:
    ModelMetaclass = type(BaseModel)

T = TypeVar("T", bound=BaseModel)


class Options(BaseModel):
    """A plugin's options. Subclass it, one annotated and described field per option.

    The same names serve Python (keyword arguments), the command line (``--set scorer.name=value``) and YAML.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class _RefusedInWords(ModelMetaclass):
    """Checks what a class is called with as :func:`parse_options` does."""

    def __call__(cls, **values: Any) -> Any:  # noqa: N805 - a class is what a metaclass makes
        return parse_options(cast(Any, cls), values, owner=cls.__name__)


class Config(Options, metaclass=_RefusedInWords):
    """Options that users make by hand.

    Raises:
        OptionError: an option is unknown or has a bad value; the message lists the valid ones.
    """


class Plugin(ABC):
    """Base of every plugin class: ``MyPlugin(**options)`` validates into ``self.options``.

    Constructing a plugin must be cheap; load weights at first use.

    Raises:
        OptionError: an option is unknown or has a bad value; the message lists the valid ones.
    """

    Options: ClassVar[type[Options]] = Options

    def __init__(self, **options: Any) -> None:
        self.options = parse_options(self.Options, options, owner=type(self).__name__)

    def check(self) -> str:
        """What keeps this plugin from working here, with the remedy ("no key: set …"); empty when nothing is known to.

        Must be quick: no network, no weights. ``realignkit doctor`` shows it.
        """
        return ""

    def out_of_reach(self) -> str:
        """Why weights that this plugin needs are neither here nor to be had, with the remedy; empty otherwise.

        Asked before minutes of work. May ask the network and take seconds, but downloads and loads nothing.
        """
        return ""


def parse_options(model: type[T], values: T | Mapping[str, Any] | None, owner: str) -> T:
    """Validate ``values`` against a pydantic model; one readable :class:`OptionError` if that fails.

    What is of that model already is taken as it is.
    """
    if isinstance(values, model):
        return values
    try:
        return model.model_validate(mapping(owner, values))
    except ValidationError as error:
        problems = "; ".join(_problem(each) for each in error.errors())
        groups = dict(_group(model, each["loc"]) for each in error.errors())
        known = " ".join(f"{whose} options: {', '.join(fields) or 'none'}." for whose, fields in groups.items())
        raise OptionError(f"{owner}: {problems}. {known}") from None


_AS_JSON = {
    **dict.fromkeys(("dict_type", "mapping_type", "model_type"), '{"name": 1}'),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), '["a", "b"]'),
}
"""By pydantic's name of what is wrong with a text, what such a value looks like on the command line."""


def _problem(error: Mapping[str, Any]) -> str:
    names = [str(name) for name in error["loc"] if "[" not in str(name)]  # no labels of a union's members
    where, text = ".".join(names), error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], str) and (example := _AS_JSON.get(error["type"])):
        text += f", not {error['input']!r:.40}; --set takes JSON for it: {where}='{example}'"
    return f"{where}: {text}" if where else text


def _group(model: type[BaseModel], location: Sequence[int | str]) -> tuple[str, list[str]]:
    """Whose options a bad one is among, as messages begin with it, and what they are called."""
    whose = []
    for name in location:
        field = model.model_fields.get(str(name))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        model = field.annotation
        whose.append(str(name))
    return f"{'.'.join(whose)}'s" if whose else "Its", [
        field.alias or name for name, field in model.model_fields.items()
    ]


class Generator(Plugin):
    """Builds a diffusers pipeline, and says what the fine stage can do with it.

    Attributes:
        attention_family: ``"unet"`` for SD-1.x/2.x/XL-style U-Nets, ``"pixart"`` for PixArt's transformer, ``"sd3"``,
            ``"flux"``, ``"flux2"``, ``"qwen_image"`` or ``"z_image"`` for those of flow models; None where attention
            cannot be modulated: such a model makes coarse images only.
        companions: the plugins that go with this model by default (kind -> spec), e.g. ``{"tagger": "micro"}``; kinds
            are those of the steps, ``metric``, and ``reward:clip`` for what ``clip`` means with this model.
        refine_defaults: modulation options that suit this model better than the paper's.
        sampling_defaults: ``num_inference_steps``, ``guidance_scale``, ``height``, ``width`` where they
            differ from the pipeline's own.
    """

    attention_family: str | None = None
    companions: Mapping[str, str] = {}
    refine_defaults: Mapping[str, Any] = {}
    sampling_defaults: Mapping[str, Any] = {}

    @abstractmethod
    def pipeline(self) -> DiffusionPipeline:
        """The pipeline, loaded once and kept, on its device, progress bar off.

        With ``attention_family`` None it may be any object that is called like a text-to-image pipeline and has
        its ``tokenizer`` and ``text_encoder``.

        Raises:
            ModelError: the checkpoint is missing, damaged, or not a text-to-image pipeline.
        """


class Tagger(Plugin):
    """Names the objects in images."""

    @abstractmethod
    def __call__(self, images: Sequence[Image]) -> list[tuple[Tag, ...]]:
        """One tuple of tags per image (RGB), most confident first; empty where nothing is recognised.

        Of tags with the same name in one image the first is kept.
        """


class Scorer(Plugin):
    """Judges and describes tags in the light of a prompt (eq. 6).

    Attributes:
        concurrency: how many calls, each in a thread of its own, it can take at once.
    """

    concurrency: int = 1

    @abstractmethod
    def __call__(self, prompt: str, tags: Sequence[Tag]) -> tuple[LocalCaption, ...]:
        """One local caption per tag, in the tags' order.

        Any exception, or an answer that leaves out, invents or repeats a tag, hands over to the next scorer
        in the chain; the reason is recorded.
        """

    def notes(self, prompt: str, captions: Sequence[LocalCaption]) -> tuple[str, ...]:
        """What users should know about an answer of this scorer, a sentence each: a realignment's notes say it too.

        ``captions``: what it answered about the prompt.
        """
        return ()


class Segmenter(Plugin):
    """Finds described objects in an image."""

    @abstractmethod
    def __call__(self, image: Image, phrases: Sequence[str]) -> list[tuple[Mask, float] | None]:
        """For each phrase its mask, bool (H, W) of the image's size, and a confidence in [0, 1].

        None where the phrase is not found: the realigner goes on without it and says so.
        """


class VQA(Plugin):
    """Answers questions about images (visual question answering).

    It may have more, of which metrics make use where it is there:

    - ``probabilities(images, questions, answers)``: for each pair of an image and a question, a list with the
      probability, in [0, 1], of each of its answers (``answers``: a sequence of texts per pair): that of the *first
      token* of what the model would say being the first token of this text, spelt as it is. Which spellings count as
      the same answer, and how they are added up, is for those who ask;
    - ``identity()``: what its answers depend on beside its options, as names and JSON values (the hash of the weights).
    """

    @abstractmethod
    def __call__(
        self, images: Sequence[Image], questions: Sequence[str], choices: Sequence[Sequence[str]] | None = None
    ) -> list[str]:
        """A short answer to each question, which is about the image (RGB) at the same place.

        The same image may come several times, one object with each of its questions: look at it once.

        Args:
            images: as many as there are questions.
            questions: in words.
            choices: per question, the answers to choose from, which a model that was trained to be shown choices is
                shown. Others pass them over: an answer in other words is allowed.
        """


class Reward(Plugin):
    """Judges how well images follow their prompts.

    It may have more, of which evaluation and choosing among candidates make use where it is there, without gradients,
    and guidance of sampling (``guiding``), with one:

    - ``reported(images, prompts)``: the rewards of PIL images (RGB), float (B,), as they are reported, where that is
      not what calling it with tensors gives: eq. 4's greedy caption, say, where an estimator is what it trains with;
    - ``ranked(images, prompts)``: numbers of the same kind by which to choose among images of the same prompt, where
      ``reported`` has ties: a number made of words, say, is the same for many images;
    - ``estimated_gradient``: True where its gradient is an estimate, that of another function, or straight-through: it
      then need not equal finite differences;
    - ``compares``: True where what ``ranked`` says of an image depends on the prompt's other images: it is then asked
      about all candidates of one prompt at a time;
    - ``guiding(images, prompts)``: what guides sampling instead of what calling it gives, of the same form, where the
      gradient of that is too noisy for single images: where it samples captions, say;
    - ``training_options``: names of the options on which only what it is trained with depends: ``reported`` is the
      same whatever they are, so that nobody may give them to measure with;
    - ``features(images)``: float (B, D), for a Fréchet distance;
    - ``parts``: of a weighted sum, a tuple of pairs: a reward (:class:`realignkit.named.Named`) and its weight. They
      are logged one by one.

    Attributes:
        differentiable: whether gradients flow from the rewards back to ``images``.
        margin: ``phi(R) = relu(margin - R)`` in eq. 5; 1 for cosines, 2 for standardised ImageReward.
    """

    differentiable: bool = True
    margin: float = 1.0

    @abstractmethod
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards, float (B,), higher is better. ``images``: float (B, 3, H, W) in [0, 1]."""


class Metric(Plugin):
    """Numbers about many images, streamed: ``update`` any number of times, then ``compute``.

    A metric may have more, of which ``realignkit eval`` and the ablations make use where it is there:

    - ``judge_each(images, prompts)``: the values of each image alone, a mapping per image, summing up nothing. Numbers
      are values, grouped ones by a slash (``"tifa": 0.75``, ``"tifa/color": 1.0``); ``"details"`` may be a list of
      plain dicts, such as one per question. What it says is kept with the picture, and is all that it need remember;
    - ``summarise(records)``: the numbers over a set, by name, from such mappings, each with the picture's ``id``,
      ``prompt`` and ``seed`` too, where they are not the means over prompts of the means over their pictures;
    - ``state()``, a mapping of names to numpy arrays, and ``restore(state)``: all that it has seen, where it looks at
      the set as a whole. So it goes on after a kill, and several processes' are merged. Sums are float64, that equal
      batches in an equal order give equal bits;
    - ``identity()``: what its numbers depend on beside the images, as names and JSON values (the hash of the weights,
      the template, how images are resized). Results of other identities are not compared;
    - ``can_judge(prompt)``: False for prompts that it does not understand, which are then left out;
    - ``features(images)``: float (B, D), for a Fréchet distance; a reward may have it too;
    - ``reference(prompts, count)``: so many pictures (RGB) as good as they can be, to compare with.

    Attributes:
        higher_is_better: whether a larger value is a better one.
        yes_or_no: the names of its values that say yes (1) or no (0) of a picture: in percent in tables, and tested as
            verdicts. None: it does not say, and a value that is 0 or 1 of every picture counts as one.
    """

    higher_is_better: bool = True
    yes_or_no: Collection[str] | None = None

    @abstractmethod
    def update(self, images: Sequence[Image], prompts: Sequence[str]) -> None:
        """Take in images (RGB) and the prompts that they were made for."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Named values over everything taken in so far."""

    @abstractmethod
    def merge(self, other: Metric) -> None:
        """Take in what another instance with the same options has seen (another process, say)."""


class PromptSet(Plugin):
    """Prompts with a name and a size, and perhaps with the truth about them.

    A set may have a method ``labels()``: for each prompt, in order, a mapping of texts. Its ``id`` is what lists of
    pictures call the prompt by; anything else is what tables group by, such as ``category``.

    Attributes:
        source: where the prompts come from (a file, a paper, a procedure), for reports.
        summary: what was read and what was left out, a line for the user; "" where there is nothing to say.
    """

    source: str = ""
    summary: str = ""

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """The prompts, always in the same order."""

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    def truth(self, prompt: str, tags: Sequence[str]) -> Truth | None:
        """What a right answer of a scorer says about these tags; None where the set does not know."""
        return None


CONTRACTS: Mapping[str, type[Plugin]] = {
    "generator": Generator,
    "reward": Reward,
    "tagger": Tagger,
    "scorer": Scorer,
    "segmenter": Segmenter,
    "vqa": VQA,
    "metric": Metric,
    "prompts": PromptSet,
}
"""The contract of each of :data:`KINDS`."""
