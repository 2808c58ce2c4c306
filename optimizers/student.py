"""What PersonaAlignment needs of a program, and how it reads a program's examples and answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import dspy
from dspy.adapters.utils import serialize_for_json
from pydantic import BaseModel

from personaagent.programs.episode import is_async
from personaagent.programs.errors import InputError
from personaagent.programs.handles import defines, modules_in
from personaagent.programs.interaction import Interaction, Position, normalise_timestamp
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona
from personaagent.programs.personalize import Personalized
from personaagent.programs.protocol import tools_held


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
    """As a metric sees it: as it was given, its inputs declared."""
    number: int
    """Its index in the trainset."""


def check_calls(student: Student, asynchronous: bool) -> None:
    """See that a student can be called, by `acall` or without.

    Raises:
        InputError: if its program has no `aforward`, or `forward`, or a tool that only `acall` can call.
    """
    program = student.program if isinstance(student, Personalized) else student
    needed, other = ("aforward", "forward") if asynchronous else ("forward", "aforward")
    if defines(program, other) and not defines(program, needed):
        use = "compile" if asynchronous else "acompile"
        raise InputError(f"the student's program, {type(program).__name__}, has {other} but no {needed}: use {use}")
    if asynchronous or not isinstance(student, dspy.Module) or dspy.settings.allow_tool_async_sync_conversion:
        return
    for module in modules_in(student):
        if "forward" in vars(module):  # of dspy.syncify
            continue
        for tool in tools_held(module):
            if is_async(tool.func):
                raise InputError(
                    f"the tool {tool.name!r} of the student's {type(module).__name__} is asynchronous, and would fail "
                    f"in every rollout: use acompile (or, for a tool that any event loop can run, "
                    f"dspy.context(allow_tool_async_sync_conversion=True))"
                )


def batch_items(student: Student, trainset: Iterable[dspy.Example]) -> list[BatchItem]:
    """The items of a trainset, in its order.

    Raises:
        InputError: if it is no list of examples, or as `batch_item`.
    """
    if isinstance(trainset, dspy.Example | Mapping | str) or not isinstance(trainset, Iterable):
        raise InputError(f"trainset must be a list of dspy.Example, but is of type {type(trainset).__name__}")
    return [batch_item(student, example, index) for index, example in enumerate(trainset)]


def batch_item(student: Student, example: dspy.Example, index: int) -> BatchItem:
    """The item of an example.

    Raises:
        InputError: naming the index, if it is no `dspy.Example`; if it lacks the student's query or response, or does
            not say which fields are inputs and the program does not, either; if its timestamp or its ordinal is wrong,
            or, where it has these, its interaction_id or query no text or empty; if it is another user's.
        StoreError: if its place is to be looked up in a memory that cannot be read.
    """
    if not isinstance(example, dspy.Example):
        raise InputError(f"trainset[{index}] must be a dspy.Example, but is of type {type(example).__name__}")
    for name in (student.query_field, student.response_field):
        if name not in example:
            has = ", ".join(example.keys())
            raise InputError(
                f"trainset[{index}] has no field {name!r}, which the student's signature needs; it has {has}"
            )
    try:
        return _item(student, example, index)
    except InputError as error:
        raise InputError(f"trainset[{index}]: {error}") from None


def check_answered(student: Student, item: BatchItem) -> None:
    """See that there is an answer of the user's to compare with.

    Raises:
        InputError: if the response is None. An empty text is an answer.
    """
    if item.example[student.response_field] is None:
        raise InputError(
            f"trainset[{item.number}] must have in {student.response_field!r} what the user really answered, "
            f"but it is None"
        )


def _item(student: Student, example: dspy.Example, index: int) -> BatchItem:
    inputs = student.inputs_of(example)
    query, expected = readable(example[student.query_field]), readable(example[student.response_field])
    owner = None if "user_id" in inputs else example.get("user_id")
    if isinstance(owner, str | Integral) and str(owner).strip() and str(owner) != student.user_id:
        raise InputError(f"it is of user {owner!r}, and the student serves {student.user_id!r}")
    given = example.get("interaction_id")
    given_id = None if given is None else str(given)
    timestamp, ordinal = example.get("timestamp"), _ordinal(example.get("ordinal"))
    timestamp = None if timestamp is None else normalise_timestamp(timestamp)
    before: Interaction | Position | None = None
    if ordinal is not None and timestamp is not None:
        if given_id is None:
            before = Position(timestamp, ordinal)
        else:
            before = Interaction(student.user_id or "", given_id, query, expected, timestamp, ordinal)
    elif given_id is not None and student.memory is not None:
        # Only named: its place is known to the memory, if it is there at all.
        before = student.memory.interaction(student.user_id or "", given_id)
    others = {name: value for name, value in inputs.items() if name != student.query_field}
    question = _named({student.query_field: query, **others}) if others else query
    if getattr(example, "_input_keys", None) is None:
        example = example.with_inputs(*inputs)
    name = f"trainset[{index}]" if given_id is None else given_id
    return BatchItem(name, inputs, question, expected, before, example, index)


def _ordinal(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < 2**63:
        raise InputError(f"ordinal must be an integer from 0 to 2**63 - 1, but got {value!r}")
    return int(value)


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


def texts_in(rollout: Any, name: str) -> list[str]:
    """A list of texts that a handle adds to its prediction; [] for what has none, or something else of this name."""
    found = rollout.get(name) if isinstance(rollout, dspy.Example) else None
    return list(found) if isinstance(found, list) and all(isinstance(one, str) for one in found) else []


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
