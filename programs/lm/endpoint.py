"""One endpoint of LMs: when to ask it, how often, how many at a time, and when no longer.

An attempt has a total deadline, slow bodies included. A transient failure is asked again after a wait
that doubles, with jitter, or that the server names (Retry-After). A rate limit (429) halves the calls in
flight and makes all of them wait; answers raise the limit again by about a half per round of calls
(additive increase, multiplicative decrease, as TCP does it). Calls that failed for good, five in a row, open
the breaker: nothing is asked for half a minute, then one call decides.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dspy.lm15 import Request, Response
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMAuthError,
    LMBillingError,
    LMConfigurationError,
    LMError,
    LMInvalidRequestError,
    LMProviderError,
    LMRateLimitError,
    LMTimeoutError,
    LMUnsupportedModelError,
    is_retryable_lm_error,
)

from personaagent.programs.breaker import Breaker
from personaagent.programs.errors import InputError
from personaagent.programs.lm.slots import Slots
from personaagent.programs.quoting import defuse

if TYPE_CHECKING:
    from personaagent.programs.lm.meter import Meter

NUM_RETRIES = 5
"""Further attempts at a call that failed transiently: some 25 seconds of waiting in all. Where a fifth of all
requests fails, one call in 16,000 fails for good."""

MAX_WAIT_SECONDS = 60.0
"""Longest wait between two attempts; a server that asks for more is taken at its word: the breaker opens."""

CALLS_TO_OPEN = 5
"""So many calls in a row that failed for good open the breaker."""

OPEN_SECONDS = 30.0
_MOST_AT_FIRST = 64.0  # where no limit was set and the first request is told that it is one too many

# How servers say that a prompt is too long; OpenAI's own code is known to DSPy. In effect:
# vLLM "maximum context length is", llama.cpp "exceeds the available context size", Anthropic "prompt is
# too long", Gemini "input token count exceeds the maximum", Mistral "too large for model with maximum context".
_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|maximum context|(prompt|input|messages?) (is|are) too (long|large)|"
    r"too many (input |prompt )?tokens|tokens? (count )?exceeds?|exceeds? the (maximum|max|model)[\w ]*tokens",
    re.IGNORECASE,
)

_TRY_AGAIN = (409, 425, 499)  # conflict, too early, closed by a proxy: DSPy takes them for the request's fault
_MISTAKEN = re.compile(r"api[ _-]?key|unsupported (parameter|value)", re.IGNORECASE)

Send = Callable[[Request], Awaitable[Response]]


def _always() -> bool:
    return True


class EndpointPausedError(LMProviderError):
    """A call was not sent, since the endpoint keeps failing; the message says how it failed last."""

    default_code = "endpoint_paused"
    because: LMError | None = None
    """What opened the breaker, if it is known."""


@dataclass(frozen=True)
class Patience:
    """How long one call is tried.

    Args:
        timeout_seconds: of one attempt, from the first byte sent to the last one received; above 0.
        num_retries: further attempts after a transient failure; from 0.
        retry_wait_seconds: the first wait, from 0; it doubles each time and is shortened by up to a half at random.

    Raises:
        InputError: on a value out of range.
    """

    timeout_seconds: float = 60.0
    num_retries: int = NUM_RETRIES
    retry_wait_seconds: float = 1.0

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:  # so that NaN is refused, too
            raise InputError(f"timeout_seconds must be above 0 but got {self.timeout_seconds}")
        if self.num_retries < 0:
            raise InputError(f"num_retries cannot be negative but got {self.num_retries}")
        if not self.retry_wait_seconds >= 0:
            raise InputError(f"retry_wait_seconds must be from 0 but got {self.retry_wait_seconds}")

    def wait_seconds(self, attempt: int) -> float:
        """Before the attempt after the given one, which counts from 0."""
        longest: float = min(self.retry_wait_seconds * 2**attempt, MAX_WAIT_SECONDS)
        return longest * random.uniform(0.5, 1.0)


class Endpoint:
    """What all calls to one server share. Its methods are called from one event loop.

    The first request goes alone: a wrong key or model costs one request, not one of each worker.

    Args:
        name: as messages show it.
        max_in_flight: most calls at the same time; None for no limit.
        clock, sleep: of everything but the deadline of an attempt, which is real time.
    """

    def __init__(
        self,
        name: str,
        max_in_flight: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.slots = Slots(1)
        self.answered: set[str] = set()
        """Model strings that have answered."""
        self._most = float(max_in_flight or math.inf)
        self._clock, self._sleep = clock, sleep
        self._breaker = Breaker(CALLS_TO_OPEN, OPEN_SECONDS, clock)
        self._held_until = self._lowered_at = -math.inf
        self._is_new = True
        self._rate_limits = 0  # waves of them since the last answer
        self._last_failure: LMError | None = None

    async def call(
        self,
        request: Request,
        send: Send,
        meter: Meter,
        patience: Patience,
        may_be_repeated: Callable[[], bool] = _always,
    ) -> Response:
        """Send a request until it is answered or has failed for good.

        Args:
            may_be_repeated: asked after a failure; False makes it final, as when a part of the answer was shown.

        Raises:
            LMError: of DSPy: what the last attempt failed with, or `EndpointPausedError`. Its `endpoint` is the
                name of this one.
            BudgetError: if the meter's cap does not allow the next attempt.
        """
        try:
            return await self._call(request, send, meter, patience, may_be_repeated)
        except LMError as error:
            error.model = request.model  # some clients name it without the provider
            error.endpoint = self.name
            raise

    async def _call(
        self, request: Request, send: Send, meter: Meter, patience: Patience, may_be_repeated: Callable[[], bool]
    ) -> Response:
        ticket = self._breaker.admit()
        if ticket is None:
            raise self._paused(request)
        usable: bool | None = None
        try:
            response = await self._attempts(request, send, meter, patience, may_be_repeated)
            usable = True
            return response
        except LMError as error:
            usable = _is_about_the_request(error)
            if not usable and not isinstance(error, EndpointPausedError):
                self._last_failure = error
            raise
        finally:
            if usable is None:  # cancelled, or refused by the cap: that says nothing of the endpoint
                self._breaker.give_back(ticket)
            else:
                self._breaker.record(ticket, usable=usable)

    async def _attempts(
        self, request: Request, send: Send, meter: Meter, patience: Patience, may_be_repeated: Callable[[], bool]
    ) -> Response:
        attempt = 0
        while True:
            try:
                response = await self._one(request, send, meter, patience, attempt)
            except LMError as error:
                # Where every call is refused as one too many, no call has to find that out for itself.
                refused_all = isinstance(error, LMRateLimitError) and self._rate_limits > patience.num_retries
                hopeless = refused_all or not _is_transient(error) or _asked_to_wait(error) > MAX_WAIT_SECONDS
                if hopeless or attempt >= patience.num_retries or not may_be_repeated():
                    raise
                if not isinstance(error, LMRateLimitError):  # all calls wait for a rate limit, this one with them
                    await self._sleep(max(patience.wait_seconds(attempt), _asked_to_wait(error)))
                attempt += 1
            else:
                self._succeeded(request.model)
                return response

    async def _one(self, request: Request, send: Send, meter: Meter, patience: Patience, attempt: int) -> Response:
        # The endpoint's own limit first: who waits for it keeps no slot of the run from other endpoints.
        async with self.slots.aslot(ahead=attempt > 0):
            while True:
                while (held := self._held_until - self._clock()) > 0:
                    await self._sleep(held)
                async with meter.slots.aslot():
                    if self._breaker.is_open:  # since this call was admitted
                        raise self._paused(request)
                    if self._clock() < self._held_until:  # since this call waited for the run's slot
                        continue
                    meter.begin()
                    sent_at = self._clock()
                    try:
                        response = await self._send_in_time(request, send, patience.timeout_seconds)
                    except LMError as error:
                        self._learn(error, sent_at, patience)
                        self._let_all_in()
                        raise
                    self._let_all_in()
                    return response

    async def _send_in_time(self, request: Request, send: Send, timeout_seconds: float) -> Response:
        try:
            async with asyncio.timeout(timeout_seconds):
                return await send(request)
        except TimeoutError:
            raise LMTimeoutError(f"no complete answer within {timeout_seconds:g} s", model=request.model) from None
        except LMInvalidRequestError as error:
            if isinstance(error, ContextWindowExceededError) or not _says_too_long(error):
                raise
            said = _said(error) or "refused without a reason; the prompt may be too long"
            raise ContextWindowExceededError(model=error.model, message=said, status=error.status) from error

    def _let_all_in(self) -> None:
        if self._is_new:
            self._is_new, self.slots.limit = False, self._most

    def _learn(self, error: LMError, sent_at: float, patience: Patience) -> None:
        """Draw the consequences of a failed attempt for all calls."""
        now, asked = self._clock(), _asked_to_wait(error)
        if asked > MAX_WAIT_SECONDS:
            self._last_failure = error
            self._breaker.pause(asked)
            return
        if not self.answered and says_misconfigured(error):
            # Those who wait would only hear the same.
            self._last_failure = error
            self._breaker.pause(OPEN_SECONDS)
            return
        if isinstance(error, LMRateLimitError) and sent_at >= self._lowered_at:
            # Once for all calls that were under way together.
            self._lowered_at = now
            in_flight = self._most if self._is_new else min(self.slots.limit, self.slots.held)
            self._is_new, self.slots.limit = False, max(1.0, min(in_flight, _MOST_AT_FIRST) / 2)
            asked = asked or patience.wait_seconds(min(self._rate_limits, NUM_RETRIES - 2))
            self._rate_limits += 1
        self._held_until = max(self._held_until, now + asked)

    def _succeeded(self, model: str) -> None:
        self.answered.add(model)
        self._rate_limits = 0
        if self.slots.limit < self._most:
            self.slots.limit = min(self._most, self.slots.limit + 0.5 / self.slots.limit)

    def _paused(self, request: Request) -> EndpointPausedError:
        why = f"; it failed last with {_told(self._last_failure)}" if self._last_failure else ""
        paused = EndpointPausedError(f"not sent: {self.name} is paused after failures{why}", model=request.model)
        paused.because = self._last_failure
        return paused

    def __deepcopy__(self, memo: dict[int, Any]) -> Endpoint:
        return self  # a copy of an LM asks the same server


def one_line_of(error: LMError) -> str:
    """What a provider said and with which status, in some 200 characters on a line, without DSPy's advice."""
    text = " ".join(defuse(_said(error) or str(error)).partition("\n\n")[0].split())[:200]
    return text if error.status is None or str(error.status) in text else f"{text} (HTTP {error.status})"


