"""The official metrics, against a plain statement of the official rule."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.datasets.lamp.metrics import classification
from personaagent.datasets.lamp.tasks import LAMP_2M_LABELS as LABELS
from personaagent.programs.errors import InputError

_PREDICTIONS = st.one_of(st.sampled_from(LABELS), st.none(), st.sampled_from(["", "Sci-Fi", "drama", "comedy.", "-1"]))


def official(golds: list[str], predictions: list[str | None]) -> dict[str, Fraction]:
    """Exact match; F1 of a label is 2tp / (2tp + fp + fn), 0 if that is 0/0; averaged over all labels."""
    pairs = list(zip(golds, predictions, strict=True))
    f1 = Fraction(0)
    for label in LABELS:
        tp = sum(g == label and p == label for g, p in pairs)
        fp = sum(g != label and p == label for g, p in pairs)
        fn = sum(g == label and p != label for g, p in pairs)
        f1 += Fraction(2 * tp, 2 * tp + fp + fn) if tp + fp + fn else 0
    return {"accuracy": Fraction(sum(g == p for g, p in pairs), len(pairs)), "f1": f1 / len(LABELS)}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(LABELS), _PREDICTIONS), min_size=1, max_size=60))
def test_accuracy_and_f1_are_the_official_ones(pairs: list[tuple[str, str | None]]) -> None:
    golds, predictions = [g for g, _ in pairs], [p for _, p in pairs]
    expected = official(golds, predictions)
    scores = classification(golds, predictions, LABELS)
    assert set(scores) == {"accuracy", "f1"}
    for name, score in scores.items():
        assert type(score) is float
        assert math.isclose(score, expected[name], rel_tol=0, abs_tol=1e-12)


def test_labels_that_do_not_occur_pull_f1_down() -> None:
    assert classification(["comedy"], ["comedy"], LABELS) == {"accuracy": 1.0, "f1": pytest.approx(1 / 15)}
    assert classification(list(LABELS), list(LABELS), LABELS) == {"accuracy": 1.0, "f1": 1.0}


def test_what_is_no_label_is_wrong_and_no_class_of_its_own() -> None:
    two = ("a", "b")
    assert classification(["a", "b"], ["a", None], two) == {"accuracy": 0.5, "f1": 0.5}
    assert classification(["a", "b"], ["a", "c"], two) == {"accuracy": 0.5, "f1": 0.5}
    assert classification(["a", "b"], [None, ""], two) == {"accuracy": 0.0, "f1": 0.0}


def test_white_space_around_an_answer_does_not_matter_and_case_does() -> None:
    assert classification(["a", " b"], [" a\n", "b"], ("a", "b"))["accuracy"] == 1.0
    assert classification(["a"], ["A"], ("a", "b"))["accuracy"] == 0.0


@pytest.mark.parametrize(("golds", "predictions"), [([], []), (["comedy"], []), (["comedy"], ["comedy", "action"])])
def test_unequal_or_no_samples_are_refused(golds: list[str], predictions: list[str | None]) -> None:
    with pytest.raises(InputError, match=f"but got {len(predictions)} and {len(golds)}"):
        classification(golds, predictions, LABELS)


def test_a_gold_that_is_no_label_is_refused() -> None:
    with pytest.raises(InputError, match="gold 'drama' is not one of the labels: sci-fi, "):
        classification(["comedy", "drama"], ["comedy", "comedy"], LABELS)
