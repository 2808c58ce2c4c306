"""What PersonaAlignment needs of a program, and how it reads a program's examples, answers and metric."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import dspy
from dspy.adapters.utils import serialize_for_json
from pydantic import BaseModel

from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction, Position, normalise_timestamp
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

Metric = Callable[..., Any]
"""Of DSPy: called with an example and a prediction, and with None for each further argument that it must be given."""


@runtime_checkable
class Student(Protocol):
    """A handle of one user: `PersonaAgent`, a personalised program, or what does the same. A `dspy.Module`."""

    user_id: str | None
    persona: Persona | None
    """None, as the user is, for what serves no user yet."""
    memory: MemoryStore | None
    query_field: str
    response_field: str

    def with_persona(self, persona: Persona) -> Self:
        """The same under another persona; this one stays as it is."""

    def as_of(self, before: Interaction | Position | None) -> Self:
        """The same with a memory that holds only what came before."""

    def interactions(self) -> list[Interaction]:
        """What its memory holds of its user, oldest first."""

    def initial_persona(self, profile: str | None = None) -> Persona:
        """Version 0 of a persona with this profile."""

    def inputs_of(self, example: dspy.Example) -> dict[str, Any]:
        """The inputs that an example has for one call."""

    def __call__(self, **inputs: Any) -> Any:
        """Answer."""


class BatchItem(NamedTuple):
    """One interaction to be simulated."""

    interaction_id: str
    inputs: dict[str, Any]
    question: str
    """As the critic reads it; with several inputs all of them."""
    expected: str
    before: Interaction | Position | None
    """Its place in the user's order; None is after all of memory."""
    example: dspy.Example
    """As it was given."""


def batch_item(student: Student, example: dspy.Example, index: int) -> BatchItem:
    """The item of an example.

    Raises:
        InputError: if it lacks the student's query or response.
    """
    for name in (student.query_field, student.response_field):
        if name not in example:
            has = ", ".join(example.keys())
            raise InputError(
                f"trainset[{index}] has no field {name!r}, which the student's signature needs; it has {has}"
            )
    inputs = student.inputs_of(example)
    query, expected = readable(example[student.query_field]), readable(example[student.response_field])
    given = example.get("interaction_id")
    given_id = None if given is None else str(given)
    before: Interaction | Position | None = None
    if example.get("ordinal") is not None and example.get("timestamp") is not None:
        if given_id is None:
            before = Position(normalise_timestamp(example["timestamp"]), int(example["ordinal"]))
        else:
            place = (example["timestamp"], example["ordinal"])
            before = Interaction(student.user_id or "", given_id, query, expected, *place)
    elif given_id is not None and student.memory is not None:
        # Only named: its place is known to the memory, if it is there at all.
        before = student.memory.interaction(student.user_id or "", given_id)
    others = {name: value for name, value in inputs.items() if name != student.query_field}
    question = _named({student.query_field: query, **others}) if others else query
    name = f"trainset[{index}]" if given_id is None else given_id
    return BatchItem(name, inputs, question, expected, before, example)


def answer_of(rollout: Any, field: str) -> str | None:
    """The answer in what a program returned, as text; None if it gave none.

    Raises:
        InputError: if there is no such field in it.
    """
    if isinstance(rollout, dspy.Example | Mapping):
        if field not in rollout:
            has = ", ".join(rollout.keys())
            raise InputError(
                f"the student's answer has no field {field!r}: say with response=... which it is; it has {has}"
            )
        answer = rollout[field]
    else:
        answer = getattr(rollout, field, rollout)  # a program may return the answer itself
    return None if answer is None else readable(answer)


def recalled_in(rollout: Any) -> tuple[str, ...]:
    """The ids of what `recall` returned, as far as what a program returned tells of them."""
    ids = rollout.get("recalled") if isinstance(rollout, dspy.Example) else None
    # A program may have an output of this name.
    return tuple(ids) if isinstance(ids, list) and all(isinstance(one, str) for one in ids) else ()


def compared(metric: Metric, item: BatchItem, rollout: Any) -> str:
    """What a metric says of a rollout: its feedback, else its score.

    Raises:
        InputError: if it returns neither.
    """
    example = item.example
    if getattr(example, "_input_keys", None) is None:
        example = example.with_inputs(*item.inputs)
    judged = metric(*_arguments(metric, example, rollout))
    said = judged.get("feedback") if isinstance(judged, dspy.Example | Mapping) else getattr(judged, "feedback", None)
    if said:
        return str(said)
    try:
        return f"score {float(judged):.3f}"
    except (TypeError, ValueError):
        raise InputError(
            f"a metric returns a number, or dspy.Prediction(score=..., feedback=...), but got {judged!r}"
        ) from None


def readable(value: Any) -> str:
    """A value of a field as a text that a person, or a critic, can read; structured ones as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dspy.Type) and not isinstance(value, dspy.History):
        return f"({type(value).__name__})"  # an image or a sound
    if isinstance(value, BaseModel | Mapping | list | tuple | set | frozenset):
        try:
            return json.dumps(serialize_for_json(value), ensure_ascii=False)
        except (TypeError, ValueError):
            return str(value)
    return str(value)


def _named(values: Mapping[str, Any]) -> str:
    return "\n\n".join(f"{name}: {readable(value)}" for name, value in values.items())


def _arguments(metric: Metric, example: dspy.Example, rollout: Any) -> tuple[Any, ...]:
    # (example, prediction), with trace for older metrics, with predictor's name and trace for GEPA's.
    given = (example, rollout, None, None, None)
    try:
        signature = inspect.signature(metric)
    except (TypeError, ValueError):
        return given[:2]
    for count in (2, 3, 4, 5):
        try:
            signature.bind(*given[:count])
        except TypeError:
            continue
        return given[:count]
    return given[:2]
