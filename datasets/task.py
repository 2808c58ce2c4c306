"""What a task is, and what a user's data is, to everything that runs experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import dspy

from personaagent.programs.interaction import Interaction


@dataclass(frozen=True, slots=True)
class Query:
    """A question that was held out, with what the user really answered."""

    id: str
    input: str
    gold: str
    """Empty where the source has none."""


@dataclass(frozen=True, slots=True)
class User:
    """A user's data: a history, oldest first, and the queries that came after it."""

    user_id: str
    history: tuple[Interaction, ...]
    queries: tuple[Query, ...]


@runtime_checkable
class Task(Protocol):
    """One task: how its data becomes interactions, and how its answers are read and scored.

    A task is data and pure functions. It hands its instructions to the programs; they never import it.
    """

    @property
    def name(self) -> str:
        """As on the command line, such as `lamp-2m`."""

    @property
    def title(self) -> str:
        """As in figures and tables."""

    @property
    def signature(self) -> type[dspy.Signature]:
        """`query -> answer`, with a plain text answer: what an LM writes is read by `parse`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The possible answers; empty for free text."""

    @property
    def summary_instruction(self) -> str:
        """S_t of eq. 3."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, the first being the score."""

    @property
    def higher_is_better(self) -> bool:
        """Of the first metric."""

    def interaction(self, user_id: str, item: Mapping[str, Any], ordinal: int) -> Interaction:
        """An item of a user's profile as the interaction that it records.

        Raises:
            InputError: naming the field that is missing or of a wrong type.
        """

    def retrieval_query(self, question: str) -> str:
        """The part of a question that is compared with the interactions' `text`."""

    def parse(self, raw: str) -> str | None:
        """The answer that an LM's text gives, as the official metric takes it; None if it gives none."""

    def evaluate(self, golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
        """The official metrics by name. None is an unparsable prediction: answered, and wrong.

        Raises:
            InputError: on an empty or unequal number of samples.
        """

    def score(self, gold: str, prediction: str | None) -> float:
        """The first metric of one sample: its mean over samples is the metric."""

    def metric(
        self, example: Any, pred: Any, trace: Any = None, pred_name: str | None = None, pred_trace: Any = None
    ) -> float | dspy.Prediction:
        """As DSPy's optimizers take it, GEPA among them: how good an example's prediction is, from 0 to 1, and why.

        Args:
            example: with `answer`, what the user really answered.
            pred: with `answer`, as the LM wrote it; it is read by `parse`.
            trace, pred_name, pred_trace: where a trace is given alone, to bootstrap demonstrations, the score is
                returned without feedback.
        """

    def worst(self, gold: str) -> str | None:
        """The prediction that scores worst against this gold: what a failed question counts as."""
