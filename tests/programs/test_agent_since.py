"""PersonaAgent.since: a memory that holds nothing older than one interaction."""

from __future__ import annotations

import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest

from personaagent.programs.agent import PersonaAgent
from personaagent.programs.errors import InputError, PersonaAgentError
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona


def interactions(user: str, count: int = 6) -> list[Interaction]:
    """All on one day: only the ordinal tells their order."""
    return [
        Interaction(user, f"{user}-{i}", f"question {i} of {user}", f"answer {i} of {user}", "2020-01-01", i)
        for i in range(count)
    ]


@pytest.fixture
def store(encoder: Any) -> MemoryStore:
    made = MemoryStore(encoder=encoder)
    for user in ("ann", "bob"):
        made.add(interactions(user))
    return made


@pytest.fixture
def agent(store: MemoryStore) -> PersonaAgent:
    return PersonaAgent("query -> response", memory=store, memories=10)


def recalled(handle: PersonaAgent, lm: Any) -> list[str]:
    with dspy.context(lm=lm):
        return sorted(handle(query="q?").recalled)


def test_since_hides_what_is_older_and_not_itself(agent: PersonaAgent, store: MemoryStore, scripted: Any) -> None:
    lm, engine = scripted()
    for n, oldest in enumerate(store.interactions("ann")):
        for place in (oldest, oldest.position):
            engine.calls.clear()
            handle = agent.for_user("ann").since(place)
            assert recalled(handle, lm) == [f"ann-{i}" for i in range(n, 6)]
            assert [i.id for i in handle.interactions()] == [f"ann-{i}" for i in range(n, 6)]
            assert not any(f"answer {i} of ann" in call.user for call in engine.calls for i in range(n))


def test_async_answers_are_bound_too(agent: PersonaAgent, store: MemoryStore, scripted: Any) -> None:
    handle = agent.for_user("ann").since(store.interactions("ann")[4])

    async def ask() -> list[str]:
        with dspy.context(lm=scripted()[0]):
            return sorted((await handle.acall(query="q?")).recalled)

    assert asyncio.run(ask()) == ["ann-4", "ann-5"]


def test_with_as_of_it_leaves_what_lies_between_in_either_order(
    agent: PersonaAgent, store: MemoryStore, scripted: Any
) -> None:
    lm, _ = scripted()
    history = store.interactions("ann")
    ann = agent.for_user("ann")
    for since in range(6):
        for before in range(6):
            expected = [f"ann-{i}" for i in range(since, before)]
            for handle in (
                ann.since(history[since]).as_of(history[before]),
                ann.as_of(history[before]).since(history[since]),
            ):
                assert recalled(handle, lm) == expected
                assert [i.id for i in handle.interactions()] == expected


def test_the_bound_is_kept_by_every_handle_made_of_it_until_it_is_taken_away(
    store: MemoryStore, scripted: Any, encoder: Any, tmp_path: Path
) -> None:
    on_disk = MemoryStore(f"sqlite:///{tmp_path / 'memory.db'}", encoder)
    on_disk.add(interactions("ann"))
    handle = (
        PersonaAgent("query -> response", memory=on_disk, memories=10).for_user("ann").since(interactions("ann")[4])
    )
    lm, _ = scripted()
    kept = {
        "with_persona": handle.with_persona(Persona("Another.")),
        "as_of": handle.as_of(Position("2020-01-01", 9)),
        "as_of(None)": handle.as_of(None),
        "copy": copy.copy(handle),
        "deepcopy": copy.deepcopy(handle),
        "dspy's": handle.deepcopy(),
        "reset": handle.reset_copy(),
        "pickled": pickle.loads(cloudpickle.dumps(handle)),
    }
    for name, made in kept.items():
        assert recalled(made, lm) == ["ann-4", "ann-5"], name
    assert len(recalled(handle.since(None), lm)) == 6
    assert recalled(handle, lm) == ["ann-4", "ann-5"]
    assert recalled(handle.since(interactions("ann")[5]), lm) == ["ann-5"]


def test_one_users_bound_goes_to_no_other(agent: PersonaAgent, store: MemoryStore, scripted: Any) -> None:
    ann = agent.for_user("ann").since(store.interactions("ann")[4])
    assert len(recalled(ann.for_user("bob"), scripted()[0])) == 6
    assert len(recalled(agent.for_user("ann"), scripted()[0])) == 6


def test_what_is_recorded_later_is_found(agent: PersonaAgent, store: MemoryStore, scripted: Any) -> None:
    handle = agent.for_user("ann").since(store.interactions("ann")[5])
    handle.record("q6", "a6", id="new", timestamp="2020-01-02")
    assert recalled(handle, scripted()[0]) == ["ann-5", "new"]


def test_a_place_in_the_order_is_asked_for(agent: PersonaAgent) -> None:
    handle = agent.for_user("ann")
    for wrong in ("2020", 3, ("2020", 3), ["ann-1"]):
        with pytest.raises(InputError, match="oldest must be an Interaction, a Position or None"):
            handle.since(wrong)  # type: ignore[arg-type]


def test_an_interaction_without_an_ordinal_has_no_place(agent: PersonaAgent) -> None:
    handle = agent.for_user("ann").since(Interaction("ann", "new", "q", "r"))
    with pytest.raises(InputError, match="no ordinal yet"):
        handle.interactions()


def test_interactions_need_a_memory_and_a_user(agent: PersonaAgent, store: MemoryStore) -> None:
    assert agent.for_user("ann").interactions() == store.interactions("ann")
    assert agent.for_user("new").interactions() == []
    with pytest.raises(PersonaAgentError, match="has no memory"):
        PersonaAgent("query -> response").for_user("ann").interactions()
    with pytest.raises(PersonaAgentError, match="serves no user"):
        agent.interactions()
