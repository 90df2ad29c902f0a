"""FID and KID beside the projects that they come from, on the same pictures and the same weights.

    python benchmarks/distances.py make OUT                   # pictures of the embedded world, and weights by a recipe
    ORIGINALS/bin/python benchmarks/distances.py originals OUT
    python benchmarks/distances.py compare OUT                # prints Markdown, writes benchmarks/results/distances.md

``ORIGINALS`` is an environment of its own, with pytorch-fid, clean-fid, torch-fidelity and the torchvision that they
need. Two sets of 2048 pictures, 64 x 64: scenes of the embedded world, and the same without 512 of them, in whose place
others with noise stand; sharing pictures halves the time. The weights are random (by the recipe of
tests/golden/fid_inception): what is compared is the arithmetic, not what the weights are good for. About half an hour
on one core; everything is kept in OUT.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

COUNT, CHANGED, SEED, KID_SEED = 2048, 512, 11, 2020
SETS = {"a": slice(0, COUNT), "b": slice(CHANGED, COUNT + CHANGED)}
PICTURES, BATCH = "pictures", 32
SHAPES = Path(__file__).parents[1] / "tests" / "golden" / "fid_inception" / "published_key_shapes.json"
RESULTS = Path(__file__).parent / "results" / "distances.md"
WEIGHTS = "recipe.pth"


def recipe() -> dict[str, Any]:
    """Random weights of the FID Inception: those of the golden pack."""
    import torch

    scale = {"fc.weight": lambda z: z * np.sqrt(1 / 2048), "running_var": lambda z: np.abs(z) + 0.5}
    weights = {}
    for key, (shape, _) in json.loads(SHAPES.read_text())["keys"].items():
        z = np.random.default_rng([SEED, zlib.crc32(key.encode())]).standard_normal(shape)
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(0)
            continue
        if key.endswith(".conv.weight"):
            z = z * np.sqrt(2 / np.prod(shape[1:]))
        elif key.endswith(".bn.weight"):
            z = 1 + 0.1 * z
        else:
            z = scale.get(key, scale.get(key.rpartition(".")[2], lambda z: 0.1 * z))(z)
        weights[key] = torch.from_numpy(np.asarray(z, np.float32))
    return weights


def make(out: Path) -> None:
    """Pictures and weights."""
    import torch
    from PIL import Image

    from realignkit_plugins.micro.world.scenes import render, sample_scene

    torch.save(recipe(), out / WEIGHTS)
    (out / PICTURES).mkdir(exist_ok=True)
    for number in range(COUNT + CHANGED):
        random = np.random.default_rng([SEED, number])
        pixels = render(sample_scene(random)).image.astype(np.float64)
        if number >= COUNT:
            pixels = pixels + random.normal(scale=40, size=pixels.shape)
        picture = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
        picture.save(out / PICTURES / f"{number:04}.png")


def originals(out: Path) -> None:
    """What the originals' own code makes of them, into ``originals.json``."""
    import cleanfid.fid
    import pytorch_fid.fid_score
    import pytorch_fid.inception
    import torch
    from torch_fidelity.metric_kid import kid_features_to_metric

    weights = torch.load(out / WEIGHTS, weights_only=True)
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: weights  # their download
    network = pytorch_fid.inception.InceptionV3([3]).eval()
    plain = pytorch_fid.inception.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    started = time.perf_counter()
    files = sorted((out / PICTURES).glob("*.png"))
    with torch.no_grad():
        features = {"pytorch": pytorch_fid.fid_score.get_activations(files, network, BATCH, 2048, "cpu", 0)}
        features["clean"] = cleanfid.fid.get_folder_features(
            str(out / PICTURES),
            # What the TorchScript file that they download does with pixels in [0, 255].
            lambda batch: plain((batch - 128) / 128)[0].flatten(1),
            num_workers=0,
            batch_size=BATCH,
            device=torch.device("cpu"),
            mode="clean",
        )
    np.savez(out / "originals.npz", **features)
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (features["pytorch"][rows] for rows in SETS.values())]
    clean = [features["clean"][rows] for rows in SETS.values()]
    kid = kid_features_to_metric(
        *map(torch.from_numpy, clean), kid_subsets=100, kid_subset_size=1000, rng_seed=KID_SEED, verbose=False
    )
    results = {
        "pytorch_fid": float(pytorch_fid.fid_score.calculate_frechet_distance(*moments[0], *moments[1])),
        "clean_fid": float(cleanfid.fid.fid_from_feats(*clean)),
        "kid": {name: float(value) for name, value in kid.items()},
        "seconds": time.perf_counter() - started,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    (out / "originals.json").write_text(json.dumps(results, indent=1))
    print(results)


def ours(out: Path) -> dict[str, Any]:
    """Our features of the same pictures, by resize mode; kept batch by batch, so that a second try goes on."""
    from rich.progress import track

    from realignkit.files import atomic_write
    from realignkit.images import image_files, open_image
    from realignkit_plugins.metrics.features import Inception

    files = image_files(out / PICTURES)
    features = {}
    for mode in ("pytorch", "clean"):
        observer = Inception(str(out / WEIGHTS), mode, 2048, "cpu")
        parts = []
        for start in track(range(0, len(files), BATCH), description=mode):
            kept = out / f"ours-{mode}" / f"{start:04}.npy"
            if not kept.exists():
                images = [open_image(path)[0] for path in files[start : start + BATCH]]
                atomic_write(kept, _npy(observer.features(images)))
            parts.append(np.load(kept))
        features[mode] = np.concatenate(parts)
    return features


def _npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def compare(out: Path) -> None:
    """Our numbers beside theirs."""
    from realignkit.files import atomic_write
    from realignkit.frechet import frechet_distance
    from realignkit_plugins.metrics.kernels import draw_rows, kernel_distance
    from realignkit_plugins.metrics.moments import Moments

    features = ours(out)
    theirs = json.loads((out / "originals.json").read_text())
    with np.load(out / "originals.npz") as file:
        their_features = dict(file)
    lines = ["| | original | here | difference |", "| --- | --: | --: | --: |"]
    for mode, name in {"pytorch": "pytorch_fid", "clean": "clean_fid"}.items():
        sets = [features[mode][rows] for rows in SETS.values()]
        moments = []
        for each in sets:  # streamed, as the metric does it
            moments.append(Moments())
            for start in range(0, len(each), BATCH):
                moments[-1].add(each[start : start + BATCH])
        streamed = moments[0].gaussian().distance(moments[1].gaussian())
        lines.append(_row(f"FID, {name.replace('_', '-')}", theirs[name], streamed))
        at_once = frechet_distance(*(their_features[mode][rows] for rows in SETS.values()))
        lines.append(_row("the same of the original's features", theirs[name], at_once))
        furthest = np.abs(features[mode] - their_features[mode]).max()
        lines.append(f"| features, furthest apart | up to {their_features[mode].max():.3f} | | {furthest:.1e} |")
    rows = draw_rows(COUNT, COUNT, seed=KID_SEED)
    kid = kernel_distance(*(features["clean"][place] for place in SETS.values()), rows)
    lines.append(
        _row("KID, torch-fidelity (as clean-fid resizes)", theirs["kid"]["kernel_inception_distance_mean"], kid.mean)
    )
    lines.append(_row("its deviation", theirs["kid"]["kernel_inception_distance_std"], kid.deviation))
    text = "\n".join(lines) + "\n"
    print(text)
    atomic_write(RESULTS, text)


def _row(what: str, theirs: float, here: float) -> str:
    return f"| {what} | {theirs:.6f} | {here:.6f} | {here - theirs:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["make", "originals", "compare"])
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    {"make": make, "originals": originals, "compare": compare}[arguments.step](arguments.out)


if __name__ == "__main__":
    main()
