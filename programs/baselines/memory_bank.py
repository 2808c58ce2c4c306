"""`memory-bank`: a memory that sums up, and forgets (section 3.1; MemoryBank, Zhong et al., AAAI 2024)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import dspy
import numpy as np

from personaagent.programs.baselines._answerer import Answerer, extended
from personaagent.programs.baselines._notes import Note, NoteTaker
from personaagent.programs.baselines._program import Context, Program, check_history, summary_calls
from personaagent.programs.baselines.forgetting import (
    CLOCKS,
    CURVES,
    ITEMS_PER_DAY,
    Clock,
    Curve,
    check_choice,
    remembered,
)
from personaagent.programs.baselines.protocol import Calls, Learnt
from personaagent.programs.errors import InputError
from personaagent.programs.handles import check_count
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.encoder import Vector, checked_vector
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import NO_PROFILE
from personaagent.programs.quoting import one_line, record_line

DATES = 10
"""Most dates with notes, by default: as many as a user of MemoryBank's evaluation has."""

FIELDS = {
    "personality": "this user's personality, and the best way to answer in this user's sense",
    "summary": "what happened with this user so far",
    "memories": (
        "what is remembered of this user and most similar to the question, one a line, by date; use it where it is "
        "relevant"
    ),
}
NO_MEMORIES = "Nothing is remembered of this user."

_STATE = ("remembered", "dates", "summary", "personality", "until")


def projected_calls(interactions: int, dates: int = DATES) -> int:
    """LM calls by which a history of so many interactions is learnt, if nothing goes wrong: the most it can take.

    Two for each of the latest `dates` dates, and two overall. Where interactions share a date it is less:
    `MemoryBank.learning_calls` knows.
    """
    return 2 * min(interactions, dates) + 2 if interactions and dates else 0


