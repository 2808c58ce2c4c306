"""What a metric may be, what the critic is told of what it says, and what becomes of one that fails."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import dspy
import pytest

from personaagent.optimizers import PersonaAlignment
from personaagent.optimizers.metric import compared
from personaagent.programs import personalize
from personaagent.programs.errors import InputError

GOLD = dspy.Example(question="q?", answer="a", gold_id=7).with_inputs("question")


class Judge(dspy.Module):
    def forward(self, example: Any, prediction: Any, trace: Any = None) -> Any:
        return dspy.Prediction(score=0.5, feedback="by a module")


class SpeechlessError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def fails(error: Exception) -> Any:
    def metric(example: Any, prediction: Any) -> float:
        raise error

    return metric


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (lambda example, prediction: 0.5, "score 0.500"),
        (lambda example, prediction, trace: True, "score 1.000"),
        (lambda gold, pred, trace, pred_name, pred_trace: dspy.Prediction(score=0, feedback="fb"), "fb"),
        (lambda *both: dspy.Prediction(score=0.25), "score 0.250"),
        (lambda example, prediction: dspy.Prediction(score=0.25, feedback=""), "score 0.250"),
        (lambda example, prediction: dspy.Prediction(score=float("nan"), feedback="fb"), "fb"),
        (lambda example, prediction: {"score": 1, "feedback": "of a dictionary"}, "of a dictionary"),
        (lambda example, prediction: {"score": 0.5}, "score 0.500"),
        (lambda example, prediction: {"score": 0.5, "feedback": " "}, "score 0.500"),
        (lambda example, prediction: {"feedback": "alone"}, "alone"),
        (Judge(), "by a module"),
        (dspy.evaluate.answer_exact_match, "score 1.000"),
    ],
)
def test_any_metric_of_dspys_is_understood(metric: Any, says: str) -> None:
    assert compared(metric, GOLD, dspy.Prediction(answer="a")) == (says, None)


@pytest.mark.parametrize(
    "returned",
    [None, "good", {"feedback": ""}, {}, {"score": None}, float("nan"), float("-inf"), 10**400, dspy.Prediction(a=1)],
)
def test_what_is_of_no_use_is_a_fault(returned: Any) -> None:
    text, fault = compared(lambda example, prediction: returned, GOLD, "rollout")
    assert text is None and re.fullmatch("the metric returned .*: no finite score, and no feedback", fault or "")
    assert len(fault or "") < 300


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ValueError("no\nnumber"), "the metric failed: ValueError: no number"),
        (StopIteration(), "the metric failed: StopIteration: no message"),
        (SpeechlessError(), "the metric failed: SpeechlessError: no message"),
    ],
)
def test_what_a_metric_raises_is_a_fault(error: Exception, fault: str) -> None:
    assert compared(fails(error), GOLD, "rollout") == (None, fault)


@pytest.mark.parametrize("declared", [True, False])
def test_a_metric_sees_the_example_as_it_was_given(scripted: Any, declared: bool) -> None:
    seen: list[Any] = []
    example = dspy.Example(question="q?", answer=["a"], gold_id=7)
    example = example.with_inputs("question") if declared else example
    student = personalize(dspy.Predict("question -> answer: list[str]")).for_user("ann")
    with dspy.context(lm=scripted(lambda call: dict.fromkeys(call.outputs, '["b"]'))[0]):
        PersonaAlignment(1, metric=lambda e, p: seen.append((e, p)) or 1.0).compile(student, trainset=[example])
    [(gold, prediction)] = seen
    assert (gold.answer, gold.gold_id, prediction.answer) == (["a"], 7, ["b"])
    assert gold.inputs().toDict() == {"question": "q?"}


# -- in an alignment ------------------------------------------------------------------------------


def aligned(scripted: Any, metric: Any, **options: Any) -> tuple[Any, list[str]]:
    """The first step, and the critic's prompts."""
    lm, engine = scripted()
    examples = [dspy.Example(question=f"question {i}", answer=f"answer {i}").with_inputs("question") for i in range(3)]
    student = personalize(dspy.Predict("question -> answer")).for_user("ann")
    with dspy.context(lm=lm):
        made = PersonaAlignment(3, 2, metric=metric, **options).compile(student, trainset=examples)
    assert made.persona.version == 1
    return made.alignment_steps[0], sorted(call.text for call in engine.calls if call.role == "gradient")


def test_a_metric_that_raises_is_left_out_recorded_and_warned_of_once(
    scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        step, prompts = aligned(scripted, fails(ValueError("no number")), show_trajectory=True)
    fault = "the metric failed: ValueError: no number"
    assert [(s.metric_fault, s.fault, bool(s.feedback)) for s in step.batch] == [(fault, None, True)] * 3
    assert json.loads(json.dumps(step.to_dict()))["batch"][0]["metric_fault"] == fault
    assert prompts == aligned(scripted, None, show_trajectory=True)[1]
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("personaagent")]
    assert warnings == [
        f"iteration 1, 3 of 3 answers were criticised without the metric; interaction trainset[0]: {fault}"
    ]


def test_only_the_interaction_that_a_metric_fails_on_goes_without(scripted: Any) -> None:
    def metric(example: Any, prediction: Any) -> float:
        return float("nan") if example.question == "question 1" else 0.5

    step, prompts = aligned(scripted, metric)
    returned = "the metric returned nan: no finite score, and no feedback"
    assert [s.metric_fault for s in step.batch] == [None, returned, None]
    assert ["score 0.500" in prompt for prompt in prompts].count(True) == 4  # of two iterations
    assert not any("nan" in prompt for prompt in prompts)


# -- what is refused ------------------------------------------------------------------------------


async def asynchronous(example: Any, prediction: Any) -> float:
    return 1.0


class AsyncJudge:
    async def __call__(self, example: Any, prediction: Any) -> float:
        return 1.0


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("f1", "metric must be a function of .* but got 'f1'"),
        (lambda prediction: 1.0, r"metric must take \(example, prediction\).* takes \(prediction\)"),
        (lambda *, example, prediction: 1.0, "metric must take"),
        (lambda a, b, c, d, e, f: 1.0, "metric must take"),
        (asynchronous, "plain function, but asynchronous is asynchronous"),
        (AsyncJudge(), "plain function, but AsyncJudge is asynchronous"),
    ],
)
def test_what_cannot_be_called_as_a_metric_is_refused(metric: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        PersonaAlignment(metric=metric)
