"""The equal-cost controls: what alignment's LM calls buy otherwise, and which of several answers counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from personaagent.datasets.lamp.tasks import LAMP_2M, LAMP_3, LAMP_5
from personaagent.datasets.task import Query, Task
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.journal import Unit
from personaagent.experiments.harness.methods.base import Models, Setting
from personaagent.experiments.harness.methods.personas import MoreMemories, PersonaMethod, Votes
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.lm.meter import Usage
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

CELL = Cell("lamp-2m", "persona-agent", "some/lm", 3, 1, 4)
PERSONA = Persona("serve well")


@pytest.fixture
def setting(encoder: Any) -> Setting:
    models = Models({}, None, None, None, None, 0.1)
    return Setting(LAMP_2M, MemoryStore(encoder=encoder), models, Prompts(), True, "off", None, 1)


def subject(history: int = 9, queries: int = 3) -> Subject:
    items = [{"id": str(i), "description": f"film {i}", "tag": "comedy", "date": "2010"} for i in range(history)]
    asked = tuple(Query(f"q{i}", f"question {i}", "comedy") for i in range(queries))
    return Subject("ann", tuple(LAMP_2M.interaction("ann", item, i) for i, item in enumerate(items)), asked)


# -- which answer counts --------------------------------------------------------------------------


def counted(setting: Setting, task: Task, raws: Sequence[str | None]) -> str:
    """The key of the unit whose answer counts; None is a sample that failed."""
    units = [
        Unit(
            str(i), "answer", {} if raw is None else {"raw": raw}, "out of order" if raw is None else None, Usage(), 1.0
        )
        for i, raw in enumerate(raws)
    ]
    return Votes(replace(setting, task=task)).decided(units).key


LABELS: list[tuple[list[str | None], str]] = [
    (["comedy"], "0"),
    (["action", "comedy", "comedy"], "1"),
    (["comedy", "action"], "0"),
    (["action", "comedy", "comedy", "action"], "0"),
    (["action", "comedy", "The tag is: comedy."], "1"),
    (["no idea", "no idea", "action"], "2"),
    (["no idea", "nor I"], "0"),
    ([None, "action", None], "1"),
    ([None, "action", "comedy", "comedy"], "2"),
    ([None, "no idea", "comedy"], "2"),
    ([None, "no idea"], "1"),
    ([None, None], "0"),
]


@pytest.mark.parametrize(("raws", "expected"), LABELS, ids=[str(raws) for raws, _ in LABELS])
def test_labels_are_voted_on_and_ties_go_to_the_answer_that_was_given_first(
    setting: Setting, raws: list[str | None], expected: str
) -> None:
    assert counted(setting, LAMP_2M, raws) == expected


def test_ratings_are_voted_on_as_labels(setting: Setting) -> None:
    """The mean of 1, 5 and 5 is none of them."""
    assert counted(setting, LAMP_3, ["1", "5", "5 stars"]) == "1"
    assert counted(setting, LAMP_3, ["4", "1", "none"]) == "0"


TEXTS: list[tuple[list[str | None], str]] = [
    (["alone"], "0"),
    (["red fish", "blue whale", "red whale"], "2"),
    (["a b", "c d", "c d"], "1"),
    (["a b", "c d"], "0"),
    (["", "a b", "c d"], "1"),
    (["", ""], "0"),
    ([None, "a b", "c d e", "c d"], "2"),
    ([None, "", "a b"], "2"),
    ([None, None], "0"),
]


@pytest.mark.parametrize(("raws", "expected"), TEXTS, ids=[str(raws) for raws, _ in TEXTS])
def test_of_texts_the_one_that_is_most_like_the_others_counts(
    setting: Setting, raws: list[str | None], expected: str
) -> None:
    """By the task's own metric, each as if it were the others' gold; ties go to the first that can be read."""
    assert counted(setting, LAMP_5, raws) == expected


def test_of_numbers_without_labels_the_one_with_the_least_error_to_the_others_counts(setting: Setting) -> None:
    class Numbers:
        labels, higher_is_better = (), False

        def parse(self, raw: str) -> str | None:
            return raw if raw.isdigit() else None

        def score(self, gold: str, prediction: str | None) -> float:
            return 100.0 if prediction is None else abs(float(gold) - float(prediction))

    task: Any = Numbers()
    assert counted(setting, task, ["9", "1", "x", "4", "3"]) == "3"
    assert counted(setting, task, ["x", "9", "1"]) == "1"


# -- what it costs --------------------------------------------------------------------------------


def cost(method: PersonaMethod, who: Subject, cell: Cell) -> int:
    """LM calls of a user, if nothing goes wrong."""
    steps = method.iterations(cell) * method.step_calls(who, cell)
    return steps + sum(
        work.expected_calls for query in who.queries for work in method.answers(query, who, cell, PERSONA)
    )


CELLS = [replace(CELL, batch_size=n, iterations=e, memories=k) for n in (1, 3, 5) for e in (1, 3) for k in (0, 1, 4)]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"n{cell.batch_size}-e{cell.iterations}-k{cell.memories}")
@pytest.mark.parametrize("queries", [1, 2, 5])
@pytest.mark.parametrize("history", [0, 2, 9])
def test_votes_take_as_many_calls_as_alignment_and_less_than_a_question_more(
    setting: Setting, cell: Cell, queries: int, history: int
) -> None:
    who, votes = subject(history, queries), Votes(setting)
    aligned = cost(PersonaMethod(setting), who, cell)
    assert aligned <= cost(votes, who, cell) < aligned + votes.answer_calls(cell)
    counts = [len(votes.answers(query, who, cell, PERSONA)) for query in who.queries]
    assert counts == sorted(counts, reverse=True) and counts[0] - counts[-1] <= 1
    assert votes.iterations(cell) == 0
    assert history or set(counts) == {1}, "without a history there is no alignment to pay for"


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.memories], ids=str)
@pytest.mark.parametrize("queries", [1, 3])
def test_more_memories_are_what_the_calls_of_alignment_would_have_retrieved(
    setting: Setting, cell: Cell, queries: int
) -> None:
    who, more = subject(9, queries), MoreMemories(setting)
    serving = queries * 3
    expected = math.ceil(cell.memories * (serving + cell.iterations * (4 * cell.batch_size + 1)) / serving)
    assert more.memories(who, cell) == expected > cell.memories
    works = [work for query in who.queries for work in more.answers(query, who, cell, PERSONA)]
    same = PersonaMethod(setting).answers(who.queries[0], who, replace(cell, memories=expected), PERSONA)
    assert works[0].key == same[0].key and len(works) == queries
    assert more.memories(subject(0, queries), cell) == cell.memories
    assert more.iterations(cell) == 0


def test_the_first_sample_is_the_answer_without_alignment_and_no_other_is_shared(setting: Setting) -> None:
    who, votes = subject(), Votes(setting)
    keys = [[work.key for work in votes.answers(query, who, CELL, PERSONA)] for query in who.queries]
    plain = PersonaMethod(setting)
    alone = replace(CELL, method="no-alignment", batch_size=0, iterations=0)
    assert [of_one[0] for of_one in keys] == [plain.answer(query, who, alone, PERSONA).key for query in who.queries]
    assert len({key for of_one in keys for key in of_one}) == sum(map(len, keys)) > len(keys)
    # A cell that can pay for more asks for those and others.
    richer = [work.key for work in votes.answers(who.queries[0], who, replace(CELL, iterations=3), PERSONA)]
    assert richer[: len(keys[0])] == keys[0] and len(richer) > len(keys[0])
