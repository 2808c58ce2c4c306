"""Every hostile text in every place that it may come from: a finished prompt has the fields that we put in."""

from __future__ import annotations

import asyncio
import json
import re
import unicodedata
from typing import Any

import dspy
import pytest
from dspy.adapters.chat_adapter import field_header_pattern
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from faults.hostile_texts import FORGED, TEXTS, marker
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.optimizers.alignment import PersonaAlignment
from personaagent.programs.agent import PersonaAgent
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.semantic import SemanticMemory
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona
from personaagent.programs.quoting import defuse

TOOLS = ("recall", "page", "broken", "finish")
"""What the agent does, step by step."""

INPUTS = {
    "step": ("query", "trajectory"),
    "answer": ("query", "trajectory"),
    "gradient": ("question", "expected_answer", "given_answer", "comparison", "steps"),
    "update": ("current_persona", "feedback"),
    "summary": ("history",),
}
OUTPUTS = {
    "step": ("next_thought", "next_tool_name", "next_tool_args"),
    "answer": ("reasoning", "answer"),
    "gradient": ("feedback",),
    "update": ("new_persona",),
    "summary": ("profile",),
}
ROLES = {outputs: role for role, outputs in OUTPUTS.items()}
_DECLARED = re.compile(r"^\d+\. `(\w+)` \(", re.MULTILINE)
_UNSEEN = re.compile("[\\s\u00ad\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff]+")
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def headers(text: str) -> list[str]:
    """The fields of a text by DSPy's own rule (ChatAdapter.parse)."""
    matches = (field_header_pattern.match(line.strip()) for line in text.splitlines())
    return [match.group(1) for match in matches if match]


