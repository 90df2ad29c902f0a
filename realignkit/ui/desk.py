"""Work that people wait for: one piece at a time in a thread of its own, before it a bounded line."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from realignkit.errors import RealignKitError, in_one_line
from realignkit.realigner.steps import Progress

LONGEST = 8
"""Pieces of work that wait at most; further ones are refused."""


class CancelledError(Exception):
    """Raised in the work, by the progress that it reports, once it is not wanted any more."""


@dataclass(eq=False)
class Job:
    """One piece of work.

    Attributes:
        step, done, total: what it does, and how far that is; step is "" before it begins.
        state: "waiting", "running", "done", "cancelled" or "failed".
        error: why it failed, in one sentence.
    """

    work: Callable[[Progress], None]
    step: str = ""
    done: int = 0
    total: int = 0
    state: str = "waiting"
    error: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _begins: threading.Lock = field(default_factory=threading.Lock)

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self._over.is_set()

    def cancel(self) -> None:
        """Ask it to stop: at once where it waits, at its next report of progress where it runs."""
        with self._begins:
            self._stop.set()
            if self.state == "waiting":
                self._end("cancelled")

    def watch(self, every: float = 0.25) -> Iterator[Job]:
        """Give the job back now and then until it is over, and once more then; ``every``: seconds between."""
        while not self._over.wait(every):
            yield self
        yield self

    def run(self) -> None:
        """Do the work, in the thread that calls this. What goes wrong is put down, not raised."""
        with self._begins:
            if self.state != "waiting":
                return
            self.state = "running"
        try:
            self.work(self._report)
        except RealignKitError as error:
            self._fail(str(error))
        except BaseException as error:  # a plugin may end the program: the page stays
            self._fail(f"something unexpected went wrong: {in_one_line(error)}.")
        else:
            self._end("done")

    def _fail(self, why: str) -> None:
        if self._stop.is_set():  # whatever CancelledError has become on its way up
            self._end("cancelled")
        else:
            self.error = why
            self._end("failed")

    def _end(self, state: str) -> None:
        self.state = state
        self._over.set()

    def _report(self, step: str, done: int, total: int) -> None:
        if self._stop.is_set():
            raise CancelledError
        self.step, self.done, self.total = step, done, total


class Desk:
    """Does jobs one after the other: a model draws for one person at a time.

    Args:
        longest: jobs that may wait.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._line: deque[Job] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="realignkit-ui", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Progress], None]) -> Job:
        """Have work done as soon as what came before it is.

        Raises:
            RealignKitError: too much waits already.
        """
        with self._changed:
            if (busy := sum(not job.over for job in self._line)) > self._longest:
                raise RealignKitError(f"{busy} pictures are being drawn or wait for it: try again in a minute.")
            job = Job(work)
            self._line.append(job)
            self._changed.notify()
        return job

    def ahead(self, job: Job) -> int:
        """How many pieces of work come before this one, the running one included."""
        with self._changed:
            return next((i for i, other in enumerate(j for j in self._line if not j.over) if other is job), 0)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._line:
                    self._changed.wait()
                job = self._line[0]
            job.run()
            with self._changed:
                self._line.popleft()
