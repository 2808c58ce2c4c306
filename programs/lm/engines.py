"""The engines behind `make_lm`'s LMs: each attempt is booked on a meter before it is sent.

`stream` is what DSPy calls in place of `complete` where someone listens (`dspy.streamify`). A streamed call is booked
as any other: each attempt when it is sent, the tokens once, before the stream ends. An attempt that fails before its
first token is made again; once a token has been handed out a failure is final, so that none is ever shown twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from queue import SimpleQueue
from typing import Any, Protocol, Self

import dspy
from dspy._vendor.lm15.result import StreamAccumulator
from dspy._vendor.lm15.types import StreamEvent
from dspy.clients.base_lm import BaseLM
from dspy.clients.engines.lifecycle import aclosing_stream
from dspy.clients.engines.stream_guard import achecked_stream
from dspy.clients.errors import error_boundary
from dspy.clients.execution import _engine, prepare  # how DSPy itself finds the engine of an LM
from dspy.clients.lm import _dump_engine, _load_engine  # how DSPy itself records an engine
from dspy.lm15 import Request, Response, response_to_events
from dspy.utils.exceptions import (
    LMError,
    LMInvalidRequestError,
    LMProviderError,
    LMStreamAssemblyError,
    LMTransportError,
    LMUnsupportedFeatureError,
)

from personaagent.programs.lm._loop import background_loop
from personaagent.programs.lm.endpoint import Endpoint, Patience
from personaagent.programs.lm.meter import Meter

STREAMS_IN_VAIN = 2
"""After so many in a row an endpoint is no longer asked for streams: each costs a call. One may have been cut off."""


class LocalEngine(Protocol):
    """What computes an answer in this process (dspy.clients.engines.base)."""

    def complete(self, request: Request) -> Response: ...


class _Metered:
    def __init__(self, inner: LocalEngine, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def dump_state(self) -> dict[str, Any]:
        """For DSPy's saving. The meter is the run's and not saved.

        Raises:
            TypeError: if what is wrapped cannot be saved; DSPy's own message says what it lacks.
        """
        return {"inner": _dump_engine(self._inner, "engine")}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """From `dump_state`, on a meter of its own without cap or limit.

        DSPy asks for this only with `allow_unsafe_lm_state=True`, so what is named inside is trusted, too.
        """
        return cls(_load_engine(state["inner"], "engine", allow_custom_lm_class=True), Meter())


class WholeFirst:
    """Streams of an engine that knows an answer as a whole first."""

    def complete(self, request: Request) -> Response:
        raise NotImplementedError

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        """The answer, word by word."""
        yield from in_words(self.complete(request))


class AsyncWholeFirst:
    """As `WholeFirst`, for `acall`."""

    async def complete(self, request: Request) -> Response:
        raise NotImplementedError

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """As `WholeFirst.stream`."""
        for event in in_words(await self.complete(request)):
            yield event


class MeteredEngine(_Metered, WholeFirst):
    """A local engine that is booked. It has neither network nor deadline, and is not asked twice."""

    def complete(self, request: Request) -> Response:
        with self._meter.slots.slot():
            self._meter.begin()
            response = self._inner.complete(request)
        self._meter.end(response)
        return response


class AsyncMeteredEngine(_Metered, AsyncWholeFirst):
    """As `MeteredEngine`, for `acall`. It shares the meter and its limits."""

    async def complete(self, request: Request) -> Response:
        async with self._meter.slots.aslot():
            self._meter.begin()
            response = await asyncio.to_thread(self._inner.complete, request)
        self._meter.end(response)
        return response


class _AtEndpoint:
    """What the two engines of an endpoint share. All calls run on one event loop, whoever waits for them."""

    def __init__(self, inner: dspy.LM, endpoint: Endpoint, meter: Meter, patience: Patience) -> None:
        self._inner = inner
        self._endpoint = endpoint
        self._meter = meter
        self._patience = patience
        self._in_one_piece = 0
        """How many streams in a row came to nothing, while the same was answered in one piece."""

    async def _ask(self, request: Request) -> Response:
        response = await self._endpoint.call(request, self._send, self._meter, self._patience)
        self._meter.end(response)
        return response

    async def _send(self, request: Request) -> Response:
        # The outer LM already reports this call to history, callbacks, usage trackers and listeners.
        with dspy.context(callbacks=[], disable_history=True, usage_tracker=None, send_stream=None):
            response: Response = await self._inner.acall(request)
        _check_holds_an_answer(response, request)
        return response

    async def _ask_streaming(self, request: Request, show: Callable[[StreamEvent], None]) -> None:
        """Ask, and show each event of the answer when it arrives; the end when the call is booked."""
        attempt = _StreamedAttempt(self._inner, show)
        response: Response | None = None
        if self._in_one_piece < STREAMS_IN_VAIN:
            try:
                endpoint, patience = self._endpoint, self._patience
                response = await endpoint.call(request, attempt.send, self._meter, patience, attempt.may_be_repeated)
            except LMError as error:
                if not (attempt.may_be_repeated() and _cannot_stream(error)):
                    raise
        if response is not None:
            self._in_one_piece = 0
            self._meter.end(response)
            for event in attempt.held_back:
                show(event)
            return
        response = await self._ask(request)
        self._in_one_piece += 1
        for event in in_words(response):
            show(event)

    def dump_state(self) -> dict[str, Any]:
        """For DSPy's saving: the LM that is wrapped, without API keys, and how long it is tried."""
        state = {"inner": self._inner.dump_state(), "endpoint": self._endpoint.name}
        return {**state, "patience": asdict(self._patience)}

    @classmethod
    def load_state(cls, state: dict[str, Any], meter: Meter | None = None) -> Self:
        """From `dump_state`, on this meter or one of its own. Keys come from the environment."""
        meter = meter or Meter()
        inner, patience = state["inner"], Patience(**state["patience"])
        key = key_for_server(inner["model"], inner.get("api_base"))
        lm = BaseLM.load_state(inner | key, allow_custom_lm_class=True)
        return cls(lm, meter.endpoint(state["endpoint"]), meter, patience)

    def __reduce__(self) -> tuple[Any, ...]:
        # Not its parts: the LM that is wrapped holds the key.
        return type(self).load_state, (self.dump_state(), self._meter)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a program's copy asks the same endpoint, on the same account


