"""CLIP's tokenizer, which a single file of Stable Diffusion leaves out: its byte-pair encoding is in this package.

``merges.txt`` is OpenAI's (MIT; see ``LICENSE.txt``). The vocabulary follows from it: the 256 bytes, the same at the
end of a word, the merges in their order, and the two tokens around a text.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

SIZE = 49408
"""Tokens in all."""
_MERGES = Path(__file__).parent / "merges.txt"
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def vocabulary() -> dict[str, int]:
    """Token -> id, as published."""
    bytes_first = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    # Bytes that are no printable character are written as characters above them.
    letters = [*map(chr, bytes_first), *(chr(256 + i) for i in range(256 - len(bytes_first)))]
    merged = [line.replace(" ", "") for line in _MERGES.read_text(encoding="utf-8").splitlines()[1:]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *merged, _BEGIN, _END]
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer(folder: Path, max_length: int, pad_token: str = _END) -> None:
    """Write what ``CLIPTokenizer.from_pretrained`` reads.

    Args:
        folder: is made.
        max_length: of a text in tokens.
        pad_token: behind a text that is shorter: the end token, or ``!`` for OpenCLIP's encoders.
    """
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), encoding="utf-8")
    shutil.copyfile(_MERGES, folder / "merges.txt")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "bos_token": _BEGIN,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": pad_token,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
