"""Three users whose texts name them, all methods on one store, and scripts that tell where a text came from."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dspy
import pytest

from personaagent.programs.baselines import Setup
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.store import MemoryStore

USERS = ("ann", "bob", "cat")


def _wikipedia(query: str) -> str:
    return "Lighthouse: «A tower with a light.»"


def _history(user: str, count: int = 8) -> list[Interaction]:
    """Two a day; the query, the text and the response of each name the user and the number."""
    return [
        Interaction(
            user,
            f"{user}-{i}",
            f"asked {i} of {user}",
            f"answer {i} of {user}",
            f"2020-01-{1 + i // 2:02}",
            i,
            text=f"text {i} of {user}",
        )
        for i in range(count)
    ]


def _all_tools(call: Any) -> dict[str, str]:
    """Calls every tool once, in order, and finishes; whatever is summarised, it says by which instruction."""
    if call.role == "step":
        tools = re.findall(r"\((?:\d+)\) (\w+)", call.system)
        tool = tools[min(call.steps_taken, len(tools) - 1)]
        arguments = "{}" if tool == "finish" else '{"query": "a search text"}'
        return {"next_thought": "t", "next_tool_name": tool, "next_tool_args": arguments}
    if call.role == "summary":
        return {"profile": "PROFILE" if "SUMMARY INSTRUCTION" in call.system else "NOTE"}
    return dict.fromkeys(call.outputs, "yes")


@pytest.fixture
def history() -> Callable[..., list[Interaction]]:
    return _history


@pytest.fixture
def all_tools() -> Callable[[Any], dict[str, str]]:
    return _all_tools


@pytest.fixture
def store(encoder: Any) -> MemoryStore:
    made = MemoryStore(encoder=encoder)
    for user in USERS:
        made.add(_history(user))
    return made


@pytest.fixture
def setup(store: MemoryStore) -> Setup:
    """With Wikipedia on."""
    return Setup(
        "query -> response",
        store,
        tools=[dspy.Tool(_wikipedia, name="wikipedia", desc="Looks one topic up on Wikipedia.")],
        summary_instruction="SUMMARY INSTRUCTION",
        pool=[interaction for user in USERS for interaction in _history(user)],
    )


@pytest.fixture
def without_tools(setup: Setup) -> Setup:
    return replace(setup, tools=())
