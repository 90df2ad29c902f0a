"""The method step by step, with a change of mind in the middle: python examples/single_steps.py [folder]."""

import sys
from dataclasses import replace
from pathlib import Path

from realignkit import Layout, Likelihood, Realigner
from realignkit.report import overlay

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "realignments/single-steps")
folder.mkdir(parents=True, exist_ok=True)
prompt, seed = "a red book and a yellow pen", 42
realigner = Realigner.from_pretrained("micro_256")

(coarse,) = realigner.generate([prompt], [seed])
(tags,) = realigner.tag([coarse])
answer = realigner.score(prompt, tags)  # eq. 6
layout, notes = realigner.segment(coarse, answer.captions)
print(f"{answer.scorer} scored {', '.join(tag.name for tag in tags) or 'nothing'}", *notes, sep="\n")

# Steps are plain values, so anything between two of them can be edited: here only what is certain shall be pushed.
certain = Layout(tuple(segment for segment in layout if segment.caption.likelihood is Likelihood.CERTAIN))
refined = realigner.refine([prompt], [certain], [seed])

# Another opinion about the same layout: scenery counts as much as the objects.
equal = Layout(tuple(replace(s, caption=replace(s.caption, likelihood=Likelihood.CERTAIN)) for s in layout))
other = realigner.refine([prompt], [equal], [seed])

coarse.save(folder / "coarse.png")
overlay(coarse, layout).save(folder / "layout.png")
refined.images[0].save(folder / "refined-certain.png")
other.images[0].save(folder / "refined-equal.png")
print(f"Four pictures are in {folder}.")
