"""The units of the methods without a persona: what their keys depend on, what they cost, what is shared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dspy
import pytest

from personaagent.datasets.lamp.tasks import LAMP_2M
from personaagent.datasets.task import Query
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.methods.base import Models, Notes, Setting, Work
from personaagent.experiments.harness.methods.baselines import BaselineMethod
from personaagent.experiments.harness.methods.registry import METHODS
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.baselines import BASELINES
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.store import MemoryStore

CELL = Cell("lamp-2m", "", "some/lm", 0, 0, 4)
QUERY = Query("q1", "which tag?", "comedy")
NOTES = Notes({"profile": "p", "summary": "s", "personality": "t", "remembered": {}, "dates": [], "until": None})

Make = Callable[..., BaselineMethod]


def user(count: int = 2, user_id: str = "ann", tag: str = "comedy") -> Subject:
    """Each interaction has a day of its own."""
    items = [{"id": str(i), "description": f"film {i}", "tag": tag, "date": f"2010-01-0{i + 1}"} for i in range(count)]
    return Subject(user_id, tuple(LAMP_2M.interaction(user_id, item, i) for i, item in enumerate(items)), (QUERY,))


POOL = (*user(3, "bob").history, *user(3, "cat").history)


@pytest.fixture
def make(encoder: Any, scripted: Any) -> Make:
    """A baseline by name, with changes of its setting or its LMs."""
    lm, _ = scripted()
    models = Models({CELL.lm: lm}, None, None, None, None, 0.1)
    store = MemoryStore(encoder=encoder)
    tool = dspy.Tool(lambda query: "nothing", name="wikipedia", desc="Looks a topic up.")
    standard = Setting(LAMP_2M, store, models, Prompts(), True, "http://w", tool, 1, pool=lambda: POOL)

    def made(name: str, **changes: Any) -> BaselineMethod:
        models = {key: changes.pop(key) for key in ("temperature", "api_base") if key in changes}
        setting = replace(standard, **changes, models=replace(standard.models, **models))
        method = METHODS[name].make(setting)
        assert isinstance(method, BaselineMethod)
        return method

    return made


def learning(method: BaselineMethod, subject: Subject, cell: Cell = CELL) -> Work:
    work = method.learning(subject, cell)
    assert work is not None
    return work


def answer(method: BaselineMethod, subject: Subject | None = None, **changes: Any) -> str:
    """The key of an answer."""
    query, state = changes.pop("query", QUERY), changes.pop("state", NOTES)
    [work] = method.answers(query, subject or user(), replace(CELL, **changes), state)
    return work.key


def test_every_baseline_is_made() -> None:
    made = {name for name, entry in METHODS.items() if isinstance(entry.make(Any), BaselineMethod)}  # type: ignore[arg-type]
    assert made == set(BASELINES)


@pytest.mark.parametrize("name", BASELINES)
def test_the_answers_key(make: Make, name: str) -> None:
    key = answer(make(name))
    same = [
        answer(make(name), query=replace(QUERY, gold="action")),
        answer(make(name, workers=8)),
        answer(make(name), batch_size=3, iterations=2),
        answer(make(name), history="10"),
    ]
    others = [
        answer(make(name), query=replace(QUERY, id="q2")),
        answer(make(name), query=replace(QUERY, input="what tag?")),
        answer(make(name), seed=1),
        answer(make(name), lm="other/lm"),
        answer(make(name), state=Notes({**NOTES.values, "profile": "x"})),
        answer(make(name, prompts=Prompts(recall="x"))),
        answer(make(name, temperature=0.2)),
        answer(make(name, api_base="http://x")),
        *(answer(make(other)) for other in BASELINES if other != name),
    ]
    assert set(same) == {key}
    assert len({key, *others}) == 1 + len(others)


@pytest.mark.parametrize("name", BASELINES)
def test_an_answer_depends_on_memory_where_it_is_read_and_on_wikipedia_where_it_is_a_tool(
    make: Make, name: str
) -> None:
    key = answer(make(name))
    memories = [answer(make(name), user(3)), answer(make(name), user(tag="action")), answer(make(name), user(2, "bob"))]
    assert all((other != key) == (name in READING) for other in memories)
    assert (answer(make(name, wikipedia="off")) != key) == (name in WITH_WIKIPEDIA)
    without = answer(make(name), memories=0)
    assert {answer(make(name), who, memories=0) for who in (user(3), user(2, "bob"))} == {without}


READING = ("rag", "pag", "react", "no-persona", "memory-bank")
WITH_WIKIPEDIA = ("react", "react-wiki", "no-persona", "memory-bank")


@pytest.mark.parametrize("name", BASELINES)
def test_tools_and_whether_past_interactions_can_be_in_a_prompt(make: Make, name: str) -> None:
    recall = ("recall",) if name in ("react", "no-persona") else ()
    wikipedia = ("wikipedia",) if name in WITH_WIKIPEDIA else ()
    none = replace(CELL, memories=0)
    assert make(name).tools(CELL) == (*recall, *wikipedia)
    assert make(name).tools(none) == wikipedia
    assert make(name, wikipedia_tool=None).tools(CELL) == recall
    assert make(name).retrieves(CELL) == (name in READING)
    assert not make(name).retrieves(none)


@pytest.mark.parametrize("name", BASELINES)
def test_the_tools_that_are_told_of_are_those_that_it_has(make: Make, name: str) -> None:
    for setting in ({}, {"wikipedia_tool": None}):
        for cell in (CELL, replace(CELL, memories=0)):
            method = make(name, **setting)
            tools = method.tools(cell)
            baseline: Any = method.baseline(cell.memories)
            assert baseline.answer.tool_names == tools
            assert method.answer_calls(cell) == (len(tools) + 2 if tools else 1)
            [offline] = method.answers(QUERY, user(), replace(cell, lm="offline"), NOTES)
            assert offline.worst_case == offline.expected_calls == method.answer_calls(cell)
            [asked] = method.answers(QUERY, user(), cell, NOTES)
            assert asked.worst_case > 100 and asked.expected_calls == offline.expected_calls


def test_who_learns_a_profile_learns_persona_agents(make: Make) -> None:
    persona_agent = METHODS["persona-agent"].make(make("pag").setting)
    of_persona = persona_agent.learning(user(), CELL)
    assert of_persona is not None
    assert {learning(make(name), user()).key for name in ("pag", "no-persona")} == {of_persona.key}
    # Also where personas are to start without one.
    assert learning(make("pag", profile=False), user()).key == of_persona.key


@pytest.mark.parametrize("name", ["prompt", "icl", "rag", "react", "react-wiki"])
def test_the_others_learn_nothing_that_takes_an_lm(make: Make, name: str) -> None:
    assert make(name).learning(user(), CELL) is None


def test_the_notes_key(make: Make) -> None:
    key = learning(make("memory-bank"), user()).key
    same = [
        learning(make("memory-bank", wikipedia="off", workers=8), user()).key,
        learning(make("memory-bank"), user(), replace(CELL, batch_size=3, iterations=1)).key,
    ]
    others = [
        learning(make("memory-bank"), user(3)).key,
        learning(make("memory-bank"), user(2, "bob")).key,
        learning(make("memory-bank"), user(tag="action")).key,
        # What is remembered depends on what was retrieved.
        *(learning(make("memory-bank"), user(), replace(CELL, memories=k)).key for k in (0, 1)),
        learning(make("memory-bank"), user(), replace(CELL, lm="other/lm")).key,
        learning(make("memory-bank"), user(), replace(CELL, seed=1)).key,
        learning(make("memory-bank", data_seed=1), user()).key,
        learning(make("memory-bank", memory_bank_dates=3), user()).key,
        learning(make("memory-bank", memory_bank_curve="published"), user()).key,
        learning(make("memory-bank", memory_bank_clock="days"), user()).key,
        learning(make("memory-bank", temperature=0.2), user()).key,
        learning(make("pag"), user()).key,
    ]
    assert set(same) == {key}
    assert len({key, *others}) == 1 + len(others)


@pytest.mark.parametrize(("dates", "count", "expected"), [(10, 3, 8), (2, 3, 6), (0, 3, 0), (10, 0, 0)])
def test_notes_are_two_of_each_date_and_two_overall(make: Make, dates: int, count: int, expected: int) -> None:
    method = make("memory-bank", memory_bank_dates=dates)
    work = learning(method, user(count), replace(CELL, lm="offline"))
    assert (work.kind, work.expected_calls, work.worst_case) == ("notes", expected, expected)
    assert learning(method, user(count)).worst_case == expected * (12 + 5)


def test_a_profile_of_nothing_takes_no_call(make: Make) -> None:
    work = learning(make("pag"), user(0))
    assert (work.expected_calls, work.worst_case, work.run()) == (0, 0, {"profile": ""})


def test_icls_examples_are_others_and_part_of_the_key(make: Make) -> None:
    method = make("icl")
    state = method.start(user(), CELL, None)
    assert {one["user_id"] for one in state.values["examples"]} == {"bob", "cat"}
    assert method.start(user(), CELL, None) is state  # chosen once
    of_bob = method.start(user(2, "bob"), CELL, None)
    assert {one["user_id"] for one in of_bob.values["examples"]} == {"cat"}
    other = make("icl", data_seed=1).start(user(), CELL, None)
    assert len({answer(method, state=one) for one in (state, of_bob, other)}) == 3


def test_icl_without_others_has_no_examples(make: Make) -> None:
    def own() -> tuple[Interaction, ...]:
        return user().history

    assert make("icl", pool=own).start(user(), CELL, None).values == {"examples": []}


@pytest.mark.parametrize("name", ["prompt", "rag", "react", "react-wiki"])
def test_nothing_learnt_is_nothing_in_the_state(make: Make, name: str) -> None:
    assert make(name).start(user(), CELL, None) == Notes()


@pytest.mark.parametrize("name", ["pag", "no-persona", "memory-bank"])
def test_what_was_learnt_is_the_state(make: Make, name: str) -> None:
    assert make(name).start(user(), CELL, NOTES.values) == NOTES


@pytest.mark.parametrize("name", BASELINES)
def test_there_is_no_alignment(make: Make, name: str) -> None:
    aligned = replace(CELL, batch_size=3, iterations=2)
    assert make(name).iterations(aligned) == 0
    with pytest.raises(AssertionError, match=f"{name} has no alignment"):
        make(name).step(user(), aligned, 1, NOTES)


def test_a_study_has_one_program_for_each_k(make: Make) -> None:
    method = make("rag")
    assert method.baseline(4) is method.baseline(4) is not method.baseline(1)
