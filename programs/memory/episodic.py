"""Episodic memory: the top K most similar interactions of one user (eq. 2)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np

from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.encoder import checked_vector

if TYPE_CHECKING:
    from personaagent.programs.memory.store import MemoryStore

_SCORE_DECIMALS = 6
_OVERFETCH = 16


class Recalled(NamedTuple):
    """One interaction that was recalled."""

    interaction: Interaction
    score: float
    """Cosine similarity to the query, rounded to 1e-6; from -1 to 1."""


class EpisodicMemory:
    """An exact FAISS view of one user's history in a `MemoryStore`; get it by `store.episodic(user_id)`.

    The view follows the store: what was recorded, by this process or another, is found by the next recall.
    """

    def __init__(self, store: MemoryStore, user_id: str) -> None:
        self.user_id = user_id
        self._store = store
        self._lock = threading.Lock()
        self._interactions: list[Interaction] = []
        self._index: Any = None
        self._revision: tuple[int, int] | None = None

    def recall(
        self,
        query: str,
        k: int,
        before: Interaction | Position | None = None,
        since: Interaction | Position | None = None,
    ) -> list[Recalled]:
        """The k interactions whose text is most similar to the query, best first; ties newest first.

        Args:
            query: any text.
            k: from 0; fewer are returned if there are fewer.
            before: hides this interaction (or all from this position) and everything after it, in the
                user's total order by (timestamp, ordinal). Timestamps alone would not do: most tie.
            since: hides everything before this interaction (or position) in the same order, but not itself;
                one at or after `before` leaves nothing.

        Raises:
            InputError: if k is no integer from 0, or a bound is an interaction without an ordinal.
            StoreError: if the history cannot be read.
            EncoderError: if a text cannot be encoded.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 0:
            raise InputError(f"k must be an integer from 0, but got {k!r}")
        if k == 0:
            return []
        with self._lock:
            self._refresh()
            interactions, index = self._interactions, self._index
        visible = visible_rows(interactions, before, since)
        if not visible:
            return []
        encoder = self._store.encoder
        vector = checked_vector(encoder.encode(query), encoder.dimension, encoder.name)
        return self._ranked(interactions, index, vector, visible, k)

    def invalidate(self) -> None:
        """Forget what was read from the store; the next recall reads it again."""
        with self._lock:
            self._interactions, self._index, self._revision = [], None, None

    def _ranked(
        self, interactions: list[Interaction], index: Any, vector: Any, visible: range, k: int
    ) -> list[Recalled]:
        # FAISS returns equal scores in an order of its own, so more than k are fetched, until the last
        # one is clearly worse than the k-th, and sorted here.
        fetch = min(len(visible), k + _OVERFETCH)
        while True:
            parameters: Any = faiss.SearchParameters(sel=faiss.IDSelectorRange(visible.start, visible.stop))
            scores, rows = index.search(vector[np.newaxis, :], fetch, params=parameters)
            found = sorted(
                ((round(float(s), _SCORE_DECIMALS), int(r)) for s, r in zip(scores[0], rows[0], strict=True) if r >= 0),
                reverse=True,
            )
            if fetch == len(visible) or found[-1][0] < found[min(k, len(found)) - 1][0]:
                break
            fetch = min(len(visible), 2 * fetch)
        return [Recalled(interactions[row], score) for score, row in found[:k]]

    def _refresh(self) -> None:
        # Read before the snapshot: what is recorded in between is noticed by the next recall.
        revision = self._store.revision(self.user_id)
        if revision == self._revision:
            return
        snapshot = self._store.snapshot(self.user_id)
        # A new index, not an addition: a search in another thread goes on with the old one.
        index = faiss.IndexFlatIP(snapshot.vectors.shape[1])
        index.add(snapshot.vectors)
        self._interactions, self._index, self._revision = snapshot.interactions, index, revision

    def __deepcopy__(self, memo: dict[int, Any]) -> EpisodicMemory:
        return self  # a program's copy uses the same memory

    def __reduce__(self) -> tuple[Callable[[str], EpisodicMemory], tuple[str]]:
        # Pickled as its store and its user: the unpickled store knows it, and empties it when the user is forgotten.
        return self._store.episodic, (self.user_id,)


def visible_rows(
    interactions: Sequence[Interaction],
    before: Interaction | Position | None = None,
    since: Interaction | Position | None = None,
) -> range:
    """Which of a history, given oldest first, lie between two places: from `since`, without `before`.

    None is no bound. An interaction is found by its position and by its id, whichever comes first: a caller may
    hold it under a later position than the one that is stored.

    Raises:
        InputError: if a bound is an interaction without an ordinal.
    """
    stop = len(interactions) if before is None else _row(interactions, before)
    start = 0 if since is None else _row(interactions, since)
    return range(min(start, stop), stop)


def _row(interactions: Sequence[Interaction], place: Interaction | Position) -> int:
    """The first row at or after a place; the number of rows if there is none."""
    position = place.position if isinstance(place, Interaction) else place
    own_id = place.id if isinstance(place, Interaction) else None
    for row, interaction in enumerate(interactions):
        if interaction.position >= position or interaction.id == own_id:
            return row
    return len(interactions)
