"""Replay of a whole persona agent and its alignment: equal in all that can be seen, in any number of threads."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import dspy
import pytest
from servers.llm import OpenAIServer, in_fields

from personaagent.optimizers import PersonaAlignment
from personaagent.programs import Interaction, MemoryStore, PersonaAgent
from personaagent.programs.lm.make import make_lm
from personaagent.programs.lm.meter import Meter, Usage, metering
from personaagent.programs.lm.recording import Recording
from personaagent.programs.lm.replay import Replay
from personaagent.programs.lm.scope import recording_scope

MODEL = "openai/test"
USERS = ("ann", "bob", "cem")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@contextmanager
def recorded(path: Path, **server: Any) -> Iterator[tuple[dspy.LM, OpenAIServer]]:
    """An LM that is recorded, and its server, which is gone after the block."""
    with OpenAIServer(varied, **server) as running, Recording(path) as recording:
        yield make_lm(MODEL, api_base=running.url, recording=recording), running


def varied(messages: list[dict[str, Any]]) -> str:
    """An agent LM that says something new each time, as one that samples; shared by threads."""
    asked = in_fields(messages)
    number = next(_NUMBERS)
    if "next_tool_name" not in asked:
        return in_fields(messages, f"text {number}")
    done = "observation_0" in str(messages[-1]["content"])
    fields = {"next_thought": f"thought {number}", "next_tool_name": "finish" if done else "recall"}
    fields["next_tool_args"] = "{}" if done else json.dumps({"query": f"query {number}"})
    return "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items())


_NUMBERS = itertools.count()


@pytest.fixture
def agent(encoder: Any) -> PersonaAgent:
    store = MemoryStore(encoder=encoder)
    for user in USERS:
        store.add([Interaction(user, f"{user}-{i}", f"question {i}", f"expected {i}", ordinal=i) for i in range(6)])
    return PersonaAgent("query -> response", memory=store, memories=3)


def unit(agent: PersonaAgent, lm: dspy.LM, align_lm: dspy.LM, user: str) -> list[Any]:
    """All that can be seen of an alignment and three questions, but for seconds."""
    with recording_scope(user), dspy.context(lm=lm), metering() as usage:
        history = agent.memory.interactions(user)
        aligned = PersonaAlignment(lm=align_lm).compile(
            agent.for_user(user), trainset=[interaction.to_example() for interaction in history]
        )
        predictions = [aligned(query=query) for query in ("which?", "question 2", "which?")]
    [step] = aligned.alignment_steps
    seen = [{**step.to_dict(), "seconds": 0}, aligned.persona.text, usage.to_dict()]
    for prediction in predictions:
        seen += [{**prediction.toDict(), "seconds": 0}, prediction.get_lm_usage()]
    return seen


def units(agent: PersonaAgent, lm: dspy.LM, align_lm: dspy.LM, workers: int) -> list[list[Any]]:
    with ThreadPoolExecutor(workers) as pool, dspy.context(track_usage=True):
        futures = [pool.submit(copy_context().run, unit, agent, lm, align_lm, user) for user in USERS]
        return [future.result() for future in futures]


@pytest.mark.parametrize(("workers", "replay_workers"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_an_agent_and_its_alignment_are_the_same_again(
    path: Path, agent: PersonaAgent, workers: int, replay_workers: int
) -> None:
    meter, again = Meter(), Meter()
    with OpenAIServer(varied, fail_first=2) as server, Recording(path, {"lm": MODEL}) as recording:
        settings: dict[str, Any] = {"api_base": server.url, "recording": recording, "meter": meter}
        settings["retry_wait_seconds"] = 0.001
        align_lm = make_lm("openai/critic", temperature=0.5, **settings)
        seen = units(agent, make_lm(MODEL, **settings), align_lm, workers)
        asked = len(server.requests)
    assert meter.spent.lm_calls == asked > 3 * 20
    replay = Replay(path)
    assert replay.models == ["openai/critic", MODEL]
    assert units(agent, replay.lm(meter=again), replay.lm("openai/critic", meter=again), replay_workers) == seen
    assert again.spent == meter.spent


def test_it_is_the_same_from_asyncio(path: Path, agent: PersonaAgent) -> None:
    async def run(lm: dspy.LM) -> list[Any]:
        async def one(user: str) -> Any:
            with recording_scope(user), dspy.context(lm=lm):
                prediction = await agent.for_user(user).acall(query="which?")
                return {**prediction.toDict(), "seconds": 0}

        return await asyncio.gather(*(one(user) for user in USERS))

    with recorded(path) as (lm, _):
        seen = asyncio.run(run(lm))
    assert asyncio.run(run(make_lm(f"replay:{path}"))) == seen
    assert len({str(one["response"]) for one in seen}) == len(USERS)


def test_an_agent_handles_a_recorded_overflow_as_the_real_one(path: Path, agent: PersonaAgent) -> None:
    def run(lm: dspy.LM) -> tuple[Any, Usage]:
        with recording_scope("unit"), dspy.context(lm=lm), metering() as usage:
            return {**agent.for_user("ann")(query="which?").toDict(), "seconds": 0}, usage

    with recorded(path, max_prompt_chars=3400) as (lm, server):
        seen, usage = run(lm)
        assert {"ok", "context-length"} <= server.counts.keys()
    assert seen["faults"]
    assert run(make_lm(f"replay:{path}")) == (seen, usage)
