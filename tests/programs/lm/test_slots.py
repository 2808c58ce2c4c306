"""Slots: never more inside than allowed, first come first served, for threads and tasks, with a limit that moves."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from personaagent.programs.errors import InputError
from personaagent.programs.lm.meter import Meter
from personaagent.programs.lm.slots import Slots


def test_a_lowered_limit_sends_nobody_out_and_holds_back_who_comes_next() -> None:

    async def main() -> list[str]:
        slots, seen = Slots(2), []
        leave = asyncio.Event()

        async def holder(name: str) -> None:
            async with slots.aslot():
                seen.append(name)
                await leave.wait()

        tasks = [asyncio.create_task(holder(name)) for name in "abc"]
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert seen == ["a", "b"]
        slots.limit = 1
        assert slots.held == 2
        leave.set()
        await asyncio.gather(*tasks)
        assert slots.held == 0
        return seen

    assert asyncio.run(main()) == ["a", "b", "c"]


def test_a_raised_limit_lets_in_at_once_who_waits() -> None:
    slots, inside = Slots(1), threading.Barrier(3)

    def hold() -> None:
        with slots.slot():
            inside.wait(timeout=30)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(hold) for _ in range(3)]
        slots.limit = 3
        for future in futures:
            future.result()
    assert slots.held == 0


@pytest.mark.parametrize("limit", [0, -1, 0.5, math.nan])
def test_a_limit_that_lets_nobody_in_is_refused(limit: float) -> None:
    with pytest.raises(InputError, match=f"limit must be at least 1 but got {limit}"):
        Slots(limit)
    slots = Slots(2)
    with pytest.raises(InputError, match=f"limit must be at least 1 but got {limit}"):
        slots.limit = limit
    assert slots.limit == 2


def test_a_task_that_is_cancelled_in_the_queue_leaves_it() -> None:

    async def main() -> None:
        slots = Slots(1)

        async def enter() -> str:
            async with slots.aslot():
                return "in"

        async with slots.aslot():
            first, second = asyncio.create_task(enter()), asyncio.create_task(enter())
            await asyncio.sleep(0.01)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
        assert await second == "in"
        assert slots.held == 0

    asyncio.run(main())


def test_a_task_that_is_cancelled_while_it_is_let_in_gives_its_slot_back() -> None:
    """Between the grant, by another thread, and the moment at which its task goes on."""

    async def main() -> None:
        slots = Slots(1)
        ticket = slots._queue_up()

        async def enter() -> None:
            async with slots.aslot():
                await asyncio.sleep(60)

        task = asyncio.create_task(enter())
        await asyncio.sleep(0.01)
        slots._leave(ticket)  # grants the slot; the task has not run since
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert slots.held == 0

    asyncio.run(main())


def test_an_error_inside_gives_the_slot_back() -> None:
    slots = Slots(1)
    with pytest.raises(ValueError), slots.slot():
        raise ValueError
    with slots.slot():
        assert slots.held == 1
    assert slots.held == 0


def test_a_forked_process_has_all_slots_and_nothing_reserved() -> None:
    """Who was inside is a thread that it does not have."""
    slots, meter = Slots(1), Meter(max_calls=10)
    with slots.slot(), meter.admitted(8) as admitted:
        assert admitted
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(20)  # a wait for ever ends the process
                with slots.slot():
                    os._exit(0 if slots.held == 1 and meter._reserved == 0 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert slots.held == 1
    assert slots.held == 0
