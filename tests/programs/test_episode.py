"""One question: whatever tools return and language models nest, it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from personaagent.programs.agent import PersonaAgent


def _circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class _UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def _raises(error: Exception) -> Any:
    raise error


ODD_TOOLS: dict[str, Callable[[], Any]] = {
    "circular": _circular,
    "tuple keys": lambda: {(1, 2): 3},
    "an error without words": lambda: _raises(_UnspeakableError()),
    "StopIteration": lambda: next(iter([])),
}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", ODD_TOOLS)
def test_whatever_a_tool_returns_or_raises_the_question_is_answered(
    scripted: Any, name: str, asynchronous: bool
) -> None:
    def script(call: Any) -> Any:
        if call.role == "step":
            tool = "odd" if call.steps_taken == 0 else "finish"
            return {"next_thought": "t", "next_tool_name": tool, "next_tool_args": "{}"}
        return {"reasoning": "r", "response": "yes"}

    def odd() -> Any:
        """A tool."""
        return ODD_TOOLS[name]()

    lm, _ = scripted(script)
    agent = PersonaAgent("query -> response", tools=[odd]).for_user("ann")
    with dspy.context(lm=lm):
        prediction = asyncio.run(agent.acall(query="q?")) if asynchronous else agent(query="q?")
    assert prediction.response == "yes" and prediction.tools_called == ["odd"]
    assert prediction.trajectory["observation_0"]


def test_arguments_nested_beyond_measure_are_a_step_that_could_not_be_read(scripted: Any) -> None:
    def script(call: Any) -> Any:
        if call.role == "step" and call.steps_taken == 0:
            deep = '{"a":' * 20_000 + "1" + "}" * 20_000
            return {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": deep}
        return acting(call)

    def acting(call: Any) -> Any:
        if call.role == "step":
            return {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": "{}"}
        return {"reasoning": "r", "response": "yes"}

    def look() -> str:
        """A tool."""
        return "seen"

    lm, _ = scripted(script)
    with dspy.context(lm=lm):
        prediction = PersonaAgent("query -> response", tools=[look]).for_user("ann")(query="q?")
    assert prediction.response == "yes"