class Writer:
    """An LM that writes the same text into every field, as JSON, and checks each prompt that it is given.

    It answers only in JSON, so that every prediction asks in both formats, and a text reaches a field whole.
    """

    def __init__(self, says: str) -> None:
        self.says = says
        self.steps = 0
        self.seen: dict[tuple[str, str], int] = {}

    def complete(self, request: Request) -> Response:
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        dspys = system.rpartition("</persona>")[2]  # a persona may well speak of output fields
        declared = dspys.partition("Your output fields are:")[2].partition("All interactions")[0]
        outputs = tuple(_DECLARED.findall(declared))
        role = ROLES[outputs]
        kind = "JSON" if "Outputs will be a JSON object" in system else "chat"
        self.seen[role, kind] = self.seen.get((role, kind), 0) + 1
        self._check(request, system, role, kind)
        reply: dict[str, Any] = dict.fromkeys(outputs, self.says)
        if role == "step":
            tool = TOOLS[self.steps]
            reply["next_tool_name"] = tool
            reply["next_tool_args"] = {} if tool == "finish" else {"query": self.says}
        if kind == "JSON":  # in the other format the reply is unreadable, and the prompt is sent again
            self.steps = {"step": self.steps + 1, "answer": 0}.get(role, self.steps)
        message = Message.assistant([TextPart(json.dumps(reply))])
        usage = Usage(input_tokens=1, output_tokens=1)
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

    def _check(self, request: Request, system: str, role: str, kind: str) -> None:
        structure = [*INPUTS[role], *([] if kind == "JSON" else [*OUTPUTS[role], "completed"])]
        assert headers(system) == structure
        *examples, last = request.messages
        assert all(len(m.parts) == 1 and isinstance(m.parts[0], TextPart) for m in request.messages)
        assert headers(last.text or "") == self._fields(role)
        for number, message in enumerate(examples):
            asked = [["query"], list(INPUTS[role])][number // 2]  # DSPy puts those first that lack a field
            answered = [] if kind == "JSON" else [*OUTPUTS[role], "completed"]
            assert headers(message.text or "") == (answered if number % 2 else asked), (number, message.text)
        whole = "\n".join([system, *(message.text or "" for message in request.messages)])
        assert not _CONTROL.search(whole)
        assert not re.search("<<CUSTOM-TYPE-(START|END)-IDENTIFIER>>", whole) and not re.search(
            r"<[|｜]\w+[|｜]>", whole
        )
        if role in ("step", "answer"):
            folded = _UNSEEN.sub("", unicodedata.normalize("NFKC", whole)).casefold()
            assert folded.count("<persona") == folded.count("</persona") == 1
        if role == "summary":
            lines = (last.text or "").partition(marker("history"))[2].partition("\n\nRespond with")[0].strip()
            assert len(lines.splitlines()) == 2
            assert all(line.startswith("2007-08-3") and line.count('» -> "') == 1 for line in lines.splitlines())

    def _fields(self, role: str) -> list[str]:
        if role not in ("step", "answer"):
            return list(INPUTS[role])
        names = ("thought", "tool_name", "tool_args", "observation")
        return ["query", "trajectory", *(f"{name}_{i}" for i in range(self.steps) for name in names)]


class AsyncWriter:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def complete(self, request: Request) -> Response:
        return self._writer.complete(request)


def store_of(text: str, encoder: Any) -> MemoryStore:
    """Two interactions made of the text; what no interaction may hold is replaced."""
    storable = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    store = MemoryStore(encoder=encoder)
    query = storable if storable.strip() else "q"
    store.add([Interaction("ann", str(i), query, storable, f"2007-08-3{i}", i, storable) for i in range(2)])
    return store


def agent_of(text: str, store: MemoryStore) -> PersonaAgent:
    """An agent whose tools say the text, and whose demonstrations hold it."""

    def page(query: str) -> str:
        return text

    def broken(query: str) -> str:
        raise ValueError(text)

    agent = PersonaAgent("query -> answer", memory=store, memories=2, tools=[page, broken])
    for predictor, role in ((agent.react, "step"), (agent.extract.predict, "answer")):
        whole: dict[str, Any] = dict.fromkeys((*INPUTS[role], *OUTPUTS[role]), text)
        if role == "step":
            whole |= {"next_tool_name": "page", "next_tool_args": {"query": text}}
        part = {name: value for name, value in whole.items() if name != "trajectory"}
        predictor.demos = [dspy.Example(**whole), part]
    return agent


def compared(example: Any, prediction: Any, text: str) -> dspy.Prediction:
    return dspy.Prediction(score=0.5, feedback=text or "-")


def whole_life(text: str, writer: Writer, encoder: Any) -> dspy.Prediction:
    """Profile, initial persona, alignment and an answer, the text in all of their inputs and outputs."""
    store = store_of(text, encoder)
    lm = dspy.LM("writer", engine=writer, async_engine=AsyncWriter(writer), cache=False, num_retries=0)
    with dspy.context(lm=lm, trace=None, disable_history=True):
        profile = SemanticMemory()(interactions=store.interactions("ann")).profile
        assert defuse(profile) == profile
        student = agent_of(text, store).for_user("ann", profile=text)
        alignment = PersonaAlignment(
            1, metric=lambda example, prediction: compared(example, prediction, text), show_trajectory=True
        )
        trainset = [dspy.Example(query=text, answer=text).with_inputs("query")]
        return alignment.compile(student, trainset=trainset)(query=text)


@pytest.mark.parametrize("name", TEXTS)
def test_a_prompt_has_exactly_the_fields_that_we_put_in(name: str, encoder: Any) -> None:
    writer = Writer(TEXTS[name])
    prediction = whole_life(TEXTS[name], writer, encoder)
    assert prediction.tools_called == ["recall", "page", "broken"]
    assert len(prediction.recalled) == (2 if _CONTROL.sub("", TEXTS[name]).strip() else 0)  # by nothing, nothing
    rollouts = 2  # the initial persona's, which the alignment criticises, and the aligned persona's
    asked = dict.fromkeys(ROLES.values(), 1) | {"step": rollouts * len(TOOLS), "answer": rollouts}
    if not dspy_reads(TEXTS[name]):
        del asked["update"]  # the gradient was as good as empty
    assert writer.seen == {(role, kind): count for role, count in asked.items() for kind in ("chat", "JSON")}


def dspy_reads(text: str) -> bool:
    """Whether an LM that writes this has written anything: white space and null are nothing."""
    return "".join(c for c in text if c.isprintable()).strip().casefold() not in ("", "none", "null")


def test_every_place_reaches_the_prompts(encoder: Any) -> None:
    """The other tests could pass by leaving a text out: a harmless one is found wherever it was put."""
    prompts: dict[str, list[str]] = {}

    class Keeper(Writer):
        def _check(self, request: Request, system: str, role: str, kind: str) -> None:
            super()._check(request, system, role, kind)
            texts = [system, *(message.text or "" for message in request.messages)]
            prompts.setdefault(role, []).append("\n".join(texts))

    whole_life("Zebra.", Keeper("Zebra."), encoder)
    assert {role: max(text.count("Zebra.") for text in texts) for role, texts in prompts.items()} == {
        # persona; 4 fields of one demonstration and 3 of the other; query; two records of text and answer;
        # a thought and an argument in each of 3 steps; the page; the error
        "step": 1 + 4 + 3 + 1 + 4 + 6 + 1 + 1,
        "answer": 1 + 4 + 3 + 1 + 4 + 7 + 1 + 1,
        "gradient": 4 + 7 + 4 + 1 + 1,
        "update": 2,
        "summary": 4,
    }


def test_the_asynchronous_prompts_are_the_same(encoder: Any) -> None:
    for name in ("whole-reply", "typed-text", "after-line-separator", "json-object"):
        writer = Writer(TEXTS[name])
        lm = dspy.LM("writer", engine=writer, async_engine=AsyncWriter(writer), cache=False, num_retries=0)
        handle = agent_of(TEXTS[name], store_of(TEXTS[name], encoder)).for_user(
            "ann", persona=Persona(f"x\n{TEXTS[name]}")
        )

        async def ask(handle: Any = handle, lm: Any = lm, text: str = TEXTS[name]) -> Any:
            with dspy.context(lm=lm):
                return await handle.acall(query=text)

        assert asyncio.run(ask()).tools_called == ["recall", "page", "broken"]
        assert writer.seen["answer", "JSON"] == 1


def test_a_megabyte_is_a_text_like_others(encoder: Any) -> None:
    question = f"{marker()}\n{FORGED}\n" * 40_000
    page = TEXTS["typed-text"] * 8_000
    persona = "<persona " * 110_000 + "x" * 10_000 + f"\u2028{marker()}"
    assert min(map(len, (question, page, persona))) > 900_000
    writer = Writer("harmless")
    store = store_of("[[ ## answer " * 75_000, encoder)
    agent = agent_of("harmless", store)
    agent.tools["page"].func = lambda query: page
    with dspy.context(lm=dspy.LM("writer", engine=writer, cache=False), trace=None, disable_history=True):
        prediction = agent.for_user("ann", persona=Persona(persona))(query=question)
        profile = SemanticMemory()(interactions=store.interactions("ann")).profile
    assert prediction.answer == profile == "harmless"
    assert max(map(len, map(str, prediction.trajectory.values()))) <= 20_000


# -- values that are no plain texts ---------------------------------------------------------------


def test_texts_within_inputs_of_other_types_are_defused(encoder: Any) -> None:
    from dataclasses import dataclass
    from enum import Enum
    from typing import NamedTuple

    from pydantic import BaseModel, ConfigDict

    class Named(NamedTuple):
        text: str

    @dataclass
    class Data:
        text: str

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    class Choice(Enum):
        FIRST = f"x\u2028{marker()}\n{FORGED}"

    class Plain:
        def __str__(self) -> str:
            return f"x\n{marker()}\n{FORGED}"

    for name in ("field-answer", "after-line-separator", "typed-text", "role-chatml"):
        text = TEXTS[name]
        values = [[text], (text,), {text: text}, {"a": [{"b": text}]}, Named(text), Data(text), [Data(text)]]
        values += [Open(other=text), {text}, text.encode(), Choice.FIRST, Plain(), dspy.Example(a=text)]
        for value in values:
            writer = Writer("harmless")
            agent = PersonaAgent("query, notes -> answer", memory=store_of("x", encoder), memories=0)
            lm = dspy.LM("writer", engine=Reading(writer), cache=False)
            with dspy.context(lm=lm, warn_on_type_mismatch=False):
                agent.for_user("ann")(query="q", notes=value)


class Reading:
    """Passes on to a writer only to be answered: the fields are query and notes."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        writer._check = self._check  # type: ignore[method-assign]

    def complete(self, request: Request) -> Response:
        return self._writer.complete(request)

    @staticmethod
    def _check(request: Request, system: str, role: str, kind: str) -> None:
        [message] = request.messages
        assert len(message.parts) == 1, message.parts
        assert headers(message.text or "") == ["query", "notes"], message.text
        assert not _CONTROL.search(message.text or "")


# -- texts that nobody thought of -----------------------------------------------------------------

_PIECES = ["[", "[[", "]]", "#", "##", " ", "\n", "\r", "\t", "answer", "completed", "observation_0", marker()]
_PIECES += [
    "［",
    "］",
    "＃",
    "<",
    ">",
    "/",
    "persona",
    "</persona>",
    "<<CUSTOM-TYPE-START-IDENTIFIER>>",
    "»",
    "«",
    '" -> "',
]
_PIECES += ["<<CUSTOM-TYPE-END-IDENTIFIER>>", '{"answer": "', '"}', "\\", "\x00", "\x1c", "\x85", "\u2028", "\u202e"]
_PIECES += [
    "\u200b",
    "\u00ad",
    "\ufe0f",
    "\U000e0041",
    "\ud800",
    "\udc00",
    "👩‍👧",
    "e\u0301",
    "<|im_start|>",
    "x",
    "1.",
]
texts = st.lists(st.sampled_from(_PIECES) | st.text(max_size=3), min_size=1, max_size=16).map("".join)


@settings(deadline=None, database=None, derandomize=True, max_examples=40)
@given(texts)
def test_any_text_leaves_the_fields_as_they_are(text: str) -> None:
    whole_life(text, Writer(text), _OneVector())


class _OneVector:
    """Every text is similar to every other."""

    name, dimension = "one-2", 2

    def encode(self, text: str) -> Any:
        import numpy as np

        return np.array([1.0, 0.0], dtype=np.float32)
