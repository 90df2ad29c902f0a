"""A model hub on loopback: checkpoints of this package by id, and everything that can be wrong with a real hub.

``python -m tests.plugins.hub CACHE`` tries every loader against it and prints what each said, as JSON. It is a program
of its own because the hub's client reads its settings once, when it is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HERE: dict[str, Path] = {}
"""Repository name (behind any owner) -> folder."""
LARGE = 4096
"""Bytes from which on a file is one that can break off or be cut short: weights."""
broken_off: set[str] = set()


class Hub(BaseHTTPRequestHandler):
    """``good/x`` serves the folder x; ``gated/x``, ``nobody/x``, ``drops/x`` and ``short/x`` are what they say."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        folder = HERE.get(name)
        if owner == "nobody" or folder is None:
            return self.refuse(401, "RepoNotFound", body)
        if owner == "gated" and not (api and not rest):
            return self.refuse(403, "GatedRepo", body)
        if api:
            return self.listing(owner, name, folder, rest, body)
        file = folder / "/".join(rest[2:])  # resolve / revision / path
        if rest[1] not in ("main", COMMIT):
            return self.refuse(404, "RevisionNotFound", body)
        if not file.is_file():
            return self.refuse(404, "EntryNotFound", body)
        return self.file(owner, file, body)

    def file(self, owner: str, file: Path, body: bool) -> None:
        data = file.read_bytes()
        if owner == "short" and len(data) > LARGE:
            data = data[: len(data) // 2]
        tag = hashlib.sha1(data).hexdigest()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(data) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        drop = owner == "drops" and len(data) > LARGE and str(file) not in broken_off
        self.say(206 if start else 200, headers, data[start:] if body else b"", half=drop and body)

    def listing(self, owner: str, name: str, folder: Path, rest: list[str], body: bool) -> None:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [path.relative_to(folder).as_posix() for path in files]
        if rest[:1] == ["tree"]:
            listed: Any = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": "0" * 40}
                for name, path in zip(names, files, strict=True)
            ]
        else:
            siblings = [{"rfilename": name} for name in names]
            listed = {"id": f"{owner}/{name}", "modelId": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings}
            listed |= {"tags": [], "downloads": 0, "likes": 0, "private": False}
        data = json.dumps(listed).encode()
        self.say(200, {"Content-Type": "application/json", "Content-Length": str(len(data))}, data if body else b"")

    def refuse(self, status: int, code: str, body: bool) -> None:
        self.say(status, {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"}, b"")

    def say(self, status: int, headers: dict[str, str], data: bytes, half: bool = False) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if half and self.headers.get("Range"):
            data = b""  # a hub that has gone for good
        self.wfile.write(data[: len(data) // 2] if half else data)
        if half:
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


def loaders() -> dict[str, tuple[str, Callable[[str], Any]]]:
    """Loader -> (a repository that it takes, what makes it load one)."""
    from PIL import Image

    from realignkit.registry import default_registry
    from realignkit.types import Tag

    registry = default_registry()
    image = Image.new("RGB", (64, 64))

    def made(kind: str, name: str, **options: Any) -> Any:
        return registry.create(kind, name, device="cpu", **options)

    def scored(model: str) -> Any:
        from realignkit_plugins.scorers.llama_cpp import (
            LlamaCppScorer,
        )  # by name it needs llama.cpp, for no reason here

        return LlamaCppScorer(model=f"{model}:model.gguf")("a red book", [Tag("book")])

    return {
        "stable_diffusion": ("base", lambda m: made("generator", "stable_diffusion", model=m).pipeline()),
        "structure_diffusion": ("base", lambda m: made("generator", "structure_diffusion", model=m).pipeline()),
        "deepfloyd_if": ("base", lambda m: made("generator", "deepfloyd_if", model=m, variant=None).pipeline()),
        "promptist": ("gpt2", lambda m: made("generator", "promptist", model="micro:base", adapter=m).adapt("a book")),
        "lora": ("lora", lambda m: made("generator", "stable_diffusion", model="micro:base", lora=m).pipeline()),
        "image_classification": ("tagger", lambda m: made("tagger", "image_classification", model=m)([image])),
        "ram": ("ram", lambda m: made("tagger", "ram", model=m, file="model.safetensors")([image])),
        "florence2": ("florence2", lambda m: made("tagger", "florence2", model=m)([image])),
        "clipseg": ("segmenter", lambda m: made("segmenter", "clipseg", model=m)(image, ["book"])),
        "grounding_dino": ("dino", lambda m: made("segmenter", "grounded_sam", model=m)(image, ["book"])),
        "sam": ("sam", lambda m: made("segmenter", "grounded_sam", sam=m).masks(image, boxes())),
        "clip": ("clip", lambda m: made("reward", "clip", model=m)(pixels(), ["a"])),
        "blip": ("blip", lambda m: made("reward", "blip", model=m)(pixels(), ["a"])),
        "caption": ("captioner", lambda m: made("reward", "caption", captioner=m)(pixels(), ["a"])),
        "image_reward": ("reward", lambda m: made("reward", "image_reward", model=m)(pixels(), ["a"])),
        "llama_cpp": ("gguf", scored),
    }


def pixels() -> Any:
    import torch

    return torch.zeros(1, 3, 64, 64)


def boxes() -> Any:
    import torch

    return torch.tensor([[1.0, 1.0, 9.0, 9.0]])


def attempt(call: Callable[[], Any]) -> dict[str, str]:
    """What came of it: "" and "loaded", or the error's type and text."""
    try:
        call()
    except Exception as error:
        return {"type": type(error).__name__, "text": str(error)}
    return {"type": "", "text": "loaded"}


def main(cache: Path, home: Path) -> None:
    """Try everything; see the module."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_ETAG_TIMEOUT": "5",
    }
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)
    from huggingface_hub.utils import close_session

    from realignkit_plugins.micro.checkpoints import FOLDER
    from tests.plugins.generators.original import write_quick_model

    for name in ("base", "tagger", "segmenter", "ram"):
        HERE[name] = FOLDER / name
    HERE["lora"] = adapters(home / "lora")
    for name in ("gpt2", "florence2", "dino", "sam", "clip", "blip", "captioner", "reward", "gguf"):
        HERE[name] = home / "empty"  # only their refusals are asked for
    (home / "empty").mkdir()
    found: dict[str, dict[str, dict[str, str]]] = {}
    time.sleep = lambda seconds: None  # the hub's client waits longer and longer between its attempts
    every = loaders()
    for name, (repository, load) in every.items():
        found[name] = {owner: attempt(lambda: load(f"{owner}/{repository}")) for owner in ("gated", "nobody")}  # noqa: B023
    for name in ("image_classification", "ram", "clipseg", "stable_diffusion"):
        repository, load = every[name]
        found[name]["drops"] = attempt(lambda: load(f"drops/{repository}"))  # noqa: B023
        left = [path for path in cache.glob(f"hub/models--drops--{repository}/snapshots/*/**/*.safetensors")]
        broken_off.update(str(path) for path in HERE[repository].rglob("*"))
        found[name]["resumed"] = attempt(lambda: load(f"drops/{repository}"))  # noqa: B023
        found[name]["resumed"]["left"] = " ".join(map(str, left))
        broken_off.clear()
        found[name]["short"] = attempt(lambda: load(f"short/{repository}"))  # noqa: B023
    for name, of in (("stable_diffusion", "base"), ("clipseg", "segmenter")):
        HERE["variant"], HERE["pickles"] = (copy_of(HERE[of], home / f"{name}-{kind}", kind) for kind in RENAMED)
        for kind in RENAMED:
            found[name][kind] = attempt(lambda: every[name][1](f"good/{kind}"))  # noqa: B023
        HERE.pop("variant"), HERE.pop("pickles")
        shutil.rmtree(cache / "hub" / "models--good--variant", ignore_errors=True)
        shutil.rmtree(cache / "hub" / "models--good--pickles", ignore_errors=True)
    HERE["whole"] = quantised(HERE["base"], home / "whole")
    found["stable_diffusion"]["whole numbers"] = attempt(lambda: every["stable_diffusion"][1]("good/whole"))
    found["stable_diffusion"]["name"] = attempt(lambda: named(every["stable_diffusion"][1]("good/base")))
    (home / "files").mkdir()
    write_quick_model(home / "files" / "model.safetensors")
    shutil.copy(FOLDER / "ram" / "model.safetensors", home / "files" / "ram.safetensors")
    shutil.copy(FOLDER / "ram" / "config.json", home / "files" / "config.json")
    shutil.copy(FOLDER / "ram" / "tag_list.txt", home / "files" / "tag_list.txt")
    HERE["files"] = home / "files"
    for name, file in (("stable_diffusion", "model"), ("stable_diffusion", "none"), ("ram", "ram")):
        given = f"good/files:{file}.safetensors"
        found[name][given] = attempt(lambda: every[name][1](given))  # noqa: B023
    load = every["lora"][1]
    for given in ("good/lora", "good/lora:other.safetensors", "good/lora:none.safetensors"):
        found["lora"][given] = attempt(lambda: load(given))  # noqa: B023
    found["ram"]["reach"] = {owner: reach("ram", model=f"{owner}/ram") for owner in ("good", "nobody", "gated")}
    found["sam"]["reach"] = {
        owner: reach("grounded_sam", model="good/base", sam=f"{owner}/sam") for owner in ("good", "nobody")
    }
    server.shutdown()
    server.server_close()
    close_session()  # connections that are still open would still be answered
    for name, (repository, load) in every.items():
        found[name]["no network"] = attempt(lambda: load(f"far/{repository}"))  # noqa: B023
        found[name]["no folder"] = attempt(lambda: load(f"./no/{repository}"))  # noqa: B023
    found["ram"]["reach"] |= {
        "kept": reach("ram", model="drops/ram"),
        "far": reach("ram", model="far/ram"),
        "folder": reach("ram", model=str(FOLDER / "ram")),
        "no folder": reach("ram", model="./no/ram"),
        "one word": reach("image_classification", model="my-classifier"),
    }
    load = every["lora"][1]
    found["lora"]["kept"] = attempt(lambda: load("good/lora"))
    for name in ("stable_diffusion", "image_classification", "ram", "clipseg"):
        repository, load = every[name]
        found[name]["memory"] = attempt(lambda: load(str(swollen(HERE[repository], home / f"swollen-{name}"))))  # noqa: B023
    print(json.dumps(found))


def adapters(folder: Path) -> Path:
    """Two files of adapters for the embedded model, one by the name that diffusers gives."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(HERE["base"] / "unet" / "diffusion_pytorch_model.safetensors")
    name, weight = next(item for item in weights.items() if item[0].endswith("attn2.to_q.weight"))
    key = f"unet.{name.removesuffix('.weight')}"
    pair = {
        f"{key}.lora_A.weight": torch.ones(1, weight.shape[1]),
        f"{key}.lora_B.weight": torch.ones(weight.shape[0], 1),
    }
    folder.mkdir()
    for file in ("pytorch_lora_weights.safetensors", "other.safetensors"):
        save_file(pair, folder / file)
    return folder


def reach(name: str, **options: Any) -> str:
    """What a tagger or segmenter says of its checkpoints before anything is loaded."""
    from realignkit.registry import default_registry

    kind = "segmenter" if name == "grounded_sam" else "tagger"
    return str(default_registry().create(kind, name, device="cpu", **options).out_of_reach())


def named(pipeline: Any) -> None:
    """Raise unless a pipeline goes by its hub id."""
    assert pipeline.name_or_path == "good/base", pipeline.name_or_path


def quantised(folder: Path, to: Path) -> Path:
    """A checkpoint whose U-Net's weights are whole numbers."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, to)
    file = to / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight.to(torch.int8) for name, weight in load_file(file).items()}, file)
    return to


RENAMED = {"variant": ".fp16.safetensors", "pickles": ".bin"}


def copy_of(folder: Path, to: Path, kind: str) -> Path:
    """A checkpoint whose weights have other names, as a variant or as pickles have them."""
    shutil.copytree(folder, to)
    for file in to.rglob("*.safetensors"):
        stem = "pytorch_model" if (file.stem, kind) == ("model", "pickles") else file.stem
        file.rename(file.with_name(f"{stem}{RENAMED[kind]}"))
    return to


def swollen(folder: Path, to: Path) -> Path:
    """A copy of a checkpoint whose weights take 64 GB, in an address space that is smaller."""
    shutil.copytree(folder, to)
    for file in to.rglob("*.safetensors"):
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        end = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        header["padding"] = {"dtype": "U8", "shape": [2**36], "data_offsets": [end, end + 2**36]}
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        with file.open("r+b") as stream:
            stream.truncate(8 + len(text) + end + 2**36)  # sparse: it takes no room on the disk
    resource.setrlimit(resource.RLIMIT_AS, (2**35, resource.RLIM_INFINITY))
    return to


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
