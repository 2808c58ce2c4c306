"""What a question cost, wherever it ran."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest

from personaagent.programs.lm.meter import metering
from personaagent.programs.spending import Spent, is_measured, mark_measured, spending

ASK = dspy.Predict("question -> answer")


def test_calls_and_tokens_of_threads_and_tasks_are_counted(scripted: Any) -> None:
    async def later() -> None:
        await asyncio.gather(*(ASK.acall(question="q") for _ in range(2)))
        await dspy.asyncify(ASK)(question="q")

    with dspy.context(lm=scripted()[0]), dspy.track_usage() as outer, spending() as spent:
        ASK(question="q")
        dspy.Parallel(num_threads=2, disable_progress_bar=True)([(ASK, {"question": "q"})] * 3)
        asyncio.run(later())
    assert (spent.lm_calls, spent.prompt_tokens, spent.completion_tokens) == (7, 700, 140)
    assert spent.seconds > 0
    assert outer.get_total_tokens()["scripted"]["prompt_tokens"] == 700


def test_blocks_nest_and_what_fails_is_counted(scripted: Any) -> None:
    with dspy.context(lm=scripted()[0]), spending() as outer:
        with pytest.raises(ZeroDivisionError), spending() as inner:
            ASK(question="q")
            raise ZeroDivisionError
        ASK(question="q")
    assert (inner.lm_calls, outer.lm_calls, outer.prompt_tokens) == (1, 2, 200)
    assert Spent() == Spent(0, 0, 0, 0.0)


def test_calls_that_report_nothing_are_counted() -> None:
    lm = dspy.utils.DummyLM([{"answer": "a"}] * 2)
    with dspy.context(lm=lm), metering() as metered, spending() as spent:
        ASK(question="q")
        ASK(question="q")
    assert (spent.lm_calls, metered.lm_calls) == (2, 0)


def test_a_mark_is_no_field() -> None:
    prediction = dspy.Prediction(answer="a")
    assert not is_measured(prediction)
    mark_measured(prediction)
    assert is_measured(prediction) and prediction.toDict() == {"answer": "a"}
    assert not is_measured(dspy.Prediction(_measured="text"))