class MemoryBank(Program):
    """MemoryBank's mechanism on interactions: event pieces and per-date summaries, personality notes, forgetting.

    What it learns: a summary and a personality note of each of the latest dates, one of each overall, and which
    events are remembered (`forgetting.py`). For a question it finds the K most similar pieces, events that are
    remembered and summaries of dates of which an event is, and shows them by date, with the overall notes. The
    question is answered by PersonaAgent's loop with the tools that are given, without any in one ChainOfThought.

    An answer strengthens nothing: it would depend on the questions before it. What was recorded after `learn` is
    not remembered before it is learnt.

    Differences from the authors' code (zhongwanjun/MemoryBank-SiliconFriend): pieces are whole interactions and
    whole summaries, not chunks of 200 characters; K is that of all methods (theirs is 6); older dates than the
    latest `dates` have events and no notes; the overall summary, which theirs makes and does not show, is shown; a
    companion's dialogues are a history of questions and answers.

    Args:
        signature: any DSPy signature.
        memory: where users' interactions are.
        memories: K; from 0, with which no piece is shown.
        tools: as of `PersonaAgent`. None is for its memory, which is in the prompt, as in the authors' code.
        dates: most dates with notes, the latest; from 0, which needs no LM.
        curve, clock, items_per_day: of forgetting; see `Curve`, `Clock` and `ITEMS_PER_DAY` (at least 1).
        seed: of forgetting.
        search_text, max_iters, query, response: as of `RAG`.

    Raises:
        InputError: on a value out of range, or if the signature has a field of one that this method adds
            (`personality`, `summary`, `memories`); by `for_user`, if it is given nothing `learnt`.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        memory: MemoryStore,
        memories: int = 4,
        tools: Sequence[Callable[..., Any] | dspy.Tool] = (),
        *,
        dates: int = DATES,
        curve: Curve = "paper",
        clock: Clock = "items",
        items_per_day: int = ITEMS_PER_DAY,
        seed: int = 0,
        search_text: Callable[[str], str] | None = None,
        max_iters: int = 6,
        query: str | None = None,
        response: str | None = None,
    ) -> None:
        check_count("dates", dates, 0)
        check_count("items_per_day", items_per_day, 1)
        check_choice("curve", curve, CURVES)
        check_choice("clock", clock, CLOCKS)
        answer = Answerer(extended(signature, FIELDS), None, 0, tools, max_iters, query, response)
        super().__init__(answer, memory=memory, memories=memories, search_text=search_text)
        self.dates = dates
        self.curve: Curve = curve
        self.clock: Clock = clock
        self.items_per_day = items_per_day
        self.seed = seed
        self.notes = NoteTaker()

    # -- learning -----------------------------------------------------------------------------------

    def learn(self, user_id: str, history: Sequence[Interaction]) -> Learnt:
        """Notes, and what is remembered.

        Returns:
            `remembered` (strength by id), `dates` (list of {date, summary, personality}, oldest first), `summary`,
            `personality` (texts, empty without notes), `since` and `until` (timestamp and ordinal of the oldest and
            the newest interaction, or None) and `faults` (notes that could not be read as asked).

        Raises:
            InputError: if an interaction is another user's or has no ordinal, or by the clock `days` no date.
            StoreError: if the memory store cannot be read.
            EncoderError: if a text cannot be encoded.
            dspy's `LMError`: if an LM call fails for good. A note that cannot be read is taken as it is.
        """
        plan = self._plan(user_id, history)
        dated = [self.notes.write(request) for request in self.notes.of_dates(plan.dates)]
        overall = [self.notes.write(request) for request in self.notes.overall(plan.dates, dated)]
        return plan.state(dated, overall)

    async def alearn(self, user_id: str, history: Sequence[Interaction]) -> Learnt:
        """As `learn`."""
        plan = await asyncio.to_thread(self._plan, user_id, history)
        dated = [await self.notes.awrite(request) for request in self.notes.of_dates(plan.dates)]
        overall = [await self.notes.awrite(request) for request in self.notes.overall(plan.dates, dated)]
        return plan.state(dated, overall)

    def learning_calls(self, history: Sequence[Interaction]) -> Calls:
        """Two for each date that gets notes, and two overall."""
        dates = len(_by_date(history, self.dates))
        return Calls(2 * dates + 2, summary_calls(2 * dates).most + 2) if dates else Calls(0, 0)

    def _plan(self, user_id: str, history: Sequence[Interaction]) -> _Plan:
        """All that needs no LM: what is wrong with a history shows before a call is paid for."""
        check_history(user_id, history)
        kept = remembered(
            history,
            self._vectors(user_id, history),
            memories=self.memories,
            curve=self.curve,
            clock=self.clock,
            items_per_day=self.items_per_day,
            seed=self.seed,
        )
        positions = [interaction.position for interaction in history]
        since, until = min(positions, default=None), max(positions, default=None)
        return _Plan(_by_date(history, self.dates), kept, since, until)

    def _vectors(self, user_id: str, history: Sequence[Interaction]) -> Any:
        """Of the texts; the store's, where it has them."""
        assert self.memory is not None
        snapshot = self.memory.snapshot(user_id)
        known = {i.text: vector for i, vector in zip(snapshot.interactions, snapshot.vectors, strict=True)}
        rows = [known[i.text] if i.text in known else self._encoded(i.text) for i in history]
        return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float32)

    def _encoded(self, text: str) -> Vector:
        assert self.memory is not None
        encoder = self.memory.encoder
        return checked_vector(encoder.encode(text), encoder.dimension, encoder.name)

    # -- handles ------------------------------------------------------------------------------------

    def as_of(self, before: Interaction | Position | None) -> Self:
        """See `Handle.as_of`.

        Raises:
            InputError: if what was learnt has read anything at or after `before`, of which its notes would tell.
        """
        handle = super().as_of(before)
        until, place = self._learnt.get("until"), _place(before)
        if until is not None and place is not None and place <= Position(*until):
            raise InputError(f"what was learnt has read up to {tuple(until)}: learn from what came before {place}")
        return handle

    def since(self, oldest: Interaction | Position | None) -> Self:
        """See `Handle.since`.

        Raises:
            InputError: if what was learnt has read anything older than `oldest`, of which its notes would tell.
        """
        handle = super().since(oldest)
        since, place = self._learnt.get("since"), _place(oldest)
        if since is not None and place is not None and place > Position(*since):
            raise InputError(f"what was learnt has read from {tuple(since)}: learn from {place} on")
        return handle

    def _understood(self, user_id: str, learnt: Learnt | None) -> Learnt:
        if learnt is None or any(name not in learnt for name in _STATE):
            raise InputError(
                f"memory-bank answers by what it learnt: pass learnt=bank.learn({user_id!r}, history); "
                f"it needs {', '.join(_STATE)}, but got {', '.join(learnt or {}) or 'nothing'}"
            )
        return learnt

    # -- answering ----------------------------------------------------------------------------------

    def _context(self, inputs: dict[str, Any]) -> Context:
        pieces = sorted(self._pieces(inputs), key=lambda piece: piece.place, reverse=True) if self.memories else []
        best = sorted(pieces, key=lambda piece: -piece.score)[: self.memories]  # stable: ties newest first
        shown = sorted(best, key=lambda piece: piece.place)
        fields = {
            "personality": self._learnt["personality"] or NO_PROFILE,
            "summary": self._learnt["summary"] or NO_PROFILE,
            "memories": "\n".join(piece.line for piece in shown) or NO_MEMORIES,
        }
        return Context(fields, [piece.id for piece in shown if piece.id is not None])

    def _pieces(self, inputs: dict[str, Any]) -> Iterator[_Piece]:
        """Every piece that is remembered, with its similarity to the question."""
        assert self.memory is not None
        dates = set()
        for one, score in self._similar(inputs, self.memory.count(self._user())):
            if one.id in self._learnt["remembered"]:
                dates.add(_date(one))
                line = record_line(one.text, one.response, one.timestamp)
                yield _Piece(score, (_date(one), 0, one.position), line, one.id)
        question = self._encoded(self._search_text(inputs)) if dates else None
        for note in self._learnt["dates"]:
            if question is not None and note["date"] in dates and note["summary"]:
                score = round(float(question @ self._encoded(note["summary"])), 6)
                line = f"{note['date']} summary: {one_line(note['summary'])}".strip()
                yield _Piece(score, (note["date"], 1, Position("", 0)), line, None)


