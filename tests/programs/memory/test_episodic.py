"""EpisodicMemory: the ranking is exact, what is hidden stays hidden, and a view follows its store."""

from __future__ import annotations

import gc
import hashlib
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.episodic import EpisodicMemory, Recalled
from personaagent.programs.memory.store import MemoryStore


class AngleEncoder:
    """A text is a number of degrees; its vector stands at that angle. Scores are cosines that a test can choose."""

    name, dimension = "angle", 2

    def encode(self, text: str) -> Any:
        angle = np.radians(float(text.split()[0]))
        return np.asarray([np.cos(angle), np.sin(angle)], dtype=np.float32)


def event(ordinal: int, text: str = "", user: str = "ann", timestamp: str = "2007-08-31") -> Interaction:
    query = f"question {ordinal} of {user}"
    return Interaction(user, f"i{ordinal}", query, f"r{ordinal}", timestamp, ordinal, text=text)


def ids(found: list[Recalled]) -> list[str]:
    return [recalled.interaction.id for recalled in found]


def brute_force(store: MemoryStore, user: str, query: str, k: int, visible: int) -> list[tuple[float, str]]:
    """The definition: rounded inner products, best first, ties newest first."""
    interactions = store.interactions(user)[:visible]
    matrix = np.stack([store.encoder.encode(i.text) for i in interactions]).astype(np.float64)
    scores = matrix @ store.encoder.encode(query).astype(np.float64)
    order = sorted(range(visible), key=lambda row: (-round(float(scores[row]), 6), -row))
    return [(float(scores[row]), interactions[row].id) for row in order[:k]]


# -- ranking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 4, 40, 300, 301, 10_000])
def test_the_ranking_is_that_of_brute_force(encoder: Any, k: int) -> None:
    store = MemoryStore(encoder=encoder)
    # A third of the texts repeat, as real histories do.
    history = store.add(event(n, text=f"text {n % 200}") for n in range(300))
    memory = store.episodic("ann")
    for query in ("text 3", "text 250", "anything", "e4"):
        for before in (None, history[157]):
            visible = 157 if before else 300
            expected = brute_force(store, "ann", query, k, visible)
            found = memory.recall(query, k, before)
            assert ids(found) == [id for _, id in expected]
            assert [f.score for f in found] == pytest.approx([score for score, _ in expected], abs=2e-6)


def test_scores_are_rounded_cosines(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add(event(n, text=f"text {n}") for n in range(30))
    found = store.episodic("ann").recall("text 7", 30)
    assert found[0].interaction.id == "i7"
    assert found[0].score == 1.0
    assert all(f.score == round(f.score, 6) and -1 <= f.score <= 1 for f in found)
    assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)


@pytest.mark.parametrize("copies", [1, 5, 17, 18, 60, 200])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_ties_are_newest_first_however_many_there_are(copies: int, k: int) -> None:
    # FAISS returns k + 16 rows: with more copies than that, the newest need not be among them.
    store = MemoryStore(encoder=AngleEncoder())
    store.add([event(0, "90"), event(1, "45"), *(event(2 + n, "10") for n in range(copies)), event(500, "120")])
    found = ids(store.episodic("ann").recall("10", k))
    newest_first = [f"i{2 + n}" for n in reversed(range(copies))]
    assert found == [*newest_first, "i1", "i0", "i500"][:k]


def test_ties_below_better_ones_are_newest_first() -> None:
    store = MemoryStore(encoder=AngleEncoder())
    store.add([event(0, "0"), event(1, "0"), *(event(2 + n, "30") for n in range(80)), event(90, "60")])
    memory = store.episodic("ann")
    assert ids(memory.recall("0", 4)) == ["i1", "i0", "i81", "i80"]
    assert ids(memory.recall("0", 4, before=event(50, "0"))) == ["i1", "i0", "i49", "i48"]


def test_a_difference_under_the_rounding_is_a_tie() -> None:
    # Cosines of 1 - 5e-9 and 1: equal to six decimals, so the newer one comes first although it is further away.
    store = MemoryStore(encoder=AngleEncoder())
    store.add([event(0, "0"), event(1, "0.005"), event(2, "5")])
    assert ids(store.episodic("ann").recall("0", 3)) == ["i1", "i0", "i2"]


