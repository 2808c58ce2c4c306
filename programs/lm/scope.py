"""Which call it is: the unit of work it belongs to, what it asks, and how often that was asked before."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dspy._vendor.lm15.serde import request_to_dict  # by which DSPy's own cache knows a request
from dspy.lm15 import Request


class Scope:
    """A unit of work whose calls are told apart from those of others by name, and from each other by ordinal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._counts: dict[tuple[object, str], Iterator[int]] = {}
        self._parts: dict[str, Scope] = {}

    def part(self, name: str) -> Scope:
        """The part of this name, which counts by itself; always the same one."""
        return self._parts.setdefault(name, Scope(f"{self.name}/{name}"))

    def ordinal(self, who: object, request: str) -> int:
        """0, 1, ... for each time that `who` asks this in this scope."""
        # Each is one step of the interpreter, so that threads need no lock.
        return next(self._counts.setdefault((who, request), itertools.count()))


_scope: ContextVar[Scope | None] = ContextVar("personaagent_recording_scope", default=None)


@contextmanager
def recording_scope(name: str) -> Iterator[None]:
    """Record and replay the calls within the block as those of one unit of work.

    The same prompt may get another answer in another unit: in a replay each unit gets its own. It holds in this
    context, and in threads and tasks that copied it. A unit that is done again is recorded again, from its first
    call: what was recorded last counts. Scopes do not add up: within another one, only the inner one counts.

    Args:
        name: the same in recording and replay, and of no other unit.
    """
    token = _scope.set(Scope(name))
    try:
        yield
    finally:
        _scope.reset(token)


@contextmanager
def scope_part(name: str) -> Iterator[None]:
    """Within a unit of work, tell the calls within the block from those of parts that are done side by side with it.

    Parts may ask the same in any order: in a replay each gets its own answer. One that is entered again within the
    same unit counts on. Outside of any scope this does nothing.

    Args:
        name: of no other part of the unit.
    """
    unit = _scope.get()
    token = _scope.set(unit.part(name) if unit else None)
    try:
        yield
    finally:
        _scope.reset(token)


def current_scope() -> Scope | None:
    """The innermost scope around the caller; None outside of any."""
    return _scope.get()


def question_name(address: str | None, topic: str) -> str:
    """Identity of a question to a MediaWiki, among requests."""
    return f"wikipedia {address} {topic}"


def request_digest(request: Request) -> str:
    """Identity of a request: SHA-256 of model, messages, tools and every sampling setting, 64 hex digits."""
    text = json.dumps(request_to_dict(request), sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