class _Plan(NamedTuple):
    """What is known of a history before its notes are written."""

    dates: list[tuple[str, list[Interaction]]]
    remembered: dict[str, int]
    since: Position | None
    until: Position | None

    def state(self, dated: Sequence[Note], overall: Sequence[Note]) -> Learnt:
        """With the notes, as JSON can hold it."""
        pairs = zip(self.dates, dated[::2], dated[1::2], strict=True)
        summary, personality = overall or (Note("", None), Note("", None))
        return {
            "remembered": self.remembered,
            "dates": [{"date": d, "summary": s.text, "personality": p.text} for (d, _), s, p in pairs],
            "summary": summary.text,
            "personality": personality.text,
            "since": list(self.since) if self.since else None,
            "until": list(self.until) if self.until else None,
            "faults": [note.fault for note in (*dated, *overall) if note.fault],
        }


class _Piece(NamedTuple):
    """A piece of memory."""

    score: float
    place: tuple[str, int, Position]
    """By date; the summary after the events."""
    line: str
    id: str | None
    """Of the interaction; None for a summary."""


def _place(place: Interaction | Position | None) -> Position | None:
    return place.position if isinstance(place, Interaction) else place


def _date(interaction: Interaction) -> str:
    return interaction.timestamp[:10]


def _by_date(history: Sequence[Interaction], latest: int) -> list[tuple[str, list[Interaction]]]:
    """The latest so many dates with their interactions, oldest first."""
    found: dict[str, list[Interaction]] = {}
    for interaction in history:
        found.setdefault(_date(interaction), []).append(interaction)
    return sorted(found.items())[len(found) - min(latest, len(found)) :]
