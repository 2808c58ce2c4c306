"""Doing units of work: one by one or side by side, under the cap, each journalled as it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dspy
from dspy.utils.exceptions import LMError

from personaagent.experiments.harness.journal import Journal, Unit
from personaagent.experiments.harness.methods.base import Work
from personaagent.experiments.harness.progress import Progress
from personaagent.experiments.harness.secrets import masked
from personaagent.programs.errors import BudgetError, InputError, PersonaAgentError
from personaagent.programs.lm.endpoint import one_line_of, says_misconfigured
from personaagent.programs.lm.meter import Meter, metering

GRACE_SECONDS = 3.0
"""After an interruption, for the units under way to end."""


class Workers:
    """Does what is not in the journal yet, and never anything twice.

    Args:
        count: most units at a time, from 1.
        retry_failed: also what failed in an earlier run, once.
        meter: its cap holds for all.
        lms: by model string: the LM of a unit.
        scope: entered around each unit, with its key.

    Raises:
        InputError: if the count is below 1.
    """

    def __init__(
        self,
        count: int,
        retry_failed: bool,
        meter: Meter,
        lms: Mapping[str, dspy.LM],
        scope: Callable[[str], AbstractContextManager[Any]] = lambda key: nullcontext(),
    ) -> None:
        if count < 1:
            raise InputError(f"count must be at least 1 but got {count}")
        self.count = count
        self.retry_failed = retry_failed
        self.meter = meter
        self.given_up = 0
        """Units that were under way at an interruption and did not end in time: their threads may still run."""
        self._lms = lms
        self._scope = scope
        self._stop = threading.Event()
        self._retried: set[str] = set()
        self._refused: list[int] = []
        self._journalling = threading.Condition()
        self._under_way = 0
        self._closed = False

    @property
    def stopped(self) -> bool:
        """Whether nothing more is to begin."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Start no further unit."""
        self._stop.set()

    @property
    def calls_needed(self) -> int | None:
        """What the cap must be at least, if it was too low for any unit to be done in this run."""
        return min(self._refused) if self._refused and not self.meter.spent.lm_calls else None

    def do(self, name: str, works: Sequence[Work], journal: Journal, progress: Progress) -> None:
        """Do those of these units that are open, under one bar."""
        unique = {work.key: work for work in works}
        todo = [work for work in unique.values() if self._is_open(work.key, journal)]
        if not todo:
            return
        with progress.phase(name, len(todo), self.meter) as bar:
            if self.count == 1:
                for work in todo:
                    bar.advance(self._do(work, journal))
                return
            self._side_by_side(todo, journal, bar.advance, progress)

    def _side_by_side(
        self, todo: Sequence[Work], journal: Journal, advance: Callable[[Unit | None], None], progress: Progress
    ) -> None:
        pool = ThreadPoolExecutor(self.count, thread_name_prefix="study")
        pending: set[Future[Unit | None]] = set()
        try:
            for work in todo:
                pending.add(pool.submit(self._do, work, journal))
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    advance(future.result())
            pool.shutdown()
        except BaseException as stopped:
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            grace = None
            if isinstance(stopped, KeyboardInterrupt):
                progress.say("interrupted: a moment for the units under way, so that they are not paid for twice")
                grace = GRACE_SECONDS
            with self._journalling:
                self._journalling.wait_for(lambda: not self._under_way, grace)
                self.given_up = self._under_way
                self._closed = True
            raise

    def _is_open(self, key: str, journal: Journal) -> bool:
        unit = journal.get(key)
        return unit is None or (self.retry_failed and not unit.ok and key not in self._retried)

    def _do(self, work: Work, journal: Journal) -> Unit | None:
        """Do one unit and journal it; None if it has to wait for another run."""
        with self._journalling:
            if self._stop.is_set():
                return None
            self._under_way += 1
        try:
            return self._tried(work, journal)
        finally:
            with self._journalling:
                self._under_way -= 1
                self._journalling.notify_all()

    def _tried(self, work: Work, journal: Journal) -> Unit | None:
        self._retried.add(work.key)
        with self.meter.admitted(work.worst_case) as admitted, metering() as usage:
            if not admitted:
                self._refused.append(work.worst_case)
                return None
            if self._stop.is_set():  # while it waited to be admitted
                return None
            started = time.perf_counter()
            result: dict[str, Any] = {}
            error: str | None = None
            try:
                # No trace and no history: they would hold every user's prompts. The host's settings stay.
                with (
                    self._scope(work.key),
                    dspy.context(
                        lm=self._lms[work.lm],
                        adapter=dspy.ChatAdapter(),
                        trace=None,
                        disable_history=True,
                        callbacks=[],
                    ),
                ):
                    result = work.run()
            except Exception as failure:
                for cause in _causes(failure):
                    if isinstance(cause, BudgetError):  # refused by --max-calls
                        return None
                    if isinstance(cause, PersonaAgentError):
                        raise cause from None
                error = _one_line(failure)
                # An LM that has answered in this run was not mistaken, whatever it says now.
                if isinstance(failure, LMError) and says_misconfigured(failure):
                    if not self.meter.has_answered(failure.model or "", getattr(failure, "endpoint", "")):
                        raise InputError(f"the LM cannot be used: {error}") from failure
            unit = Unit(work.key, work.kind, result, error, usage, time.perf_counter() - started)
        with self._journalling:
            if self._closed:  # given up after an interruption: the study's files are written without it
                return None
            journal.add(unit)
        return unit


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """A failure and what it came of: DSPy wraps what an engine raises."""
    cause: BaseException | None = failure
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _one_line(error: Exception) -> str:
    if isinstance(error, LMError):
        return masked(f"{type(error).__name__}: [{error.model}] {one_line_of(error)}")
    text = " ".join(masked(str(error)).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
