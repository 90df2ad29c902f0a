"""The page: what a person sees and presses, each press one call on somebody's :class:`~realignkit.ui.work.Work`.

Needs gradio: ``realignkit[ui]``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from realignkit.errors import OptionError, RealignKitError
from realignkit.types import Likelihood
from realignkit.ui import render
from realignkit.ui.archive import Runs, read_archive
from realignkit.ui.models import Models
from realignkit.ui.settings import SETTINGS, Setting, values_of
from realignkit.ui.work import MOST_CANDIDATES, Everybody, Request, Work

HERE = Path(__file__).parent
WATCHERS = 32
"""People who may follow a drawing at once."""

# A tab's key lies where a reload finds it, and no other tab does.
_KEY = """() => {
  let key = sessionStorage.getItem("realignkit");
  if (!key) {
    key = Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
    sessionStorage.setItem("realignkit", key);
  }
  return [key];
}"""


def make_page(everybody: Everybody, models: Models, runs: Runs) -> gr.Blocks:
    """The page, to be mounted.

    Args:
        everybody: whose work it shows, by the tab's key.
        models: that may be chosen.
        runs: that may be opened by name.
    """
    with gr.Blocks(title="realignkit", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        Page(everybody, models, runs).build(page)
    page.queue(max_size=2 * WATCHERS, default_concurrency_limit=WATCHERS, api_open=False)
    return page


class Page:
    """Its components, and what each does; see :func:`make_page`."""

    def __init__(self, everybody: Everybody, models: Models, runs: Runs) -> None:
        self.everybody, self.models, self.runs = everybody, models, runs

    def build(self, page: gr.Blocks) -> None:
        """Lay out the components, and tie what they do to them."""
        gr.Markdown("# realignkit\nA picture drawn again, with every object of the prompt in its place.")
        self.key = gr.Textbox(visible=False)
        self._build_request()
        self.status = gr.HTML(render.waiting(), elem_id="status", js_on_load=None)
        self.steps = gr.HTML(elem_id="steps", js_on_load=None)
        with gr.Group(visible=False) as self.several:
            self.candidates = gr.HTML(elem_id="candidates", js_on_load=None)
            self.candidate = gr.Radio([], label="Which candidate goes on", elem_id="candidate")
        with gr.Column(visible="hidden") as self.result:
            gr.Markdown("## Before and after")
            self.compare = gr.HTML(elem_id="compare", js_on_load=None)
            self._build_editor()
            gr.Markdown("## Refinements side by side")
            self.versions = gr.HTML(elem_id="versions", js_on_load=None)
            self.version = gr.Radio([], label="Which one to look at and to go on from", elem_id="version")
        self._build_opening()
        self.outputs = [
            self.status, self.steps, self.several, self.candidates, self.candidate, self.result, self.compare,
            self.versions, self.version, self.object, self.caption, self.likelihood, self.editor, self.go, self.cancel,
            self.again,
        ]  # fmt: skip
        self._tie(page)

    def _build_request(self) -> None:
        self.prompt = gr.Textbox(
            label="Prompt", info="What the picture should show.", elem_id="prompt", max_length=2000
        )
        with gr.Row():
            names = self.models.names
            self.model = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1, elem_id="model")
            # A text: seeds are up to 2**63, which a browser's numbers do not hold.
            self.seed = gr.Textbox("42", label="Seed", info="The noise to start from.", elem_id="seed", max_length=20)
            self.count = gr.Slider(
                1,
                MOST_CANDIDATES,
                1,
                step=1,
                label="Candidates",
                info="First pictures to choose among.",
                elem_id="count",
            )
        with gr.Accordion("A picture of your own", open=False):
            self.picture = gr.File(
                label="Refine this picture's content instead of a drawn one", file_types=["image"], elem_id="picture"
            )
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            gr.Markdown("In plain words; below each, what the paper calls it and the option's name.")
            self.settings = [_component(setting) for setting in SETTINGS]
        with gr.Row():
            self.go = gr.Button(
                "Draw", variant="primary", elem_id="draw", interactive=False
            )  # until settings are known
            self.cancel = gr.Button("Cancel", elem_id="cancel", interactive=False)

    def _build_editor(self) -> None:
        gr.Markdown("## Change what was found, and refine again")
        with gr.Row():
            with gr.Column(min_width=280):
                self.object = gr.Radio([], label="Object", elem_id="object")
                self.caption = gr.Textbox(
                    label="Its caption", info="Changed with Enter.", elem_id="caption", max_length=500
                )
                self.likelihood = gr.Radio(
                    [(f"{each} (s = {each.score:g})", each.value) for each in Likelihood],
                    label="How likely the prompt makes it",
                    elem_id="likelihood",
                )
                self.delete = gr.Button("Delete this object", elem_id="delete")
                self.new = gr.Textbox(label="A new object", placeholder="a red book", elem_id="new", max_length=500)
                self.add = gr.Button("Add it", elem_id="add")
            with gr.Column(min_width=280):
                self.editor = gr.HTML(
                    "",
                    html_template=(HERE / "editor.html").read_text(encoding="utf-8"),
                    js_on_load=(HERE / "editor.js").read_text(encoding="utf-8"),
                    elem_id="editor",
                )
        self.again = gr.Button("Refine again", variant="primary", elem_id="again")

    def _build_opening(self) -> None:
        with gr.Accordion("Open a run", open=False, elem_id="opening"):
            names = self.runs.names()
            self.run = gr.Dropdown(
                names, value=None, label=f"A run in {self.runs.folder.name}/", visible=bool(names), elem_id="run"
            )
            self.archive = gr.File(label="A run folder as a zip file", file_types=[".zip"], elem_id="archive")

    # --- what is done -------------------------------------------------------------------------------------------------

    def _tie(self, page: gr.Blocks) -> None:
        restored = [self.prompt, self.model, self.seed, self.count, *self.settings]
        known = page.load(None, None, [self.key], js=_KEY, show_progress="hidden")
        known.then(self._loaded, [self.key], [*restored, *self.outputs], show_progress="hidden")
        asked = [self.prompt, self.model, self.seed, self.count, self.picture, *self.settings]
        self._do([self.go.click, self.prompt.submit], lambda work, *values: work.draw(_request(*values)), *asked)
        self._do([self.again.click], _again, self.caption, *self.settings)
        self._do([self.candidate.input], Work.choose_candidate, self.candidate)
        self._do([self.version.input], Work.show, self.version)
        self._do([self.object.input], Work.choose, self.object)
        self._do([self.caption.submit, self.caption.blur], _renamed, self.caption)
        self._do([self.likelihood.input], lambda work, value: work.change(likelihood=value), self.likelihood)
        self._do([self.delete.click], Work.delete)
        self._do([self.add.click, self.new.submit], Work.add, self.new)
        for event, action, component in (
            (self.run.input, lambda work, name: work.open(self.runs.read(name)), self.run),
            (self.archive.upload, lambda work, path: work.open(read_archive(Path(path))), self.archive),
        ):
            opened = self._do([event], action, component)
            opened.then(self._restored, [self.key], restored, show_progress="hidden")
        self.model.input(lambda name: values_of(self.models.realigner(name)), [self.model], self.settings)
        self.editor.paint(self._painted, [self.key], self.outputs, show_progress="hidden")
        self.cancel.click(self._cancelled, [self.key], [self.status], queue=False, show_progress="hidden")

    def _do(self, events: Sequence[Any], action: Callable[..., Any], *inputs: Any) -> Any:
        """On some events do something to somebody's work, and show what comes of it until nothing more does."""

        def follow(key: str, *values: Any) -> Iterator[list[Any]]:
            work = self.everybody.work(key)
            _tried(work, action, *values)
            yield from self._followed(key, work)

        return gr.on(events, follow, [self.key, *inputs], self.outputs, show_progress="hidden")

    def _followed(self, key: str, work: Work) -> Iterator[list[Any]]:
        last: list[Any] = [None] * len(self.outputs)
        for _ in work.job.watch() if work.job is not None and work.busy else [None]:
            values = self._values(key, work)
            yield [gr.skip() if value == before else value for value, before in zip(values, last, strict=True)]
            last = values

    def _loaded(self, key: str) -> Iterator[list[Any]]:
        work = self.everybody.work(key)
        restored = _tried(work, lambda work: self._restored(key)) or [gr.skip()] * (4 + len(self.settings))
        for values in self._followed(key, work):
            yield [*restored, *values]
            restored = [gr.skip()] * len(restored)

    def _restored(self, key: str) -> list[Any]:
        """What was asked for last; before that, how the model is used."""
        asked = self.everybody.work(key).request
        model = asked.model if asked else self.models.names[0]
        settings = (asked.settings if asked else ()) or values_of(self.models.realigner(model))
        return [asked.prompt, model, str(asked.seed), asked.candidates, *settings] if asked else [
            gr.skip(), model, gr.skip(), gr.skip(), *settings
        ]  # fmt: skip

    def _painted(self, key: str, event: gr.EventData) -> list[Any]:
        work = self.everybody.work(key)
        _tried(work, lambda work: work.paint(_picture(event)))
        values = self._values(key, work)
        # Not to the editor: it may be a stroke further by now.
        return [gr.skip() if of is self.editor else value for of, value in zip(self.outputs, values, strict=True)]

    def _cancelled(self, key: str) -> str:
        work = self.everybody.work(key)
        work.cancel()
        return render.status(work)

    def _values(self, key: str, work: Work) -> list[Any]:
        """What each of the outputs shows."""
        item = work.objects[work.chosen].caption if work.objects else None
        several = len(work.draft.candidates) if work.draft else 0
        numbers = [(f"{i + 1}: {version.title}", i) for i, version in enumerate(work.versions)]
        ready = not work.busy
        return [
            render.status(work),
            render.steps(work),
            gr.update(visible=several > 1),
            render.candidates(work),
            gr.update(
                choices=[(f"Candidate {i + 1}", i) for i in range(several)], value=work.candidate, interactive=ready
            ),
            gr.update(visible=True if work.versions else "hidden"),
            render.compare(work),
            render.versions(work, f"runs/{key}/{{number}}.zip"),
            gr.update(choices=numbers, value=work.shown if numbers else None),
            gr.update(choices=render.labels(work), value=work.chosen if item else None),
            item.caption if item else "",
            item.likelihood.value if item else None,
            render.editor(work),
            gr.update(interactive=ready),
            gr.update(interactive=not ready),
            gr.update(interactive=ready),
        ]


