"""A trainset that cannot be used is refused before anything is asked, by the index of what is wrong in it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import dspy
import numpy as np
import pydantic
import pytest

from personaagent.optimizers import PersonaAlignment
from personaagent.programs import Interaction, personalize
from personaagent.programs.errors import InputError


def example(**changed: Any) -> dspy.Example:
    place = {"interaction_id": "i", "timestamp": "2020-01-01", "ordinal": 0}
    return dspy.Example(**{"question": "q?", "answer": "a", **place, **changed}).with_inputs("question")


def align(trainset: Any, scripted: Any, batch_size: int = 3, answer: str = "str") -> tuple[Any, list[Any]]:
    lm, engine = scripted(lambda call: dict.fromkeys(call.outputs, "1"))
    student = personalize(dspy.Predict(f"question -> answer: {answer}")).for_user("ann")
    with dspy.context(lm=lm):
        return PersonaAlignment(batch_size).compile(student, trainset=trainset), engine.calls


REFUSED: list[tuple[Any, str]] = [
    (None, "trainset must be a list of dspy.Example, but is of type NoneType"),
    (example(), "trainset must be a list of dspy.Example, but is of type Example"),
    ("examples.json", "but is of type str"),
    (7, "but is of type int"),
    ([example(), {"question": "q?", "answer": "a"}], r"trainset\[1\] must be a dspy.Example, but is of type dict"),
    ([Interaction("ann", "i", "q?", "a")], r"trainset\[0\] must be a dspy.Example, but is of type Interaction"),
    ([example(), dspy.Example(question="q?")], r"trainset\[1\] has no field 'answer'"),
    ([example(), example(ordinal="x")], r"trainset\[1\]: ordinal must be an integer from 0.*but got 'x'"),
    ([example(ordinal=1.5)], r"trainset\[0\]: ordinal"),
    ([example(ordinal=-1)], r"trainset\[0\]: ordinal"),
    ([example(ordinal=True)], r"trainset\[0\]: ordinal"),
    ([example(ordinal="x", interaction_id=None)], r"trainset\[0\]: ordinal"),
    ([example(), example(timestamp="yesterday")], r"trainset\[1\]: timestamp must be ISO 8601.*'yesterday'"),
    ([example(timestamp="2020-02-30", interaction_id=None)], r"trainset\[0\]: timestamp '2020-02-30' names no real"),
    ([example(timestamp=1.5, ordinal=None)], r"trainset\[0\]: timestamp"),
    ([example(interaction_id=" ")], r"trainset\[0\]: Interaction.id must be text and not empty"),
    ([example(answer=None)], r"trainset\[0\] must have in 'answer' what the user really answered, but it is None"),
    ([example(), example(user_id="bob")], r"trainset\[1\]: it is of user 'bob', and the student serves 'ann'"),
]


@pytest.mark.parametrize(("trainset", "says"), REFUSED)
def test_what_cannot_be_used_is_named_before_anything_is_asked(trainset: Any, says: str, scripted: Any) -> None:
    calls: list[Any] = []
    with pytest.raises(InputError, match=says):
        calls = align(trainset, scripted)[1]
    assert not calls


class Tag(pydantic.BaseModel):
    name: str


@pytest.mark.parametrize("owner", ["ann", None, float("nan"), "", " "])
def test_an_example_of_the_user_or_of_nobody_will_do(owner: Any, scripted: Any) -> None:
    assert align([example(user_id=owner)], scripted)[0].alignment_steps[0].batch[0].feedback


@pytest.mark.parametrize("answer", ["", 0, False, [], {}, Tag(name="x")])
def test_an_answer_of_any_type_is_one(answer: Any, scripted: Any) -> None:
    made, _ = align([example(answer=answer)], scripted)
    assert made.alignment_steps[0].batch[0].feedback


@pytest.mark.parametrize("trainset", [(example(),), (e for e in [example()]), {"a": example()}.values()])
def test_any_collection_of_examples_will_do(trainset: Any, scripted: Any) -> None:
    assert len(align(trainset, scripted)[0].alignment_steps[0].batch) == 1


def test_an_older_interaction_without_an_answer_is_none_of_the_batchs(scripted: Any) -> None:
    trainset = [example(ordinal=0, answer=""), example(interaction_id="later", ordinal=np.int64(1))]
    [step] = align(trainset, scripted, batch_size=1)[0].alignment_steps
    assert [s.interaction_id for s in step.batch] == ["later"]


def test_places_are_those_of_any_source(scripted: Any) -> None:
    trainset = [
        example(interaction_id="c", timestamp=datetime(2020, 1, 2)),
        example(interaction_id="b", timestamp="2020-01-01", ordinal=np.int32(5)),
        example(interaction_id=None, timestamp=2019, ordinal=np.int32(7)),
    ]
    [step] = align(trainset, scripted)[0].alignment_steps
    assert [s.interaction_id for s in step.batch] == ["trainset[2]", "b", "c"]
