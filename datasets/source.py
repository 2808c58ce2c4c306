"""Where users come from, whatever the files: sizes to choose by, and a user at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from personaagent.datasets.selection import Selection, UserSize, choose
from personaagent.datasets.task import Task, User
from personaagent.programs.errors import InputError


class Source(Protocol):
    """The users of one task."""

    @property
    def task(self) -> Task:
        """Whose questions these are."""

    @property
    def where(self) -> str:
        """As figures and messages name it."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that users are made from."""

    @property
    def notes(self) -> Sequence[str]:
        """What who reads a result must know of the data."""

    def sizes(self, queries_per_user: int | None = None) -> list[UserSize]:
        """Every user, in the source's order. A history may depend on the queries that are asked after it."""

    def user(self, user_id: str, queries_per_user: int | None = None) -> User:
        """A user, with history and the first so many queries.

        Raises:
            InputError: if there is no such user, or what the source has of this one is wrong.
            StoreError: if what is kept of the source cannot be read.
        """


def chosen_users(source: Source, selection: Selection) -> list[User]:
    """The users of a selection.

    Raises:
        InputError: if there is none with a query, or a query has no gold to score by; and as `Source.user`.
        StoreError: as `Source.user`.
    """
    ids = choose(source.sizes(selection.queries_per_user), selection)
    if not ids:
        raise InputError(f"{source.where}: no user of {source.task.name} has a query to answer")
    users = [source.user(user_id, selection.queries_per_user) for user_id in ids]
    for user in users:
        for query in user.queries:
            if not query.gold:
                raise InputError(
                    f"{source.where}: query {query.id!r} has no gold, so nothing can be scored: put the split's "
                    f"outputs beside its questions"
                )
    return users


@dataclass(frozen=True)
class UserTable:
    """Users who are all in memory."""

    task: Task
    where: str
    digest: str
    users: tuple[User, ...]
    notes: tuple[str, ...] = ()

    def sizes(self, queries_per_user: int | None = None) -> list[UserSize]:
        return [UserSize(user.user_id, len(user.history), len(user.queries)) for user in self.users]

    def user(self, user_id: str, queries_per_user: int | None = None) -> User:
        user = next((user for user in self.users if user.user_id == user_id), None)
        if user is None:
            raise no_such_user(self.where, user_id)
        return replace(user, queries=user.queries[:queries_per_user])


def no_such_user(where: str, user_id: str) -> InputError:
    """The error that says so."""
    return InputError(f"{where}: there is no user {user_id!r}; `sizes` names those there are")


def leaked_queries(users: Iterable[User]) -> list[tuple[str, str]]:
    """(user_id, query id) of queries that are in their own user's history by id: `recall` could look them up."""
    found = []
    for user in users:
        own = {interaction.id for interaction in user.history}
        found += [(user.user_id, query.id) for query in user.queries if query.id in own]
    return found
