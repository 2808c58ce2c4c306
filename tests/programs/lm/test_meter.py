"""The meter: every attempt is counted, no cap and no limit is exceeded, from threads and from asyncio."""

from __future__ import annotations

import asyncio
import copy
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import dspy
import pytest
from dspy import lm15
from dspy.lm15 import Message, Request, Response, TextPart
from dspy.lm15 import Usage as LMUsage
from dspy.utils.exceptions import AdapterParseError, LMError

from personaagent.programs.errors import BudgetError, InputError
from personaagent.programs.lm.engines import AsyncMeteredEngine, MeteredEngine
from personaagent.programs.lm.meter import Meter, Usage, metering

READABLE = "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
JOIN_SECONDS = 30.0
"""After which a thread that should have ended counts as stuck."""


class Scripted:
    """An engine that answers, or raises, what its script says for call 0, 1, ...; 10 and 2 tokens a call."""

    def __init__(self, script: Callable[[int], str | Exception] = lambda _: READABLE, usage: bool = True) -> None:
        self.calls = 0
        self._script = script
        self._usage = LMUsage(input_tokens=10, output_tokens=2) if usage else LMUsage()
        self._lock = threading.Lock()

    def complete(self, request: Request) -> Response:
        with self._lock:
            number = self.calls
            self.calls += 1
        said = self._script(number)
        if isinstance(said, Exception):
            raise said
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(said)]),
            finish_reason="stop",
            usage=self._usage,
        )


