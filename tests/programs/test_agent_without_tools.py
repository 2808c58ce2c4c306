"""An agent without tools: one ChainOfThought, told of a trajectory only where an answer could not be read."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import dspy
import pytest

from personaagent.programs.agent import PersonaAgent
from personaagent.programs.baselines import Prompt
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

UNREAD = "Your last answer could not be read"


def without_tools(signature: Any = "query -> response", persona: str = "Ann likes short answers.") -> PersonaAgent:
    return PersonaAgent(signature, MemoryStore(), memories=0).for_user("ann", persona=Persona(persona))


def stumbling(call: Any) -> Any:
    """Garbage, until told that it could not be read."""
    return dict.fromkeys(call.outputs, "yes") if UNREAD in call.user else "yes, garbage"


def prompts(engine: Any) -> list[tuple[str, str]]:
    return [(call.system, call.user) for call in engine.calls]


def test_its_prompt_has_no_trajectory(scripted: Any) -> None:
    lm, engine = scripted()
    with dspy.context(lm=lm):
        prediction = without_tools()(query="q?")
    [call] = engine.calls
    assert "trajectory" not in call.system + call.user
    assert call.outputs == ["reasoning", "response"]
    assert "Ann likes short answers." in call.system
    assert (prediction.response, prediction.trajectory, prediction.lm_calls, prediction.faults) == ("yes", {}, 1, [])


def test_it_is_the_baselines_prompt_with_the_persona_in_front(scripted: Any) -> None:
    lm, engine = scripted()
    with dspy.context(lm=lm):
        without_tools(persona="PERSONA")(query="q?")
        Prompt("query -> response").for_user("ann")(query="q?")
    (own, asked), (plain, asked_plainly) = prompts(engine)
    assert asked == asked_plainly
    assert " ".join(own.split()).replace("<persona> PERSONA </persona> ", "") == " ".join(plain.split())


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), None], ids=["chat", "json", "default"])
def test_an_unreadable_answer_is_asked_again_with_a_trajectory_that_says_so(scripted: Any, adapter: Any) -> None:
    lm, engine = scripted(stumbling if not isinstance(adapter, dspy.JSONAdapter) else _stumbling_in_json)
    with dspy.context(lm=lm, adapter=adapter):
        prediction = without_tools()(query="q?")
    assert prediction.response == "yes" and "the answer could not be read" in prediction.faults[0]
    first, last = engine.calls[0], engine.calls[-1]
    assert "trajectory" not in first.system + first.user
    assert "`trajectory` (str)" in last.system and UNREAD in last.user
    assert "Ann likes short answers." in first.system and "Ann likes short answers." in last.system


def _stumbling_in_json(call: Any) -> Any:
    said = stumbling(call)
    return json.dumps(said) if isinstance(said, dict) else said


def test_sync_and_async_send_the_same_prompts(scripted: Any) -> None:
    lm, engine = scripted(stumbling)
    other, other_engine = scripted(stumbling)
    handle = without_tools()
    with dspy.context(lm=lm):
        handle(query="q?")

    async def ask() -> None:
        with dspy.context(lm=other):
            await handle.acall(query="q?")

    asyncio.run(ask())
    assert prompts(engine) == prompts(other_engine)
    assert len(engine.calls) > 1


def test_nothing_is_warned_of(scripted: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("dspy"), "propagate", True)
    with dspy.context(lm=scripted()[0]):
        without_tools()(query="q?")
    assert not caplog.messages  # DSPy warns of inputs that the signature does not have, and of missing ones


def test_an_edit_of_its_predictor_reaches_the_prompt(scripted: Any) -> None:
    lm, engine = scripted()
    handle = without_tools()
    with dspy.context(lm=lm):
        handle(query="q?")
        predictor = handle.extract.predict
        predictor.signature = predictor.signature.with_instructions("TUNED")
        predictor.demos = [dspy.Example(query="a demo", trajectory="old steps", reasoning="r", response="demo says")]
        handle(query="q?")
    before, after = engine.calls
    assert "TUNED" not in before.system
    assert "TUNED" in after.system and "Ann likes short answers." in after.system
    assert "trajectory" not in after.system + after.user


@pytest.mark.parametrize("saved_with_tools", [True, False])
@pytest.mark.parametrize("loaded_with_tools", [True, False])
def test_what_was_saved_with_tools_or_without_loads_into_either(
    scripted: Any, tmp_path: Path, saved_with_tools: bool, loaded_with_tools: bool
) -> None:
    """The fields of a saved signature are told apart by their order alone: they must be the same ones."""

    def look(topic: str) -> str:
        """Look it up."""
        return topic

    signature = dspy.Signature(
        {
            "query": (str, dspy.InputField(desc="DESC OF QUERY")),
            "response": (str, dspy.OutputField(desc="DESC OF RESPONSE")),
            "stars": (str, dspy.OutputField(desc="DESC OF STARS")),
        },
        "Answer.",
    )

    def made(with_tools: bool, persona: str) -> PersonaAgent:
        return PersonaAgent(signature, tools=[look] if with_tools else []).for_user("ann", persona=Persona(persona))

    saved = made(saved_with_tools, "Ann's.")
    predictor = saved.extract.predict
    predictor.signature = predictor.signature.with_instructions("TUNED")
    saved.save(tmp_path / "ann.json")
    loaded = made(loaded_with_tools, "Nobody's.")
    loaded.load(tmp_path / "ann.json")
    lm, engine = scripted()
    with dspy.context(lm=lm):
        loaded(query="q?")
    answer = engine.calls[-1]
    assert "TUNED" in answer.system and "Ann's." in answer.system
    assert ("trajectory" in answer.system) == loaded_with_tools
    for line in (
        "1. `query` (str): DESC OF QUERY",
        "2. `response` (str): DESC OF RESPONSE",
        "3. `stars` (str): DESC OF STARS",
    ):
        assert line in answer.system
    assert "1. `reasoning` (str): \n" in answer.system or "1. `reasoning` (str):\n" in answer.system


def test_a_file_of_dspys_own_form_loads(tmp_path: Path, scripted: Any) -> None:
    """Written before this agent left an empty trajectory out: its fields are those of dspy.ReAct's last step."""
    handle = without_tools()
    fields = list(dspy.ReAct("query -> response", tools=[]).extract.predict.signature.fields)
    assert list(handle.extract.predict.signature.fields) == fields == ["query", "trajectory", "reasoning", "response"]
    handle.save(tmp_path / "ann.json")
    state = json.loads((tmp_path / "ann.json").read_text())
    prefixes = [field["prefix"] for field in state["extract.predict"]["signature"]["fields"]]
    assert prefixes == ["Query:", "Trajectory:", "Reasoning:", "Response:"]