@pytest.mark.parametrize("k", [-1, 1.0, True, "3", None])
def test_k_is_a_count(encoder: Any, k: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add([event(0)])
    with pytest.raises(InputError, match=f"k must be an integer from 0, but got {k!r}"):
        store.episodic("ann").recall("q", k)


def test_zero_of_them_asks_nothing(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add([event(0)])
    assert store.episodic("ann").recall("q", 0) == []
    assert encoder.texts == []


def test_retrieval_compares_the_corpus_text_and_not_query_or_response(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add(
        [Interaction("ann", "1", "apple", "pear", text="plum"), Interaction("ann", "2", "plum", "plum", text="x")]
    )
    assert ids(store.episodic("ann").recall("plum", 1)) == ["1"]


# -- what is hidden --------------------------------------------------------------------------------------------


def test_before_hides_the_interaction_and_all_after_it_when_every_timestamp_ties(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    history = store.add(event(n, text="the same text") for n in range(40))
    memory = store.episodic("ann")
    for n, interaction in enumerate(history):
        for before in (interaction, interaction.position):
            assert ids(memory.recall("the same text", 100, before)) == [f"i{m}" for m in reversed(range(n))]


def test_before_goes_by_time_and_then_by_ordinal(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    places = [("2006", 9), ("2007", 0), ("2007", 1), ("2007-06", 0), ("2008", 2)]
    store.add(Interaction("ann", f"{when}/{n}", "q", "r", when, n) for when, n in places)
    memory = store.episodic("ann")

    def seen(timestamp: str, ordinal: int) -> set[str]:
        return set(ids(memory.recall("q", 9, Position(timestamp, ordinal))))

    assert seen("", 0) == set()
    assert seen("2006", 9) == set()
    assert seen("2006", 10) == {"2006/9"}
    assert seen("2007", 1) == {"2006/9", "2007/0"}
    assert seen("2007", 99) == {"2006/9", "2007/0", "2007/1"}
    assert seen("2009", 0) == {f"{when}/{n}" for when, n in places}


def test_an_interaction_is_hidden_by_its_id_too(encoder: Any) -> None:
    # A caller may hold it under a later position than the one that is stored.
    store = MemoryStore(encoder=encoder)
    store.add(event(n) for n in range(4))
    later = Interaction("ann", "i1", "q", "r", "2009", 7)
    assert set(ids(store.episodic("ann").recall("q", 9, later))) == {"i0"}


def test_equal_positions_are_hidden_together(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add(Interaction("ann", id, "q", "r", "2007", 0) for id in ("a", "b", "c"))
    history = store.interactions("ann")
    assert store.episodic("ann").recall("q", 9, history[2]) == []


def test_an_interaction_without_a_place_is_refused(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add([event(0)])
    with pytest.raises(InputError, match="no ordinal yet"):
        store.episodic("ann").recall("q", 3, Interaction("ann", "x", "q", "r"))


def test_since_hides_what_is_older_and_not_itself_when_every_timestamp_ties(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    history = store.add(event(n, text="the same text") for n in range(40))
    memory = store.episodic("ann")
    for n, interaction in enumerate(history):
        for since in (interaction, interaction.position):
            assert ids(memory.recall("the same text", 100, since=since)) == [f"i{m}" for m in reversed(range(n, 40))]


def test_since_goes_by_time_and_then_by_ordinal(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    places = [("2006", 9), ("2007", 0), ("2007", 1), ("2007-06", 0), ("2008", 2)]
    store.add(Interaction("ann", f"{when}/{n}", "q", "r", when, n) for when, n in places)
    memory = store.episodic("ann")

    def seen(timestamp: str, ordinal: int) -> set[str]:
        return set(ids(memory.recall("q", 9, since=Position(timestamp, ordinal))))

    assert seen("", 0) == {f"{when}/{n}" for when, n in places}
    assert seen("2006", 10) == {"2007/0", "2007/1", "2007-06/0", "2008/2"}
    assert seen("2007", 1) == {"2007/1", "2007-06/0", "2008/2"}
    assert seen("2007", 99) == {"2007-06/0", "2008/2"}
    assert seen("2008", 3) == set()


def test_since_at_or_after_before_leaves_nothing_and_encodes_nothing(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    history = store.add(event(n) for n in range(6))
    memory = store.episodic("ann")
    memory.recall("q", 1)
    encoder.texts.clear()
    for before in range(6):
        for since in range(before, 6):
            for a, b in ((history[before], history[since]), (history[before].position, history[since].position)):
                assert memory.recall("q", 9, a, b) == []
    assert encoder.texts == []


def test_an_interaction_is_visible_since_itself_even_if_it_is_held_under_a_later_place(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add(event(n) for n in range(4))
    later = Interaction("ann", "i1", "q", "r", "2009", 7)
    assert set(ids(store.episodic("ann").recall("q", 9, since=later))) == {"i1", "i2", "i3"}


def test_equal_positions_are_visible_together(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add(Interaction("ann", id, "q", "r", "2007", 0) for id in ("a", "b", "c"))
    history = store.interactions("ann")
    assert set(ids(store.episodic("ann").recall("q", 9, since=history[2]))) == {"a", "b", "c"}


PLACES = st.tuples(st.sampled_from(["", "2006", "2007-05", "2007-05-31"]), st.integers(0, 60))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), PLACES), max_size=60),
    st.integers(1, 70),
    *(st.none() | PLACES | st.integers(0, 59) for _ in range(2)),
)
def test_between_two_bounds_the_ranking_is_that_of_brute_force(
    records: list[tuple[int, tuple[str, int]]], k: int, before: Any, since: Any
) -> None:
    """Few texts, so that ties are many; few places, so that they collide; bounds that are recorded and that are not."""
    store = MemoryStore(encoder=AngleEncoder())
    store.add(Interaction("ann", f"i{n}", "q", "r", *at, text=f"{20 * text}") for n, (text, at) in enumerate(records))
    history = store.interactions("ann")

    def bound(drawn: Any) -> Interaction | Position | None:
        if isinstance(drawn, int):
            return history[drawn] if drawn < len(history) else None
        return Position(*drawn) if drawn else None

    first, last = bound(since), bound(before)
    visible = [
        i
        for i in history
        if (first is None or i.position >= getattr(first, "position", first))
        and (last is None or i.position < getattr(last, "position", last))
    ]
    # At 0 degrees the smaller angle is the better one, and of equals the newest.
    expected = sorted(visible, key=lambda i: (float(i.text), -history.index(i)))
    found = store.episodic("ann").recall("0", k, last, first)
    assert ids(found) == [i.id for i in expected[:k]]
    assert [f.score for f in found] == pytest.approx(
        [np.cos(np.radians(float(i.text))) for i in expected[:k]], abs=2e-6
    )
    # What is hidden changes neither the scores nor the order of what is not.
    whole = store.episodic("ann").recall("0", 100)
    assert found == [f for f in whole if f.interaction in visible][:k]


def test_nobody_else_is_ever_returned(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add(event(n, "the same text", user) for user in ("ann", "bob") for n in range(20))
    found = store.episodic("bob").recall("the same text", 100)
    assert {f.interaction.user_id for f in found} == {"bob"}
    assert len(found) == 20


# -- the view --------------------------------------------------------------------------------------------------


def test_handles_of_a_user_share_a_view_that_is_freed_with_the_last(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    store.add(event(n) for n in range(5))
    one, two = store.episodic("ann"), store.episodic("ann")
    assert one is two
    assert store.episodic("bob") is not one
    one.recall("q", 2)
    watched = weakref.ref(one)
    index = weakref.ref(one._index)
    del one
    gc.collect()
    assert watched() is not None
    del two
    gc.collect()
    assert watched() is None
    assert index() is None
    assert not list(store._views)
    assert len(store.episodic("ann").recall("q", 9)) == 5


def test_a_view_follows_what_is_recorded(encoder: Any) -> None:
    store = MemoryStore(encoder=encoder)
    memory = store.episodic("ann")
    assert memory.recall("text 1", 5) == []
    for n in range(4):
        store.add([event(n, text=f"text {n}")])
        assert ids(memory.recall(f"text {n}", 1)) == [f"i{n}"]
        assert len(memory.recall("q", 9)) == n + 1
    # Recorded last, and yet older than all the others.
    store.add([Interaction("ann", "early", "q", "r", "1999", text="text 1")])
    assert ids(memory.recall("text 1", 2)) == ["i1", "early"]
    assert ids(memory.recall("text 1", 9, before=event(0))) == ["early"]


def test_a_view_is_read_once_as_long_as_nothing_changes(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(encoder=encoder)
    store.add([event(0), event(0, user="bob")])
    memory = store.episodic("ann")
    read: list[str] = []
    snapshot = store.snapshot
    monkeypatch.setattr(store, "snapshot", lambda user: read.append(user) or snapshot(user))
    for _ in range(5):
        memory.recall("q", 1)
        store.add([event(0)])
    assert read == ["ann"]
    memory.invalidate()
    assert len(memory.recall("q", 1)) == 1
    assert read == ["ann", "ann"]


def test_a_user_forgotten_in_mid_recall_is_an_empty_memory(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore(encoder=encoder)
    store.add([event(0)])
    memory = store.episodic("ann")
    other = threading.Thread(target=store.forget, args=("ann",))
    snapshot = store.snapshot

    def forgotten_first(user: str) -> Any:
        if not other.ident:
            other.start()
            while store.count(user):  # another thread erases; it then waits for this recall to end
                pass
        return snapshot(user)

    monkeypatch.setattr(store, "snapshot", forgotten_first)
    assert memory.recall("q", 3) == []
    other.join()
    assert memory.recall("q", 3) == []
    store.add([event(5)])
    assert ids(memory.recall("q", 3)) == ["i5"]


@pytest.mark.parametrize("where", ["memory", "file"])
def test_32_threads_recall_while_others_record(tmp_path: Path, encoder: Any, where: str) -> None:
    store = MemoryStore("sqlite://" if where == "memory" else f"sqlite:///{tmp_path / 'm.db'}", encoder)
    users = ("ann", "bob", "cem")
    first = {user: store.add(event(n, f"text {n}", user) for n in range(30)) for user in users}
    gate = threading.Barrier(35)

    def recalling(number: int) -> None:
        user = users[number % 3]
        gate.wait()
        for n in range(12):
            target = (number + n) % 30
            found = store.episodic(user).recall(f"text {target}", 4)
            assert found[0].interaction.id == f"i{target}"
            assert found[0].score == 1.0
            assert {f.interaction.user_id for f in found} == {user}
            # What was there before any thread began, and nothing that came since.
            past = store.episodic(user).recall(f"text {target}", 100, before=first[user][target])
            assert set(ids(past)) == {f"i{m}" for m in range(target)}

    def recording(user: str) -> None:
        gate.wait()
        for n in range(30, 60):
            store.add([event(n, f"text {n}", user)])

    with ThreadPoolExecutor(35) as pool:
        futures = [pool.submit(recalling, n) for n in range(32)] + [pool.submit(recording, user) for user in users]
        for future in futures:
            future.result()
    for user in users:
        assert set(ids(store.episodic(user).recall("q", 100))) == {f"i{n}" for n in range(60)}


def test_a_recall_is_the_same_after_a_reopen_bit_by_bit(tmp_path: Path, encoder: Any) -> None:
    url = f"sqlite:///{tmp_path / 'm.db'}"
    store = MemoryStore(url, encoder)
    store.add(event(n, f"text {n % 37}") for n in range(100))
    before = store.episodic("ann").recall("q", 50)
    store.close()
    # Another store in which the same was recorded in another order and in pieces.
    other = MemoryStore(encoder=encoder)
    for n in sorted(range(100), key=lambda n: hashlib.sha256(str(n).encode()).digest()):
        other.add([event(n, f"text {n % 37}")])
        if n % 10 == 0:
            other.episodic("ann").recall("q", 1)
    assert MemoryStore(url, encoder).episodic("ann").recall("q", 50) == before
    assert other.episodic("ann").recall("q", 50) == before


def test_a_view_belongs_to_its_store(encoder: Any) -> None:
    one, other = MemoryStore(encoder=encoder), MemoryStore(encoder=encoder)
    one.add([event(0)])
    assert isinstance(other.episodic("ann"), EpisodicMemory)
    assert other.episodic("ann").recall("q", 3) == []