class EndpointEngine(_AtEndpoint):
    """An LM at an endpoint, tried as `Endpoint` says, every attempt booked."""

    def complete(self, request: Request) -> Response:
        # The calling context goes along, and with it the ledgers that the call is booked on.
        future = asyncio.run_coroutine_threadsafe(self._ask(request), background_loop())
        try:
            return future.result()
        finally:
            future.cancel()  # of an interrupted wait; what is done stays done

    def stream(self, request: Request) -> Iterator[StreamEvent]:
        """The answer as it arrives. Who stops reading ends the request; who reads slowly does not hold it up."""
        events: SimpleQueue[StreamEvent | None] = SimpleQueue()
        future = asyncio.run_coroutine_threadsafe(self._ask_streaming(request, events.put), background_loop())
        future.add_done_callback(lambda _: events.put(None))
        try:
            while (event := events.get()) is not None:
                yield event
            future.result()
        finally:
            future.cancel()


class AsyncEndpointEngine(_AtEndpoint):
    """As `EndpointEngine`, for `acall`. A cancelled task ends its request."""

    async def complete(self, request: Request) -> Response:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(request), background_loop()))

    async def stream(self, request: Request) -> AsyncIterator[StreamEvent]:
        """As `EndpointEngine.stream`."""
        loop, events = asyncio.get_running_loop(), asyncio.Queue[StreamEvent | None]()

        def show(event: StreamEvent | None) -> None:
            with suppress(RuntimeError):  # the loop of who asked may be closed by now
                loop.call_soon_threadsafe(events.put_nowait, event)

        future = asyncio.run_coroutine_threadsafe(self._ask_streaming(request, show), background_loop())
        future.add_done_callback(lambda _: show(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            await asyncio.wrap_future(future)
        finally:
            future.cancel()


class _StreamedAttempt:
    """The attempts at one streamed call: `send` is one of them.

    Args:
        inner: the LM at the endpoint.
        show: is given each event but those of `held_back`.
    """

    def __init__(self, inner: dspy.LM, show: Callable[[StreamEvent], None]) -> None:
        self._inner, self._show = inner, show
        self._shown = False
        self.held_back: list[StreamEvent] = []
        """The end of the answer, and its start if nothing was shown in between."""

    def may_be_repeated(self) -> bool:
        """Whether nothing was shown yet."""
        return not self._shown

    async def send(self, request: Request) -> Response:
        """The answer as a whole, when it has been shown."""
        self.held_back, assembled = [], StreamAccumulator(request)
        try:
            with error_boundary(self._inner.model, unexpected=True):
                async with aclosing_stream(await _events(self._inner, request)) as events:
                    async for event in events:
                        assembled.push(event)
                        self._take(event)
                return assembled.response()
        except LMStreamAssemblyError as error:
            if not (self._shown or self.held_back):
                raise  # no stream at all
            raise LMTransportError(f"the stream broke off: {error.message}", model=request.model) from error

    def _take(self, event: StreamEvent) -> None:
        self.held_back.append(event)
        if event.type == "delta":
            self._shown = True
            for waiting in self.held_back:
                self._show(waiting)
            self.held_back = []


async def _events(lm: dspy.LM, request: Request) -> AsyncIterator[StreamEvent]:
    """What one attempt of an LM's own engine streams, in the order that DSPy's guard checks."""
    call = await asyncio.to_thread(prepare, lm, request, None, {}, asynchronous=True)
    backend, asked, provider = _engine(lm, call, True)
    return achecked_stream(backend.stream(asked), provider=provider)


def _cannot_stream(error: LMError) -> bool:
    """Whether the endpoint may have an answer in one piece: it sent no stream, or says that it does not."""
    if isinstance(error, LMInvalidRequestError):
        return "stream" in str(error.message)
    return isinstance(error, LMStreamAssemblyError | LMUnsupportedFeatureError)


def in_words(response: Response) -> Iterator[StreamEvent]:
    """An answer that is there as a whole, in the events of a stream whose tokens are words."""
    for event in response_to_events(response):
        delta = event.delta if event.type == "delta" else None
        if delta is None or delta.type != "text":
            yield event
            continue
        first, *rest = re.findall(r"\s*\S+|\s+$", delta.text) or [""]
        yield replace(event, delta=replace(delta, text=first))
        for word in rest:
            yield replace(event, delta=replace(delta, text=word, logprobs=()))


def _check_holds_an_answer(response: Response, request: Request) -> None:
    """See that an answer without text was meant as one: DSPy's client also takes `{}` and a redirect for an answer.

    Raises:
        LMProviderError: if the reply is not of the shape of an answer.
    """
    reply = response.provider_data
    if not isinstance(reply, dict) or response.text or {"content", "output", "candidates"} & reply.keys():
        return
    choices = reply.get("choices")
    messages = [choice.get("message") if isinstance(choice, dict) else None for choice in choices or ()]
    if not isinstance(choices, list) or not all(isinstance(message, dict) for message in messages):
        raise LMProviderError(
            f"the reply holds no answer (a redirect or an error, perhaps): {json.dumps(reply)[:120]}",
            model=request.model,
        )


def key_for_server(model: str, api_base: str | None) -> dict[str, str]:
    """The key that a server at `api_base` is sent: the environment's, or a placeholder if it needs none.

    Returns:
        A setting of `dspy.LM`; empty if the provider itself looks the key up.
    """
    if api_base is None or not model.startswith("openai/"):
        return {}
    return {"api_key": os.environ.get("OPENAI_API_KEY") or "none"}
