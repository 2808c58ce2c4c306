"""What a study knows: by what a user is answered, what became of a question, and the data that both are of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from personaagent.datasets.task import Task, User
from personaagent.experiments.harness.journal import Unit
from personaagent.experiments.harness.methods.base import Method, Setting, State
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.persona import Persona

Waiting = Literal["waiting"]


@dataclass(frozen=True)
class Failed:
    """Why something could not be had: a unit that it rests on failed for good."""

    reason: str


@dataclass(frozen=True)
class Chain:
    """By what a user is answered in a cell, with the units that this rests on."""

    state: State | Failed | Waiting
    units: tuple[Unit, ...]
    """What was learnt first, then the alignment steps."""

    @property
    def persona(self) -> Persona | None:
        """The persona, if there is one."""
        return self.state if isinstance(self.state, Persona) else None


@dataclass(frozen=True)
class Answer:
    """What became of a question: the units that it was asked in, and the one whose answer counts."""

    units: tuple[Unit, ...]
    decided: Unit


@dataclass
class TaskData:
    """One task of a study: its users, and what its methods work with."""

    task: Task
    users: list[User]
    """Each with the whole history, and the queries that are asked."""
    source: str
    setting: Setting
    methods: dict[str, Method] = field(default_factory=dict)
    subjects: dict[str, list[Subject]] = field(default_factory=dict)
    """By the axis `history`."""
