"""From an LM's text to a label."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.datasets.lamp.parse import parse_label
from personaagent.datasets.lamp.tasks import LAMP_2M_LABELS as LABELS


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "  {}\n",
        "{}.",
        '"{}"',
        "**{}**",
        "`{}`",
        "“{}”",
        "[{}]",
        "Answer: {}",
        "**Answer:** {}",
        "Final answer: **{}**.",
        "The answer is {}.",
        "The tag is: {}",
        "tag - {}",
        "category = {}",
        "The film deals with many things.\nSo the tag is:\n{}",
        "I would tag it {} without a doubt.",
    ],
)
def test_a_label_is_found_in_what_is_around_it(text: str, label: str) -> None:
    assert parse_label(text.format(label), LABELS) == label
    assert parse_label(text.format(label.upper()), LABELS) == label


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        ("Sci Fi", "sci-fi"),
        ("SCI_FI", "sci-fi"),
        ("dark-comedy", "dark comedy"),
        ("Based On A\nBook", "based on a book"),
        ("thought provoking!", "thought-provoking"),
        ("It is a dark  comedy of manners", "dark comedy"),
        ("comedy or action? I choose:\naction", "action"),
        ("not a comedy", "comedy"),  # one label is named: parsing reads, it does not understand
        ("comedy, comedy and again comedy", "comedy"),
    ],
)
def test_spellings_and_places(raw: str, label: str) -> None:
    assert parse_label(raw, LABELS) == label


@pytest.mark.parametrize(
    "raw",
    [
        "",
        " \n",
        "...",
        "I do not know",
        "comedy or action",
        "comedy, dark comedy",
        "comedies",
        "reaction",
        "classical",
        "a true (based on a book) story and a romance",
        "drama",
        "Answer:",
    ],
)
def test_none_or_several_labels_are_no_label(raw: str) -> None:
    assert parse_label(raw, LABELS) is None


def test_a_label_is_not_put_together_from_what_surrounded_another() -> None:
    assert parse_label("true based on a book story, so to say", LABELS) == "based on a book"


def test_a_text_that_is_a_label_is_that_label_whatever_else_it_resembles() -> None:
    assert parse_label(" Answer: b ", ("b", "Answer: b")) == "Answer: b"
    assert parse_label("Comedy", ("comedy", "Comedy")) == "Comedy"


def test_labels_with_signs_are_plain_text() -> None:
    assert parse_label("I like c++ (a lot)", ("c++", "c.*")) == "c++"


@settings(deadline=None)
@given(st.text(max_size=300))
def test_every_text_gives_a_label_or_none(raw: str) -> None:
    label = parse_label(raw, LABELS)
    assert label is None or label in LABELS
    assert parse_label(raw, LABELS) == label


@settings(deadline=None)
@given(st.lists(st.sampled_from(LABELS), min_size=2, max_size=4, unique=True))
def test_two_labels_on_one_line_are_none_unless_one_holds_the_other(labels: list[str]) -> None:
    assert parse_label("either " + " or else ".join(labels) + " perhaps", LABELS) is None