def _said(error: LMError) -> str:
    # Servers put objects where a message belongs.
    return error.message if isinstance(error.message, str) else json.dumps(error.message, default=str)


def _told(error: LMError) -> str:
    return f"{type(error).__name__}: {one_line_of(error)}"


def _asked_to_wait(error: LMError) -> float:
    """Seconds of a Retry-After; 0 without one."""
    return float(getattr(error, "retry_after", None) or 0.0)


def _is_transient(error: LMError) -> bool:
    # A gateway's page under status 200 has no class of its own.
    unreadable = type(error) is LMProviderError and (error.status or 200) < 400
    return unreadable or is_retryable_lm_error(error) or error.status in _TRY_AGAIN


def _is_about_the_request(error: LMError) -> bool:
    """Whether the endpoint did its part and refuses this request only: a prompt too long, a value not allowed."""
    return (
        isinstance(error, LMInvalidRequestError)
        and not isinstance(error, LMUnsupportedModelError)
        and error.status != 404
    )


def says_misconfigured(error: LMError) -> bool:
    """Whether it is the key, the account or the model's name that the endpoint refuses, and not this request."""
    if isinstance(error, EndpointPausedError):
        return error.because is not None and says_misconfigured(error.because)
    refused = isinstance(error, LMConfigurationError | LMAuthError | LMBillingError | LMUnsupportedModelError)
    return (
        refused
        or error.status in (401, 402, 403, 404)
        or (error.status == 400 and bool(_MISTAKEN.search(_said(error))))
    )


def _says_too_long(error: LMInvalidRequestError) -> bool:
    # vLLM before 0.16 puts its message where DSPy's client does not look: of its refusals this is the one to expect.
    silent = error.status == 400 and not error.message
    return silent or error.status == 413 or bool(_TOO_LONG.search(_said(error)))
