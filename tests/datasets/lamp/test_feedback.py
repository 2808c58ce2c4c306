"""What a critic is told of an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.datasets.lamp.feedback import MAX_WORDS, label_feedback, rating_feedback, text_feedback
from personaagent.programs.errors import InputError

LABELS = ("comedy", "dark comedy", "action")


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("comedy", "Right: the user chose 'comedy' too."),
        (" comedy\n", "Right: the user chose 'comedy' too."),
        ("action", "Wrong: the answer is 'action', but the user chose 'comedy'."),
        (
            None,
            "Wrong: the answer named none of the labels, or several; the user chose 'comedy'. "
            "It must be one of: comedy, dark comedy, action.",
        ),
        (
            "drama",
            "Wrong: the answer 'drama' is no label; the user chose 'comedy'. "
            "It must be one of: comedy, dark comedy, action.",
        ),
    ],
)
def test_a_label(prediction: str | None, expected: str) -> None:
    assert label_feedback("comedy ", prediction, LABELS) == expected


@pytest.mark.parametrize(
    ("gold", "prediction", "expected"),
    [
        ("4", "4", "Right: the user gave 4 too."),
        ("4", " 4.0\n", "Right: the user gave 4 too."),
        ("4", "5", "Too high by 1: the answer is 5, but the user gave 4."),
        ("4", "1.5", "Too low by 2.5: the answer is 1.5, but the user gave 4."),
        ("4", "inf", "Too high by inf: the answer is inf, but the user gave 4."),
        (
            "4",
            None,
            "Wrong: the answer is no single number; the user gave 4. Answer with the number alone.",
        ),
        (
            "4",
            "good",
            "Wrong: the answer ('good') is no single number; the user gave 4. Answer with the number alone.",
        ),
        (
            "4",
            "nan",
            "Wrong: the answer ('nan') is no single number; the user gave 4. Answer with the number alone.",
        ),
    ],
)
def test_a_rating(gold: str, prediction: str | None, expected: str) -> None:
    assert rating_feedback(gold, prediction) == expected


def test_a_true_rating_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="gold 'four' is not a finite number"):
        rating_feedback("four", "4")


def test_a_text() -> None:
    gold = "Why I Left Facebook: 3 Reasons"
    prediction = "The author leaves Facebook, for reasons of privacy!"
    assert text_feedback(gold, prediction).splitlines() == [
        "The user wrote: Why I Left Facebook: 3 Reasons",
        "The answer was: The author leaves Facebook, for reasons of privacy!",
        "Words in both: facebook, reasons.",
        "Words only in the user's: why, i, left, 3.",
        "Words only in the answer: the, author, leaves, for, of, privacy.",
        "Length: the user's has 6 words, the answer 8 (1.33 times as many).",
        "Style: case: the user's Title Case, the answer's sentence case; exclamation mark: the user's no, the "
        "answer's yes; colon: the user's yes, the answer's no; number: the user's yes, the answer's no; first person: "
        "the user's yes, the answer's no.",
    ]


def test_a_text_that_differs_in_order_alone() -> None:
    assert text_feedback("one two", "two one").splitlines()[2:] == [
        "Words in both: one, two.",
        "Words only in the user's: none.",
        "Words only in the answer: none.",
        "Length: the user's has 2 words, the answer 2 (1.00 times as many).",
        "Style: no difference in case, punctuation or person.",
    ]


def test_the_right_text_and_none() -> None:
    assert text_feedback("A Title", " A Title\n") == "Right, word for word: the user wrote: A Title"
    for prediction in (None, "", " \n"):
        assert text_feedback("A Title ", prediction) == "The answer is empty.\nThe user wrote: A Title"


def test_words_are_capped_and_the_others_counted() -> None:
    lines = text_feedback(" ".join(f"w{i}" for i in range(MAX_WORDS + 3)), "none").splitlines()
    assert lines[3] == f"Words only in the user's: {', '.join(f'w{i}' for i in range(MAX_WORDS))} and 3 more."


@pytest.mark.parametrize(
    ("gold", "prediction", "style"),
    [
        ("WHO WON", "Who won", "case: the user's ALL CAPS, the answer's sentence case"),
        ("Who Won Iowa", "who won iowa", "case: the user's Title Case, the answer's lower case"),
        ("Life in the Fast Lane", "Life in the fast lane", "case: the user's Title Case, the answer's sentence case"),
        ("42", "forty", "case: the user's none, the answer's lower case; number: the user's yes, the answer's no"),
        ("who won?", "who won", "question mark: the user's yes, the answer's no"),
        ('a "boom" year', "a boom year", "quotation: the user's yes, the answer's no"),
        ("a 'boom' year", "a boom year", "quotation: the user's yes, the answer's no"),
        ("the kids' year", "the kids year's", None),
        ("your year", "a year", "second person: the user's yes, the answer's no"),
        ("we won", "i won", None),
    ],
)
def test_style(gold: str, prediction: str, style: str | None) -> None:
    expected = f"Style: {style}." if style else "Style: no difference in case, punctuation or person."
    assert text_feedback(gold, prediction).splitlines()[-1] == expected


@given(st.text(min_size=1, max_size=80), st.one_of(st.none(), st.text(max_size=80)))
def test_any_texts(gold: str, prediction: str | None) -> None:
    feedback = text_feedback(gold, prediction)
    assert feedback == text_feedback(gold, prediction)
    assert label_feedback(gold, prediction, LABELS)
    statements = [line for line in feedback.split("\n") if line.startswith(("Words ", "Length", "Style"))]
    assert len(statements) <= 5 + (gold + (prediction or "")).count("\n")
