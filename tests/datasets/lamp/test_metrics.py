"""The official metrics, against a plain statement of the official rule."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.datasets.lamp.metrics import absolute_error, classification, regression, rouge, rouge_of
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


# Ratings.


@pytest.mark.parametrize(
    ("gold", "prediction", "error"),
    [
        ("4", "4", 0.0),
        ("4", " 4.5\n", 0.5),
        ("4", "7", 3.0),  # neither rounded
        ("1", "-2", 3.0),  # nor clipped
        ("4", "inf", math.inf),
        ("4", "-inf", math.inf),
        ("5", "1e200", 1e200),
        ("1", "four", 4.0),  # the farther extreme
        ("2", None, 3.0),
        ("3", None, 2.0),
        ("3", "", 2.0),
        ("4", "nan", 3.0),
        ("5", "4 stars", 4.0),
    ],
)
def test_the_error_of_one_rating(gold: str, prediction: str | None, error: float) -> None:
    assert absolute_error(gold, prediction) == error


def test_the_means_of_ratings() -> None:
    assert regression(["3", "2"], ["x", "x"]) == {"mae": 2.5, "rmse": pytest.approx(math.sqrt(6.5))}


@pytest.mark.filterwarnings("error")
def test_what_is_infinite_or_too_large_is_plain_arithmetic() -> None:
    assert regression(["4", "4"], ["inf", "4"]) == {"mae": math.inf, "rmse": math.inf}
    assert regression(["4", "4"], ["inf", "-inf"]) == {"mae": math.inf, "rmse": math.inf}
    assert regression(["4"], ["1e200"]) == {"mae": 1e200, "rmse": math.inf}
    assert regression(["4", "4"], ["1e308", "1.7e308"]) == {"mae": math.inf, "rmse": math.inf}


@pytest.mark.parametrize("gold", ["four", "nan", "inf", "1e400", ""])
def test_a_true_rating_that_is_no_finite_number_is_refused(gold: str) -> None:
    for call in (lambda: absolute_error(gold, "4"), lambda: regression(["4", gold], ["4", "4"])):
        with pytest.raises(InputError, match=f"gold {gold!r} is not a finite number"):
            call()


# Texts.


def test_rouge_of_one_text() -> None:
    assert rouge_of("The cat, sat!", "the CAT sat") == {"rouge1": 1.0, "rougeL": 1.0}
    assert rouge_of("a b c d", "d c b a") == {"rouge1": 1.0, "rougeL": 0.25}
    assert rouge_of("running cats", "run cat") == {"rouge1": 0.0, "rougeL": 0.0}  # not stemmed
    for nothing in (None, "", " ", "...", "日本"):
        assert rouge_of("a b", nothing) == {"rouge1": 0.0, "rougeL": 0.0}
    assert rouge_of("...", "...") == {"rouge1": 0.0, "rougeL": 0.0}


def test_rouge_is_the_plain_mean_each_time() -> None:
    scores = rouge(["a b", "c d"], ["a b", "c x"])
    assert scores == {"rouge1": 0.75, "rougeL": 0.75}
    assert all(rouge(["a b", "c d"], ["a b", "c x"]) == scores for _ in range(5))


@pytest.mark.parametrize("metric", [regression, rouge])
@pytest.mark.parametrize(("golds", "predictions"), [([], []), (["4"], []), (["4"], ["4", "4"])])
def test_the_others_refuse_unequal_or_no_samples_too(
    metric: Callable[[Sequence[str], Sequence[str | None]], dict[str, float]], golds: list[str], predictions: list[str]
) -> None:
    with pytest.raises(InputError, match=f"but got {len(predictions)} and {len(golds)}"):
        metric(golds, predictions)


# All of them against the official rules in plain Python, on 10,000 random cases.

CASES = 10_000
_LABELS = ("[1]", "sci-fi", "dark comedy", "Dark Comedy", "food & drink", "c")
_WORDS = (
    "a",
    "B",
    "cat",
    "Cat's",
    "walk",
    "Walking",
    "walks",
    "42",
    "sci-fi",
    "naïve",
    "日本",
    "x_y",
    "İ",
    "…",
    "re-run",
    "ß",
    "a",
)
_NUMBERS = ("1", "2", "3", "4", "5", "3.5", "0", "7", "-2", "1e3", "1e200", "inf", "-inf", "Infinity", "1_0", "٣")
_NO_NUMBERS = ("", " ", "nan", "NaN", "-nan", "four", "4 stars", "4/5", "--1", "0x4", "½", "日本", "1 2", "4,5")


def _padded(draw: Random, text: str) -> str:
    return draw.choice(("", " ", "\n", "\t ")) + text + draw.choice(("", " ", "\n"))


def _random_label(draw: Random) -> str | None:
    kind = draw.random()
    if kind < 0.6:
        return _padded(draw, draw.choice(_LABELS))
    return draw.choice((None, "", draw.choice(_LABELS).upper(), draw.choice(_LABELS) + ".", "-1", *_NO_NUMBERS))


def _random_text(draw: Random) -> str:
    return _padded(draw, draw.choice((" ", "  ", ", ", "\n")).join(draw.choices(_WORDS, k=draw.randint(0, 9))))


def _plain_classification(golds: list[str], predictions: list[str | None]) -> dict[str, float]:
    right = 0
    counts = {label: [0, 0, 0] for label in _LABELS}
    for gold, prediction in zip(golds, predictions, strict=True):
        true, given = gold.strip(), "" if prediction is None else prediction.strip()
        if given == true:
            right += 1
            counts[true][0] += 1
            continue
        if given in counts:
            counts[given][1] += 1
        counts[true][2] += 1
    total = 0.0
    for tp, fp, fn in counts.values():
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else 0.0
        total += 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"accuracy": right / len(golds), "f1": total / len(_LABELS)}


def _plain_regression(golds: list[str], predictions: list[str | None]) -> dict[str, float]:
    absolute = squared = 0.0
    for gold, prediction in zip(golds, predictions, strict=True):
        true = float(gold)
        try:
            given = float(str(prediction).strip())
        except ValueError:
            given = math.nan
        if given != given:
            given = 1.0 if abs(1 - true) > abs(5 - true) else 5.0
        absolute += abs(given - true)
        squared += (given - true) * (given - true)
    return {"mae": absolute / len(golds), "rmse": math.sqrt(squared / len(golds))}


def _tokens(text: str) -> list[str]:
    return [token for token in re.split("[^a-z0-9]+", text.lower()) if token]


def _f1(common: int, gold: list[str], given: list[str]) -> float:
    return 2 * common / (len(gold) + len(given)) if common else 0.0


def _longest(one: list[str], two: list[str]) -> int:
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i in range(len(one)):
        for j in range(len(two)):
            same = one[i] == two[j]
            table[i + 1][j + 1] = table[i][j] + 1 if same else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def _plain_rouge(golds: list[str], predictions: list[str | None]) -> dict[str, float]:
    unigrams = sequence = 0.0
    for gold, prediction in zip(golds, predictions, strict=True):
        one, two = _tokens(gold), _tokens(prediction or "")
        unigrams += _f1(sum((Counter(one) & Counter(two)).values()), one, two)
        sequence += _f1(_longest(one, two), one, two)
    return {"rouge1": unigrams / len(golds), "rougeL": sequence / len(golds)}


def _same(scores: dict[str, float], expected: dict[str, float], case: object) -> None:
    assert scores.keys() == expected.keys()
    for name, score in scores.items():
        assert type(score) is float
        assert score == expected[name] or math.isclose(score, expected[name], rel_tol=1e-12, abs_tol=1e-12), (
            name,
            score,
            expected[name],
            case,
        )


@pytest.mark.filterwarnings("error")
def test_ten_thousand_random_cases_score_as_the_official_rules_say() -> None:
    draw = Random(20250607)
    for case in range(CASES):
        size = draw.randint(1, 8)
        predictions: list[str | None]
        # Most of the time of this test is scikit-learn's, so every fifth case is of labels.
        if case % 5 == 0:
            golds = [_padded(draw, draw.choice(_LABELS)) for _ in range(size)]
            predictions = [_random_label(draw) for _ in range(size)]
            _same(
                classification(golds, predictions, _LABELS),
                _plain_classification(golds, predictions),
                (golds, predictions),
            )
        elif case % 5 in (1, 2):
            golds = [_padded(draw, draw.choice(("1", "2", "3", "4", "5", "2.5", "3.0"))) for _ in range(size)]
            predictions = [draw.choice((None, *_NUMBERS[: draw.choice((7, 16))], *_NO_NUMBERS)) for _ in range(size)]
            predictions = [None if p is None else _padded(draw, p) for p in predictions]
            _same(regression(golds, predictions), _plain_regression(golds, predictions), (golds, predictions))
        else:
            golds = [_random_text(draw) for _ in range(size)]
            predictions = [draw.choice((None, _random_text(draw), _random_text(draw))) for _ in range(size)]
            _same(rouge(golds, predictions), _plain_rouge(golds, predictions), (golds, predictions))
