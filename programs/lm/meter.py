"""The account of a run: LM calls are counted, capped and limited here, once per attempt."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from dspy.lm15 import Response

from personaagent.programs.errors import BudgetError, InputError
from personaagent.programs.lm._loop import renew_after_fork
from personaagent.programs.lm.endpoint import Endpoint
from personaagent.programs.lm.slots import Slots


@dataclass
class Usage:
    """What was spent."""

    lm_calls: int = 0
    """Requests sent, failed ones, retries and an adapter's fallbacks included."""
    prompt_tokens: int = 0
    """As the LM reports them; 0 where it does not."""
    completion_tokens: int = 0

    def add(self, other: Usage) -> None:
        """Add to this one, in place."""
        self.lm_calls += other.lm_calls
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens

    def to_dict(self) -> dict[str, int]:
        return {
            "lm_calls": self.lm_calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


# The ledgers that a call is booked on: every `metering` block around it, in this context and in threads
# and tasks that copied the context.
_ledgers: ContextVar[tuple[Usage, ...]] = ContextVar("personaagent_usage_ledgers", default=())
_booking = threading.Lock()  # a ledger may be booked on by several meters


@contextmanager
def metering() -> Iterator[Usage]:
    """Book every metered call made within the block, in any thread or task that copies its context."""
    usage = Usage()
    token = _ledgers.set((*_ledgers.get(), usage))
    try:
        yield usage
    finally:
        _ledgers.reset(token)


@dataclass
class Meter:
    """The account of a whole run, and what its LMs share: the slots of calls in flight, and the endpoints.

    Args:
        max_calls: cap on LM calls, retries and fallbacks included; None for no cap; at least 0. A call beyond it is
            not sent: the LM raises DSPy's `LMUnexpectedError`, whose cause is a `BudgetError`.
        max_in_flight: most calls at the same time; None for no limit; at least 1.

    Raises:
        InputError: on a value out of range.
    """

    max_calls: int | None = None
    max_in_flight: int | None = None
    spent: Usage = field(default_factory=Usage)
    """Everything so far, whoever caused it."""

    def __post_init__(self) -> None:
        if self.max_calls is not None and self.max_calls < 0:
            raise InputError(f"max_calls cannot be negative but got {self.max_calls}")
        if self.max_in_flight is not None and self.max_in_flight < 1:
            raise InputError(f"max_in_flight must be at least 1 but got {self.max_in_flight}")
        self.slots = Slots(self.max_in_flight or math.inf)
        self._endpoints: dict[str, Endpoint] = {}
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Nothing is reserved."""
        self._changed = threading.Condition()
        self._reserved = 0

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of this name in this run: two LMs of one server share its limits and its breaker."""
        with self._changed:
            if name not in self._endpoints:
                self._endpoints[name] = Endpoint(name, self.max_in_flight)
            return self._endpoints[name]

    def has_answered(self, model: str, endpoint: str) -> bool:
        """Whether the LM of this model string at this endpoint has answered in this run."""
        return endpoint in self._endpoints and model in self._endpoints[endpoint].answered

    @contextmanager
    def admitted(self, worst_case: int) -> Iterator[bool]:
        """Reserve a unit of work's worst case of calls, for as long as the block runs.

        Yields False if it does not fit under the cap and never will. While work that was admitted
        earlier may still give back what it reserved, this waits. Within a block that was admitted, nothing
        more is reserved: its worst case covers what it is made of.
        """
        if self.max_calls is None or any(r.meter is self for r in _reservations.get()):
            yield True
            return
        with self._changed:
            while (
                self.spent.lm_calls + worst_case <= self.max_calls < self.spent.lm_calls + self._reserved + worst_case
            ):
                self._changed.wait()
            if self.spent.lm_calls + worst_case > self.max_calls:
                yielded = False
            else:
                yielded = True
                self._reserved += worst_case
        if not yielded:
            yield False
            return
        reservation = _Reservation(self, worst_case)
        token = _reservations.set((*_reservations.get(), reservation))
        try:
            yield True
        finally:
            _reservations.reset(token)
            with self._changed:
                self._reserved -= reservation.left
                reservation.left = 0
                self._changed.notify_all()

    def begin(self) -> None:
        """Book one attempt, which is about to be sent.

        Raises:
            BudgetError: if the cap does not allow it; then nothing is booked.
        """
        with self._changed:
            reservation = next((r for r in _reservations.get() if r.meter is self and r.left), None)
            # What others have reserved is theirs.
            taken = self.spent.lm_calls + (0 if reservation else self._reserved)
            if self.max_calls is not None and taken >= self.max_calls:
                raise BudgetError(f"the cap of {self.max_calls} LM calls is reached or reserved")
            self.spent.lm_calls += 1
            if reservation:
                reservation.left -= 1  # a reserved call has become a spent one
                self._reserved -= 1
            with _booking:
                for ledger in _ledgers.get():
                    ledger.lm_calls += 1

    def end(self, response: Response) -> None:
        """Book the tokens of an answer."""
        used = response.usage
        tokens = Usage(0, int(used.input_tokens or 0), int(used.output_tokens or 0)) if used else Usage()
        with self._changed, _booking:
            for ledger in (self.spent, *_ledgers.get()):
                ledger.add(tokens)

    def __reduce__(self) -> tuple[type[Meter], tuple[int | None, int | None]]:
        # In another process another account, with the same limits and nothing spent.
        return Meter, (self.max_calls, self.max_in_flight)

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        return self  # a copy of an LM, or of a program that holds one, is on the same account


@dataclass(eq=False)
class _Reservation:
    meter: Meter
    left: int


_reservations: ContextVar[tuple[_Reservation, ...]] = ContextVar("personaagent_reservations", default=())
