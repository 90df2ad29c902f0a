"""Batches of work shared by several processes, each with a realigner of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from realignkit.arguments import whole
from realignkit.errors import ModelError, OptionError, OutputError, RealignKitError
from realignkit.machine import share_threads

if TYPE_CHECKING:
    from realignkit.realigner import Realigner

B = TypeVar("B")
R = TypeVar("R")

_realigner: Realigner | None = None  # of a worker process


@dataclass(frozen=True)
class Processes:
    """Several fresh processes that share batches.

    Worth it where one process leaves cores idle, as a tiny model does, and for long lists: each takes seconds to start,
    and memory for a model of its own. What goes to them and back is pickled: functions of modules, no lambdas. Caps of
    scorers, and what plugins remember, hold in each process by itself.

    Attributes:
        count: how many, at least 1.
        make: makes the realigner of each of them: a function of a module, or ``functools.partial`` of one.

    Raises:
        OptionError: ``count`` is no whole number from 1.
    """

    count: int
    make: Callable[[], Realigner]

    def __post_init__(self) -> None:
        whole("processes", self.count)

    def run(self, work: Callable[[Realigner, B], R], batches: Sequence[B]) -> Iterator[R]:
        """``work(realigner, batch)`` of every batch, in the order in which they are finished.

        Interrupted, they finish the batches in hand and end.

        Raises:
            OutputError: what ``work`` raised.
            ModelError: what else ``make`` or ``work`` raised, or a process was ended by the system.
        """
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        count = min(self.count, len(batches))
        pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(count,))
        try:
            for future in as_completed([pool.submit(_work, self.make, work, batch) for batch in batches]):
                problem, result = future.result()
                if problem is not None:
                    raise problem
                yield result
        except BrokenProcessPool as error:
            raise ModelError(
                "a process ended before its work was done, as where memory runs out. Run the same command again, "
                "which goes on, with fewer processes."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _start(count: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides, and waits for what is in hand
    logging.getLogger("realignkit").setLevel(logging.ERROR)  # it has said already which plugins are broken
    share_threads(count)


def _work(
    make: Callable[[], Realigner], work: Callable[[Realigner, Any], Any], batch: Any
) -> tuple[RealignKitError | None, Any]:
    global _realigner
    try:
        _realigner = _realigner or make()
        return None, work(_realigner, batch)
    except RealignKitError as error:
        # Not all of them can be pickled. Which of two kinds it is decides whether the other prompts are tried.
        return (OutputError if isinstance(error, OutputError) else ModelError)(str(error)), None


@dataclass(frozen=True)
class Launch:
    """The processes that ``accelerate launch`` has started, of which this is one; by default there is this one alone.

    Attributes:
        rank: which one, from 0.
        count: of how many.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> Launch:
        """As the launcher says; each process takes its own device.

        Raises:
            OptionError: it has started several where there is no device for them.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        from datetime import timedelta

        from accelerate import PartialState
        from accelerate.utils import parse_flag_from_env

        # One may have hours more to do than another.
        state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=timedelta(days=30))
        if state.num_processes < 2:
            raise OptionError(
                "this was launched as several processes, but there is no GPU for them: add --cpu to 'accelerate "
                "launch', or start one process."
            )
        return cls(int(state.process_index), int(state.num_processes))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what all share."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


ALONE = Launch()


ALONE = Launch()
