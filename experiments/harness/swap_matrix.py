"""`--control matrix`: every user's questions under every user's persona and memory; what is lost off the diagonal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.results import KEY_COLUMNS, Sample, key_values, prediction_line, samples
from personaagent.experiments.harness.statistics import Interval, clustered_mean
from personaagent.experiments.harness.study import Study

COLUMNS = (*KEY_COLUMNS, "persona_of", "user_id", "queries", "answered", "failed", "score")


@dataclass(frozen=True)
class SwapMatrix:
    """One cell's matrix."""

    cell: Cell
    samples: list[Sample]
    """By the user who was asked, the query, and whose persona and memory served."""
    waiting: int

    @property
    def own(self) -> list[Sample]:
        """The diagonal."""
        return [s for s in self.samples if s.answered and s.user_id == s.served_by]

    @property
    def others(self) -> list[Sample]:
        """What is off the diagonal."""
        return [s for s in self.samples if s.answered and s.user_id != s.served_by]


@dataclass(frozen=True)
class SwapLoss:
    """The first metric on and off the diagonal of a cell's matrix, and the difference, in the metric's unit."""

    cell: Cell
    own: float
    """Mean over the questions, each answered by the user's own persona and memory."""
    others: float
    """Mean over the questions of the mean over all other users' personas and memories."""
    loss: Interval
    """own - others over the questions that both have, with its interval clustered by the user who was asked. (Whose
    persona serves is not taken as a draw: the interval is of other users asked, with these to be swapped with.)"""
    users: int
    queries: int
    failed: int
    waiting: int


def swap_matrix(study: Study, cell: Cell) -> SwapMatrix:
    """A cell's matrix, as far as the journal knows."""
    found, waiting = samples(study, cell, study.swapped_pairs(cell))
    return SwapMatrix(cell, sorted(found, key=lambda s: (s.user_id, s.query.id, s.served_by)), waiting)


def swap_loss(study: Study, matrix: SwapMatrix) -> SwapLoss | None:
    """What a matrix says; None if no question has both an own answer and another's."""
    task = study.task(matrix.cell)
    own = {(s.user_id, s.query.id): task.score(s.query.gold, s.prediction) for s in matrix.own}
    others: dict[tuple[str, str], list[float]] = {}
    for s in matrix.others:
        others.setdefault((s.user_id, s.query.id), []).append(task.score(s.query.gold, s.prediction))
    both = [question for question in own if question in others]
    if not both:
        return None
    swapped = {question: math.fsum(others[question]) / len(others[question]) for question in both}
    loss = clustered_mean([own[q] - swapped[q] for q in both], [user for user, _ in both])
    return SwapLoss(
        matrix.cell,
        math.fsum(own[q] for q in both) / len(both),
        math.fsum(swapped.values()) / len(both),
        loss,
        len({user for user, _ in both}),
        len(both),
        sum(not s.answered for s in matrix.samples),
        matrix.waiting,
    )


def matrix_lines(study: Study, matrix: SwapMatrix) -> Iterable[dict[str, Any]]:
    """The lines of swap_matrix.csv: one for each two users, first metric over what was answered."""
    task = study.task(matrix.cell)
    keys = {**key_values(study, matrix.cell), "control": "matrix"}
    by_pair: dict[tuple[str, str], list[Sample]] = {}
    for sample in matrix.samples:
        by_pair.setdefault((sample.served_by, sample.user_id), []).append(sample)
    for (persona_of, user_id), found in sorted(by_pair.items()):
        scores = [task.score(s.query.gold, s.prediction) for s in found if s.answered]
        yield {
            **keys,
            "persona_of": persona_of,
            "user_id": user_id,
            "queries": len(found),
            "answered": len(scores),
            "failed": len(found) - len(scores),
            "score": math.fsum(scores) / len(scores) if scores else None,
        }


def matrix_prediction_lines(study: Study, matrix: SwapMatrix) -> Iterable[dict[str, Any]]:
    """The lines of swap_predictions.jsonl: as those of predictions.jsonl, with `persona_of`."""
    for sample in matrix.samples:
        line = prediction_line(study, matrix.cell, sample)
        yield {**line, "control": "matrix", "persona_of": sample.served_by}
