"""Interaction: what is refused, and that the text of a timestamp sorts as time does."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction, Position, normalise_timestamp

quick = settings(deadline=None, database=None, derandomize=True, max_examples=150)


def moments() -> st.SearchStrategy[datetime]:
    """Any moment whose UTC form exists, in any whole-minute offset or in none."""
    offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
    first, last = datetime(1, 1, 2), datetime(9999, 12, 30)
    return st.datetimes(first, last, timezones=st.none() | offsets)


@pytest.mark.parametrize(
    ("given_value", "normalised"),
    [
        ("", ""),
        ("  ", ""),
        (2007, "2007"),
        ("2007", "2007"),
        ("2007-08", "2007-08"),
        (" 2007-08-31 ", "2007-08-31"),
        ("2007-08-31T12:00:00Z", "2007-08-31T12:00:00.000000Z"),
        ("2007-08-31 12:00", "2007-08-31T12:00:00.000000Z"),
        ("2007-08-31T12:00:00.25", "2007-08-31T12:00:00.250000Z"),
        ("2007-08-31T23:30:00-05:00", "2007-09-01T04:30:00.000000Z"),
        ("2007-08-31T23:30:00+0530", "2007-08-31T18:00:00.000000Z"),
        (datetime(2007, 8, 31, 12, tzinfo=UTC), "2007-08-31T12:00:00.000000Z"),
        (datetime(2007, 8, 31, 12), "2007-08-31T12:00:00.000000Z"),
    ],
)
def test_a_timestamp_has_one_form(given_value: Any, normalised: str) -> None:
    assert normalise_timestamp(given_value) == normalised


@pytest.mark.parametrize(
    "value",
    [
        *("yesterday", "2007-13", "2007-02-30", "2007-8-1", "0000", "31.08.2007", "2007-08-31T25:00", "2007-08-31T12"),
        *("2007-08-31\n2008", "٢٠٠٧", 207, -2007, 2007.5, None, True, b"2007"),
    ],
)
def test_what_is_no_timestamp_is_refused_by_its_value(value: Any) -> None:
    with pytest.raises(InputError) as refused:
        normalise_timestamp(value)
    assert repr(value) in str(refused.value)


@pytest.mark.parametrize("value", ["0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00"])
def test_a_moment_that_utc_cannot_name_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="in UTC"):
        normalise_timestamp(value)


@quick
@given(moments(), moments())
def test_timestamps_sort_as_their_moments(one: datetime, other: datetime) -> None:
    def in_utc(moment: datetime) -> datetime:
        return moment.replace(tzinfo=moment.tzinfo or UTC)

    assert (normalise_timestamp(one) < normalise_timestamp(other)) == (in_utc(one) < in_utc(other))


@quick
@given(moments())
def test_normalising_is_idempotent_and_reads_isoformat(moment: datetime) -> None:
    normalised = normalise_timestamp(moment)
    assert normalise_timestamp(normalised) == normalised
    assert normalise_timestamp(moment.isoformat()) == normalised


@pytest.mark.parametrize("year", [1, 99, 999])
def test_an_early_year_keeps_four_digits(year: int) -> None:
    assert normalise_timestamp(datetime(year, 1, 1)) == f"{year:04}-01-01T00:00:00.000000Z"


def test_a_coarse_date_comes_before_the_finer_ones_it_contains() -> None:
    written = ["", "2006-12-31", "2007", "2007-08", "2007-08-31", "2007-08-31T00:00:00Z", "2007-09"]
    assert sorted(written, key=normalise_timestamp) == written


def test_defaults() -> None:
    interaction = Interaction("ann", "i1", "what?", "")
    assert (interaction.text, interaction.timestamp, interaction.ordinal) == ("what?", "", None)
    assert dict(interaction.metadata) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in ("user_id", "id", "query") for value in ("", " \n", None, 3)),
        ("response", None),
        ("response", 5),
        ("text", 5),
        *(("ordinal", value) for value in (-1, 1.0, True, "1", 2**63)),
        ("timestamp", "soon"),
        *(("metadata", value) for value in (None, "stars", [("stars", "5")])),
        *((name, "half \ud83d of a pair") for name in ("user_id", "id", "query", "response", "text")),
    ],
)
def test_a_bad_field_is_refused_by_its_name(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"user_id": "ann", "id": "i1", "query": "q", "response": "r"}
    with pytest.raises(InputError, match=field) as refused:
        Interaction(**fields | {field: value})
    str(refused.value).encode()  # a message that cannot be printed helps nobody


def test_metadata_is_text_a_copy_and_read_only() -> None:
    source: dict[str, Any] = {"stars": 5}
    interaction = Interaction("ann", "i1", "q", "r", metadata=source)
    source["stars"] = 1
    assert dict(interaction.metadata) == {"stars": "5"}
    with pytest.raises(TypeError):
        interaction.metadata["stars"] = "2"  # type: ignore[index]
    with pytest.raises(InputError, match="'note'"):
        Interaction("ann", "i1", "q", "r", metadata={"note": "\udc00"})


def test_position_orders_by_time_then_ordinal() -> None:
    early_to_late = [("", 9), ("2006", 12), ("2007", 0), ("2007", 1), ("2007", 10), ("2008", 0)]
    positions = [Position(*place) for place in early_to_late]
    assert sorted(set(positions)) == positions
    assert Interaction("ann", "i", "q", "r", "2007", 10).position == Position("2007", 10)
    with pytest.raises(InputError, match="no ordinal yet"):
        _ = Interaction("ann", "i", "q", "r").position


def test_an_example_carries_whose_it_is_and_its_place_and_only_the_query_is_an_input() -> None:
    example = Interaction("ann", "i1", "q", "r", "2007", 3).to_example("question", "answer")
    assert example.inputs().toDict() == {"question": "q"}
    place = {"interaction_id": "i1", "timestamp": "2007", "ordinal": 3}
    assert example.labels().toDict() == {"user_id": "ann", "answer": "r", **place}


def test_interactions_compare_by_content() -> None:
    one, same = (Interaction("ann", "i", "q", "r", 2007, 1, metadata={"a": "b"}) for _ in range(2))
    assert one == same
    assert one != Interaction("ann", "i", "q", "r", 2008, 1, metadata={"a": "b"})
    with pytest.raises(AttributeError):
        one.query = "other"  # type: ignore[misc]


def test_an_interaction_can_be_pickled_copied_and_hashed() -> None:
    one = Interaction("ann", "i", "q", "r", "2007", 1, text="t", metadata={"a": "b"})
    for same in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one), copy.copy(one)):
        assert same == one
        assert hash(same) == hash(one)
        with pytest.raises(TypeError):
            same.metadata["a"] = "c"
    other = Interaction("ann", "i", "q", "r", "2007", 1, text="t", metadata={"a": "c"})
    assert len({one, other, copy.deepcopy(one)}) == 2
