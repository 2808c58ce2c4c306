"""An endpoint: when it is asked again, how many at a time, and when no longer. Waits run on a clock of the test."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMError,
    LMInvalidRequestError,
    LMProviderError,
    LMRateLimitError,
    LMServerError,
    LMTimeoutError,
    LMTransportError,
    LMUnsupportedModelError,
)

from personaagent.programs.errors import BudgetError, InputError
from personaagent.programs.lm.endpoint import (
    CALLS_TO_OPEN,
    MAX_WAIT_SECONDS,
    NUM_RETRIES,
    OPEN_SECONDS,
    Endpoint,
    EndpointPausedError,
    Patience,
    one_line_of,
    says_misconfigured,
)
from personaagent.programs.lm.meter import Meter

REQUEST = Request(model="openai/test", messages=[Message.user("?")])
ANSWER = Response(
    id=None, model="test", message=Message.assistant([TextPart("yes")]), finish_reason="stop", usage=Usage()
)


class World:
    """An endpoint with a clock of its own, and a server that answers, or fails, as its script says for call 0, 1, ...

    Time passes when everybody sleeps: at once, to the moment at which the first one wakes.
    """

    def __init__(
        self, script: Callable[[int], LMError | None], max_in_flight: int | None = None, latency: float = 0.01
    ) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.sent: list[float] = []
        """When each request arrived."""
        self.most = self._inside = 0
        self.script, self.latency = script, latency
        self.meter = Meter()
        self.endpoint = Endpoint("here", max_in_flight, lambda: self.now, self._pause)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run(self._drive(main()))

    async def _drive(self, main: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(main)
        while not task.done():
            for _ in range(100):  # whoever can go on does so first
                await asyncio.sleep(0)
            if self._sleepers:
                until, _, sleeper = heapq.heappop(self._sleepers)
                self.now = max(self.now, until)
                if not sleeper.done():
                    sleeper.set_result(None)
        await task

    async def sleep(self, seconds: float) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(_NUMBERS), sleeper))
        await sleeper

    async def _pause(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.sleep(seconds)

    async def send(self, request: Request) -> Response:
        number = len(self.sent)
        self.sent.append(self.now)
        self._inside += 1
        self.most = max(self.most, self._inside)
        error = self.script(number)
        await self.sleep(self.latency)
        self._inside -= 1
        if error:
            raise error
        return ANSWER

    async def call(self, timeout_seconds: float = 60.0) -> Response:
        return await self.endpoint.call(REQUEST, self.send, self.meter, Patience(timeout_seconds))

    async def fails(self) -> LMError:
        with pytest.raises(LMError) as raised:
            await self.call()
        return raised.value


_NUMBERS = itertools.count()


# -- one call ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        LMServerError("500"),
        LMTransportError("reset"),
        LMTimeoutError("408"),
        LMProviderError("not JSON", status=200),
        LMInvalidRequestError("early", status=425),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_transient_failure_is_asked_again_after_waits_that_double(error: LMError) -> None:
    world = World(lambda n: error if n < NUM_RETRIES else None)

    async def main() -> None:
        assert await world.call() is ANSWER
        assert len(world.sent) == world.meter.spent.lm_calls == NUM_RETRIES + 1
        assert len(world.slept) == NUM_RETRIES
        for attempt, wait in enumerate(world.slept):
            assert 2**attempt / 2 <= wait <= 2**attempt

    world.run(main)


def test_waits_differ_between_calls_so_that_they_do_not_come_back_together() -> None:
    assert len({Patience().wait_seconds(3) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        *(("timeout_seconds", value, "must be above 0") for value in (0, -1, math.nan)),
        ("num_retries", -1, "cannot be negative"),
        *(("retry_wait_seconds", value, "must be from 0") for value in (-1, math.nan)),
    ],
)
def test_patience_out_of_range_is_refused(name: str, value: float, rule: str) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(InputError, match=f"{name} {rule} but got {value}"):
        Patience(**settings)


def test_after_the_last_retry_the_failure_is_the_callers() -> None:
    world = World(lambda n: LMServerError("down", status=500))

    async def main() -> None:
        assert "down" in str(await world.fails())
        assert len(world.sent) == NUM_RETRIES + 1

    world.run(main)


@pytest.mark.parametrize(
    "error",
    [LMAuthError("no"), LMBillingError("no"), LMUnsupportedModelError("no"), LMInvalidRequestError("no", status=400)],
    ids=lambda error: type(error).__name__,
)
def test_what_will_not_get_better_is_not_asked_again(error: LMError) -> None:
    world = World(lambda n: error)

    async def main() -> None:
        assert await world.fails() is error
        assert len(world.sent) == 1

    world.run(main)


def test_an_answer_that_never_ends_meets_the_deadline_and_its_request_is_ended() -> None:

    world, ended = World(lambda n: None), []

    async def main() -> None:

        async def hang(request: Request) -> Response:
            try:
                await asyncio.sleep(60)
                return ANSWER
            finally:
                ended.append(True)

        with pytest.raises(LMTimeoutError, match=r"\[openai/test\] no complete answer within 0\.01 s"):
            await world.endpoint.call(REQUEST, hang, world.meter, Patience(0.01, num_retries=1))
        assert len(ended) == world.meter.spent.lm_calls == 2

    world.run(main)


def test_the_cap_ends_a_call_between_two_attempts_and_says_nothing_of_the_endpoint() -> None:
    world = World(lambda n: LMServerError("down"))

    async def main() -> None:
        world.meter = Meter(max_calls=2)
        for _ in range(CALLS_TO_OPEN + 1):
            with pytest.raises(BudgetError):
                await world.call()
        assert len(world.sent) == 2

    world.run(main)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", 400),
        ("the request exceeds the available context size. try increasing the context size", 400),
        ("prompt is too long: 210000 tokens > 200000 maximum", 400),
        ("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", 400),
        ("Prompt contains 40000 tokens, too large for model with 32768 maximum context length", 400),
        ("Input is too long for requested model.", 400),
        ("Request Entity Too Large", 413),
        ("", 400),
    ],
)
def test_a_prompt_that_is_too_long_is_told_as_such_whoever_says_so(message: str, status: int) -> None:
    world = World(lambda n: LMInvalidRequestError(message, status=status))

    async def main() -> None:
        error = await world.fails()
        assert isinstance(error, ContextWindowExceededError)
        assert message in str(error) and error.status == status
        assert len(world.sent) == 1

    world.run(main)


@pytest.mark.parametrize("message", [{"detail": "broken"}, ["broken"], 3, None])
def test_a_message_that_is_no_text_is_told_all_the_same(message: Any) -> None:
    world = World(lambda n: LMInvalidRequestError(message, status=422))

    async def main() -> None:
        told = one_line_of(await world.fails())
        assert "422" in told and (message in (3, None) or "broken" in told)

    world.run(main)


def test_a_message_cannot_write_to_the_terminal() -> None:
    assert one_line_of(LMServerError("a\x1b[2Jb\nc", status=500)) == "a[2Jb c (HTTP 500)"


@pytest.mark.parametrize(
    "message", ["temperature must be at most 1", "max_tokens is too large: 999999", "invalid input", "bad context"]
)
def test_another_refusal_is_not(message: str) -> None:
    world = World(lambda n: LMInvalidRequestError(message, status=400))

    async def main() -> None:
        assert type(await world.fails()) is LMInvalidRequestError

    world.run(main)


# -- rate limits ------------------------------------------------------------------------------------


def test_a_retry_after_is_obeyed_by_all_calls() -> None:
    world = World(lambda n: LMRateLimitError("slow down", retry_after=7.0) if n == 0 else None)

    async def main() -> None:
        await asyncio.gather(*(world.call() for _ in range(5)))
        assert world.sent[0] == 0.0
        assert len(world.sent) == 6 and all(when >= 7.0 for when in world.sent[1:])

    world.run(main)


def test_a_rate_limit_without_a_retry_after_makes_all_calls_wait_too() -> None:
    world = World(lambda n: LMRateLimitError("slow down") if n == 0 else None)

    async def main() -> None:
        await asyncio.gather(*(world.call() for _ in range(5)))
        assert len(world.sent) == 6 and all(when >= 0.5 for when in world.sent[1:])

    world.run(main)


def test_a_wait_beyond_measure_is_not_waited_for_and_nothing_is_sent_until_then() -> None:
    world = World(lambda n: LMRateLimitError("daily limit", retry_after=3600.0) if n == 0 else None)

    async def main() -> None:
        assert "daily limit" in str(await world.fails())
        world.now = 3599.0
        refused = await world.fails()
        assert isinstance(refused, EndpointPausedError) and "daily limit" in str(refused)
        assert len(world.sent) == world.meter.spent.lm_calls == 1
        world.now = 3600.1
        assert await world.call() is ANSWER
        assert MAX_WAIT_SECONDS < 3600

    world.run(main)


def test_a_rate_limit_halves_the_calls_in_flight_once_and_answers_raise_them_slowly() -> None:
    world = World(lambda n: LMRateLimitError("slow down") if 1 <= n <= 8 else None, max_in_flight=8)

    async def main() -> None:
        await world.call()
        assert world.endpoint.slots.limit == 8
        await asyncio.gather(*(world.call() for _ in range(8)))
        limit_after = world.endpoint.slots.limit
        assert 4 < limit_after < 6.5, "halved once for the wave of eight, then raised by their eight answers"
        for _ in range(100):
            await world.call()
        assert world.endpoint.slots.limit == 8, "and no further than it was"

    world.run(main)


def test_the_limit_does_not_fall_below_one() -> None:
    world = World(lambda n: LMRateLimitError("slow down") if n < 4 else None, max_in_flight=4)

    async def main() -> None:
        await asyncio.gather(*(world.call() for _ in range(12)))
        assert 1 <= world.endpoint.slots.limit < 4

    world.run(main)


@pytest.mark.parametrize("says_when", [True, False], ids=["retry-after", "silent"])
def test_a_server_that_allows_two_requests_a_second_loses_no_call(says_when: bool) -> None:
    world = World(lambda n: None, max_in_flight=16, latency=0.2)

    async def main() -> None:
        allowance, last = 2.0, 0.0

        def limited(number: int) -> LMError | None:
            nonlocal allowance, last
            allowance, last = min(2.0, allowance + 2.0 * (world.now - last)), world.now
            if allowance < 1:
                return LMRateLimitError("slow down", retry_after=1.0 if says_when else None)
            allowance -= 1
            return None

        world.script = limited
        answers = await asyncio.gather(*(world.call() for _ in range(200)))
        assert answers == [ANSWER] * 200
        assert len(world.sent) < 3 * 200
        assert world.now < 2.5 * 200 / 2.0, "and it is not waited much longer than it must be"

    world.run(main)


def test_a_server_that_refuses_every_call_is_found_out_once_and_not_by_each_call() -> None:
    world = World(lambda n: LMRateLimitError("slow down"), max_in_flight=8)

    async def main() -> None:
        outcomes = await asyncio.gather(*(world.call() for _ in range(30)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {LMRateLimitError, EndpointPausedError}
        assert len(world.sent) < 3 * NUM_RETRIES + 8
        assert world.now < 90.0

    world.run(main)


def test_a_rate_limit_at_the_first_request_halves_too() -> None:
    world = World(lambda n: LMRateLimitError("slow down") if n == 0 else None, max_in_flight=8)

    async def main() -> None:
        await world.call()
        assert world.endpoint.slots.limit < 8

    world.run(main)


def test_no_more_calls_are_in_flight_than_allowed() -> None:
    world = World(lambda n: None, max_in_flight=3)

    async def main() -> None:
        await asyncio.gather(*(world.call() for _ in range(20)))
        assert world.most == 3

    world.run(main)


def test_the_first_request_goes_alone() -> None:
    world = World(lambda n: LMServerError("starting") if n == 0 else None, latency=2.0)

    async def main() -> None:
        await asyncio.gather(*(world.call() for _ in range(8)))
        assert world.sent[:8] == [0.0, *[2.0] * 7]
        assert len(world.sent) == 9

    world.run(main)


def test_a_wrong_key_costs_one_request_and_all_who_wait_hear_of_it() -> None:
    world = World(lambda n: LMAuthError("wrong key"), latency=2.0)

    async def main() -> None:
        outcomes = await asyncio.gather(*(world.call() for _ in range(8)), return_exceptions=True)
        assert world.sent == [0.0]
        assert sum(type(outcome) is LMAuthError for outcome in outcomes) == 1
        assert all(isinstance(o, LMError) and "wrong key" in str(o) and says_misconfigured(o) for o in outcomes)

    world.run(main)


# -- the breaker ------------------------------------------------------------------------------------


def test_calls_that_fail_for_good_open_the_breaker_and_one_trial_decides() -> None:
    world = World(lambda n: LMAuthError("the key was revoked") if n else None)

    async def main() -> None:
        await world.call()
        for _ in range(CALLS_TO_OPEN):
            assert isinstance(await world.fails(), LMAuthError)
        for _ in range(5):
            refused = await world.fails()
            assert isinstance(refused, EndpointPausedError) and "the key was revoked" in str(refused)
        assert len(world.sent) == world.meter.spent.lm_calls == 1 + CALLS_TO_OPEN
        world.now += OPEN_SECONDS
        outcomes = await asyncio.gather(*(world.call() for _ in range(5)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(LMAuthError) == 1, "the trial"
        assert len(world.sent) == 1 + CALLS_TO_OPEN + 1
        world.now += OPEN_SECONDS
        world.script = lambda n: None
        assert await world.call() is ANSWER
        await asyncio.gather(*(world.call() for _ in range(5)))

    world.run(main)


def test_calls_that_recover_do_not_open_it() -> None:
    world = World(lambda n: LMServerError("hiccup") if n % 3 else None)

    async def main() -> None:
        for _ in range(20):
            await world.call()

    world.run(main)


def test_refused_requests_do_not_open_it() -> None:
    world = World(lambda n: LMInvalidRequestError("bad request", status=400))

    async def main() -> None:
        for number in range(3 * CALLS_TO_OPEN):
            assert isinstance(await world.fails(), LMInvalidRequestError)
            assert len(world.sent) == number + 1

    world.run(main)


def test_an_open_breaker_ends_the_retries_of_calls_under_way() -> None:
    world = World(lambda n: [None, LMServerError("hiccup"), LMAuthError("revoked")][min(n, 2)])

    async def main() -> None:
        await world.call()
        slow = asyncio.create_task(world.fails())
        while not world.slept:
            await asyncio.sleep(0)
        for _ in range(CALLS_TO_OPEN):
            await world.fails()
        assert isinstance(await slow, EndpointPausedError)
        assert len(world.sent) == 2 + CALLS_TO_OPEN

    world.run(main)


def test_a_cancelled_trial_does_not_keep_it_open_for_ever() -> None:
    world = World(lambda n: LMAuthError("revoked") if n else None)

    async def main() -> None:
        await world.call()
        for _ in range(CALLS_TO_OPEN):
            await world.fails()
        world.now += OPEN_SECONDS
        world.script = lambda n: None
        trial = asyncio.create_task(world.call())
        await asyncio.sleep(0)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        assert await world.call() is ANSWER

    world.run(main)


# -- what a run knows -------------------------------------------------------------------------------


def test_two_lms_of_one_server_share_its_endpoint_and_two_runs_do_not() -> None:
    meter = Meter(max_in_flight=4)
    assert meter.endpoint("http://a/v1") is meter.endpoint("http://a/v1")
    assert meter.endpoint("http://a/v1") is not meter.endpoint("http://b/v1")
    assert meter.endpoint("http://a/v1") is not Meter().endpoint("http://a/v1")


def test_a_run_knows_which_models_have_answered() -> None:
    world = World(lambda n: None)

    async def main() -> None:
        endpoint = world.meter.endpoint("there")
        assert not world.meter.has_answered("openai/test", "there")
        await endpoint.call(REQUEST, world.send, world.meter, Patience())
        assert world.meter.has_answered("openai/test", "there")
        assert not world.meter.has_answered("openai/other", "there")
        assert not world.meter.has_answered("openai/test", "elsewhere")

    world.run(main)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LMAuthError("401"), True),
        (LMBillingError("402"), True),
        (LMUnsupportedModelError("no such model"), True),
        (LMConfigurationError("no key"), True),
        (LMInvalidRequestError("Not Found", status=404), True),
        (LMInvalidRequestError("API key not valid. Please pass a valid API key.", status=400), True),
        (LMInvalidRequestError("Unsupported parameter: 'temperature'", status=400), True),
        (LMInvalidRequestError("bad temperature", status=400), False),
        (LMRateLimitError("429", status=429), False),
        (LMServerError("500", status=500), False),
        (LMTransportError("reset"), False),
        (EndpointPausedError("paused", status=404), False),
    ],
)
def test_what_says_that_the_setting_is_wrong(error: LMError, expected: bool) -> None:
    assert says_misconfigured(error) is expected


def test_no_limit_is_no_limit() -> None:
    world = World(lambda n: None)

    async def main() -> None:
        await world.call()
        assert world.endpoint.slots.limit == math.inf
        await asyncio.gather(*(world.call() for _ in range(40)))
        assert world.most == 40

    world.run(main)
