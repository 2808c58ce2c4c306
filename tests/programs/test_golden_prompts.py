"""The full prompt of each role, byte for byte. `make golden` rewrites them after a deliberate change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dspy
import pytest

from personaagent.datasets.lamp.tasks import LAMP_2M, LAMP_4
from personaagent.optimizers import PersonaAlignment
from personaagent.programs import Interaction, MemoryStore, PersonaAgent, SemanticMemory
from personaagent.programs.tools.wikipedia import DESCRIPTION

GOLDEN = Path(__file__).parents[1] / "golden"


def two_tools(call: Any) -> dict[str, str]:
    """recall, wikipedia, finish; fixed texts otherwise."""
    if call.role == "step":
        tool = ["recall", "wikipedia", "finish"][min(call.steps_taken, 2)]
        arguments = "{}" if tool == "finish" else '{"query": "lighthouse"}'
        return {"next_thought": f"Use {tool}.", "next_tool_name": tool, "next_tool_args": arguments}
    texts = {
        "answer": "classic",
        "feedback": "Say that this user calls old films classic.",
        "new_persona": "You serve a user who calls old films classic.",
        "profile": "Calls old films classic.",
    }
    return {name: texts.get(name, "Because of the age.") for name in call.outputs}


def wikipedia(query: str) -> str:
    return "Lighthouse: «A lighthouse is a tower with a light.»"


@pytest.fixture
def prompts(encoder: Any, scripted: Any) -> dict[str, str]:
    store = MemoryStore(encoder=encoder)
    films = ("A keeper of a lighthouse finds a letter.", "A choir travels without a map.", "Two clerks swap names.")
    items = [
        {"id": str(i), "description": text, "tag": tag, "date": "2007-08-31"}
        for i, (text, tag) in enumerate(zip(films, ("classic", "comedy", "dark comedy"), strict=True))
    ]
    history = [LAMP_2M.interaction("ann", item, i) for i, item in enumerate(items)]
    store.add(history)
    tool = dspy.Tool(wikipedia, name="wikipedia", desc=DESCRIPTION)
    agent = PersonaAgent(LAMP_2M.signature, memory=store, memories=2, tools=[tool])
    lm, engine = scripted(two_tools)
    with dspy.context(lm=lm):
        profile = SemanticMemory(LAMP_2M.summary_instruction)(interactions=history).profile
        student = agent.for_user("ann", profile=profile)
        examples = [i.to_example("query", "answer") for i in history]
        aligned = PersonaAlignment(2).compile(student, trainset=examples)
        aligned(
            query=Interaction("ann", "q", "Which tag fits? tags: [classic, comedy] description: A ship.", "x").query
        )
    found: dict[str, str] = {}
    for call in engine.calls:
        # The last of a role: a step with observations, an answer under the new persona. The two
        # gradients run side by side; the one of the newer interaction is taken.
        if call.role != "gradient" or "Two clerks" in call.user:
            found[call.role] = f"<system>\n{call.system}\n<user>\n{call.user}\n"
    return found


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("step", "step"),
        ("answer", "extraction"),
        ("gradient", "gradient"),
        ("update", "update"),
        ("summary", "summary"),
    ],
)
def test_the_prompt_is_the_golden_one(prompts: dict[str, str], role: str, name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("GOLDEN_REWRITE"):
        path.write_bytes(prompts[role].encode())
    assert prompts[role].encode() == path.read_bytes(), f"{path} differs; `make golden` rewrites it, then read the diff"


def test_the_gradient_of_a_text_is_told_what_differs(encoder: Any, scripted: Any) -> None:
    item = {"id": "1", "text": "A tower was lit again.", "title": "Old Tower: Light At Last", "date": "2007-08-31"}
    history = [LAMP_4.interaction("ann", item, 0)]
    store = MemoryStore(encoder=encoder)
    store.add(history)
    student = PersonaAgent(LAMP_4.signature, memory=store, memories=0).for_user("ann")
    lm, engine = scripted(two_tools)
    with dspy.context(lm=lm):
        examples = [i.to_example("query", "answer") for i in history]
        PersonaAlignment(1, metric=LAMP_4.metric).compile(student, trainset=examples)
    [call] = [call for call in engine.calls if call.role == "gradient"]
    test_the_prompt_is_the_golden_one(
        {"gradient": f"<system>\n{call.system}\n<user>\n{call.user}\n"}, "gradient", "gradient_text"
    )
