"""What every memory store must do, wherever its URL points. A new kind of URL is one line in `URLS`."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from personaagent.programs.errors import EncoderError, InputError, StoreError
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

URLS = {"in memory": "sqlite://", "file": "sqlite:///{folder}/memory.db"}


def event(id: str, user: str = "ann", **fields: Any) -> Interaction:
    return Interaction(**{"user_id": user, "id": id, "query": f"query {id}", "response": f"response {id}"} | fields)


def ids(interactions: list[Interaction]) -> list[str]:
    return [interaction.id for interaction in interactions]


@pytest.fixture(params=URLS)
def store(request: pytest.FixtureRequest, tmp_path: Path, encoder: Any) -> Iterator[MemoryStore]:
    made = MemoryStore(URLS[request.param].format(folder=tmp_path), encoder)
    yield made
    made.close()


class TestInteractions:
    def test_an_unknown_user_has_nothing(self, store: MemoryStore) -> None:
        assert store.interactions("ann") == []
        assert store.interaction("ann", "i") is None
        assert store.count("ann") == 0
        assert store.users() == []
        assert store.profile("ann") is None
        assert store.persona("ann") is None
        assert store.personas("ann") == []
        assert store.episodic("ann").recall("q", 3) == []

    def test_what_is_recorded_comes_back_whole(self, store: MemoryStore) -> None:
        given = event(
            "i\x001",
            query="what?\n«é»\t👩‍👧",
            response="",
            text="corpus\x00text",
            timestamp="2007-08-31",
            ordinal=2**63 - 1,
        )
        full = event("i2", timestamp="2007-08-31T12:00:00Z", ordinal=0, metadata={"stars": "5", "é": "\n"})
        assert store.add([given, full]) == [given, full]
        assert store.interaction("ann", given.id) == given
        assert store.interactions("ann") == [given, full]

    def test_the_order_is_timestamp_then_ordinal_whatever_the_order_of_adding(self, store: MemoryStore) -> None:
        places = [("", 7), ("2006", 9), ("2007", 1), ("2007", 2), ("2007", 10), ("2007-01", 0), ("2007-01-01", 3)]
        history = [event(f"i{n}", timestamp=when, ordinal=ordinal) for n, (when, ordinal) in enumerate(places)]
        shuffled = random.Random(0).sample(history, len(history))
        store.add(shuffled[:4])
        store.add(shuffled[4:])
        assert store.interactions("ann") == history
        assert [i.position for i in store.interactions("ann")] == [Position(*place) for place in places]

    def test_equal_positions_have_a_fixed_order(self, store: MemoryStore) -> None:
        store.add([event(id, timestamp="2007", ordinal=0) for id in ("b", "c", "a")])
        assert ids(store.interactions("ann")) == ["a", "b", "c"]

    def test_ordinals_are_assigned_by_user_and_go_on_after_given_ones(self, store: MemoryStore) -> None:
        first = store.add([event("a"), event("x", "bob"), event("b"), event("c", ordinal=7), event("d")])
        assert [i.ordinal for i in first] == [0, 0, 1, 7, 8]
        second = store.add([event("e"), event("y", "bob"), event("f", ordinal=2), event("g")])
        assert [i.ordinal for i in second] == [9, 1, 2, 10]
        assert ids(store.interactions("ann")) == ["a", "b", "f", "c", "d", "e", "g"]

    @pytest.mark.parametrize("given", ["new", "5"], ids=["given and new", "given and stored"])
    def test_a_given_ordinal_in_a_batch_does_not_lower_the_next_one(self, store: MemoryStore, given: str) -> None:
        store.add([event(str(n), timestamp="2020", ordinal=n) for n in range(10)])
        ordinal = 3 if given == "new" else 5
        batch = [event(given, timestamp="2020", ordinal=ordinal), event("newest", timestamp="2020")]
        assert [i.ordinal for i in store.add(batch)] == [ordinal, 10]
        assert store.interactions("ann")[-1].id == "newest"

    def test_a_user_whose_ordinals_are_used_up_is_told(self, store: MemoryStore) -> None:
        store.add([event("last", ordinal=2**63 - 1)])
        with pytest.raises(InputError, match="2\\*\\*63 - 1"):
            store.add([event("one more")])
        assert store.count("ann") == 1

    def test_now_is_the_time_of_what_is_new_and_a_retry_records_nothing_twice(self, store: MemoryStore) -> None:
        first, later = datetime(2026, 1, 1, tzinfo=UTC), "2026-01-02"
        stored = store.add([event("a"), event("b", timestamp="2007"), event("a")], now=first)
        assert [i.timestamp for i in stored] == ["2026-01-01T00:00:00.000000Z", "2007", "2026-01-01T00:00:00.000000Z"]
        again = store.add([event("a"), event("b", timestamp="2007"), event("c")], now=later)
        assert again[:2] == stored[:2]
        assert again[2].timestamp == later
        assert store.interactions("ann") == [stored[1], stored[0], again[2]]

    def test_now_leaves_only_the_missing_time_out_of_the_comparison(self, store: MemoryStore) -> None:
        stored = store.add([event("a")], now="2026-01-01")
        for conflict, named in (
            (event("a", response="other"), "response"),
            (event("a", timestamp="2008"), "timestamp"),
        ):
            with pytest.raises(StoreError, match=f"another {named}"):
                store.add([event("b"), conflict], now="2026-01-02")
        with pytest.raises(StoreError, match="another timestamp"):
            store.add([event("a")])
        with pytest.raises(InputError, match="'soon'"):
            store.add([event("b")], now="soon")
        assert store.interactions("ann") == stored

    def test_adding_again_changes_nothing(self, store: MemoryStore) -> None:
        batch = [event("a"), event("b", timestamp="2007"), event("a")]
        stored = store.add(batch)
        assert [i.ordinal for i in stored] == [0, 1, 0]
        assert store.add(batch) == stored
        assert store.add(stored) == stored
        assert store.count("ann") == 2

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("query", "other"),
            ("response", "other"),
            ("text", "other"),
            ("timestamp", "2008"),
            ("ordinal", 5),
            ("metadata", {"a": "c"}),
        ],
    )
    def test_other_content_under_an_id_is_refused_and_nothing_is_recorded(
        self, store: MemoryStore, field: str, value: Any
    ) -> None:
        stored = store.add([event("a", timestamp="2007", metadata={"a": "b"})])
        conflict = event("a", **{"timestamp": "2007", "metadata": {"a": "b"}} | {field: value})
        with pytest.raises(StoreError, match=f"'ann'.*'a' with another {field}.*Nothing was recorded"):
            store.add([event("before"), event("new", "bob"), conflict, event("after")])
        assert store.interactions("ann") == stored
        assert store.users() == ["ann"]

    def test_a_conflict_within_one_batch_is_refused(self, store: MemoryStore) -> None:
        with pytest.raises(StoreError, match="another response"):
            store.add([event("a"), event("a", response="other")])
        assert store.count("ann") == 0

    def test_an_iterator_that_fails_records_nothing(self, store: MemoryStore) -> None:
        def source() -> Iterator[Interaction]:
            yield event("a")
            yield event("")

        with pytest.raises(InputError):
            store.add(source())
        assert store.count("ann") == 0
        assert store.add([event("b")])[0].ordinal == 0

    def test_an_iterator_may_read_the_store_it_fills(self, store: MemoryStore) -> None:
        store.add([event("1")])
        store.add(event(id) for id in ("1", "2", "3") if store.interaction("ann", id) is None)
        assert ids(store.interactions("ann")) == ["1", "2", "3"]

    def test_ids_are_unique_within_a_user_only(self, store: MemoryStore) -> None:
        store.add([event("1"), event("1", "bob", response="bob's")])
        assert store.users() == ["ann", "bob"]
        found = store.interaction("bob", "1")
        assert found is not None
        assert found.response == "bob's"

    def test_text_is_bound_and_never_sql(self, store: MemoryStore) -> None:
        hostile = "x'; DROP TABLE interactions; --%_"
        store.add([event(hostile, hostile, query=hostile), event("1")])
        assert store.interactions(hostile)[0].query == hostile
        assert store.count("%") == 0
        store.forget("_nn")
        assert store.count("ann") == 1


class TestWhatWasLearnt:
    def test_the_newest_profile_counts(self, store: MemoryStore) -> None:
        store.save_profile("ann", "likes tea")
        store.save_profile("bob", "likes milk")
        store.save_profile("ann", "likes coffee\n«é»")
        assert store.profile("ann") == "likes coffee\n«é»"

    def test_every_persona_version_is_kept(self, store: MemoryStore) -> None:
        root = Persona("zero")
        one, branch = root.rewritten("one", ["a", "b"]), root.rewritten("branch", ["c"])
        for persona in (root, one, one, branch):
            store.save_persona("ann", persona)
        store.save_persona("bob", root)
        assert store.personas("ann") == [root, one, branch]
        assert store.persona("ann") == branch
        store.save_persona("ann", one)  # back to an earlier one: it is the newest again
        assert store.persona("ann") == one
        assert store.personas("ann") == [root, one, branch, one]

    def test_what_cannot_be_stored_is_refused_and_nothing_is_recorded(self, store: MemoryStore) -> None:
        with pytest.raises(StoreError, match="nothing could be recorded"):
            store.save_profile("ann", "half \ud83d of a pair")
        assert store.profile("ann") is None
        store.save_profile("ann", "whole")
        assert store.profile("ann") == "whole"


class TestVectors:
    def test_a_snapshot_is_the_history_in_order_with_its_vectors(self, store: MemoryStore, encoder: Any) -> None:
        store.add([event("b", ordinal=1, text="two"), event("a", ordinal=0, text="one"), event("c", text="two")])
        snapshot = store.snapshot("ann")
        assert ids(snapshot.interactions) == ["a", "b", "c"]
        assert snapshot.vectors.dtype == np.float32
        expected = np.stack([encoder.encode(text) for text in ("one", "two", "two")])
        assert (snapshot.vectors == expected).all()

    def test_a_text_is_encoded_once_whoever_has_it(self, store: MemoryStore, encoder: Any) -> None:
        store.add([event("1", text="shared"), event("2", text="shared"), event("3", text="own")])
        store.add([event("1", "bob", text="shared"), event("2", "bob", text="Shared")])
        for user in ("ann", "bob", "ann"):
            store.snapshot(user)
        assert sorted(encoder.texts) == ["Shared", "own", "shared"]
        store.add([event("4", text="new"), event("5", text="own")])
        store.snapshot("ann")
        assert encoder.texts[3:] == ["new"]

    def test_an_encoder_that_fails_stores_no_vector_and_loses_nothing(self, store: MemoryStore, encoder: Any) -> None:
        store.add([event("1", text="good"), event("2", text="bad")])
        sound = encoder.encode
        encoder.encode = lambda text: np.full(32, np.nan, np.float32) if text == "bad" else sound(text)
        with pytest.raises(EncoderError, match="not finite"):
            store.snapshot("ann")
        encoder.encode = sound
        assert len(store.snapshot("ann").vectors) == 2
        assert encoder.texts == ["good", "good", "bad"]  # nothing of the failed snapshot was kept

    def test_the_encoder_is_untouched_until_a_vector_is_needed(self, store: MemoryStore, encoder: Any) -> None:
        store.add([event("1")])
        store.interactions("ann")
        store.episodic("ann").recall("q", 0)
        store.episodic("bob").recall("q", 3)
        assert store.snapshot("bob").interactions == []
        assert encoder.texts == []


class TestForgetting:
    def test_it_erases_everything_of_the_user_and_nothing_of_others(self, store: MemoryStore, encoder: Any) -> None:
        for user in ("ann", "bob"):
            store.add([event("1", user, text="shared"), event("2", user, text=f"only {user}")])
            store.save_profile(user, f"profile of {user}")
            store.save_persona(user, Persona(f"persona of {user}"))
            store.snapshot(user)
        bob = store.interactions("bob")
        store.forget("ann")
        assert (store.interactions("ann"), store.count("ann"), store.users()) == ([], 0, ["bob"])
        assert (store.profile("ann"), store.persona("ann"), store.personas("ann")) == (None, None, [])
        assert store.episodic("ann").recall("only ann", 4) == []
        assert store.interactions("bob") == bob
        assert (store.profile("bob"), store.persona("bob")) == ("profile of bob", Persona("persona of bob"))
        encoder.texts.clear()
        store.snapshot("bob")
        assert encoder.texts == []  # the shared text's vector is still there
        store.add([event("1", text="shared"), event("2", text="only ann")])
        store.snapshot("ann")
        assert encoder.texts == ["only ann"]  # and the one of ann alone was erased

    def test_a_user_who_is_not_known_can_be_forgotten(self, store: MemoryStore) -> None:
        store.add([event("1")])
        store.forget("bob")
        assert store.count("ann") == 1

    def test_ordinals_start_anew(self, store: MemoryStore) -> None:
        store.add([event("1"), event("2")])
        store.forget("ann")
        assert store.add([event("3")])[0].ordinal == 0

    def test_a_handle_sees_it_at_once_even_when_as_many_are_recorded_anew(self, store: MemoryStore) -> None:
        store.add([event("1", text="secret"), event("2", text="other")])
        memory = store.episodic("ann")
        assert {found.interaction.id for found in memory.recall("secret", 4)} == {"1", "2"}
        store.forget("ann")
        assert memory.recall("secret", 4) == []
        store.add([event("3", text="new"), event("4", text="newer")])
        assert {found.interaction.id for found in memory.recall("secret", 4)} == {"3", "4"}
        assert {found.interaction.id for found in store.episodic("ann").recall("secret", 4)} == {"3", "4"}

    def test_a_handle_that_is_kept_is_still_the_shared_one(self, store: MemoryStore) -> None:
        memory = store.episodic("ann")
        for text in ("first secret", "second secret"):
            store.add([event("1", text=text)])
            assert len(memory.recall(text, 1)) == 1
            store.forget("ann")
            assert memory._interactions == []  # emptied each time, not at its next recall
            assert store.episodic("ann") is memory

    def test_no_statement_that_is_cached_holds_what_was_forgotten(self, store: MemoryStore) -> None:
        secrets = [f"{what}-only-ann-has" for what in ("user", "id", "query", "response", "text", "profile", "persona")]
        user, id_, query, response, text, profile, persona = secrets
        given = event(id_, user, query=query, response=response, text=text, metadata={"m": text})
        for _ in range(2):  # recorded, and found to be there
            store.add([given], now="2026-01-01")
        assert store.interaction(user, id_) in store.interactions(user)
        assert (store.count(user), store.users(), store.revision(user)) == (1, [user], (1, 0))
        store.episodic(user).recall(query, 1)
        store.save_profile(user, profile)
        store.save_persona(user, Persona(persona))
        assert (store.profile(user), store.persona(user)) == (profile, store.personas(user)[0])
        store.forget(user)
        gc.collect()
        values = [o.value for o in gc.get_objects() if isinstance(o, sa.BindParameter)]
        assert values  # the statements are cached
        assert [value for value in values if isinstance(value, str) and "only-ann-has" in value] == []

    def test_a_user_forgotten_while_texts_are_encoded_leaves_no_vector(self, store: MemoryStore, encoder: Any) -> None:
        store.add([event("1", text="secret"), event("1", "bob", text="bob's")])
        encode = encoder.encode

        def forgetting(text: str) -> Any:
            store.forget("ann")
            return encode(text)

        encoder.encode = forgetting
        store.snapshot("ann")
        encoder.encode = encode
        encoder.texts.clear()
        store.add([event("1", text="secret")])
        store.snapshot("ann")
        assert encoder.texts == ["secret"]


def test_a_copy_of_a_program_uses_the_same_memory(store: MemoryStore) -> None:
    memory = store.episodic("ann")
    assert copy.deepcopy(store) is store
    assert copy.copy(store) is store
    assert copy.deepcopy(memory) is memory
    assert copy.copy(memory) is memory


def test_a_closed_store_says_so(store: MemoryStore) -> None:
    store.add([event("1")])
    memory = store.episodic("ann")
    store.close()
    store.close()
    for use in (
        lambda: store.interactions("ann"),
        lambda: store.add([event("2")]),
        lambda: store.save_profile("ann", "p"),
        lambda: store.forget("ann"),
        lambda: memory.recall("q", 1),
    ):
        with pytest.raises(StoreError, match="the store is closed"):
            use()


def test_a_revision_changes_with_the_user_only(store: MemoryStore) -> None:
    store.add([event("1")])
    before = store.revision("ann")
    store.add([event("1"), event("2", "bob")])
    store.save_profile("ann", "p")
    assert store.revision("ann") == before
    store.add([event("2")])
    after = store.revision("ann")
    assert after != before
    store.forget("ann")
    store.add([event("1"), event("2")])
    assert store.revision("ann") not in (before, after)
