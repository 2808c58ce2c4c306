"""MemoryBank's forgetting (Zhong et al., AAAI 2024): which events of a history are still remembered at its end.

Ebbinghaus' curve: after the time t since an event happened or was last recalled, it is still remembered with
probability R = exp(-t/S). Its strength S begins at 1, and each recall adds 1 and sets t to 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from personaagent.programs.errors import InputError
from personaagent.programs.handles import check_count
from personaagent.programs.interaction import Interaction

Curve = Literal["paper", "published"]
"""`paper`: R = exp(-t/S). `published`: R = exp(-t/5*S), as the authors' code has it, in which what is recalled more
often fades faster. (An earlier version of that code has the paper's.)"""

Clock = Literal["items", "days"]
"""`items`: time passes with the user's interactions. `days`: by the calendar."""

ITEMS_PER_DAY = 4
"""So many interactions are a day of the clock `items`, as in MemoryBank's evaluation (566 turns on 150 days). By the
calendar all of a LaMP history, which spans years, would be forgotten before its first question."""

CURVES: tuple[Curve, ...] = ("paper", "published")
CLOCKS: tuple[Clock, ...] = ("items", "days")
_SCORE_DECIMALS = 6


def retention(days: float, strength: float, curve: Curve = "paper") -> float:
    """R, the probability that an event is still remembered.

    Args:
        days: t, since it happened or was last recalled; from 0.
        strength: S; above 0.
        curve: see `Curve`.

    Raises:
        InputError: on a value out of range.
    """
    check_choice("curve", curve, CURVES)
    if not days >= 0 or not strength > 0:
        raise InputError(f"days must be from 0 and strength above 0, but got {days!r} and {strength!r}")
    return math.exp(-days / strength) if curve == "paper" else math.exp(-days / 5 * strength)


def draw(seed: int, user_id: str, interaction_id: str, strength: int) -> float:
    """From 0 to below 1, evenly, and always the same: an event is forgotten once R has fallen to it.

    One draw stands until the next recall, so that P(remembered after t) is R(t) itself. The published code draws at
    each start of the program, by which the probabilities of all starts multiply.
    """
    name = "\0".join((str(seed), user_id, interaction_id, str(strength)))
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big") / 2**56


def moments(history: Sequence[Interaction], clock: Clock, items_per_day: int = ITEMS_PER_DAY) -> list[float]:
    """When each interaction happened, in days; last, one more: when the question is asked.

    By the clock `items` that is one item after the newest, by `days` on its day.

    Args:
        history: oldest first.
        clock: see `Clock`.
        items_per_day: of the clock `items`; at least 1.

    Raises:
        InputError: on a value out of range, or if the clock is `days` and an interaction has no date.
    """
    check_choice("clock", clock, CLOCKS)
    check_count("items_per_day", items_per_day, 1)
    if clock == "items":
        return [i / items_per_day for i in range(len(history) + 1)]
    days = [float(_day(interaction).toordinal()) for interaction in history]
    return [*days, days[-1] if days else 0.0]


def _day(interaction: Interaction) -> date:
    if not interaction.timestamp:
        raise InputError(
            f"interaction {interaction.id!r} of {interaction.user_id!r} has no date: use the clock 'items'"
        )
    year, month, day = (*map(int, interaction.timestamp[:10].split("-")), 1, 1)[:3]
    return date(year, month, day)


def remembered(
    history: Sequence[Interaction],
    vectors: npt.NDArray[Any],
    *,
    memories: int,
    curve: Curve = "paper",
    clock: Clock = "items",
    items_per_day: int = ITEMS_PER_DAY,
    seed: int = 0,
) -> dict[str, int]:
    """What is left of a history when the next question is asked.

    The history is lived through once more: each interaction was a question, for which the most similar of what was
    then remembered were recalled.

    Args:
        history: of one user, oldest first.
        vectors: of their texts, of length 1, shape (len(history), dimension).
        memories: how many are recalled for each; from 0, by which nothing is ever strengthened.
        curve, clock, items_per_day: see `Curve`, `Clock` and `moments`.
        seed: of the draws.

    Returns:
        The strength of each event that is remembered, by its id, oldest first.

    Raises:
        InputError: on a value out of range, or if the clock is `days` and an interaction has no date.
    """
    check_choice("curve", curve, CURVES)
    check_count("memories", memories, 0)
    times = moments(history, clock, items_per_day)
    recalls = _Recalls(history, times, seed)
    for now in range(len(history)):
        recalls.forget(now, times[now], curve)
        recalls.strengthen(_most_similar(vectors, recalls.alive, now, memories), times[now])
    recalls.forget(len(history), times[-1], curve)
    return {one.id: int(recalls.strengths[i]) for i, one in enumerate(history) if recalls.alive[i]}


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """See that a setting is one of those there are.

    Raises:
        InputError: naming these.
    """
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, but got {value!r}")


class _Recalls:
    """Strength, last recall and draw of each event."""

    def __init__(self, history: Sequence[Interaction], times: Sequence[float], seed: int) -> None:
        self._history = history
        self._seed = seed
        self._since = np.array(times[:-1])
        self.strengths = np.ones(len(history), dtype=int)
        self.alive = np.ones(len(history), dtype=bool)
        self._draws = np.array([self._draw(row) for row in range(len(history))])

    def forget(self, count: int, now: float, curve: Curve) -> None:
        """Of the oldest so many."""
        for row in np.flatnonzero(self.alive[:count]):
            # An import of dates that are out of order must not lengthen a memory's life.
            elapsed = max(0.0, now - float(self._since[row]))
            self.alive[row] = self._draws[row] < retention(elapsed, int(self.strengths[row]), curve)

    def strengthen(self, rows: Sequence[int], now: float) -> None:
        for row in rows:
            self.strengths[row] += 1
            self._since[row] = now
            self._draws[row] = self._draw(row)

    def _draw(self, row: int) -> float:
        one = self._history[row]
        return draw(self._seed, one.user_id, one.id, int(self.strengths[row]))


def _most_similar(vectors: npt.NDArray[Any], alive: npt.NDArray[Any], now: int, count: int) -> list[int]:
    rows = np.flatnonzero(alive[:now])
    scores = np.round(vectors[rows] @ vectors[now], _SCORE_DECIMALS) if count and rows.size else np.zeros(rows.size)
    best = np.lexsort((-rows, -scores))[:count]  # ties newest first, as in episodic memory
    return [int(rows[i]) for i in best]
