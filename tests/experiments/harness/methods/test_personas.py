"""A unit's key depends on everything that its answer depends on, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from personaagent.datasets.lamp.tasks import LAMP_2M
from personaagent.datasets.task import Query
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.methods.base import Models, Setting, Work
from personaagent.experiments.harness.methods.personas import PersonaMethod
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

CELL = Cell("lamp-2m", "persona-agent", "some/lm", 3, 1, 4)
QUERY = Query("q1", "which tag?", "comedy")
PERSONA = Persona("serve well")


def user(count: int = 2, user_id: str = "ann", tag: str = "comedy", queries: int = 1) -> Subject:
    items = [{"id": str(i), "description": f"film {i}", "tag": tag, "date": "2010"} for i in range(count)]
    history = tuple(LAMP_2M.interaction(user_id, item, i) for i, item in enumerate(items))
    return Subject(user_id, history, (QUERY, *(Query(f"more{i}", "which?", "action") for i in range(1, queries))))


@pytest.fixture
def method(encoder: Any, scripted: Any) -> PersonaMethod:
    lm, _ = scripted()
    models = Models({CELL.lm: lm}, None, None, None, None, 0.1)
    return PersonaMethod(Setting(LAMP_2M, MemoryStore(encoder=encoder), models, Prompts(), True, "off", None, 1))


def other(method: PersonaMethod, **changes: Any) -> PersonaMethod:
    return replace(method, setting=replace(method.setting, **changes))


def other_models(method: PersonaMethod, **changes: Any) -> PersonaMethod:
    return other(method, models=replace(method.setting.models, **changes))


def learning(method: PersonaMethod, subject: Subject, cell: Cell = CELL) -> Work:
    work = method.learning(subject, cell)
    assert work is not None
    return work


def test_the_profiles_key(method: PersonaMethod) -> None:
    key = learning(method, user(), CELL).key
    same = [
        learning(method, user(), replace(CELL, batch_size=5, iterations=2, memories=0)).key,
        learning(other_models(method, align_name="x", align_api_base="http://x"), user(), CELL).key,
        learning(other(method, workers=8), user(), CELL).key,
    ]
    others = [
        learning(method, user(3), CELL).key,
        learning(method, user(user_id="bob"), CELL).key,
        learning(method, user(tag="action"), CELL).key,
        learning(method, user(), replace(CELL, lm="other/lm")).key,
        learning(method, user(), replace(CELL, seed=1)).key,
        learning(other(method, prompts=Prompts(summary="x")), user(), CELL).key,
        learning(other_models(method, temperature=0.2), user(), CELL).key,
        learning(other_models(method, api_base="http://x"), user(), CELL).key,
    ]
    assert set(same) == {key}
    assert len({key, *others}) == 1 + len(others)


def test_the_steps_key(method: PersonaMethod) -> None:
    key = method.step(user(), CELL, 1, PERSONA).key
    others = [
        method.step(user(3), CELL, 1, PERSONA).key,
        method.step(user(user_id="bob"), CELL, 1, PERSONA).key,
        method.step(user(), CELL, 2, PERSONA).key,
        method.step(user(), CELL, 1, Persona("serve badly")).key,
        method.step(user(), CELL, 1, Persona("serve well", parent="p")).key,
        *(
            method.step(user(), replace(CELL, **change), 1, PERSONA).key
            for change in ({"batch_size": 1}, {"memories": 1}, {"seed": 1}, {"lm": "other/lm"})
        ),
        other(method, prompts=Prompts(update="x")).step(user(), CELL, 1, PERSONA).key,
        other(method, wikipedia="http://w").step(user(), CELL, 1, PERSONA).key,
        other_models(method, align_name="x").step(user(), CELL, 1, PERSONA).key,
        other_models(method, align_api_base="http://x").step(user(), CELL, 1, PERSONA).key,
        other_models(method, temperature=0.2).step(user(), CELL, 1, PERSONA).key,
    ]
    assert len({key, *others}) == 1 + len(others)
    assert method.step(user(), replace(CELL, iterations=5), 1, PERSONA).key == key
    # Of two interactions a batch of three is one of five.
    assert method.step(user(), replace(CELL, batch_size=5), 1, PERSONA).key == key


def test_the_answers_key(method: PersonaMethod) -> None:
    key = method.answer(QUERY, user(), CELL, PERSONA).key
    same = [
        method.answer(replace(QUERY, gold="action"), user(), CELL, PERSONA).key,
        method.answer(QUERY, user(), replace(CELL, batch_size=5, iterations=2), PERSONA).key,
        other_models(method, align_name="x").answer(QUERY, user(), CELL, PERSONA).key,
    ]
    others = [
        method.answer(replace(QUERY, id="q2"), user(), CELL, PERSONA).key,
        method.answer(replace(QUERY, input="what tag?"), user(), CELL, PERSONA).key,
        method.answer(QUERY, user(3), CELL, PERSONA).key,
        method.answer(QUERY, user(user_id="bob"), CELL, PERSONA).key,
        method.answer(QUERY, user(), CELL, Persona("serve badly")).key,
        *(
            method.answer(QUERY, user(), replace(CELL, **change), PERSONA).key
            for change in ({"memories": 0}, {"memories": 1}, {"seed": 1}, {"lm": "other/lm"})
        ),
        other(method, prompts=Prompts(recall="x")).answer(QUERY, user(), CELL, PERSONA).key,
        other(method, wikipedia="http://w").answer(QUERY, user(), CELL, PERSONA).key,
        other_models(method, api_base="http://x").answer(QUERY, user(), CELL, PERSONA).key,
    ]
    assert set(same) == {key}
    assert len({key, *others}) == 1 + len(others)


def test_without_memories_an_answer_does_not_depend_on_whose_they_would_be(method: PersonaMethod) -> None:
    cell = replace(CELL, memories=0)
    keys = {method.answer(QUERY, who, cell, PERSONA).key for who in (user(), user(3), user(user_id="bob"))}
    assert len(keys) == 1


def test_an_empty_history_is_asked_about_in_no_call(method: PersonaMethod) -> None:
    for work in (learning(method, user(0)), method.step(user(0), CELL, 1, PERSONA)):
        assert (work.worst_case, work.expected_calls) == (0, 0)
    assert learning(method, user(0), CELL).run() == {"profile": ""}
    method.setting.store.add(user(0).history)
    assert Persona(**method.step(user(0), CELL, 1, PERSONA).run()["after"]) == PERSONA


def test_the_worst_case_of_the_offline_reader_is_what_it_takes(method: PersonaMethod) -> None:
    cell = replace(CELL, lm="offline")
    works = [
        learning(method, user(), cell),
        method.step(user(9), cell, 1, PERSONA),
        method.answer(QUERY, user(), cell, PERSONA),
    ]
    assert [w.worst_case for w in works] == [w.expected_calls for w in works] == [1, 3 * 4 + 1, 3]
