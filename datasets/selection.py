"""Who is studied, and on what part of their history: the paper's protocol (App. G), and its alternatives."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from personaagent.datasets.task import User
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction

HISTORY_SHARE = 0.63
"""Of a raw history that comes before the queries: OPPU's share, about the same for each of its users."""


class UserSize(NamedTuple):
    """What choosing looks at."""

    user_id: str
    history: int
    queries: int


@dataclass(frozen=True)
class Selection:
    """Which users, and how many of their queries.

    Raises:
        InputError: on a value out of range.
    """

    users: int | None = None
    """At least 1; None: all."""
    queries_per_user: int | None = None
    """The first so many, at least 1; None: all."""
    by: Literal["active", "random"] = "active"
    """The most active (App. G): longest history, ties by user_id as text; or drawn by seed, of which a larger draw
    holds each smaller one."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in ("active", "random"):
            raise InputError(f"users are selected by 'active' or 'random', but got {self.by!r}")
        for name in ("users", "queries_per_user"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1 but got {value}")


def choose(sizes: Sequence[UserSize], selection: Selection) -> list[str]:
    """The user_ids of who is asked: those with a query, by the selection."""
    asked = [size for size in sizes if size.queries]
    if selection.by == "random":
        ids = sorted(size.user_id for size in asked)
        random.Random(f"users {selection.seed}").shuffle(ids)
    else:
        ids = [size.user_id for size in sorted(asked, key=lambda size: (-size.history, size.user_id))]
    return ids[: selection.users]


def cut_history(user: User, newest: int) -> User:
    """A user with the newest so many interactions of the history: a cold start (Table 6).

    Raises:
        InputError: if it is negative.
    """
    if newest < 0:
        raise InputError(f"a history is cut to 0 interactions or more, but got {newest}")
    return replace(user, history=user.history[len(user.history) - min(newest, len(user.history)) :])


def split_history(
    interactions: Sequence[Interaction], share: float = HISTORY_SHARE
) -> tuple[tuple[Interaction, ...], tuple[Interaction, ...]]:
    """A raw history as (history, what came after it), in order of time; both have at least one of two or more.

    Raises:
        InputError: if the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InputError(f"share must be between 0 and 1 but got {share}")
    ordered = sorted(interactions, key=lambda one: one.position)
    if len(ordered) < 2:
        return tuple(ordered), ()
    first = min(len(ordered) - 1, max(1, round(share * len(ordered))))
    return tuple(ordered[:first]), tuple(ordered[first:])
