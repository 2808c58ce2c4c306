"""Who is asked in a cell, and what is known of them then: all, the newest, or what came before a test point."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from personaagent.datasets.selection import cut_history
from personaagent.datasets.task import Query, User
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction

ALL = "all"
"""The value of the axis `history` that cuts nothing."""


@dataclass(frozen=True)
class Subject:
    """A user at a point of time: what memory holds, and what is asked."""

    user_id: str
    history: tuple[Interaction, ...]
    """Oldest first: what memory holds, and all that is learnt from."""
    queries: tuple[Query, ...]
    since: Interaction | None = None
    """The oldest that memory shows, where it has older ones."""
    before: Interaction | None = None
    """Memory shows only what came before this one, where it has later ones."""

    @cached_property
    def history_digest(self) -> str:
        """SHA-256 of the history, 64 hex digits: part of the inputs of every unit that has read it."""
        rows = [[i.id, i.query, i.response, i.timestamp, i.ordinal, i.text] for i in self.history]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def subjects(users: Sequence[User], history: str = ALL, walk_forward: int | None = None) -> list[Subject]:
    """The users as a cell asks them.

    Args:
        users: with whole histories.
        history: `all`, or how many of the newest interactions before the question are kept (App. M), from 0.
        walk_forward: instead of the queries, so many of the newest interactions of each user are asked about, each
            by a subject of its own whose history ends before it. None: the queries, after the whole history.
    """
    if walk_forward is None:
        return [_cut(user, history, None, user.history) for user in users]
    points = []
    for user in users:
        for place in range(len(user.history) - _points(user, walk_forward), len(user.history)):
            asked = user.history[place]
            earlier = User(user.user_id, user.history[:place], (as_query(asked),))
            points.append(_cut(earlier, history, asked, user.history))
    return points


def as_query(interaction: Interaction) -> Query:
    """An interaction as a question that was not asked yet."""
    return Query(interaction.id, interaction.query, interaction.response)


def before_the_questions(user: User, walk_forward: int | None) -> tuple[Interaction, ...]:
    """What came before a user's first question."""
    return user.history[: len(user.history) - _points(user, walk_forward)] if walk_forward else user.history


def _points(user: User, walk_forward: int) -> int:
    # Something must have come before.
    return max(0, min(walk_forward, len(user.history) - 1))


def _cut(user: User, history: str, before: Interaction | None, whole: tuple[Interaction, ...]) -> Subject:
    if history == ALL:
        return Subject(user.user_id, user.history, user.queries, None, before)
    kept = cut_history(user, int(history)).history
    if not kept and whole:
        return Subject(user.user_id, (), user.queries, None, whole[0])
    since = kept[0] if len(kept) < len(user.history) else None
    return Subject(user.user_id, kept, user.queries, since, before)


def newest(history: str) -> int:
    """So many of the newest interactions a value of the axis `history` keeps at most."""
    return 10**9 if history == ALL else int(history)


def parse_histories(text: str) -> tuple[str, ...]:
    """Values of the axis `history` from `1,10,all`; repeated ones count once.

    Raises:
        InputError: on anything but whole numbers from 0 and `all`.
    """
    values = []
    for part in (part.strip() for part in text.split(",")):
        if part != ALL and not (part.isascii() and part.isdigit() and len(part) <= 9):
            raise InputError(
                f"--histories: {part!r} is neither a whole number from 0 nor {ALL!r}; write for example 1,10,all"
            )
        values.append(part if part == ALL else str(int(part)))
    return tuple(dict.fromkeys(values))