class Crowd(Scripted):
    """Records the most calls that were inside at once. The first `size` wait for each other, if they all get in."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.most = 0
        self._inside = 0
        self._together = threading.Barrier(size)

    def complete(self, request: Request) -> Response:
        with self._lock:
            self._inside += 1
            self.most = max(self.most, self._inside)
        try:
            self._together.wait(JOIN_SECONDS)
            return super().complete(request)
        finally:
            with self._lock:
                self._inside -= 1


def lm_of(engine: Scripted, meter: Meter, num_retries: int = 0) -> dspy.LM:
    return dspy.LM(
        "scripted",
        engine=MeteredEngine(engine, meter),
        async_engine=AsyncMeteredEngine(engine, meter),
        cache=False,
        num_retries=num_retries,
    )


def ask(lm: dspy.LM) -> str:
    with dspy.context(lm=lm):
        return str(dspy.Predict("question -> answer")(question="?").answer)


async def aask(lm: dspy.LM) -> str:
    with dspy.context(lm=lm):
        return str((await dspy.Predict("question -> answer").acall(question="?")).answer)


def refused(call: Callable[[], object]) -> bool:
    """Whether a call is refused by the cap. DSPy hands on what an engine raises as the cause of an error of its own."""
    try:
        call()
    except (BudgetError, LMError) as error:
        return isinstance(error, BudgetError) or isinstance(error.__cause__, BudgetError)
    return False


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """DSPy waits 1, 2, 4 s between attempts."""
    monkeypatch.setattr("dspy.clients.execution._delay", lambda *_: 0)


# --- counting --------------------------------------------------------------------------------------


def test_a_call_and_its_tokens_are_booked() -> None:
    meter = Meter()
    assert ask(lm_of(Scripted(), meter)) == "yes"
    assert meter.spent.to_dict() == {"lm_calls": 1, "prompt_tokens": 10, "completion_tokens": 2}


def test_an_lm_that_reports_no_usage_is_counted_without_tokens() -> None:
    meter = Meter()
    ask(lm_of(Scripted(usage=False), meter))
    assert meter.spent == Usage(1, 0, 0)


@pytest.mark.parametrize("run", [ask, lambda lm: asyncio.run(aask(lm))], ids=["sync", "async"])
def test_every_attempt_of_a_retried_call_is_booked(run: Callable[[dspy.LM], str], no_waiting: None) -> None:
    failures = [lm15.RateLimitError("slow down"), lm15.ServerError("oops")]
    engine, meter = Scripted(lambda n: failures[n] if n < 2 else READABLE), Meter()
    assert run(lm_of(engine, meter, num_retries=3)) == "yes"
    assert engine.calls == meter.spent.lm_calls == 3
    assert meter.spent.prompt_tokens == 10, "failed attempts report no tokens"


@pytest.mark.parametrize("run", [ask, lambda lm: asyncio.run(aask(lm))], ids=["sync", "async"])
def test_the_json_fallback_is_booked(run: Callable[[dspy.LM], str]) -> None:
    engine, meter = Scripted(lambda n: "no field" if n == 0 else '{"answer": "yes"}'), Meter()
    assert run(lm_of(engine, meter)) == "yes"
    assert engine.calls == meter.spent.lm_calls == 2
    assert meter.spent == Usage(2, 20, 4), "an unreadable answer has been paid for"


def test_a_call_that_fails_for_good_is_booked(no_waiting: None) -> None:
    engine, meter = Scripted(lambda n: lm15.ServerError("oops")), Meter()
    with metering() as usage, pytest.raises(LMError):
        ask(lm_of(engine, meter, num_retries=2))
    assert engine.calls == meter.spent.lm_calls == usage.lm_calls == 3


def test_ledgers_nest() -> None:
    lm = lm_of(Scripted(), Meter())
    with metering() as outer:
        ask(lm)
        with metering() as inner:
            ask(lm)
            ask(lm)
        ask(lm)
        with metering() as second:
            pass
    ask(lm)
    assert (outer.lm_calls, inner.lm_calls, second.lm_calls) == (4, 2, 0)
    assert outer == Usage(4, 40, 8) and inner == Usage(2, 20, 4)


def test_a_ledger_closes_when_its_block_raises() -> None:
    lm = lm_of(Scripted(), Meter())
    with pytest.raises(KeyError), metering() as usage:
        raise KeyError
    ask(lm)
    assert usage == Usage()


def test_threads_that_copy_the_context_book_on_its_ledgers_and_others_do_not() -> None:
    meter = Meter()
    lm = lm_of(Scripted(), meter)
    with ThreadPoolExecutor(8) as pool:
        with metering() as outer:
            inside = [pool.submit(copy_context().run, ask, lm) for _ in range(30)]
            outside = [pool.submit(ask, lm) for _ in range(10)]
            for future in (*inside, *outside):
                future.result()
    assert outer == Usage(30, 300, 60)
    assert meter.spent == Usage(40, 400, 80)


def test_ledgers_of_threads_are_their_own() -> None:
    lm = lm_of(Scripted(), Meter())

    def work(calls: int) -> int:
        with metering() as usage:
            for _ in range(calls):
                ask(lm)
        return usage.lm_calls

    with metering() as outer, ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(copy_context().run, work, calls) for calls in range(6)]
        assert [future.result() for future in futures] == list(range(6))
    assert outer.lm_calls == sum(range(6))


def test_ledgers_of_asyncio_tasks_are_their_own() -> None:
    lm = lm_of(Scripted(), Meter())

    async def work(calls: int) -> int:
        with metering() as usage:
            for _ in range(calls):
                await aask(lm)
        return usage.lm_calls

    async def main() -> list[int]:
        return await asyncio.gather(*(work(calls) for calls in range(8)))

    with metering() as outer:
        assert asyncio.run(main()) == list(range(8))
    assert outer.lm_calls == sum(range(8))


def test_two_meters_book_on_one_ledger() -> None:
    one, two = Meter(), Meter()
    with metering() as usage:
        ask(lm_of(Scripted(), one))
        ask(lm_of(Scripted(), two))
    assert (one.spent.lm_calls, two.spent.lm_calls, usage.lm_calls) == (1, 1, 2)


def test_a_copied_meter_is_the_same_account() -> None:
    meter = Meter(max_calls=3)
    assert copy.deepcopy(meter) is meter


# --- saving ----------------------------------------------------------------------------------------


class Saved(Scripted):
    """A scripted engine that DSPy can save."""

    def dump_state(self) -> dict[str, object]:
        return {}

    @classmethod
    def load_state(cls, state: dict[str, object]) -> Saved:
        return cls()


@pytest.mark.parametrize("kind", [MeteredEngine, AsyncMeteredEngine])
def test_a_saved_engine_is_loaded_on_a_new_meter(kind: type[MeteredEngine] | type[AsyncMeteredEngine]) -> None:
    saved = kind(Saved(), Meter(max_calls=0)).dump_state()
    assert list(saved) == ["inner"]
    loaded = kind.load_state(saved)
    assert type(loaded) is kind
    assert type(loaded._inner) is Saved
    assert loaded._meter == Meter()
    assert loaded.dump_state() == saved


def test_what_wraps_an_engine_that_cannot_be_saved_says_what_is_lacking() -> None:
    with pytest.raises(TypeError, match=r"Scripted cannot be saved.*dump_state"):
        MeteredEngine(Scripted(), Meter()).dump_state()


# --- calls in flight -------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_calls_are_in_flight_than_allowed_from_threads(limit: int) -> None:
    engine, meter = Crowd(limit), Meter(max_in_flight=limit)
    lm = lm_of(engine, meter)
    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(ask, lm) for _ in range(48)]:
            assert future.result() == "yes"
    assert engine.calls == 48
    assert engine.most == limit, "and the limit is used to the full: the barrier would break otherwise"


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_calls_are_in_flight_than_allowed_from_asyncio(limit: int) -> None:
    engine, meter = Crowd(limit), Meter(max_in_flight=limit)
    lm = lm_of(engine, meter)

    async def main() -> list[str]:
        return await asyncio.gather(*(aask(lm) for _ in range(24)))

    assert asyncio.run(main()) == ["yes"] * 24
    assert engine.most == limit


def test_threads_and_asyncio_share_the_limit() -> None:
    engine, meter = Crowd(2), Meter(max_in_flight=2)
    lm = lm_of(engine, meter)

    async def main() -> list[str]:
        return await asyncio.gather(*(aask(lm) for _ in range(10)))

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(ask, lm) for _ in range(30)]
        assert asyncio.run(main()) == ["yes"] * 10
        assert [future.result() for future in futures] == ["yes"] * 30
    assert engine.most == 2


def test_without_a_limit_sixteen_threads_are_inside_at_once() -> None:
    engine = Crowd(16)
    lm = lm_of(engine, Meter())
    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(ask, lm) for _ in range(16)]:
            future.result()
    assert engine.most == 16


@pytest.mark.parametrize("run", [ask, lambda lm: asyncio.run(aask(lm))], ids=["sync", "async"])
def test_failed_and_refused_calls_leave_their_slot(run: Callable[[dspy.LM], str]) -> None:
    engine, meter = Scripted(lambda n: ValueError("bug") if n < 3 else READABLE), Meter(5, max_in_flight=1)
    lm = lm_of(engine, meter)
    for _ in range(3):
        with pytest.raises(LMError):
            run(lm)
    assert run(lm) == run(lm) == "yes"
    assert refused(lambda: run(lm)) and refused(lambda: run(lm))


def test_a_cancelled_task_leaves_its_slot() -> None:

    async def main() -> str:
        meter = Meter(max_in_flight=1)
        engine = Scripted()
        lm = lm_of(engine, meter)
        async with meter.slots.aslot():
            waiting = asyncio.create_task(aask(lm))
            await asyncio.sleep(0.02)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        return await aask(lm)

    assert asyncio.run(main()) == "yes"


# --- the cap ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [ask, lambda lm: asyncio.run(aask(lm))], ids=["sync", "async"])
def test_a_call_beyond_the_cap_is_not_sent(run: Callable[[dspy.LM], str]) -> None:
    engine, meter = Scripted(), Meter(max_calls=2)
    lm = lm_of(engine, meter)
    assert run(lm) == run(lm) == "yes"
    with metering() as usage:
        assert refused(lambda: run(lm))
    assert engine.calls == meter.spent.lm_calls == 2
    assert usage == Usage()


def test_a_cap_of_zero_sends_nothing() -> None:
    engine, meter = Scripted(), Meter(max_calls=0)
    with pytest.raises(BudgetError, match="the cap of 0 LM calls is reached"):
        MeteredEngine(engine, meter).complete(Request(model="m", messages=[Message.user("?")]))
    assert engine.calls == 0


def test_the_cap_is_not_retried(no_waiting: None) -> None:
    engine, meter = Scripted(lambda n: lm15.ServerError("oops")), Meter(max_calls=2)
    assert refused(lambda: ask(lm_of(engine, meter, num_retries=3)))
    assert engine.calls == meter.spent.lm_calls == 2


def test_a_cap_that_is_hit_in_the_fallback_is_no_parse_error() -> None:
    engine, meter = Scripted(lambda n: "no field"), Meter(max_calls=1)
    try:
        assert refused(lambda: ask(lm_of(engine, meter)))
    except AdapterParseError:
        pytest.fail("the cap looked like malformed output")


def test_threads_never_exceed_the_cap() -> None:
    engine, meter = Scripted(), Meter(max_calls=25)
    lm = lm_of(engine, meter)
    with ThreadPoolExecutor(16) as pool:
        outcomes = [future.result() for future in [pool.submit(refused, lambda: ask(lm)) for _ in range(60)]]
    assert engine.calls == meter.spent.lm_calls == outcomes.count(False) == 25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_calls": -1}, "max_calls cannot be negative but got -1"),
        ({"max_in_flight": 0}, "max_in_flight must be at least 1 but got 0"),
        ({"max_in_flight": -2}, "max_in_flight must be at least 1 but got -2"),
    ],
)
def test_values_out_of_range(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Meter(**settings)


# --- admission -------------------------------------------------------------------------------------


def test_without_a_cap_everything_is_admitted() -> None:
    with Meter().admitted(10**9) as admitted:
        assert admitted


def test_what_fits_exactly_is_admitted_and_what_does_not_is_not() -> None:
    meter = Meter(max_calls=3)
    with meter.admitted(4) as admitted:
        assert not admitted
    with meter.admitted(3) as admitted:
        assert admitted
    with meter.admitted(0) as admitted:
        assert admitted


def test_what_was_not_used_is_given_back() -> None:
    engine, meter = Scripted(), Meter(max_calls=5)
    lm = lm_of(engine, meter)
    for used in (1, 2):
        with meter.admitted(3) as admitted:
            assert admitted
            for _ in range(used):
                ask(lm)
    assert meter._reserved == 0 and meter.spent.lm_calls == 3
    with meter.admitted(3) as admitted:
        assert not admitted, "two calls are left"
    with meter.admitted(2) as admitted:
        assert admitted


def test_a_reservation_is_given_back_when_the_work_raises() -> None:
    meter = Meter(max_calls=3)
    with pytest.raises(KeyError), meter.admitted(3):
        raise KeyError
    assert meter._reserved == 0
    with meter.admitted(3) as admitted:
        assert admitted


def test_calls_of_the_work_s_threads_are_on_its_reservation() -> None:
    engine, meter = Scripted(), Meter(max_calls=8)
    lm = lm_of(engine, meter)
    with meter.admitted(8) as admitted, ThreadPoolExecutor(4) as pool:
        assert admitted
        for future in [pool.submit(copy_context().run, ask, lm) for _ in range(8)]:
            future.result()
        assert meter._reserved == 0
    assert (meter._reserved, meter.spent.lm_calls) == (0, 8)


class Holder(threading.Thread):
    """Holds a reservation in a thread of its own, makes some calls, and ends when told."""

    def __init__(self, meter: Meter, worst_case: int, lm: dspy.LM, calls: int) -> None:
        super().__init__(daemon=True)
        self._work = (meter, worst_case, lm, calls)
        self.ready, self.end = threading.Event(), threading.Event()
        self.start()
        assert self.ready.wait(JOIN_SECONDS)

    def run(self) -> None:
        meter, worst_case, lm, calls = self._work
        with meter.admitted(worst_case) as admitted:
            assert admitted
            for _ in range(calls):
                ask(lm)
            self.ready.set()
            self.end.wait(JOIN_SECONDS)

    def finish(self) -> None:
        self.end.set()
        self.join(JOIN_SECONDS)
        assert not self.is_alive()


def _in_thread(work: Callable[[], bool]) -> tuple[threading.Thread, list[bool]]:
    outcome: list[bool] = []
    thread = threading.Thread(target=lambda: outcome.append(work()), daemon=True)
    thread.start()
    return thread, outcome


def _admit(meter: Meter, worst_case: int) -> bool:
    with meter.admitted(worst_case) as admitted:
        return admitted


def test_work_waits_while_others_may_give_back_and_is_then_admitted() -> None:
    meter = Meter(max_calls=10)
    holder = Holder(meter, 8, lm_of(Scripted(), meter), calls=1)
    thread, outcome = _in_thread(lambda: _admit(meter, 9))
    thread.join(0.1)
    assert thread.is_alive() and outcome == [], "9 of 10 are free only if 7 of 8 come back"
    holder.finish()
    thread.join(JOIN_SECONDS)
    assert outcome == [True]


def test_work_that_waited_is_refused_when_too_little_came_back() -> None:
    meter = Meter(max_calls=10)
    holder = Holder(meter, 8, lm_of(Scripted(), meter), calls=0)
    thread, outcome = _in_thread(lambda: _admit(meter, 9))
    thread.join(0.1)
    assert outcome == []
    # The holder's work spends more than the other could stand.
    with meter._changed:
        meter.spent.lm_calls += 2
        meter._reserved -= 2
    holder.finish()
    thread.join(JOIN_SECONDS)
    assert outcome == [False]


def test_what_can_never_fit_is_refused_at_once() -> None:
    meter = Meter(max_calls=10)
    holder = Holder(meter, 8, lm_of(Scripted(), meter), calls=5)
    thread, outcome = _in_thread(lambda: _admit(meter, 6))
    thread.join(JOIN_SECONDS)
    assert outcome == [False], "5 are spent whatever the holder gives back"
    holder.finish()


def test_what_others_reserved_is_not_taken() -> None:
    engine, meter = Scripted(), Meter(max_calls=4)
    lm = lm_of(engine, meter)
    holder = Holder(meter, 3, lm, calls=1)
    ask(lm)
    assert refused(lambda: ask(lm)), "two spent, two reserved"
    holder.finish()
    ask(lm)
    ask(lm)
    assert refused(lambda: ask(lm))
    assert meter.spent.lm_calls == engine.calls == 4


def test_admission_within_admitted_work_reserves_nothing_more() -> None:
    meter = Meter(max_calls=5)
    lm = lm_of(Scripted(), meter)
    with meter.admitted(5) as outer:
        with meter.admitted(4) as inner:
            assert outer and inner
            ask(lm)
        ask(lm)
    assert (meter._reserved, meter.spent.lm_calls) == (0, 2)


def test_reservations_of_two_meters_are_apart() -> None:
    one, two = Meter(max_calls=2), Meter(max_calls=3)
    with one.admitted(2) as first, two.admitted(3) as second:
        assert first and second
        ask(lm_of(Scripted(), two))
        assert (one._reserved, two._reserved) == (2, 2)
    assert (one._reserved, two._reserved) == (0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_under_stress_the_cap_holds_nobody_is_stuck_and_everything_is_given_back(seed: int) -> None:
    rng = random.Random(seed)
    cap = rng.randint(60, 120)
    plans = [(worst := rng.randint(0, 9), rng.randint(0, worst)) for _ in range(80)]
    engine, meter = Scripted(), Meter(max_calls=cap, max_in_flight=5)
    metered = MeteredEngine(engine, meter)
    request = Request(model="m", messages=[Message.user("?")])
    admitted_use: list[int] = []
    over: list[int] = []
    errors: list[BaseException] = []
    queue = iter(plans)
    lock = threading.Lock()

    def worker() -> None:
        while True:
            with lock:
                plan = next(queue, None)
            if plan is None:
                return
            worst_case, use = plan
            try:
                with meter.admitted(worst_case) as admitted:
                    if not admitted:
                        continue
                    for _ in range(use):
                        metered.complete(request)
                        with meter._changed:
                            total = meter.spent.lm_calls + meter._reserved
                        if total > cap:
                            over.append(total)
                    admitted_use.append(use)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(JOIN_SECONDS)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    assert errors == [], "admitted work is never refused a call"
    assert over == []
    assert meter._reserved == 0
    assert engine.calls == meter.spent.lm_calls == sum(admitted_use) <= cap
    assert cap - meter.spent.lm_calls < 9, "it is used until the largest worst case no longer fits"
