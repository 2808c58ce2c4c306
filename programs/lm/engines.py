"""The engines behind `make_lm`'s LMs: each attempt is booked on a meter before it is sent."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from typing import Any, Protocol, Self

import dspy
from dspy.clients.base_lm import BaseLM
from dspy.clients.lm import _dump_engine, _load_engine  # how DSPy itself records an engine
from dspy.lm15 import Request, Response
from dspy.utils.exceptions import LMProviderError

from personaagent.programs.lm._loop import background_loop
from personaagent.programs.lm.endpoint import Endpoint, Patience
from personaagent.programs.lm.meter import Meter


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


class MeteredEngine(_Metered):
    """A local engine that is booked. It has neither network nor deadline, and is not asked twice."""

    def complete(self, request: Request) -> Response:
        with self._meter.slots.slot():
            self._meter.begin()
            response = self._inner.complete(request)
        self._meter.end(response)
        return response


class AsyncMeteredEngine(_Metered):
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

    async def _ask(self, request: Request) -> Response:
        response = await self._endpoint.call(request, self._send, self._meter, self._patience)
        self._meter.end(response)
        return response

    async def _send(self, request: Request) -> Response:
        # The outer LM already reports this call to history, callbacks and usage trackers.
        with dspy.context(callbacks=[], disable_history=True, usage_tracker=None):
            response: Response = await self._inner.acall(request)
        _check_holds_an_answer(response, request)
        return response

    def dump_state(self) -> dict[str, Any]:
        """For DSPy's saving: the LM that is wrapped, without API keys, and how long it is tried."""
        state = {"inner": self._inner.dump_state(), "endpoint": self._endpoint.name}
        return {**state, "patience": asdict(self._patience)}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """From `dump_state`, on a meter and an endpoint of its own. Keys come from the environment."""
        inner, patience = state["inner"], Patience(**state["patience"])
        key = key_for_server(inner["model"], inner.get("api_base"))
        lm = BaseLM.load_state(inner | key, allow_custom_lm_class=True)
        return cls(lm, Endpoint(state["endpoint"]), Meter(), patience)


class EndpointEngine(_AtEndpoint):
    """An LM at an endpoint, tried as `Endpoint` says, every attempt booked."""

    def complete(self, request: Request) -> Response:
        # The calling context goes along, and with it the ledgers that the call is booked on.
        future = asyncio.run_coroutine_threadsafe(self._ask(request), background_loop())
        try:
            return future.result()
        finally:
            future.cancel()  # of an interrupted wait; what is done stays done


class AsyncEndpointEngine(_AtEndpoint):
    """As `EndpointEngine`, for `acall`. A cancelled task ends its request."""

    async def complete(self, request: Request) -> Response:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(request), background_loop()))


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
