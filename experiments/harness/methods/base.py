"""What a method is to a study: units of work, each with what it rests on, what it asks and what it costs at most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import dspy

from personaagent.datasets.task import Query, Task
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.journal import Kind, Unit
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.baselines.forgetting import Clock, Curve
from personaagent.programs.baselines.memory_bank import DATES
from personaagent.programs.interaction import Interaction
from personaagent.programs.lm.make import CALLS_PER_PREDICTION, OFFLINE
from personaagent.programs.memory.episodic import EpisodicMemory
from personaagent.programs.memory.semantic import MAX_HALVINGS, SUMMARY_INSTRUCTION
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

MAX_ITERS = 6
"""Most steps of an agent for one question, in every study."""


@dataclass(frozen=True)
class Work:
    """A unit to be done: its key, the call that does it, and the most LM calls it may take."""

    key: str
    kind: Kind
    run: Callable[[], dict[str, Any]]
    worst_case: int
    expected_calls: int
    """If nothing goes wrong: what --dry-run projects."""
    lm: str
    """Model string of the LM that answers, where the unit does not name another."""


@dataclass(frozen=True)
class Notes:
    """What a method without a persona has learnt of a user; nothing, for most."""

    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the values, 64 hex digits."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()


State = Persona | Notes
"""By what a method answers one user."""


@dataclass(frozen=True)
class Models:
    """The LMs of a study, and what identifies them in a unit's inputs."""

    lms: Mapping[str, dspy.LM]
    """By model string."""
    align_lm: dspy.LM | None
    """Of gradients and updates; None: the cell's own."""
    align_name: str | None
    """Model string of `align_lm`."""
    api_base: str | None
    align_api_base: str | None
    temperature: float
    replayed: bool = False
    """Whether what was recorded answers in their place."""


@dataclass(frozen=True)
class Setting:
    """What every method of one task works with: the same LM, tools, parser and retrieval for all."""

    task: Task
    store: MemoryStore
    models: Models
    prompts: Prompts
    profile: bool
    """Whether personas start with the semantic memory's summary, where the method has one."""
    wikipedia: str
    """`off`, `on`, or the address of another MediaWiki API."""
    wikipedia_tool: dspy.Tool | None
    workers: int
    pool: Callable[[], Sequence[Interaction]] = tuple
    """Of icl: interactions of any users, none of them a question of the study."""
    data_seed: int = 0
    memory_bank_dates: int = DATES
    memory_bank_curve: Curve = "paper"
    memory_bank_clock: Clock = "items"
    views: dict[str, EpisodicMemory] = field(default_factory=dict, init=False, compare=False)
    """Views of memory that are kept, by user."""

    @property
    def summary_instruction(self) -> str:
        """S_t of eq. 3."""
        return self.prompts.summary or self.task.summary_instruction or SUMMARY_INSTRUCTION

    def hold(self, user_id: str) -> None:
        """Keep a user's view of memory, which handles come and go by, for the time of the study."""
        self.views[user_id] = self.store.episodic(user_id)

    def inputs(self, cell: Cell) -> dict[str, Any]:
        """What every unit of a cell depends on."""
        return {
            "lm": cell.lm,
            "api_base": self.models.api_base,
            "temperature": self.models.temperature,
            "seed": cell.seed,
            "task": self.task.name,
            "instructions": [self.task.signature.instructions, self.summary_instruction],
            "prompts": self.prompts.digest,
            "max_iters": MAX_ITERS,
        }


class Method(Protocol):
    """One row of a table, on one task."""

    @property
    def setting(self) -> Setting:
        """What it works with."""

    def learning(self, subject: Subject, cell: Cell) -> Work | None:
        """What it asks an LM about a history first; None: nothing."""

    def start(self, subject: Subject, cell: Cell, learnt: Mapping[str, Any] | None) -> State:
        """By what it answers, before any alignment.

        Args:
            learnt: the result of `learning`; None where there is none.
        """

    def iterations(self, cell: Cell) -> int:
        """How many alignment steps it takes in this cell."""

    def step(self, subject: Subject, cell: Cell, iteration: int, state: State) -> Work:
        """One iteration of Algorithm 1; its result holds the persona `after`."""

    def answers(self, query: Query, subject: Subject, cell: Cell, state: State) -> list[Work]:
        """One question: a unit, or several that are asked for a vote."""

    def decided(self, units: Sequence[Unit]) -> Unit:
        """The unit of `answers` whose answer counts."""

    def tools(self, cell: Cell) -> tuple[str, ...]:
        """Names of the tools that it has in this cell."""

    def retrieves(self, cell: Cell) -> bool:
        """Whether past interactions of the user can be in an answer's prompt: by `recall`, or without asking."""

    def answer_calls(self, cell: Cell) -> int:
        """LM calls of one undisturbed question."""


def calls_per_prediction(model: str) -> int:
    """Most LM calls of one predictor."""
    return 1 if model == OFFLINE else CALLS_PER_PREDICTION


def summary_calls_at_most(summaries: int, model: str) -> int:
    """Most LM calls of so many summaries of a history, which is halved where it does not fit."""
    return summaries * (calls_per_prediction(model) + (0 if model == OFFLINE else MAX_HALVINGS))


def answered(prediction: dspy.Prediction) -> dict[str, Any]:
    """What of a prediction is journalled."""
    return {
        "raw": "" if prediction.answer is None else str(prediction.answer),
        "reasoning": prediction.reasoning,
        "recalled": prediction.recalled,
        "tools": prediction.tools_called,
        "faults": prediction.faults,
        "trajectory": prediction.trajectory,
    }
