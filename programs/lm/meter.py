"""Counting, capping and limiting LM calls where they happen: at the engine, once per attempt."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import dspy
from dspy.clients.base_lm import BaseLM
from dspy.clients.lm import _dump_engine, _load_engine  # how DSPy itself records an engine
from dspy.lm15 import Request, Response

from personaagent.programs.errors import BudgetError, InputError


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
    """The account of a whole run.

    Args:
        max_calls: cap on LM calls, retries and fallbacks included; None for no cap; at least 0.
        max_in_flight: most calls at the same time; None for no limit; at least 1.
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
        self._slots = threading.Semaphore(self.max_in_flight or 1_000_000)
        self._changed = threading.Condition()
        self._reserved = 0

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

    def _begin(self) -> None:
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

    def _end(self, response: Response) -> None:
        used = response.usage
        tokens = Usage(0, int(used.input_tokens or 0), int(used.output_tokens or 0)) if used else Usage()
        with self._changed, _booking:
            for ledger in (self.spent, *_ledgers.get()):
                ledger.add(tokens)

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        return self  # a copy of an LM, or of a program that holds one, is on the same account


@dataclass(eq=False)
class _Reservation:
    meter: Meter
    left: int


_reservations: ContextVar[tuple[_Reservation, ...]] = ContextVar("personaagent_reservations", default=())


class SyncEngine(Protocol):
    """What an LM engine does (dspy.clients.engines.base)."""

    def complete(self, request: Request) -> Response: ...


class _Metered:
    """What the two engines share: what they wrap, and how DSPy saves and loads them."""

    def __init__(self, inner: SyncEngine | dspy.LM, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def dump_state(self) -> dict[str, Any]:
        """For DSPy's saving: the state of what is wrapped, without API keys. The meter is the run's and not saved.

        Raises:
            TypeError: if what is wrapped cannot be saved; DSPy's own message says what it lacks.
        """
        if isinstance(self._inner, dspy.LM):
            return {"inner": self._inner.dump_state()}
        return {"inner": _dump_engine(self._inner, "engine")}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """From `dump_state`, on a meter of its own without cap or limit. Keys come from the environment.

        DSPy asks for this only with `allow_unsafe_lm_state=True`, so what is named inside is trusted, too.
        """
        inner = state["inner"]
        if "model" not in inner:
            return cls(_load_engine(inner, "engine", allow_custom_lm_class=True), Meter())
        key = key_for_server(inner["model"], inner.get("api_base"))
        return cls(BaseLM.load_state(inner | key, allow_custom_lm_class=True), Meter())


def key_for_server(model: str, api_base: str | None) -> dict[str, str]:
    """The key that a server at `api_base` is sent: the environment's, or a placeholder if it needs none.

    Returns:
        A setting of `dspy.LM`; empty if the provider itself looks the key up.
    """
    if api_base is None or not model.startswith("openai/"):
        return {}
    return {"api_key": os.environ.get("OPENAI_API_KEY") or "none"}


class MeteredEngine(_Metered):
    """An engine that books each attempt on a meter before it passes it on."""

    def complete(self, request: Request) -> Response:
        with self._meter._slots:
            self._meter._begin()
            response = _complete(self._inner, request)
        self._meter._end(response)
        return response


class AsyncMeteredEngine(_Metered):
    """As `MeteredEngine`, for `acall`. It shares the meter and its limits."""

    async def complete(self, request: Request) -> Response:
        while not self._meter._slots.acquire(blocking=False):
            await asyncio.sleep(0.002)
        try:
            self._meter._begin()
            if isinstance(self._inner, dspy.LM):
                with _unobserved():
                    response = await self._inner.acall(request)
            else:
                response = await asyncio.to_thread(self._inner.complete, request)
        finally:
            self._meter._slots.release()
        self._meter._end(response)
        return response


def _complete(inner: SyncEngine | dspy.LM, request: Request) -> Response:
    if isinstance(inner, dspy.LM):
        with _unobserved():
            return inner(request)
    return inner.complete(request)


def _unobserved() -> Any:
    # The outer LM already reports this call to history, callbacks and usage trackers.
    return dspy.context(callbacks=[], disable_history=True, usage_tracker=None)
