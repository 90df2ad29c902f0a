"""One image under somebody's eyes: figure 2 step by step, another candidate, the last step with another layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from realignkit import arguments
from realignkit.machine import suited_threads
from realignkit.realigner import draft
from realignkit.realigner.draft import Draft
from realignkit.realigner.steps import Progress, silent
from realignkit.types import Answer, Layout, LocalCaption, Tag

if TYPE_CHECKING:
    from realignkit.realigner import Realigner
    from realignkit.realignment import Realignment

EDITED = "edited"
"""``settings["layout"]`` of a realignment whose layout somebody has changed."""


def watched(realigner: Realigner, asked: Draft, progress: Progress = silent) -> Iterator[Draft]:
    """Take one draft through figure 2: gives it back after each step, and is done with it in the end.

    What comes of it is what calling the realigner gives: :func:`made_of` makes the realignment.

    Args:
        realigner: whose plugins and options are used.
        asked: with a coarse image already, as :func:`another_candidate` makes them, it is not drawn.
        progress: as for calling the realigner.

    Raises:
        PromptError, ModelError, PluginError: as for calling the realigner.
    """
    draft.check(realigner, [asked])
    realigner.check_heat_maps([asked.prompt])
    for step in draft.FIGURE_2:
        if step is draft.generate and hasattr(asked, "coarse"):
            continue
        with suited_threads(realigner.pipeline(), threads=realigner.threads):
            step(realigner, [asked], progress)
        yield asked


def made_of(realigner: Realigner, done: Draft) -> Realignment:
    """The realignment that a draft has become, after plugins' ``after_realign`` have seen it."""
    settings = realigner.settings_for(None if done.given is None else done.given[0])
    return draft.finished(realigner, done, realigner.names, settings)


def another_candidate(done: Draft, index: int) -> Draft:
    """A draft that goes on from another candidate: that of its own seed, as if nothing had been chosen.

    Args:
        done: one with candidates.
        index: which of them.
    """
    chosen = Draft(done.prompt, draft.candidate_seeds(done.seed, len(done.candidates))[index])
    chosen.coarse = done.candidates[index]
    chosen.notes.append(f"candidate {index + 1} of {len(done.candidates)} was chosen by hand")
    return chosen


def refined_again(
    realigner: Realigner,
    before: Realignment,
    captions: Sequence[LocalCaption],
    layout: Layout,
    notes: Sequence[str] = (),
    *,
    progress: Progress = silent,
) -> Realignment:
    """The fine stage alone, from the same noise, with another layout.

    Plugins' ``before_refine`` is not run: what a person has changed stays. With nothing changed the image is the same.

    Args:
        realigner: of the same model; its options of attention and sampling count.
        before: where the coarse image is from.
        captions: of all objects.
        layout: of those that are to act; masks bool (H, W) of the coarse image's size.
        notes: what has been changed, in words.
        progress: as for calling the realigner.

    Raises:
        PromptError, ModelError, PluginError: as for calling the realigner.
        OptionError: a mask or a caption is none.
    """
    again = Draft(before.prompt, before.seed)
    again.start, again.coarse = draft.start_of(before), before.coarse
    known = {tag.name for tag in before.tags}
    again.answer = Answer(tuple(arguments.captions(captions)), before.plugins.get("scorer", ""))
    again.tags = (*before.tags, *(Tag(caption.tag) for caption in captions if caption.tag not in known))
    (again.layout,) = arguments.layouts([layout], before.coarse.size)
    again.coarse_maps = {item.word: item.coarse for item in before.heat_maps if item.coarse is not None}
    again.notes = [*(note for note in before.notes if draft.KEPT in note), *notes]
    draft.check(realigner, [again])
    with suited_threads(realigner.pipeline(), threads=realigner.threads):
        draft.refine(realigner, [again], progress)
    now = {name: realigner.settings[name] for name in ("modulation", "sampling", "segment_unlikely", "generator")}
    edited = again.layout != before.layout or again.answer.captions != before.captions
    settings = {**before.settings, **now, **({"layout": EDITED} if edited else {})}
    return draft.finished(realigner, again, before.plugins, settings)
