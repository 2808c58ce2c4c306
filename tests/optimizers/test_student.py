"""How examples and answers of any program are read."""

from __future__ import annotations

from typing import Any, Literal

import dspy
import pydantic
import pytest

from personaagent.optimizers.student import Student, answer_of, batch_item, readable
from personaagent.programs import Interaction, PersonaAgent, personalize
from personaagent.programs.errors import InputError


class Person(pydantic.BaseModel):
    name: str
    role: Literal["author"] | None = None


def student(signature: str = "question, context: list[str] -> answer", **options: Any) -> Any:
    return personalize(dspy.Predict(signature), **options).for_user("ann")


def item(example: dspy.Example, of: Any = None) -> Any:
    return batch_item(of or student(), example, 0)


def test_what_is_a_student() -> None:
    assert isinstance(student(), Student) and isinstance(PersonaAgent("a -> b").for_user("ann"), Student)
    assert not isinstance(dspy.Predict("a -> b"), Student)


def test_with_one_input_the_critic_reads_it_alone() -> None:
    made = item(dspy.Example(question="q?", answer="a").with_inputs("question"))
    assert (made.question, made.expected, made.inputs) == ("q?", "a", {"question": "q?"})


def test_with_several_the_critic_reads_them_all_the_query_first() -> None:
    example = dspy.Example(context=["é «1»", "2"], question="q?", answer="a").with_inputs("context", "question")
    made = item(example)
    assert made.question == 'question: q?\n\ncontext: ["é «1»", "2"]'
    assert made.inputs == {"context": ["é «1»", "2"], "question": "q?"}


def test_inputs_are_the_examples_own_else_the_signatures() -> None:
    undeclared = dspy.Example(question="q?", context=["c"], other="o", answer="a")
    assert item(undeclared).inputs == {"question": "q?", "context": ["c"]}

    class Own(dspy.Module):
        def forward(self, question: str, **more: Any) -> Any:
            return more

    own = personalize(Own(), response="answer").for_user("ann")
    assert item(undeclared.with_inputs("question", "other"), own).inputs == {"question": "q?", "other": "o"}
    with pytest.raises(InputError, match="with_inputs"):
        item(undeclared, own)


def test_the_place_of_an_example_is_the_interactions() -> None:
    interaction = Interaction("ann", "i", "q?", "a", "2020-01-01", 3)
    made = item(interaction.to_example("question", "answer"))
    assert made.before.position == interaction.position and made.interaction_id == "i"
    placeless = item(dspy.Example(question="q?", answer="a").with_inputs("question"))
    assert placeless.before is None and placeless.interaction_id == "trainset[0]"


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InputError, match=r"trainset\[0\] has no field 'answer'.*it has question"):
        item(dspy.Example(question="q?").with_inputs("question"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (5, "5"),
        (True, "True"),
        (None, "None"),
        (["é", 1], '["é", 1]'),
        ([Person(name="Ada")], '[{"name": "Ada", "role": null}]'),
        ({"a": Person(name="Ada", role="author")}, '{"a": {"name": "Ada", "role": "author"}}'),
        (dspy.History(messages=[{"a": "b"}]), '{"messages": [{"a": "b"}]}'),
        (dspy.Code(code="x"), "(Code)"),
    ],
)
def test_values_are_readable(value: Any, text: str) -> None:
    assert readable(value) == text


def test_an_answer_is_found_in_whatever_a_program_returns() -> None:
    assert answer_of(dspy.Prediction(answer=5), "answer") == "5"
    assert answer_of(dspy.Prediction(answer=None), "answer") is None
    assert answer_of({"answer": ["a"]}, "answer") == '["a"]'
    assert answer_of("the answer itself", "answer") == "the answer itself"
    assert answer_of(None, "answer") is None
    with pytest.raises(InputError, match=r"no field 'answer': say with response=\.\.\. which it is; it has other"):
        answer_of(dspy.Prediction(other="x"), "answer")
