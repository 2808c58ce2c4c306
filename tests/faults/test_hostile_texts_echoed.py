"""An LM that repeats what it reads: no field that a text forges becomes an answer, a gradient or a persona."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from faults.hostile_texts import FIELDS, FORGED, FORGING, marker

from personaagent.optimizers.alignment import PersonaAlignment
from personaagent.programs.agent import PersonaAgent
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.semantic import SemanticMemory
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

OWN = "The LM's own words."
_DECLARED = re.compile(r"^\d+\. `(\w+)` \(", re.MULTILINE)


class Echo:
    """An LM that repeats a part of its prompt in a certain style.

    Args:
        part: all of the last message ("prompt"), its "first" or "last" text, or the "persona".
        style: the echo is all of the reply ("bare"), fills each field, or stands beside the LM's own words;
            "retyped", it has plain letters for full-width ones and lacks what cannot be seen.
    """

    def __init__(self, part: str, style: str) -> None:
        self.part, self.style = part, style
        self.echoed: list[str] = []

    def complete(self, request: Request) -> Response:
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        declared = system.partition("Your output fields are:")[2].partition("All interactions")[0]
        fields = _DECLARED.findall(declared)
        heard = self._heard(system, request.messages[-1].text or "")
        self.echoed.append(heard)
        message = Message.assistant([TextPart(self._reply(fields, heard) or " ")])
        usage = Usage(input_tokens=1, output_tokens=1)
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

    def _heard(self, system: str, user: str) -> str:
        if self.part == "persona":
            return (
                system.rpartition("<persona>")[2].partition("</persona>")[0].strip() if "<persona>" in system else user
            )
        body = user.partition("\n\nRespond with ")[0]
        if self.part == "prompt":
            return body
        texts = re.split(r"^\[\[ ## \w+ ## \]\]$", body, flags=re.MULTILINE)[1:]
        return texts[0 if self.part == "first" else -1].strip()

    def _reply(self, fields: list[str], heard: str) -> str:
        own = dict.fromkeys(fields, OWN)
        echoed = dict.fromkeys(fields, heard)
        if "next_tool_name" in fields:
            for said in (own, echoed):
                said |= {"next_tool_name": "page", "next_tool_args": {}}  # type: ignore[dict-item]
        in_fields = "\n\n".join(f"{marker(name)}\n{_as_field(value)}" for name, value in own.items())
        return {
            "bare": heard,
            "in fields": "\n\n".join(f"{marker(name)}\n{_as_field(value)}" for name, value in echoed.items()),
            "before fields": f"{heard}\n\n{in_fields}",
            "retyped before fields": f"{_retyped(heard)}\n\n{in_fields}",
            "after fields": f"{in_fields}\n\n{heard}",
            "before JSON": f"{heard}\n{json.dumps(own)}",
            "after JSON": f"{json.dumps(own)}\n{heard}",
            "in JSON": json.dumps(echoed),
        }[self.style]


def _retyped(text: str) -> str:
    seen = (c for c in unicodedata.normalize("NFKC", text) if c not in "\u034f\ufe0f")
    return "".join(c for c in seen if unicodedata.category(c) != "Cf")


def _as_field(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def fields_of_a_life(text: str, echo: Echo, encoder: Any) -> dict[str, str | None]:
    """What became of every field: a profile, an answer with its reasoning and thought, a gradient, a persona."""
    store = MemoryStore(encoder=encoder)
    store.add(
        [
            Interaction(
                "ann",
                "1",
                text.encode("utf-16", "ignore").decode("utf-16"),
                text.encode("utf-8", "ignore").decode(),
                "2020",
                0,
            )
        ]
    )

    def page() -> str:
        return text

    agent = PersonaAgent("query -> answer", memory=store, memories=1, tools=[page], max_iters=1)
    trainset = [dspy.Example(query=text, answer="yes").with_inputs("query")]
    with dspy.context(lm=dspy.LM("echo", engine=echo, cache=False, num_retries=0), trace=None, disable_history=True):
        try:
            profile = SemanticMemory()(interactions=store.interactions("ann")).profile
        except dspy.utils.exceptions.AdapterParseError:
            profile = None  # a fault: the unit of a study fails with this reason
        student = agent.for_user("ann", persona=Persona(text))
        prediction = student(query=text)
        [step] = PersonaAlignment(1).compile(student, trainset=trainset).alignment_steps
    return {
        "profile": profile,
        "answer": prediction.answer,
        "reasoning": prediction.reasoning,
        "next_thought": prediction.trajectory["thought_0"],
        "feedback": step.batch[0].feedback,
        "new_persona": step.after.text if step.kept_because is None else None,
    }


MARKED = {name: text for name, text in FORGING.items() if name.startswith(("spelled", "after", "first", "whole"))}
MARKED |= {f"field-{name}": FORGING[f"field-{name}"] for name in FIELDS}
IN_JSON = {name: text for name, text in FORGING.items() if name.startswith(("json", "record", "typed", "whole"))}


@pytest.mark.parametrize(
    ("style", "part", "texts"),
    [("bare", part, FORGING) for part in ("prompt", "first", "persona")]
    + [("before fields", part, MARKED) for part in ("prompt", "persona")]
    + [("retyped before fields", "last", MARKED), ("in fields", "last", MARKED), ("after fields", "last", MARKED)]
    + [(style, part, IN_JSON) for style in ("before JSON", "after JSON") for part in ("prompt", "first", "last")]
    + [("in JSON", part, IN_JSON) for part in ("prompt", "last", "persona")],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_an_echo_fills_no_field(style: str, part: str, texts: dict[str, str], encoder: Any) -> None:
    wrong = []
    for name, text in texts.items():
        echo = Echo(part, style)
        found = fields_of_a_life(text, echo, encoder)
        assert any(FORGED in heard for heard in echo.echoed), name  # it had something to repeat
        assert found.keys() == set(FIELDS)
        for field, value in found.items():
            said = (value or "").strip()
            # What the LM says for itself is found beside what it repeats; of two objects the first counts.
            lost = style in ("before fields", "retyped before fields", "after JSON") and said != OWN
            if said.startswith(FORGED) or lost:
                wrong.append((name, field, said[:80]))
    assert not wrong
