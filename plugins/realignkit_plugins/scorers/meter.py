"""Counts tokens and money, and says no before a cap is passed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from realignkit.errors import ScorerError

MAX_TOKENS = 10_000_000
"""More than any request has; a service that counts more has miscounted."""


@dataclass(frozen=True)
class Usage:
    """What was used: requests sent, tokens in and out, and their price in US dollars (None without prices)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.prompt_tokens + self.completion_tokens


class Charge:
    """One request's place in the books: the estimate until :meth:`settle` says better."""

    def __init__(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens

    def settle(self, prompt_tokens: Any, completion_tokens: Any) -> None:
        """Enter what it really was, zeros for a request that was refused; what cannot be leaves the estimate."""
        if all(type(count) is int and 0 <= count <= MAX_TOKENS for count in (prompt_tokens, completion_tokens)):
            self.prompt_tokens, self.completion_tokens = prompt_tokens, completion_tokens


class Meter:
    """Adds up requests of many threads. With a cap, a request that might pass it is not sent.

    Args:
        max_tokens: at most so many tokens, in and out; None: no cap.
        max_cost: at most so many US dollars; needs both prices.
        input_price, output_price: US dollars per million tokens.
        asker: what kind of plugin asks, in messages.
    """

    def __init__(
        self,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        input_price: float | None = None,
        output_price: float | None = None,
        asker: str = "scorer",
    ) -> None:
        self.max_tokens, self.max_cost = max_tokens, max_cost
        self.input_price, self.output_price = input_price, output_price
        self._asker = asker
        self._lock = threading.Lock()
        self._requests = self._prompt = self._completion = 0
        self._open: set[Charge] = set()

    @property
    def usage(self) -> Usage:
        """What finished requests have used."""
        with self._lock:
            cost = self._cost(self._prompt, self._completion)
            return Usage(self._requests, self._prompt, self._completion, cost)

    @contextmanager
    def charge(self, prompt_tokens: int, completion_tokens: int) -> Iterator[Charge]:
        """Reserve the most that a request can use, and enter what it used when it is over.

        A request that ends unsettled (a timeout, say) counts in full: the service may have done the work.

        Raises:
            ScorerError: it might pass a cap.
        """
        charge = Charge(prompt_tokens, completion_tokens)
        with self._lock:
            self._check(charge)
            self._open.add(charge)
        try:
            yield charge
        finally:
            with self._lock:
                self._open.discard(charge)
                self._requests += 1
                self._prompt += charge.prompt_tokens
                self._completion += charge.completion_tokens

    def _check(self, charge: Charge) -> None:
        everything = [*self._open, charge]
        prompt = self._prompt + sum(c.prompt_tokens for c in everything)
        completion = self._completion + sum(c.completion_tokens for c in everything)
        if self.max_tokens is not None and prompt + completion > self.max_tokens:
            spent = self._prompt + self._completion
            raise ScorerError(
                f"the cap of {self.max_tokens} tokens would be passed ({spent} used). "
                f"Raise max_total_tokens, or go on with another {self._asker}.",
                "over budget",
            )
        cost = self._cost(prompt, completion)
        if self.max_cost is not None and cost is not None and cost > self.max_cost:
            spent_cost = self._cost(self._prompt, self._completion) or 0.0
            raise ScorerError(
                f"the cap of {self.max_cost:g} US dollars would be passed ({spent_cost:.4f} spent). "
                f"Raise max_cost, or go on with another {self._asker}.",
                "over budget",
            )

    def _cost(self, prompt: int, completion: int) -> float | None:
        if self.input_price is None or self.output_price is None:
            return None
        return (prompt * self.input_price + completion * self.output_price) / 1e6