def _tried(work: Work, action: Callable[..., Any], *values: Any) -> Any:
    """Do something; what goes wrong is said on the page, in the words of the command line."""
    work.message = ""
    try:
        return action(work, *values)
    except RealignKitError as error:
        work.message = str(error)
    return None


def _request(prompt: str, model: str, seed: str, count: int, picture: str | None, *settings: Any) -> Request:
    if not str(seed).strip().isdecimal():
        raise OptionError(f"a seed is a whole number, 0 or more, not '{str(seed)[:40]}'.")
    return Request(prompt or "", model, int(seed), int(count), Path(picture) if picture else None, settings)


def _again(work: Work, caption: str, *settings: Any) -> None:
    _renamed(work, caption)  # it may not have been left yet
    work.refine_again(settings)


def _renamed(work: Work, caption: str) -> None:
    if work.objects and caption != work.objects[work.chosen].caption.caption:
        work.change(caption=caption)


def _picture(event: gr.EventData) -> Image.Image:
    """The mask that the editor sends.

    Raises:
        OptionError: it is no picture.
    """
    try:
        data = str(event._data["mask"]).partition("base64,")[2]
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"])
        picture.load()
        return picture
    except Exception as error:  # Pillow raises many kinds
        raise OptionError("the mask that the page sent cannot be read: load the page again.") from error


def _component(setting: Setting) -> Any:
    name = setting.name.replace(".", "-")
    if setting.is_switch:
        return gr.Checkbox(label=setting.words, info=setting.about, elem_id=name)
    if setting.low is None or setting.high is None:
        return gr.Textbox(label=setting.words, info=setting.about, elem_id=name, max_length=500)
    return gr.Slider(
        setting.low, setting.high, step=setting.step, label=setting.words, info=setting.about, elem_id=name
    )
