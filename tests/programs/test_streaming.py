"""Streams of handles to listeners of the shared module: `Served`, and programs that make a handle for each call."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import dspy
import pytest
from dspy.lm15 import response_to_events
from program_shapes import AsyncScriptedEngine, Rag, ScriptedEngine

from personaagent.programs import MemoryStore, Persona, PersonaAgent, personalize
from personaagent.programs.serving import Served

SAID = "To get to the other side of the road, as {} does."


class Streams(ScriptedEngine):
    """Sends its answers in pieces of five characters."""

    def stream(self, request: Any) -> Any:
        for event in response_to_events(self.complete(request)):
            text = getattr(getattr(event, "delta", None), "text", "")
            for start in range(0, len(text), 5) if text else [None]:
                yield (
                    event if start is None else replace(event, delta=replace(event.delta, text=text[start : start + 5]))
                )


class AsyncStreams(AsyncScriptedEngine):
    async def stream(self, request: Any) -> Any:
        for event in self._engine.stream(request):  # type: ignore[attr-defined]
            yield event


@pytest.fixture
def lm() -> dspy.LM:
    def say(call: Any) -> dict[str, str]:
        return dict.fromkeys(call.outputs, SAID.format("ann" if "ANN" in call.system else "bob"))

    engine = Streams(say)
    return dspy.LM("streams", engine=engine, async_engine=AsyncStreams(engine), cache=False)


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    for user in ("ann", "bob"):
        made.save_persona(user, Persona(user.upper()))
    return made


class Front(dspy.Module):
    """A program of the user's own that asks for whoever it is told."""

    def __init__(self, shared: Any) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, user_id: str, question: str) -> Any:
        return self.shared.for_user(user_id)(question=question)

    async def aforward(self, user_id: str, question: str) -> Any:
        return await self.shared.for_user(user_id).acall(question=question)


def made(kind: str, shared: Any) -> tuple[Any, dict[str, str]]:
    if kind == "handle":
        return shared.for_user("ann"), {}
    return (Served(shared) if kind == "served" else Front(shared)), {"user_id": "ann"}


async def parts(program: Any, lm: dspy.LM, is_async: bool, **inputs: str) -> list[Any]:
    listener = dspy.streaming.StreamListener(signature_field_name="response")
    with dspy.context(lm=lm):
        stream = dspy.streamify(program, stream_listeners=[listener], is_async_program=is_async)
        return [part async for part in stream(question="Why?", **inputs)]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", ["handle", "served", "front"])
@pytest.mark.parametrize("what", ["program", "agent"])
def test_the_fields_that_are_listened_to_are_streamed(
    store: MemoryStore, lm: dspy.LM, what: str, kind: str, is_async: bool
) -> None:
    agent = PersonaAgent("question -> response", store, memories=0)
    program, user = made(kind, personalize(Rag(), store, memories=0) if what == "program" else agent)
    *streamed, prediction = asyncio.run(parts(program, lm, is_async, **user))
    assert "".join(part.chunk for part in streamed) == prediction.response == SAID.format("ann")
    assert len(streamed) > 3 and prediction.persona_version == 0
    assert {part.signature_field_name for part in streamed} == {"response"}


def test_streams_of_two_users_at_the_same_time_are_their_own(store: MemoryStore, lm: dspy.LM) -> None:
    served = Served(PersonaAgent("question -> response", store, memories=0))

    async def both() -> list[list[Any]]:
        return await asyncio.gather(*(parts(served, lm, True, user_id=user) for user in ("ann", "bob")))

    for user, (*streamed, _) in zip(("ann", "bob"), asyncio.run(both()), strict=True):
        assert "".join(part.chunk for part in streamed) == SAID.format(user)


def test_what_a_tool_does_is_told_on_the_stream(store: MemoryStore, lm: dspy.LM, encoder: Any) -> None:
    class Told(dspy.streaming.StatusMessageProvider):
        def tool_start_status_message(self, instance: Any, inputs: Any) -> str:
            return f"asks {instance.name}"

    def say(call: Any) -> dict[str, str]:
        step = {"next_tool_name": "finish" if call.steps_taken else "recall", "next_tool_args": '{"query": "x"}'}
        return {
            name: step.get(name, "yes") if call.steps_taken or name != "next_tool_args" else "{}"
            for name in call.outputs
        }

    engine = Streams(say)
    lm = dspy.LM("streams", engine=engine, async_engine=AsyncStreams(engine), cache=False)
    remembers = MemoryStore(encoder=encoder)
    shapes = {
        "agent": PersonaAgent("question -> response", remembers),
        "program": personalize(dspy.ReAct("question -> response", tools=[]), remembers),
    }

    async def statuses(program: Any, is_async: bool) -> list[str]:
        with dspy.context(lm=lm):
            stream = dspy.streamify(program, status_message_provider=Told(), is_async_program=is_async)
            parts = [part async for part in stream(question="Why?")]
        return [part.message for part in parts if isinstance(part, dspy.streaming.StatusMessage)]

    for name, shared in shapes.items():
        for is_async in (False, True):
            said = asyncio.run(statuses(shared.for_user("ann"), is_async))
            assert said[0] == "asks recall", (name, is_async, said)
