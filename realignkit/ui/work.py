"""What one person is at: a picture on its way, its objects as they have been changed, and all that was drawn of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from realignkit import arguments
from realignkit.errors import OptionError, PromptError
from realignkit.images import Given, open_image
from realignkit.realigner.draft import Draft
from realignkit.realigner.steered import another_candidate, made_of, refined_again, watched
from realignkit.realigner.steps import Progress
from realignkit.realignment import Realignment
from realignkit.ui.desk import Desk, Job
from realignkit.ui.models import Models
from realignkit.ui.objects import Objects, added, changed, differences, layout_of, mask_of, objects_of
from realignkit.ui.settings import recorded, values_of, with_values

if TYPE_CHECKING:
    from PIL.Image import Image

    from realignkit.realigner import Realigner

KEPT = 64
"""People whose work is kept; of more the one who was away longest has to begin anew."""
MOST_CANDIDATES = 8


@dataclass(frozen=True)
class Request:
    """What a person asks for.

    Attributes:
        prompt, model, seed: as for ``realignkit run``.
        candidates: coarse images to choose among.
        picture: the file of a picture of the person's own, which is refined instead of a drawn one; None: one is drawn.
        settings: in the order of :data:`realignkit.ui.settings.SETTINGS`.
    """

    prompt: str
    model: str
    seed: int
    candidates: int = 1
    picture: Path | None = None
    settings: Sequence[Any] = ()


@dataclass(frozen=True)
class Version:
    """One refinement: what came of it, and the objects that it was drawn with."""

    realignment: Realignment
    objects: Objects
    title: str


@dataclass(eq=False)
class Work:
    """One person's.

    Attributes:
        models, desk: whose models draw, and where.
        model: the chosen one's name.
        draft: what is known of the picture so far; None before the first, and of one that was opened.
        objects: as they are now.
        chosen: which of them is being changed; with no objects 0.
        versions: the refinements of this picture, the first of which is the method's own.
        shown: which of them is looked at.
        request: what was asked for last.
        job: what is being done, or was last.
        message: what went wrong, in a sentence.
    """

    models: Models
    desk: Desk
    model: str = ""
    draft: Draft | None = None
    objects: Objects = ()
    chosen: int = 0
    versions: list[Version] = field(default_factory=list)
    shown: int = 0
    request: Request | None = None
    job: Job | None = None
    message: str = ""
    _realigner: Realigner | None = None

    @property
    def busy(self) -> bool:
        """Whether something is being drawn, or waits for it."""
        return self.job is not None and not self.job.over

    @property
    def version(self) -> Version | None:
        """The refinement that is looked at."""
        return self.versions[self.shown] if self.versions else None

    @property
    def coarse(self) -> Image | None:
        """The coarse image, once there is one."""
        return self.versions[0].realignment.coarse if self.versions else getattr(self.draft, "coarse", None)

    @property
    def candidate(self) -> int | None:
        """Which candidate went on; None where there was nothing to choose."""
        candidates = self.draft.candidates if self.draft else ()
        return next((i for i, image in enumerate(candidates) if image is self.coarse), None)

    @property
    def changes(self) -> tuple[str, ...]:
        """What has been changed since the version that is looked at, in words."""
        return differences(self.version.objects, self.objects) if self.version else ()

    # --- drawing ------------------------------------------------------------------------------------------------------

    def draw(self, request: Request) -> None:
        """Begin anew: a coarse image, its objects, the refined image.

        Raises:
            PromptError, OptionError: what is asked for cannot be drawn, whatever the model.
            RealignKitError: too many wait.
        """
        self._refuse_twice()
        if not request.prompt.strip():
            raise PromptError("the prompt is empty. Say what the picture should show, e.g. 'a red book'.")
        if not 1 <= request.candidates <= MOST_CANDIDATES:
            raise OptionError(f"candidates must be 1 to {MOST_CANDIDATES}, got {request.candidates}.")
        given = None if request.picture is None else _opened(request.picture)
        draft = Draft(request.prompt, arguments.seed_of(request.seed), given)

        def work(progress: Progress) -> None:
            count = request.candidates
            realigner = self.models.realigner(request.model)
            realigner = realigner.with_(**({"candidates": count} if count > 1 else {"select_by": None}))
            self._take(with_values(realigner, request.settings) if request.settings else realigner, draft, progress)

        self._begin(request.model, draft)
        self.request = request
        self.job = self.desk.submit(work)

    def choose_candidate(self, index: int) -> None:
        """Go on from another candidate than the one that was chosen.

        Raises:
            OptionError: there is none of that number.
            RealignKitError: too many wait.
        """
        self._refuse_twice()
        before, realigner = self.draft, self._realigner
        if before is None or realigner is None or not 0 <= index < len(before.candidates):
            raise OptionError("there is no such candidate: draw several first.")
        if index == self.candidate:
            return
        draft = another_candidate(before, index)
        draft.candidates = before.candidates
        self._begin(self.model, draft)
        self.job = self.desk.submit(lambda progress: self._take(realigner.with_(candidates=1), draft, progress))

    def refine_again(self, settings: Sequence[Any] = ()) -> None:
        """Repeat the last step alone, with the objects as they are now, from the same noise.

        Raises:
            OptionError: there is nothing to refine, or a setting is out of its range.
            RealignKitError: too many wait.
        """
        self._refuse_twice()
        version, realigner = self.version, self._realigner
        if version is None or realigner is None:
            raise OptionError("there is nothing to refine yet: draw a picture, or open a run, first.")
        if settings:
            realigner = with_values(realigner, settings)
        objects, changes = self.objects, self.changes
        notes = (f"the layout was changed by hand: {'; '.join(changes)}",) if changes else ()

        def work(progress: Progress) -> None:
            layout = layout_of(objects, with_unlikely=realigner.segment_unlikely)
            captions = [item.caption for item in objects]
            made = refined_again(realigner, version.realignment, captions, layout, notes, progress=progress)
            unchanged = "the same again" if made.settings == version.realignment.settings else "with other settings"
            self._keep(Version(made, objects, "; ".join(changes) or unchanged))

        self.job = self.desk.submit(work)

    def cancel(self) -> None:
        """Stop what is being drawn; what is there stays."""
        if self.job is not None:
            self.job.cancel()

    # --- objects ------------------------------------------------------------------------------------------------------

    def choose(self, index: int) -> None:
        """Turn to an object.

        Raises:
            OptionError: there is no such object.
        """
        if not isinstance(index, int) or not 0 <= index < len(self.objects):
            raise OptionError("there is no such object: choose one of the list.")
        self.chosen = index

    def change(self, **what: Any) -> None:
        """Change the chosen object: see :func:`realignkit.ui.objects.changed`.

        Raises:
            OptionError: the value is none, or there is no such object.
        """
        self.choose(self.chosen)
        objects = list(self.objects)
        objects[self.chosen] = changed(objects[self.chosen], **what)
        self.objects = tuple(objects)

    def paint(self, picture: Image) -> None:
        """Give the chosen object the mask that a picture shows: where that is bright and opaque.

        Raises:
            OptionError: there is no such object.
        """
        self.choose(self.chosen)
        height, width = self.objects[self.chosen].mask.shape
        self.change(mask=mask_of(picture, (width, height)))

    def add(self, caption: str) -> None:
        """Add an object without a mask, and turn to it.

        Raises:
            OptionError: the caption is empty, or there is no picture yet.
        """
        if self.coarse is None:
            raise OptionError("there is no picture to add an object to: draw one first.")
        self.objects = added(self.objects, caption, self.coarse.size)
        self.chosen = len(self.objects) - 1

    def delete(self) -> None:
        """Take the chosen object away.

        Raises:
            OptionError: there is no such object.
        """
        self.choose(self.chosen)
        self.objects = (*self.objects[: self.chosen], *self.objects[self.chosen + 1 :])
        self.chosen = max(0, min(self.chosen, len(self.objects) - 1))

    # --- versions and runs --------------------------------------------------------------------------------------------

    def show(self, index: int) -> None:
        """Look at a refinement, with the objects that it was drawn with."""
        if 0 <= index < len(self.versions):
            self.shown, self.objects, self.chosen = index, self.versions[index].objects, 0

    def open(self, realignment: Realignment) -> None:
        """Go on from a saved realignment; with a model that this page does not offer it can be looked at.

        Raises:
            OptionError: something is being drawn.
        """
        self._refuse_twice()
        self._begin(realignment.plugins.get("generator", ""), None)
        objects = objects_of(realignment.captions, realignment.layout, realignment.coarse.size)
        self._keep(Version(realignment, objects, "as it was saved"))
        self.request = None
        try:
            self._realigner = recorded(self.models.realigner(self.model).with_(select_by=None), realignment.settings)
        except OptionError as error:
            self.message = f"The run can be looked at, not drawn again: {error}"
        else:
            shown = tuple(values_of(self._realigner))
            self.request = Request(realignment.prompt, self.model, realignment.seed, settings=shown)

    # --- within -------------------------------------------------------------------------------------------------------

    def _refuse_twice(self) -> None:
        if self.busy:
            raise OptionError("a picture is being drawn: wait for it, or cancel it.")

    def _begin(self, model: str, draft: Draft | None) -> None:
        self.model, self.draft, self.objects, self.versions, self.shown = model, draft, (), [], 0
        self.message, self._realigner, self.chosen = "", None, 0

    def _take(self, realigner: Realigner, draft: Draft, progress: Progress) -> None:
        self._realigner = realigner
        for _ in watched(realigner, draft, progress):
            if hasattr(draft, "answer"):
                self.objects = objects_of(draft.answer.captions, draft.layout, draft.coarse.size)
        self._keep(Version(made_of(realigner, draft), self.objects, "as the method found it"))

    def _keep(self, version: Version) -> None:
        self.versions.append(version)
        self.shown, self.objects = len(self.versions) - 1, version.objects
        self.chosen = max(0, min(self.chosen, len(self.objects) - 1))


class Everybody:
    """The work of all who have the page open, by the keys that their browsers made up.

    Args:
        begin: makes the work of somebody new.
        most: people whose work is kept.
    """

    def __init__(self, begin: Callable[[], Work], most: int = KEPT) -> None:
        self._begin, self._most = begin, most
        self._works: OrderedDict[str, Work] = OrderedDict()
        self._lock = threading.Lock()

    def work(self, key: str) -> Work:
        """Somebody's work.

        Raises:
            OptionError: this is no key.
        """
        if not (isinstance(key, str) and 16 <= len(key) <= 64 and key.isalnum()):
            raise OptionError("this page has lost its key: load it again.")
        with self._lock:
            work = self._works.pop(key, None) or self._begin()
            self._works[key] = work
            while len(self._works) > self._most:
                self._works.popitem(last=False)[1].cancel()
        return work


def _opened(picture: Path) -> Given:
    try:
        return open_image(picture)
    except OptionError as error:  # where an upload lies is nobody's business
        raise OptionError(str(error).replace(str(picture), picture.name)) from None
