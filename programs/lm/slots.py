"""How many may be inside at once: one queue for threads and asyncio tasks, with a limit that may change."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager

from personaagent.programs.errors import InputError
from personaagent.programs.lm._loop import renew_after_fork

_Ticket = Future[None]


class Slots:
    """At most `limit` holders at a time, first come, first served.

    A lowered limit sends nobody out: it holds back who comes next.

    Args:
        limit: at least 1; `math.inf` for no limit.

    Raises:
        InputError: if the limit, this one or a later one, is below 1.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self._limit = _checked(limit)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Nobody is inside, and nobody waits."""
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket] = deque()
        self._inside: set[_Ticket] = set()

    @property
    def limit(self) -> float:
        return self._limit

    @limit.setter
    def limit(self, limit: float) -> None:
        with self._lock:
            self._limit = _checked(limit)
            self._let_in()

    @property
    def held(self) -> int:
        """How many are inside."""
        return len(self._inside)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot in this thread, and hold it for the block."""
        ticket = self._queue_up()
        try:
            ticket.result()
            yield
        finally:
            self._leave(ticket)

    @asynccontextmanager
    async def aslot(self, ahead: bool = False) -> AsyncIterator[None]:
        """Wait for a slot in this task, and hold it for the block. A task that is cancelled leaves the queue.

        Args:
            ahead: of all who wait now.
        """
        ticket = self._queue_up(ahead)
        try:
            await asyncio.wrap_future(ticket)
            yield
        finally:
            self._leave(ticket)

    def _queue_up(self, ahead: bool = False) -> _Ticket:
        ticket: _Ticket = Future()
        with self._lock:
            (self._waiting.appendleft if ahead else self._waiting.append)(ticket)
            self._let_in()
        return ticket

    def _leave(self, ticket: _Ticket) -> None:
        with self._lock:
            if ticket in self._inside:
                self._inside.remove(ticket)
                self._let_in()
            elif ticket in self._waiting:
                self._waiting.remove(ticket)

    def _let_in(self) -> None:
        while self._waiting and len(self._inside) < self._limit:
            ticket = self._waiting.popleft()
            # False: its task was cancelled while it waited. True: from now on it cannot be.
            if ticket.set_running_or_notify_cancel():
                self._inside.add(ticket)
                ticket.set_result(None)

    def __deepcopy__(self, memo: object) -> Slots:
        return self  # a copy of who uses them competes for the same ones


def _checked(limit: float) -> float:
    if not limit >= 1:  # so that NaN is refused, too
        raise InputError(f"limit must be at least 1 but got {limit}")
    return limit
