"""A circuit breaker: after failures in a row nothing is asked for a while, then one trial decides."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Literal


class Breaker:
    """Keeps requests back after failures in a row: closed, open until a time, then one trial (half open)."""

    def __init__(self, failures_to_open: int, open_seconds: float, clock: Callable[[], float]) -> None:
        self._failures_to_open, self._open_seconds, self._clock = failures_to_open, open_seconds, clock
        self._lock = threading.RLock()
        self._failures = 0
        self._open_until = -math.inf  # closed
        self._trial_runs = False

    @property
    def is_open(self) -> bool:
        with self._lock:
            return self._clock() < self._open_until

    def admit(self) -> Literal["closed", "trial"] | None:
        """A ticket for one question, to be given back to `record`, or None where it must not be asked."""
        with self._lock:
            if self._open_until == -math.inf:
                return "closed"
            if self.is_open or self._trial_runs:
                return None
            self._trial_runs = True
            return "trial"

    def honours(self, ticket: Literal["closed", "trial"]) -> bool:
        """Whether a question under way may go on sending: the breaker is closed, or this is its one trial."""
        with self._lock:
            return self._open_until == -math.inf or (ticket == "trial" and not self.is_open)

    def record(self, ticket: Literal["closed", "trial"], *, usable: bool) -> None:
        with self._lock:
            self._trial_runs &= ticket != "trial"
            if self.is_open:
                return  # a question from before: it neither ends a pause nor prolongs it
            self._failures = 0 if usable else self._failures + 1
            if usable:
                self._open_until = -math.inf
            elif ticket == "trial" or self._failures >= self._failures_to_open:
                self._open_until = self._clock() + self._open_seconds

    def give_back(self, ticket: Literal["closed", "trial"]) -> None:
        """A ticket whose question was given up: it tells nothing, and the next one may be the trial."""
        with self._lock:
            self._trial_runs &= ticket != "trial"

    def pause(self, seconds: float) -> None:
        """Obey a Retry-After: open at once, whatever the count."""
        with self._lock:
            if seconds > 0:
                self._open_until = max(self._open_until, self._clock() + seconds)
