"""A unit's key depends on everything that its answer depends on, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from personaagent.datasets.lamp.tasks import LAMP_2M
from personaagent.datasets.task import Query, User
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.methods import Models, PersonaAgentMethod, swapped
from personaagent.experiments.harness.prompts import Prompts
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

CELL = Cell("lamp-2m", "persona-agent", "some/lm", 3, 1, 4)
QUERY = Query("q1", "which tag?", "comedy")
PERSONA = Persona("serve well")


def user(count: int = 2, user_id: str = "ann", tag: str = "comedy") -> User:
    items = [{"id": str(i), "description": f"film {i}", "tag": tag, "date": "2010"} for i in range(count)]
    return User(user_id, tuple(LAMP_2M.interaction(user_id, item, i) for i, item in enumerate(items)), (QUERY,))


@pytest.fixture
def method(encoder: Any, scripted: Any) -> PersonaAgentMethod:
    lm, _ = scripted()
    models = Models(lm, lm, None, None, None, 0.1)
    return PersonaAgentMethod(LAMP_2M, MemoryStore(encoder=encoder), models, Prompts(), True, "off", None, 1)


# `replace(method)`: a method reads a user's history once.
def other_models(method: PersonaAgentMethod, **changes: Any) -> PersonaAgentMethod:
    return replace(method, models=replace(method.models, **changes))


def test_the_profiles_key(method: PersonaAgentMethod) -> None:
    key = method.profile_work(user(), CELL).key
    same = [
        method.profile_work(user(), replace(CELL, batch_size=5, iterations=2, memories=0)).key,
        other_models(method, align_name="x", align_api_base="http://x").profile_work(user(), CELL).key,
        replace(method, workers=8).profile_work(user(), CELL).key,
    ]
    others = [
        replace(method).profile_work(user(3), CELL).key,
        method.profile_work(user(user_id="bob"), CELL).key,
        replace(method).profile_work(user(tag="action"), CELL).key,
        method.profile_work(user(), replace(CELL, lm="other/lm")).key,
        method.profile_work(user(), replace(CELL, seed=1)).key,
        replace(method, prompts=Prompts(summary="x")).profile_work(user(), CELL).key,
        other_models(method, temperature=0.2).profile_work(user(), CELL).key,
        other_models(method, api_base="http://x").profile_work(user(), CELL).key,
    ]
    assert set(same) == {key}
    assert len({key, *others}) == 1 + len(others)


def test_the_steps_key(method: PersonaAgentMethod) -> None:
    key = method.step_work(user(), CELL, 1, PERSONA).key
    others = [
        replace(method).step_work(user(3), CELL, 1, PERSONA).key,
        method.step_work(user(user_id="bob"), CELL, 1, PERSONA).key,
        method.step_work(user(), CELL, 2, PERSONA).key,
        method.step_work(user(), CELL, 1, Persona("serve badly")).key,
        method.step_work(user(), CELL, 1, Persona("serve well", parent="p")).key,
        *(
            method.step_work(user(), replace(CELL, **change), 1, PERSONA).key
            for change in ({"batch_size": 5}, {"memories": 1}, {"seed": 1}, {"lm": "other/lm"})
        ),
        replace(method, prompts=Prompts(update="x")).step_work(user(), CELL, 1, PERSONA).key,
        replace(method, wikipedia="http://w").step_work(user(), CELL, 1, PERSONA).key,
        other_models(method, align_name="x").step_work(user(), CELL, 1, PERSONA).key,
        other_models(method, align_api_base="http://x").step_work(user(), CELL, 1, PERSONA).key,
        other_models(method, temperature=0.2).step_work(user(), CELL, 1, PERSONA).key,
    ]
    assert len({key, *others}) == 1 + len(others)
    assert method.step_work(user(), replace(CELL, iterations=5), 1, PERSONA).key == key


def test_the_answers_key(method: PersonaAgentMethod) -> None:
    key = method.answer_work(QUERY, user(), CELL, PERSONA).key
    same = [
        method.answer_work(replace(QUERY, gold="action"), user(), CELL, PERSONA).key,
        method.answer_work(QUERY, user(), replace(CELL, batch_size=5, iterations=2), PERSONA).key,
        other_models(method, align_name="x").answer_work(QUERY, user(), CELL, PERSONA).key,
    ]
    others = [
        method.answer_work(replace(QUERY, id="q2"), user(), CELL, PERSONA).key,
        method.answer_work(replace(QUERY, input="what tag?"), user(), CELL, PERSONA).key,
        replace(method).answer_work(QUERY, user(3), CELL, PERSONA).key,
        method.answer_work(QUERY, user(user_id="bob"), CELL, PERSONA).key,
        method.answer_work(QUERY, user(), CELL, Persona("serve badly")).key,
        *(
            method.answer_work(QUERY, user(), replace(CELL, **change), PERSONA).key
            for change in ({"memories": 0}, {"memories": 1}, {"seed": 1}, {"lm": "other/lm"})
        ),
        replace(method, prompts=Prompts(recall="x")).answer_work(QUERY, user(), CELL, PERSONA).key,
        replace(method, wikipedia="http://w").answer_work(QUERY, user(), CELL, PERSONA).key,
        other_models(method, api_base="http://x").answer_work(QUERY, user(), CELL, PERSONA).key,
    ]
    assert set(same) == {key}
    assert len({key, *others}) == 1 + len(others)


def test_without_memories_an_answer_does_not_depend_on_whose_they_would_be(method: PersonaAgentMethod) -> None:
    cell = replace(CELL, memories=0)
    keys = {method.answer_work(QUERY, who, cell, PERSONA).key for who in (user(), user(3), user(user_id="bob"))}
    assert len(keys) == 1


def test_an_empty_history_is_asked_about_in_no_call(method: PersonaAgentMethod) -> None:
    for work in (method.profile_work(user(0), CELL), method.step_work(user(0), CELL, 1, PERSONA)):
        assert (work.worst_case, work.expected_calls) == (0, 0)
    assert method.profile_work(user(0), CELL).run() == {"profile": ""}
    method.store.add(user(0).history)
    assert Persona(**method.step_work(user(0), CELL, 1, PERSONA).run()["after"]) == PERSONA


def test_the_worst_case_of_the_offline_reader_is_what_it_takes(method: PersonaAgentMethod) -> None:
    cell = replace(CELL, lm="offline")
    works = [
        method.profile_work(user(), cell),
        method.step_work(user(9), cell, 1, PERSONA),
        method.answer_work(QUERY, user(), cell, PERSONA),
    ]
    assert [w.worst_case for w in works] == [w.expected_calls for w in works] == [1, 3 * 4 + 1, 3]


def test_a_swap_is_served_by_the_next_cyclically() -> None:
    users = [user(user_id=name) for name in "abc"]
    assert {k: v.user_id for k, v in swapped(users, "swap").items()} == {"a": "b", "b": "c", "c": "a"}
    assert {k: v.user_id for k, v in swapped(users, "none").items()} == {"a": "a", "b": "b", "c": "c"}
