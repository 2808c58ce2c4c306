"""The registry: each setting of a study reaches every baseline that has it."""

from __future__ import annotations

from typing import Any

import pytest

from personaagent.programs.baselines import BASELINES, Setup, make_baseline
from personaagent.programs.errors import InputError

TAKES = {
    "memories": (2, ["rag", "pag", "memory-bank"]),
    "search_text": (str.upper, ["rag", "pag", "memory-bank"]),
    "examples": (3, ["icl"]),
    "seed": (5, ["icl", "memory-bank"]),
    "dates": (7, ["memory-bank"]),
    "curve": ("published", ["memory-bank"]),
    "clock": ("days", ["memory-bank"]),
    "items_per_day": (9, ["memory-bank"]),
}


@pytest.fixture
def made(store: Any) -> dict[str, Any]:
    """Every baseline with nothing at its default."""
    own = {name: value for name, (value, _) in TAKES.items()}
    setup = Setup(
        "first, question -> other, verdict",
        store,
        max_iters=3,
        query="question",
        response="verdict",
        summary_instruction="S_t",
        **own,  # type: ignore[arg-type]
    )
    return {name: make_baseline(name, setup) for name in BASELINES}


@pytest.mark.parametrize("setting", TAKES)
def test_a_setting_reaches_the_methods_that_have_it(made: dict[str, Any], setting: str) -> None:
    value, methods = TAKES[setting]
    assert {name: getattr(made[name], setting) for name in methods} == dict.fromkeys(methods, value)


@pytest.mark.parametrize("name", BASELINES)
def test_every_method_has_the_same_question_answer_and_budget(made: dict[str, Any], name: str) -> None:
    answer = made[name].answer
    assert (answer.query_field, answer.response_field, answer.max_iters) == ("question", "verdict", 3)


@pytest.mark.parametrize("name", ["react", "no-persona"])
def test_recall_returns_as_many_as_in_all_methods(made: dict[str, Any], name: str) -> None:
    assert made[name].answer.memories == 2


@pytest.mark.parametrize("name", ["pag", "no-persona"])
def test_the_profile_is_of_the_tasks_instruction(made: dict[str, Any], name: str) -> None:
    assert made[name].semantic.summarize.signature.instructions == "S_t"


def test_a_setting_out_of_range_is_refused_by_the_method_that_has_it(store: Any) -> None:
    setup = Setup("query -> response", store, examples=0, dates=-1)
    make_baseline("rag", setup)
    for name, rule in (("icl", "examples must be an integer from 1"), ("memory-bank", "dates must be an integer from")):
        with pytest.raises(InputError, match=rule):
            make_baseline(name, setup)
