"""Work that asks for what takes its time, so that the same steps run in threads and on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NamedTuple, TypeAlias, TypeVar

Result = TypeVar("Result")


class Call(NamedTuple):
    """A module's answer: by `acall` on an event loop."""

    module: Any
    inputs: dict[str, Any]


class Apart(NamedTuple):
    """What a plain function returns: in a thread beside an event loop. It raises no StopIteration."""

    function: Callable[[], Any]


class SideBySide(NamedTuple):
    """The results of several works, in their order. What the first of them raises that fails is raised."""

    works: Sequence[Callable[[], Work[Any]]]
    """At least one. Each is begun in a context of its own: DSPy's settings and the meter's ledgers live in it."""
    most: int
    """At a time."""
    stop_at_failure: bool
    """Begins none after one has failed; those under way are ended all the same."""


Work: TypeAlias = Generator[Call | Apart | SideBySide, Any, Result]


def drive(work: Work[Result]) -> Result:
    """Do it: side by side in threads."""
    outcome: Any = None
    failure: BaseException | None = None
    while True:
        try:
            step = work.send(outcome) if failure is None else work.throw(failure)
        except StopIteration as end:
            return end.value
        outcome, failure = None, None
        try:
            match step:
                case Call(module, inputs):
                    outcome = module(**inputs)
                case Apart(function):
                    outcome = function()
                case SideBySide():
                    outcome = _in_threads(step)
        except BaseException as error:  # an interruption, too: the work's own context managers are to end
            failure = error


async def adrive(work: Work[Result]) -> Result:
    """Do it on this event loop: side by side in tasks, which end with this one if it is cancelled."""
    outcome: Any = None
    failure: BaseException | None = None
    while True:
        try:
            step = work.send(outcome) if failure is None else work.throw(failure)
        except StopIteration as end:
            return end.value
        outcome, failure = None, None
        try:
            match step:
                case Call(module, inputs):
                    outcome = await module.acall(**inputs)
                case Apart(function):
                    outcome = await asyncio.to_thread(function)
                case SideBySide():
                    outcome = await _in_tasks(step)
        except BaseException as error:
            failure = error


def _in_threads(side: SideBySide) -> list[Any]:
    # A pool of our own: dspy.Parallel runs a slow item twice and loses all results past max_errors.
    if side.most == 1 and side.stop_at_failure and not _loop_runs():
        return [drive(work()) for work in side.works]
    failures: list[BaseException] = []

    def begin(work: Callable[[], Work[Any]]) -> Any:
        if failures and side.stop_at_failure:
            raise failures[0]  # what has not begun is not paid for
        try:
            return drive(work())
        except BaseException as error:
            failures.append(error)
            raise

    with ThreadPoolExecutor(side.most, thread_name_prefix="alignment") as pool:
        futures = [pool.submit(copy_context().run, begin, work) for work in side.works]
        try:
            return [future.result() for future in futures]
        except BaseException as error:  # of a work, or an interruption
            failures.append(error)
            raise


def _loop_runs() -> bool:
    """Whether this thread is an event loop's, as in a notebook: there DSPy cannot call an asynchronous tool."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _in_tasks(side: SideBySide) -> list[Any]:
    failures: list[BaseException] = []
    free = asyncio.Semaphore(side.most)

    async def begin(work: Callable[[], Work[Any]]) -> Any:
        async with free:
            if failures and side.stop_at_failure:
                raise failures[0]
            try:
                return await adrive(work())
            except BaseException as error:
                failures.append(error)
                raise

    tasks = [asyncio.create_task(begin(work)) for work in side.works]
    try:
        await asyncio.wait(tasks)
    finally:  # cancelled: nothing is to go on behind the caller's back
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]
