"""Realign a prompt from Python: python examples/realign.py ["a prompt"] [folder]."""

import sys

from realignkit import Realigner
from realignkit.report import write_report

prompt = sys.argv[1] if len(sys.argv) > 1 else "a yellow car and a blue bench"
folder = sys.argv[2] if len(sys.argv) > 2 else "realignments/example"

realigner = Realigner.from_pretrained("micro_256")
result = realigner(prompt, seed=43)

for caption in result.captions:
    print(f"{caption.tag:10} {caption.likelihood:10} {caption.caption}")
for note in result.notes:
    print(f"note: {note}")

result.save(folder)
print(f"Open {write_report(result, folder)} in a browser.")
