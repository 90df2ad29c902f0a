"""Time and peak memory of plain, fast modulated and literal modulated attention, side by side in one run.

    python benchmarks/attention.py            # the attention layers of SD-1.5 and SDXL
    python benchmarks/attention.py --joint    # those of FLUX.1: text and image in one sequence
    python benchmarks/attention.py --smoke    # seconds; checks that everything runs

With ``--joint`` a fourth form stands beside them: plain attention with a dense additive mask, which is how others draw
regions by hand. On a GPU the fast form as it is without Triton, on widened heads, stands there too. Times are medians
of interleaved calls (plain, fast, literal, plain, …), so that whatever else the machine does hits all alike. Memory is
what one call adds to the peak of a fresh process (on a GPU: to the allocator's).
Prints a Markdown table and writes ``benchmarks/results/attention.json``.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from realignkit.attention.fast import Keys, Members, fast_attention, widened_attention
from realignkit.attention.joint import JointMembers, joint_attention, literal_joint_attention, widened_joint_attention
from realignkit.attention.modulation import area_fraction, literal_attention, modulated_similarity, region_matrix
from realignkit.files import atomic_write

OBJECTS = 3


@dataclass(frozen=True)
class Shape:
    """One attention layer: N queries, K keys (K = N: self-attention), heads of width d.

    Of a joint layer (K = N) the first ``text`` tokens are text, and image attends to image by ``image_weight``.
    """

    layer: str
    N: int
    K: int
    heads: int
    d: int
    text: int = 0
    image_weight: float = 0.2


SHAPES = (
    Shape("SD-1.5 self", 256, 256, 8, 160),
    Shape("SD-1.5 self", 1024, 1024, 8, 80),
    Shape("SD-1.5 self", 4096, 4096, 8, 40),
    Shape("SD-1.5 cross", 4096, 77, 8, 40),
    Shape("SDXL self", 1024, 1024, 20, 64),
    Shape("SDXL self", 4096, 4096, 10, 64),
    Shape("SDXL cross", 4096, 77, 10, 64),
)
JOINT = (
    Shape("FLUX.1 joint", 1536, 1536, 24, 128, 512),
    Shape("FLUX.1 joint", 4608, 4608, 24, 128, 512),
    Shape("FLUX.1 joint, text alone", 4608, 4608, 24, 128, 512, image_weight=0.0),  # image to image as it is
)
SMOKE = (Shape("tiny self", 64, 64, 2, 8), Shape("tiny joint", 72, 72, 2, 8, 8))


def calls(shape: Shape, device: str, dtype: torch.dtype) -> dict[str, Callable[[], torch.Tensor]]:
    """The ways to compute one layer, on the same inputs (one conditional sample, three objects)."""
    torch.manual_seed(0)
    query = torch.randn(1, shape.heads, shape.N, shape.d, device=device, dtype=dtype)
    key, value = (torch.randn(1, shape.heads, shape.K, shape.d, device=device, dtype=dtype) for _ in range(2))
    if shape.text:
        return joint_calls(shape, query, key, value)
    # The objects and the background have equal shares of the image.
    owner = torch.arange(shape.N, device=device) * (OBJECTS + 1) // shape.N
    queries = F.one_hot(owner, OBJECTS + 1)[None, :, :OBJECTS].bool()
    if shape.K == shape.N:
        keys = queries
    else:
        place = torch.arange(shape.K, device=device)[:, None] // 3
        keys = (place == torch.arange(OBJECTS, device=device))[None]
    area, rows = area_fraction(queries), queries[0].any(-1).nonzero()[:, 0]
    region = region_matrix(queries, keys)[:, None]
    modulated = partial(modulated_similarity, region=region, weight=0.6, area=area[:, None, :, None])
    members, amount = Members(queries, keys, rows), 0.6 * (1 - area)
    forms = {
        "plain": lambda: F.scaled_dot_product_attention(query, key, value),
        "fast": lambda: fast_attention(query, key, value, members, amount),
        "literal": lambda: literal_attention(query, key, value, modulated),
    }
    if device == "cuda":
        forms["widened"] = lambda: widened_attention(query, key, value, members, amount)
    return forms


def joint_calls(
    shape: Shape, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> dict[str, Callable[[], torch.Tensor]]:
    """Of a layer whose text tokens stand first; three tokens name each object."""
    text, image, device = slice(0, shape.text), slice(shape.text, shape.N), query.device
    cells = shape.N - shape.text
    owner = torch.arange(cells, device=device) * (OBJECTS + 1) // cells
    members = torch.zeros(1, shape.N, OBJECTS, dtype=torch.bool, device=device)
    members[0, image] = F.one_hot(owner, OBJECTS + 1)[:, :OBJECTS].bool()
    members[0, text] = torch.arange(shape.text, device=device)[:, None] // 2 == torch.arange(OBJECTS, device=device)
    area = area_fraction(members[:, image])
    to_text, to_image = torch.zeros(2, 1, shape.N, device=device)
    to_text[:, image], to_image[:, image] = 0.6 * (1 - area), shape.image_weight * (1 - area)
    kinds = Keys(text, members[:, text], to_text), Keys(image, members[:, image], to_image)
    joint = JointMembers(members, kinds)
    blocks = [
        (
            image,
            kind.at,
            partial(
                modulated_similarity,
                region=region_matrix(members[:, image], kind.members)[:, None],
                weight=weight,
                area=area[:, None, :, None],
            ),
        )
        for kind, weight in zip(kinds, (0.6, shape.image_weight), strict=True)
    ]
    mask = torch.where(region_matrix(members, members), 1.0, -1.0)[:, None].to(query.dtype)
    forms = {
        "plain": lambda: F.scaled_dot_product_attention(query, key, value),
        "fast": lambda: joint_attention(query, key, value, joint),
        "literal": lambda: literal_joint_attention(query, key, value, blocks),
        # One for each head and sample is what an additive mask of their own similarities takes.
        "mask": lambda: F.scaled_dot_product_attention(query, key, value, attn_mask=mask.repeat(1, shape.heads, 1, 1)),
    }
    if device.type == "cuda":
        forms["widened"] = lambda: widened_joint_attention(query, key, value, joint)
    return forms


def timings(shape: Shape, device: str, dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Median seconds per call of each form, and how far fast and literal are apart."""
    forms = calls(shape, device, dtype)
    results = {name: call() for name, call in forms.items()}  # also warms up
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, call in forms.items():
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    difference = (results["fast"] - results["literal"]).abs().max().item()
    return {**{name: statistics.median(values) for name, values in seconds.items()}, "difference": difference}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_of_process() -> int:
    """Peak resident bytes of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # its own peak; ru_maxrss starts from the parent's
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def added_peak(form: str, shape: Shape, device: str, dtype: torch.dtype) -> int:
    """Bytes that one call adds to the peak; on a CPU to be run in a fresh process."""
    calls(SMOKE[bool(shape.text)], device, dtype)[form]()  # loads kernels and thread pools
    call = calls(shape, device, dtype)[form]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    before = peak_of_process()
    call()
    return peak_of_process() - before


def memory(shape: Shape, device: str, dtype: str) -> dict[str, int]:
    """:func:`added_peak` of each form; on a CPU each in its own process, whose peak it is."""
    forms = calls(SMOKE[bool(shape.text)], "cpu", torch.float32)
    if device == "cuda":
        return {form: added_peak(form, shape, device, getattr(torch, dtype)) for form in forms}
    out = {}
    for form in forms:
        job = json.dumps({"form": form, "shape": asdict(shape), "device": device, "dtype": dtype})
        done = subprocess.run([sys.executable, __file__, "--job", job], capture_output=True, text=True, check=True)
        out[form] = int(done.stdout)
    return out


def table(rows: list[dict[str, object]]) -> str:
    """The results as Markdown."""
    forms = max((list(row["seconds"]) for row in rows), key=len)
    heads = [*(f"{form} ms" for form in forms), "fast / plain", "literal / fast", *(f"{form} MB" for form in forms)]
    lines = [
        f"| layer | N x K | heads x d | {' | '.join(heads)} | max difference |",
        f"| --- | --- | --- | {'--: | ' * (len(heads) + 1)}".rstrip(),
    ]
    for row in rows:
        shape, seconds, peak = row["shape"], row["seconds"], row["peak_bytes"]
        times = [f"{seconds.get(form, 0) * 1e3:.2f}" for form in forms]
        ratios = [f"{seconds[one] / seconds[other]:.1f}" for one, other in (("fast", "plain"), ("literal", "fast"))]
        sizes = [f"{peak.get(form, 0) / 1e6:.1f}" for form in forms]
        lines.append(
            f"| {shape['layer']} | {shape['N']} x {shape['K']} | {shape['heads']} x {shape['d']} "
            f"| {' | '.join([*times, *ratios, *sizes])} | {row['difference']:.1e} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, one repeat; written only with --out")
    parser.add_argument("--joint", action="store_true", help="layers of text and image in one sequence")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default=None, help="float32 on a CPU, float16 on a GPU unless said")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = json.loads(options.job)
        print(added_peak(job["form"], Shape(**job["shape"]), job["device"], getattr(torch, job["dtype"])))
        return
    dtype = options.dtype or ("float16" if options.device == "cuda" else "float32")
    rows = []
    for shape in SMOKE if options.smoke else JOINT if options.joint else SHAPES:
        seconds = timings(shape, options.device, getattr(torch, dtype), 1 if options.smoke else options.repeats)
        difference = seconds.pop("difference")
        peak = memory(shape, options.device, dtype)
        rows.append({"shape": asdict(shape), "seconds": seconds, "peak_bytes": peak, "difference": difference})
        print(f"{shape.layer} {shape.N} x {shape.K}: done", file=sys.stderr)
    print(table(rows))
    name = "attention_joint.json" if options.joint else "attention.json"
    out = options.out or (None if options.smoke else Path(__file__).parent / "results" / name)
    if out is not None:
        machine = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "CPU"
        setting = {
            "device": options.device,
            "machine": machine,
            "threads": torch.get_num_threads(),
            "dtype": dtype,
            "torch": torch.__version__,
            "objects": OBJECTS,
            "repeats": options.repeats,
        }
        atomic_write(out, (json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n").encode())
        print(f"written to {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
