"""What is sent: without a persona and a memory the program's own requests, with them these and the persona."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import dspy
import pytest
from program_shapes import (
    QUESTION,
    SHAPES,
    AsyncScriptedEngine,
    Rag,
    ScriptedEngine,
    persona_of,
    remembered,
    script,
)

from personaagent.programs import Persona, PersonaAgent, personalize

NOBODY = Persona("")


class Sends:
    """An LM that keeps every request whole: system, messages, tools and sampling settings."""

    def __init__(self, adapter: Any = None) -> None:
        self.requests: list[str] = []
        self.adapter = adapter
        engine = ScriptedEngine(self._say)
        reply = engine._reply

        def keep(request: Any, call: Any) -> Any:
            self.requests.append(repr(request))
            return reply(request, call)

        engine._reply = keep  # type: ignore[method-assign]
        self.engine = engine
        asynchronous = AsyncScriptedEngine(engine)
        self.lm = dspy.LM("scripted", engine=engine, async_engine=asynchronous, cache=False, num_retries=0)

    def _say(self, call: Any) -> Any:
        said = script(call)
        if "JSON object" not in call.user:
            return said
        whole = {n: json.loads(v) if v[:1] in '[{"0123456789' else v for n, v in said.items()}
        return json.dumps(whole)

    def ask(self, program: Any, inputs: dict[str, Any], asynchronous: bool) -> Any:
        async def later() -> Any:
            with dspy.context(lm=self.lm, adapter=self.adapter):
                return await program.acall(**inputs)

        if asynchronous:
            return asyncio.run(later())
        with dspy.context(lm=self.lm, adapter=self.adapter):
            return program(**inputs)


def with_demos(program: dspy.Module) -> dspy.Module:
    for _, predictor in program.named_predictors():
        predictor.demos = [dspy.Example(**dict.fromkeys(predictor.signature.fields, "a demo"), augmented=True)]
    return program


ALONE = [name for name in SHAPES if name != "assistant"]
"""A PersonaAgent inside does not answer without a user."""


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("adapter", [None, dspy.JSONAdapter()], ids=["chat", "json"])
def test_an_empty_persona_and_no_memory_send_what_the_program_sends(
    name: str, asynchronous: bool, adapter: Any
) -> None:
    shape, store = SHAPES[name], remembered()
    inputs = shape.inputs("q?")
    for demos in (False, True):
        made = [shape.make(store), shape.make(store), shape.make(store)]
        plain, first, second = [with_demos(program) if demos else program for program in made]
        own, empty, templated = Sends(adapter), Sends(adapter), Sends(adapter)
        fields = {"query": shape.query, "response": shape.response}
        answer = own.ask(plain, inputs, asynchronous)
        handle = personalize(first, store, memories=0, **fields).for_user("ann", persona=NOBODY)
        same = empty.ask(handle, inputs, asynchronous)
        untold = personalize(second, None, persona_template="", **fields).for_user("ann")
        templated.ask(untold, inputs, asynchronous)
        assert own.requests and own.requests == empty.requests == templated.requests
        assert dict(answer) == {field: same[field] for field in answer}


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_of_an_unreadable_reply_the_fallbacks_request_is_the_same(asynchronous: bool) -> None:
    def ask(program: Any) -> list[str]:
        sends = Sends()
        sends.engine.script = lambda call: '{"answer": "read"}' if "JSON object" in call.user else "unread"
        assert sends.ask(program, {"question": "q?"}, asynchronous).answer == "read"
        return sends.requests

    program = dspy.Predict("question -> answer")
    assert ask(program) == ask(personalize(program, memories=0).for_user("ann", persona=NOBODY))


@pytest.mark.parametrize("around", [dspy.BestOfN, dspy.Refine])
def test_dspys_own_modules_around_a_module_send_the_same(around: Any) -> None:
    """Refine puts an adapter of its own around the one in effect, which adds a hint."""

    def make() -> Any:
        return around(dspy.ChainOfThought("question -> answer"), 2, lambda inputs, prediction: 0.0, 1.0)

    def ask(program: Any) -> Sends:
        sends = Sends()
        sends.engine.script = lambda call: (
            script(call) | ({"advice": '{"self": "a hint", "predict": "a hint"}'} if "advice" in call.outputs else {})
        )
        sends.ask(program, {"question": "q?"}, False)
        return sends

    plain = ask(make())
    empty = ask(personalize(make()).for_user("ann", persona=NOBODY))
    with_persona = ask(personalize(make()).for_user("ann", persona=Persona("ANN")))
    assert len(plain.requests) == (2 if around is dspy.BestOfN else 3) and plain.requests == empty.requests
    hinted = ["a hint" in call.text for call in plain.engine.calls]
    assert hinted[-1] == (around is dspy.Refine)
    assert ["a hint" in call.text for call in with_persona.engine.calls] == hinted
    assert all(call.system.count("<persona>\nANN\n</persona>") == 1 for call in with_persona.engine.calls)


@pytest.mark.parametrize("name", SHAPES)
def test_the_persona_is_all_that_is_added_where_there_are_no_tools(name: str) -> None:
    shape, store = SHAPES[name], remembered()
    fields = {"query": shape.query, "response": shape.response}
    without, with_persona = Sends(), Sends()
    inputs = shape.inputs(QUESTION.format(user="ann"))
    made = [personalize(shape.make(store), store, memories=0, **fields) for _ in range(2)]
    without.ask(made[0].for_user("ann", persona=NOBODY), inputs, False)
    with_persona.ask(made[1].for_user("ann", persona=persona_of("ann")), inputs, False)
    block = "<persona>\nDoes it as ann does.\n</persona>\n\n"
    agents = name == "assistant"  # an agent has it where it always has it: before its instructions
    for one, other in zip(without.engine.calls, with_persona.engine.calls, strict=True):
        assert other.system.count("Does it as ann does.") == 1
        if not agents:
            assert other.system == block + one.system


def test_an_agent_under_an_empty_persona_says_nothing_of_it() -> None:
    agent = PersonaAgent("question -> response", memory=remembered(), memories=2)
    sends = Sends()
    answer = sends.ask(agent.for_user("ann", persona=NOBODY), {"question": "q?"}, False)
    assert answer.persona_version == 0 and len(answer.recalled) == 2
    assert not [call for call in sends.engine.calls if "persona" in call.text]


# -- one inside another ---------------------------------------------------------------------------


class Pair(dspy.Module):
    def __init__(self, **parts: Any) -> None:
        super().__init__()
        for part, module in parts.items():
            setattr(self, part, module)
        self.merge = dspy.Predict("question -> response")

    def forward(self, question: str) -> dspy.Prediction:
        answers = [module(question=question) for name, module in vars(self).items() if name in ("first", "second")]
        return dspy.Prediction(response=self.merge(question=question).response, answers=answers)


def asked(program: Any, question: str = "q?") -> tuple[Any, list[list[str]]]:
    """The answer, and which personas each request names."""
    sends = Sends()
    answer = sends.ask(program, {"question": question}, False)
    words = ("ANN", "BOB", "CLEO")
    return answer, [[word for word in words if word in call.text] for call in sends.engine.calls]


def test_two_users_programs_in_one_program_see_their_own_persona_each() -> None:
    shared = personalize(Rag())
    ann, bob = (shared.for_user(user.lower(), persona=Persona(user)) for user in ("ANN", "BOB"))
    assert asked(Pair(first=ann, second=bob))[1] == [["ANN"], ["BOB"], []]
    outer = personalize(Pair(first=ann, second=bob), response="response")
    answer, named = asked(outer.for_user("cleo", persona=Persona("CLEO", 7)))
    assert named == [["ANN"], ["BOB"], ["CLEO"]]
    assert (answer.persona_version, answer.lm_calls) == (7, 3)
    assert [inner.persona_version for inner in answer.answers] == [0, 0]


def test_an_inner_program_without_a_persona_hears_nothing_of_the_outer_one() -> None:
    inner = personalize(Rag()).for_user("bob", persona=NOBODY)
    agent = PersonaAgent("question -> response").for_user("cleo", persona=Persona("CLEO"))
    outer = personalize(Pair(first=inner, second=agent), response="response")
    assert asked(outer.for_user("ann", persona=Persona("ANN")))[1] == [[], ["CLEO"], ["ANN"]]


def test_memories_do_not_cross(scripted: Any) -> None:
    store = remembered()
    agent = personalize(dspy.ReAct("question -> response", tools=[]), store, memories=9)
    bob = agent.for_user("bob", persona=Persona("BOB"))
    empty = personalize(dspy.ReAct("question -> response", tools=[]), None).for_user("cleo", persona=Persona("CLEO"))
    outer = personalize(Pair(first=bob, second=empty), store, response="response")
    sends = Sends()
    answer = sends.ask(outer.for_user("ann", persona=Persona("ANN")), {"question": "q?"}, False)
    assert answer.recalled == [] and {name[:3] for name in answer.answers[0].recalled} == {"bob"}
    assert not [call for call in sends.engine.calls if " by ann" in call.text]


@pytest.mark.parametrize("kind", ["agent", "program", "program of a program"])
def test_what_serves_nobody_yet_serves_the_handles_user(kind: str, tmp_path: Any) -> None:
    store = remembered()
    if kind == "agent":
        inner: Any = PersonaAgent("question -> response", memory=store, memories=9)
    else:
        inner = personalize(dspy.ReAct("question -> response", tools=[]), store, memories=9)
        if kind == "program of a program":
            inner = personalize(Pair(first=inner), store, response="response")
    outer = personalize(Pair(first=inner), store, response="response")
    assert "recall" in outer.tool_names
    ann = outer.for_user("ann", persona=Persona("ANN", 2))
    answer, named = asked(ann)
    assert set(map(tuple, named)) == {("ANN",)}
    assert len(answer.recalled) == 4 and all(name.startswith("ann-") for name in answer.recalled)
    assert answer.answers[0].persona_version == 2
    assert len(asked(ann.as_of(store.interactions("ann")[2]))[0].recalled) == 2
    assert len(asked(ann.since(store.interactions("ann")[3]))[0].recalled) == 1
    assert set(map(tuple, asked(ann.with_persona(Persona("BOB")))[1])) == {("BOB",)}
    assert set(map(tuple, asked(ann.for_user("bob", persona=Persona("CLEO")))[1])) == {("CLEO",)}
    assert set(map(tuple, asked(ann)[1])) == {("ANN",)}
    # The persona is one parameter, whatever holds it.
    assert [name for name, _ in ann.named_parameters() if "persona" in name] == ["persona"]
    ann.save(tmp_path / "ann.json")
    for loaded in (outer.for_user("ann"), outer.for_user("ann").deepcopy(), ann.reset_copy()):
        loaded.load(tmp_path / "ann.json")
        assert set(map(tuple, asked(loaded)[1])) == {("ANN",)}
        assert asked(loaded.as_of(store.interactions("ann")[1]))[0].recalled == ["ann-0"]
    assert inner.user_id is None


def test_what_cannot_be_deep_copied_as_a_whole_keeps_its_one_persona() -> None:
    class Locked(Pair):
        def __init__(self, **parts: Any) -> None:
            import threading

            super().__init__(**parts)
            self.lock = threading.Lock()

    outer = personalize(Locked(first=PersonaAgent("question -> response")), response="response")
    copied = outer.for_user("ann", persona=Persona("ANN")).deepcopy()
    assert copied.program.first.persona is copied.persona
    assert [name for name, _ in copied.named_parameters() if "persona" in name] == ["persona"]


def test_an_agents_handle_inside_keeps_its_user() -> None:
    expert = PersonaAgent("question -> response").for_user("bob", persona=Persona("BOB"))
    outer = personalize(Pair(first=expert), response="response")
    ann = outer.for_user("ann", persona=Persona("ANN"))
    assert asked(ann)[1] == [["BOB"], ["ANN"]]
    assert asked(ann.with_persona(Persona("CLEO")))[1] == [["BOB"], ["CLEO"]]
    assert "program.first.persona" in dict(ann.named_parameters())


def test_what_is_hidden_from_a_handle_is_hidden_from_all_of_its_user(scripted: Any) -> None:
    store = remembered()
    history = store.interactions("ann")
    agent = PersonaAgent("question -> response", memory=store, memories=9)
    for inner, seen in (
        (agent.for_user("ann", persona=Persona("CLEO")), ["ann-1"]),
        (agent.for_user("ann", persona=Persona("CLEO")).as_of(history[1]), []),
        (agent.for_user("ann", persona=Persona("CLEO")).since(history[2]), []),
        (agent.for_user("bob", persona=Persona("CLEO")), [f"bob-{i}" for i in range(4)]),
    ):
        ann = personalize(Pair(first=inner), store, response="response").for_user("ann", persona=Persona("ANN"))
        answer, named = asked(ann.since(history[1]).as_of(history[2]))
        assert sorted(answer.answers[0].recalled) == seen and ["CLEO"] in named
