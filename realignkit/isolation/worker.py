"""The other end of a plugin in an environment of its own: runs a program there, and answers what it is asked.

It is started by file, in Pythons from 3.8 on, and imports nothing but the standard library, NumPy, and torch where a
reward's gradient is wanted. What goes to and fro is JSON on a socket that both have inherited, so that nobody else can
connect, and arrays in files in memory that both have inherited, too, and that have no name. Nothing is pickled.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import signal
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

_ARRAY = "__array__"
_KEPT = 8
"""Rewards whose way back to the images is kept, for a gradient that is asked for later."""


class Channel:
    """Messages with arrays, over a connection and two files.

    Args:
        connection: of multiprocessing; carries JSON.
        out: descriptor of the file for the arrays of what is sent, which is written anew by each message.
        back: that of the file with those of what is received.
    """

    def __init__(self, connection: Connection, out: int, back: int) -> None:
        self.connection, self._out, self._back = connection, out, back

    def send(self, message: Any) -> None:
        """Send JSON values, dicts and lists of them, and numpy arrays anywhere in them."""
        arrays: list[np.ndarray[Any, Any]] = []
        text = json.dumps(_without_arrays(message, arrays))
        if arrays:
            # Neither cut off nor mapped: memory that is there is used again, and where there is no more, write says so.
            with open(self._out, "wb", closefd=False) as file:
                start = 0
                for array in arrays:
                    file.seek(start)
                    file.write(array.reshape(-1).view(np.uint8).data)
                    start += _padded(array.nbytes)
        self.connection.send_bytes(text.encode())

    def receive(self) -> Any:
        """What was sent, arrays as copies.

        Raises:
            EOFError: the other end is gone.
        """
        return self._with_arrays(json.loads(self.connection.recv_bytes().decode()))

    def _with_arrays(self, message: Any) -> Any:
        if isinstance(message, list):
            return [self._with_arrays(each) for each in message]
        if not isinstance(message, dict):
            return message
        if _ARRAY in message:
            start, dtype, shape = message[_ARRAY]
            count = int(np.prod(shape, dtype=np.int64))
            if not count:
                return np.empty(shape, dtype)
            with open(self._back, "rb", closefd=False) as file:
                file.seek(start)
                return np.fromfile(file, dtype, count).reshape(shape)
        return {key: self._with_arrays(value) for key, value in message.items()}


def _without_arrays(message: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    if isinstance(message, np.ndarray):
        start = sum(_padded(array.nbytes) for array in arrays)
        arrays.append(np.ascontiguousarray(message))
        return {_ARRAY: [start, message.dtype.str, list(message.shape)]}
    if isinstance(message, dict):
        return {key: _without_arrays(value, arrays) for key, value in message.items()}
    if isinstance(message, (list, tuple)):
        return [_without_arrays(value, arrays) for value in message]
    return message.item() if isinstance(message, np.generic) else message


def _padded(size: int) -> int:
    return -(-size // 64) * 64


class Rewards:
    """A reward's tensors, and the way back to the images, on this side."""

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin
        self._ways: OrderedDict[int, Any] = OrderedDict()
        self._count = 0

    def rate(
        self, images: np.ndarray[Any, Any], prompts: list[str], seed: int, gradient: bool, by: str
    ) -> dict[str, Any]:
        """Rewards (B,) of images float (B, 3, H, W), and the number of their way back; -1 where there is none."""
        import torch

        torch.manual_seed(seed)
        pixels = torch.from_numpy(images).requires_grad_(gradient)
        with torch.set_grad_enabled(gradient):
            values = getattr(self._plugin, by)(pixels, prompts)
        kept = -1
        if gradient and values.requires_grad:
            self._count += 1
            kept = self._count
            self._ways[kept] = (pixels, values)
            while len(self._ways) > _KEPT:
                self._ways.popitem(last=False)
        return {"rewards": values.detach().float().cpu().numpy(), "way": kept}

    def back(self, way: int, gradient: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The gradient with respect to the images, of rewards with this gradient (B,)."""
        import torch

        pixels, values = self._ways[way]
        weights = torch.from_numpy(gradient).to(values)
        (result,) = torch.autograd.grad(values, pixels, weights, retain_graph=True, allow_unused=True)
        found: np.ndarray[Any, Any] = (torch.zeros_like(pixels) if result is None else result).numpy()
        return found


def serve(channel: Channel, program: str, attribute: str) -> None:
    """Load a program with the options that come first, say that it is there, and answer until nobody asks any more."""
    options = channel.receive()
    specification = importlib.util.spec_from_file_location("realignkit_program", program)
    assert specification is not None
    loader = specification.loader
    assert loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["realignkit_program"] = module

    def load() -> Any:
        loader.exec_module(module)
        return getattr(module, attribute)(**options)

    plugin = _answer(channel, load, quiet=True)
    if plugin is None:
        return
    rewards = Rewards(plugin)
    methods: dict[str, Callable[..., Any]] = {"rate": rewards.rate, "back": rewards.back, "call": plugin}
    while True:
        try:
            request = channel.receive()
        except EOFError:
            return
        method = methods.get(request["method"]) or getattr(plugin, request["method"])
        _answer(channel, functools.partial(method, **request["arguments"]))


def _answer(channel: Channel, call: Callable[[], Any], quiet: bool = False) -> Any:
    """Send what a call gives, or how it fails; what it gave."""
    try:
        result = call()
        channel.send({"result": None if quiet else result})
        return result
    except BaseException as error:
        traceback.print_exc()
        kind = MemoryError if isinstance(error, MemoryError) else type(error)  # NumPy has one of its own
        details = {name: value for name, value in vars(error).items() if isinstance(value, (str, bool))}
        channel.send({"error": kind.__name__, "message": str(error), "details": details})
        return None


def _end_with_parent() -> None:
    """Standard input is a pipe that nobody writes to: it ends when whoever started this is gone, even by kill -9."""
    os.read(0, 1)  # not sys.stdin, whose lock the interpreter wants when it ends
    _end()


def _end() -> None:
    """End this process, with what the program has started where the group is ours."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asks: it may want this answer first
    descriptor, answers, questions = map(int, sys.argv[1:4])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    serve(Channel(Connection(descriptor), answers, questions), *sys.argv[4:])
    _end()
