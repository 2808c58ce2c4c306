"""memory-bank: which notes are written of a history, which pieces a question is shown, and what they cost."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import dspy
import pytest

from personaagent.programs.baselines import MemoryBank
from personaagent.programs.baselines._notes import (
    OVERALL_PERSONALITY,
    OVERALL_SUMMARY,
    PERSONALITY_OF_A_DATE,
    SUMMARY_OF_A_DATE,
)
from personaagent.programs.baselines.memory_bank import DATES, projected_calls
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction, Position

KINDS = {
    "date summary": SUMMARY_OF_A_DATE,
    "date personality": PERSONALITY_OF_A_DATE,
    "overall summary": OVERALL_SUMMARY,
    "overall personality": OVERALL_PERSONALITY,
}
ALL = 1_000_000  # so many items a day that nothing is forgotten


def kind(call: Any) -> str:
    return next((name for name, instruction in KINDS.items() if instruction in call.system), "question")


def noting(call: Any) -> dict[str, str]:
    """A note names its kind and the dates that it read."""
    if call.role != "summary":
        return dict.fromkeys(call.outputs, "yes")
    days = sorted(set(re.findall(r"2020-01-\d\d", call.user)))
    return {"profile": f"{kind(call)} of {' '.join(days)}"}


@pytest.fixture
def bank(store: Any) -> MemoryBank:
    return MemoryBank("query -> response", store, items_per_day=ALL)


def learnt_by(bank: MemoryBank, lm: Any, history: list[Interaction] | None = None) -> dict[str, Any]:
    assert bank.memory is not None
    with dspy.context(lm=lm):
        return bank.learn("ann", bank.memory.interactions("ann") if history is None else history)


def memories(call: Any) -> list[str]:
    return call.user.partition("[[ ## memories ## ]]\n")[2].split("\n\n")[0].splitlines()


# -- notes ----------------------------------------------------------------------------------------


def test_each_date_has_two_notes_and_the_whole_has_two_of_these(bank: MemoryBank, scripted: Any) -> None:
    lm, engine = scripted(noting)
    learnt = learnt_by(bank, lm)
    assert [kind(call) for call in engine.calls] == [
        *(["date summary", "date personality"] * 4),
        "overall summary",
        "overall personality",
    ]
    first, last, overall = engine.calls[0].user, engine.calls[7].user, engine.calls[8].user
    assert re.findall(r"text (\d) of ann", first) == ["0", "1"]
    assert re.findall(r"text (\d) of ann", last) == ["6", "7"]
    assert "2020-01-01 date summary of 2020-01-01\n2020-01-02 date summary" in overall
    assert "personality" not in overall
    assert "2020-01-04 date personality of 2020-01-04" in engine.calls[9].user
    assert learnt["dates"][1] == {
        "date": "2020-01-02",
        "summary": "date summary of 2020-01-02",
        "personality": "date personality of 2020-01-02",
    }
    assert learnt["summary"].startswith("overall summary") and learnt["personality"].startswith("overall personality")
    assert (learnt["since"], learnt["until"]) == (["2020-01-01", 0], ["2020-01-04", 7])
    assert learnt["faults"] == []


@pytest.mark.parametrize(
    ("dates", "noted"), [(0, []), (1, ["04"]), (3, ["02", "03", "04"]), (9, ["01", "02", "03", "04"])]
)
def test_only_the_latest_dates_have_notes(store: Any, scripted: Any, dates: int, noted: list[str]) -> None:
    lm, engine = scripted(noting)
    bank = MemoryBank("query -> response", store, dates=dates)
    learnt = learnt_by(bank, lm)
    assert [entry["date"] for entry in learnt["dates"]] == [f"2020-01-{day}" for day in noted]
    history = store.interactions("ann")
    assert len(engine.calls) == bank.learning_calls(history).expected == (2 * len(noted) + 2 if noted else 0)
    assert len(engine.calls) <= projected_calls(len(history), dates)


@pytest.mark.parametrize(
    ("interactions", "dates", "calls"), [(0, 5, 0), (5, 0, 0), (1, 5, 4), (5, 5, 12), (500, 10, 22), (500, 500, 1002)]
)
def test_the_projection_is_two_a_date_and_two(interactions: int, dates: int, calls: int) -> None:
    assert projected_calls(interactions, dates) == calls
    assert projected_calls(500) == 2 * DATES + 2


def test_the_projection_is_met_where_every_interaction_has_a_date_of_its_own(store: Any) -> None:
    days = [Interaction("dan", str(n), f"q{n}", "r", f"2021-02-{n + 1:02}", n) for n in range(12)]
    for dates in (1, 5, 20):
        bank = MemoryBank("query -> response", store, dates=dates)
        assert bank.learning_calls(days).expected == projected_calls(12, dates)


def test_interactions_without_a_date_are_a_date(store: Any, scripted: Any) -> None:
    store.add([Interaction("dan", "1", "q", "r", text="t of dan")])
    bank = MemoryBank("query -> response", store, items_per_day=ALL)
    lm, engine = scripted(noting)
    with dspy.context(lm=lm):
        learnt = bank.learn("dan", store.interactions("dan"))
        bank.for_user("dan", learnt=learnt)(query="q?")
    assert learnt["dates"][0]["date"] == ""
    assert memories(engine.calls[-1]) == ['«t of dan» -> "r"', "summary: date summary of"]


def test_a_note_that_cannot_be_read_is_taken_as_it_is(bank: MemoryBank, scripted: Any) -> None:
    def script(call: Any) -> Any:
        if kind(call) == "date summary" and "text 2 of ann" in call.user:
            return "[[ ## oops ## ]]\nLikes lighthouses. </persona>\nAnd ships."
        if kind(call) == "date personality":
            return {"profile": " "} if "text 4 of ann" in call.user else {"profile": "null"}
        if kind(call) == "overall summary":
            return {"profile": "null"}
        return noting(call)

    lm, engine = scripted(script)
    learnt = learnt_by(bank, lm)
    assert learnt["dates"][1]["summary"] == "Likes lighthouses. (/persona)\nAnd ships."
    overall = next(call for call in engine.calls if kind(call) == "overall summary")
    assert "2020-01-02 Likes lighthouses. (/persona) And ships.\n2020-01-03 date summary" in overall.user
    assert learnt["summary"] == ""
    assert "overall summary: nothing was written" in learnt["faults"]
    assert "summary of 2020-01-02: could not be read as asked" in learnt["faults"]
    assert learnt["dates"][2]["personality"] == learnt["personality"] == ""
    assert "overall personality: there was no note to sum up" in learnt["faults"]
    assert not any(kind(call) == "overall personality" for call in engine.calls)
    with dspy.context(lm=lm):
        bank.for_user("ann", learnt=learnt)(query="q?")
    assert "[[ ## personality ## ]]\nnothing yet." in engine.calls[-1].user


def test_a_history_that_cannot_be_learnt_costs_no_call(store: Any, scripted: Any) -> None:
    lm, engine = scripted(noting)
    bank = MemoryBank("query -> response", store, clock="days")
    with pytest.raises(InputError, match="has no date"):
        learnt_by(bank, lm, [replace(store.interactions("ann")[0], timestamp="")])
    with pytest.raises(InputError, match="no ordinal"):
        learnt_by(MemoryBank("query -> response", store), lm, [Interaction("ann", "new", "q", "r")])
    assert not engine.calls


# -- pieces ---------------------------------------------------------------------------------------


def test_pieces_are_the_most_similar_events_and_summaries_by_date(bank: MemoryBank, store: Any, scripted: Any) -> None:
    lm, engine = scripted(noting)
    learnt = learnt_by(bank, lm)
    encoder = store.encoder
    texts = {f"text {n} of ann": f'2020-01-{1 + n // 2:02} «text {n} of ann» -> "answer {n} of ann"' for n in range(8)}
    texts |= {
        f"date summary of 2020-01-{d:02}": f"2020-01-{d:02} summary: date summary of 2020-01-{d:02}"
        for d in range(1, 5)
    }
    for question in ("date summary of 2020-01-03", "text 6 of ann", "q?"):
        engine.calls.clear()
        with dspy.context(lm=lm):
            prediction = bank.for_user("ann", learnt=learnt)(query=question)
        vector = encoder.encode(question)
        best = sorted(texts, key=lambda text: -float(vector @ encoder.encode(text)))[:4]
        shown = memories(engine.calls[0])
        assert set(shown) == {texts[text] for text in best}
        # Of a date first its events in order, then its summary.
        assert shown == sorted(shown, key=lambda line: (line[:10], "summary:" in line, line))
        assert [f"ann-{n}" for line in shown for n in re.findall(r"text (\d)", line)] == prediction.recalled


def test_what_is_forgotten_is_not_shown_nor_the_summary_of_a_date_that_is_empty(
    bank: MemoryBank, scripted: Any
) -> None:
    lm, engine = scripted(noting)
    learnt = learnt_by(bank, lm)
    learnt["remembered"] = {"ann-2": 1, "ann-7": 3}
    with dspy.context(lm=lm):
        prediction = bank.for_user("ann", learnt=learnt)(query="q?")
    assert memories(engine.calls[-1]) == [
        '2020-01-02 «text 2 of ann» -> "answer 2 of ann"',
        "2020-01-02 summary: date summary of 2020-01-02",
        '2020-01-04 «text 7 of ann» -> "answer 7 of ann"',
        "2020-01-04 summary: date summary of 2020-01-04",
    ]
    assert prediction.recalled == ["ann-2", "ann-7"]


def test_where_all_is_forgotten_only_the_overall_notes_are_left(bank: MemoryBank, scripted: Any) -> None:
    lm, engine = scripted(noting)
    learnt = learnt_by(bank, lm) | {"remembered": {}}
    with dspy.context(lm=lm):
        bank.for_user("ann", learnt=learnt)(query="q?")
    assert memories(engine.calls[-1]) == ["Nothing is remembered of this user."]
    assert "[[ ## summary ## ]]\noverall summary of" in engine.calls[-1].user
    assert "[[ ## personality ## ]]\noverall personality of" in engine.calls[-1].user


def test_learning_forgets_by_seed_and_is_repeatable(store: Any, scripted: Any) -> None:
    store.add([Interaction("dan", str(n), f"q{n}", "r", "2020-01-01", n) for n in range(60)])
    lm, _ = scripted(noting)
    history = store.interactions("dan")

    def kept(**options: Any) -> dict[str, int]:
        with dspy.context(lm=lm):
            return MemoryBank("query -> response", store, dates=0, **options).learn("dan", history)["remembered"]

    assert kept() == kept()
    assert 0 < len(kept()) < 60
    assert kept(seed=1) != kept()
    assert set(kept(memories=0).values()) == {1} < set(kept().values())
    assert kept(curve="published") != kept()
    assert len(kept(items_per_day=ALL)) == len(kept(clock="days")) == 60


def test_answers_strengthen_nothing(bank: MemoryBank, scripted: Any) -> None:
    lm, engine = scripted(noting)
    learnt = learnt_by(bank, lm)
    before = repr(learnt)
    handle = bank.for_user("ann", learnt=learnt)
    with dspy.context(lm=lm):
        for question in ("q?", "r?", "q?"):
            handle(query=question)
    assert repr(learnt) == before
    assert engine.calls[-1].user == engine.calls[-3].user


# -- the past -------------------------------------------------------------------------------------


def test_what_was_learnt_of_the_past_shows_nothing_later(bank: MemoryBank, store: Any, scripted: Any) -> None:
    lm, engine = scripted(noting)
    for cut in store.interactions("ann")[1:]:
        engine.calls.clear()
        learnt = learnt_by(bank, lm, store.interactions("ann")[: cut.ordinal])
        with dspy.context(lm=lm):
            bank.for_user("ann", learnt=learnt).as_of(cut)(query="q?")
            bank.for_user("ann", learnt=learnt)(query="q?")
        seen = {int(n) for call in engine.calls for n in re.findall(r"text (\d) of ann", call.user)}
        assert seen == set(range(cut.ordinal))


def test_what_was_learnt_of_the_future_is_refused(bank: MemoryBank, store: Any, scripted: Any) -> None:
    handle = bank.for_user("ann", learnt=learnt_by(bank, scripted(noting)[0]))
    for cut in store.interactions("ann"):
        with pytest.raises(InputError, match="learn from what came before"):
            handle.as_of(cut)
    handle.as_of(Position("2020-01-04", 8))
    handle.as_of(None)


@pytest.mark.parametrize("length", [0, 1, 3, 8])
def test_what_was_learnt_of_a_cut_history_is_what_the_cut_memory_shows(
    bank: MemoryBank, store: Any, scripted: Any, length: int
) -> None:
    lm, engine = scripted(noting)
    cut = store.interactions("ann")[8 - length :]
    learnt = learnt_by(bank, lm, cut)
    assert set(learnt["remembered"]) == {interaction.id for interaction in cut}
    seen = {n for call in engine.calls for n in re.findall(r"text (\d) of ann", call.user)}
    assert seen == {str(interaction.ordinal) for interaction in cut}
    plain = bank.for_user("ann", learnt=learnt)
    # Of the oldest that was learnt, or after all of memory if nothing was.
    oldest = cut[0] if cut else Position("2020-01-04", 8)
    with dspy.context(lm=lm):
        for question in ("q?", "text 1 of ann", "text 7 of ann"):
            engine.calls.clear()
            for handle in (plain, plain.since(oldest), plain.since(store.interactions("ann")[0])):
                handle(query=question)
            first, *others = [(call.system, call.user) for call in engine.calls]
            assert others == [first, first]
            assert set(re.findall(r"text (\d) of ann", first[1].partition("[[ ## memories ## ]]")[2])) <= seen


def test_what_is_older_than_the_cut_is_never_a_piece(bank: MemoryBank, store: Any, scripted: Any) -> None:
    lm, _ = scripted(noting)
    history = store.interactions("ann")
    learnt = learnt_by(bank, lm, history[4:])
    learnt["remembered"] |= {"ann-0": 1, "ann-3": 1}  # of another cut
    with dspy.context(lm=lm):
        prediction = bank.for_user("ann", learnt=learnt).since(history[4])(query="text 3 of ann")
    assert prediction.recalled and set(prediction.recalled) <= {"ann-4", "ann-5", "ann-6", "ann-7"}


def test_what_was_learnt_of_older_interactions_than_the_cut_is_refused(
    bank: MemoryBank, store: Any, scripted: Any
) -> None:
    history = store.interactions("ann")
    handle = bank.for_user("ann", learnt=learnt_by(bank, scripted(noting)[0], history[2:]))
    for cut in history[3:]:
        for place in (cut, cut.position):
            with pytest.raises(InputError, match=r"has read from \('2020-01-02', 2\): learn from"):
                handle.since(place)
    for cut in (*history[:3], None):
        handle.since(cut)


# -- settings -------------------------------------------------------------------------------------


def test_bad_settings_say_the_rule(store: Any) -> None:
    for options, rule in (
        ({"dates": -1}, "dates must be an integer from 0, but got -1"),
        ({"items_per_day": 0}, "items_per_day must be an integer from 1, but got 0"),
        ({"curve": "flat"}, "curve must be one of paper, published, but got 'flat'"),
        ({"clock": "years"}, "clock must be one of items, days, but got 'years'"),
        ({"memories": -1}, "memories must be an integer from 0, but got -1"),
    ):
        with pytest.raises(InputError, match=rule):
            MemoryBank("query -> response", store, **options)


def test_without_what_it_learnt_it_does_not_answer(bank: MemoryBank) -> None:
    with pytest.raises(InputError, match=r"pass learnt=bank\.learn\('ann', history\)"):
        bank.for_user("ann")
