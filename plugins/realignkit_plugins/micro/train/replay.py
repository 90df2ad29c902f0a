"""A step's forward and backward pass as one CUDA graph: small networks wait for their kernels to be launched."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from realignkit_plugins.micro.train.loop import console

Outcome = tuple[Tensor, Mapping[str, Tensor]]
"""A loss, and what of it the log shows."""
FIRST = 8
"""Steps before one is recorded: what libraries set up at first is no part of a graph."""


class Replayed:
    """A loss and its gradients, replayed from the graph of an earlier step where that can be.

    A step whose inputs have other shapes than the recorded one's is computed as usual, and so are all of them without a
    recording.

    Args:
        function: of tensors; nothing random, nothing that waits for the device, and nothing of autograd's graph may
            live on when it returns (which a recording refuses).
        network: what is trained.
        record: whether to record, which takes CUDA.
    """

    def __init__(self, function: Callable[..., Outcome], network: nn.Module, record: bool) -> None:
        self.record = record
        self._function, self._parameters = function, list(network.parameters())
        self._steps = 0
        self._inputs: tuple[Tensor, ...] = ()
        self._replay: Callable[[], None] | None = None
        self._gradients: list[tuple[nn.Parameter, Tensor]] = []

    def __call__(self, *inputs: Tensor) -> Outcome:
        """The loss, whose gradients are in place: its ``backward()`` adds nothing to them."""
        self._steps += 1
        if self.record and self._replay is None and self._steps > FIRST:
            self._try_to_record(inputs)
        if self._replay is None or any(a.shape != b.shape for a, b in zip(self._inputs, inputs, strict=True)):
            return self._given(*self._step(inputs))
        for kept, each in zip(self._inputs, inputs, strict=True):
            kept.copy_(each)
        self._replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._given(*self._outcome)

    def _given(self, value: Tensor, parts: Mapping[str, Tensor]) -> Outcome:
        return value.clone().requires_grad_(), parts

    def _step(self, inputs: tuple[Tensor, ...]) -> Outcome:
        value, parts = self._function(*inputs)
        value.backward()
        return value.detach(), {name: part.detach() for name, part in parts.items()}

    def _forget(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _try_to_record(self, inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(each.clone() for each in inputs)
        try:
            self._replay = self._recorded()
        except Exception as error:
            self.record = False
            self._forget()
            console.print(f"steps are computed one by one, not replayed as a CUDA graph: {error}")
            return
        self._gradients = [(each, each.grad) for each in self._parameters if each.grad is not None]

    def _recorded(self) -> Callable[[], None]:
        """What computes the outcome and the gradients anew, in the same places, from what is in the inputs."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._forget()
                self._step(self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._forget()
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: others pin the memory of what comes next.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._outcome = self._step(self._inputs)
        return graph.replay
