"""Users whose every text says whose it is and when, and an LM that passes on all that it has read.

A mark is `ann-q3`, what Ann was asked fourth, or `ann-a3`, what she answered. Whatever the LM writes repeats the marks
of its whole prompt and the signs of what else is in it, so that each prompt shows what it rests on at first hand and
at second: what a profile has read, a gradient, the persona that was made of them.
"""

from __future__ import annotations

import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.outcomes import Answer
from personaagent.experiments.harness.progress import Progress
from personaagent.experiments.harness.study import Study
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.baselines import _notes
from personaagent.programs.lm.scope import current_scope

TOPIC, PAGE = "Lighthouse", "A WIKIPAGE on towers with a light."
"""What the LM looks up, and what Wikipedia is to say of it."""

_MARK = re.compile(r"\b([a-z]+)-([qa])(\d+)\b")
_SIGN = re.compile(r"\b(?:PROFILE|NOTE|FEEDBACK|REWRITTEN|WIKIPAGE)\b")
_NOTES = (
    _notes.SUMMARY_OF_A_DATE,
    _notes.PERSONALITY_OF_A_DATE,
    _notes.OVERALL_SUMMARY,
    _notes.OVERALL_PERSONALITY,
)
_OWN_SIGN = {"summary": "PROFILE", "gradient": "FEEDBACK", "update": "REWRITTEN"}


class Mark(NamedTuple):
    """Of one text."""

    user: str
    kind: str
    """q: what was asked; a: what the user answered."""
    number: int
    """In the user's order, from 0."""


def marks(text: str) -> set[Mark]:
    """The marks in a text."""
    return {Mark(user, kind, int(number)) for user, kind, number in _MARK.findall(text)}


def write_logs(path: Path, users: Mapping[str, int], answers: Mapping[str, str] | None = None) -> Path:
    """{user: rows} as a log file, two rows a day. Of each user's rows the first 63 % are the history.

    Args:
        path: of a .jsonl file.
        users: names in small letters.
        answers: by the mark of an answer: what stands in its place.
    """
    rows = [
        {
            "user": user,
            "id": f"{user}-{number}",
            "query": f"What of {user}-q{number}?",
            "response": (answers or {}).get(f"{user}-a{number}", f"It is {user}-a{number}."),
            "time": f"2010-01-{1 + number // 2:02}",
        }
        for user, count in users.items()
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Teller:
    """A script of the scripted engine: it calls each tool once, and passes on what it has read."""

    def __init__(self) -> None:
        self.asked: defaultdict[str, list[str]] = defaultdict(list)
        """Prompts by the key of the unit that sent them."""

    def __call__(self, call: Any) -> dict[str, str]:
        prompt, scope = f"{call.system}\n{call.user}", current_scope()
        assert scope is not None
        unit, _, _ = scope.name.partition("/")  # of an alignment's step each rollout has a part of its own
        self.asked[unit].append(prompt)
        if call.role == "step":
            tools = re.findall(r"\(\d+\) (\w+), whose", call.system)
            tool = tools[min(call.steps_taken, len(tools) - 1)]
            arguments = {"recall": {"query": "this"}, "wikipedia": {"query": TOPIC}}.get(tool, {})
            return {"next_thought": "I go on.", "next_tool_name": tool, "next_tool_args": json.dumps(arguments)}
        own = "NOTE" if any(note in prompt for note in _NOTES) else _OWN_SIGN.get(call.role, "ANSWER")
        read = {found[0] for pattern in (_SIGN, _MARK) for found in pattern.finditer(prompt)}
        return dict.fromkeys(call.outputs, " ".join([own, *sorted(read)]))


class Sent(NamedTuple):
    """The prompts that a cell's answers to one subject rest on."""

    learning: list[str]
    """Of the profile or the notes."""
    alignment: list[str]
    """Of all steps: rollouts, gradients, updates."""
    answers: list[str]

    @property
    def all(self) -> list[str]:
        return [*self.learning, *self.alignment, *self.answers]


def sent(study: Study, cell: Cell, subject: Subject, teller: Teller) -> Sent:
    """What was sent for a subject of a cell that is done without a failure."""
    chain = study.chain(subject, cell)
    found: defaultdict[str, list[str]] = defaultdict(list)
    units = list(chain.units)
    for query in subject.queries:
        answer = study.answer(query, subject, cell, chain)
        assert isinstance(answer, Answer), answer
        units += answer.units
    for unit in units:
        assert unit.ok, unit.error
        found[unit.kind] += teller.asked[unit.key]
    return Sent(found["profile"] + found["notes"], found["step"], found["answer"])


@contextmanager
def done(options: Any) -> Iterator[Study]:
    """A study, all of whose cells have been run, without its files."""
    with Study(options) as study:
        study.run(study.cells_asked(), Progress(Console(file=io.StringIO())))
        yield study


def logs_of(options: Callable[..., Any], path: Path, **changes: Any) -> Any:
    """Options of a study of marked users: two questions each, n=2, E=1, and K beyond every history."""
    settings = {"tasks": ("logs",), "data": path, "axes": ((2,), (1,), (50,)), "grid": False, "users": 2}
    return options(**{**settings, **changes})
