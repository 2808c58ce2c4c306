"""LaMP's official metrics, as its evaluation code computes them (LaMP-Benchmark/LaMP, eval/evaluation.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

from personaagent.programs.errors import InputError

_UNPARSABLE = -1
"""The official class of a prediction that is no label: it never equals a gold, so it counts as wrong."""

_LOWEST, _HIGHEST = 1.0, 5.0
_ROUGE = ("rouge1", "rougeL")


def classification(golds: Sequence[str], predictions: Sequence[str | None], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro-F1, both from 0 to 1.

    F1 is averaged over the full list of labels: one that occurs in neither golds nor predictions counts
    as 0, so on few samples F1 is far below accuracy. That is the official rule.

    Args:
        golds: true labels.
        predictions: as many; compared exactly after stripping; None or anything else is wrong.
        labels: all labels of the task.

    Raises:
        InputError: if there is no sample, or the numbers differ, or a gold is not a label.
    """
    from sklearn.metrics import accuracy_score, f1_score

    _check(golds, predictions)
    index = {label: i for i, label in enumerate(labels)}
    unknown = sorted({gold for gold in golds if gold.strip() not in index})
    if unknown:
        raise InputError(f"gold {unknown[0]!r} is not one of the labels: {', '.join(labels)}")
    y_true = [index[gold.strip()] for gold in golds]
    y_pred = [index.get((p or "").strip(), _UNPARSABLE) for p in predictions]
    f1 = f1_score(y_true, y_pred, labels=list(range(len(labels))), average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(y_true, y_pred)), "f1": float(f1)}


def regression(golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
    """Mean absolute error and root mean squared error of ratings, both from 0 to infinity, lower being better.

    Plain arithmetic on what `absolute_error` says of each sample: one infinite prediction makes both
    infinite, and a square too large for a float is infinite.

    Args:
        golds: true ratings, each the text of a finite number.
        predictions: as many; None or what is no number counts as the extreme of the scale farther from gold.

    Raises:
        InputError: if there is no sample, or the numbers differ, or a gold is no finite number.
    """
    _check(golds, predictions)
    errors = [absolute_error(gold, prediction) for gold, prediction in zip(golds, predictions, strict=True)]
    # A product and a plain sum: ** and math.fsum raise on what is too large.
    return {"mae": sum(errors) / len(errors), "rmse": math.sqrt(sum(error * error for error in errors) / len(errors))}


def absolute_error(gold: str, prediction: str | None) -> float:
    """How far one predicted rating is from the true one, from 0 to infinity.

    The prediction is what `float` makes of it after stripping, neither rounded nor clipped: `7` is 7.0
    and `inf` is infinite. If it is None or no number, it is 1 or 5, whichever is farther from gold, and 5
    if both are as far. The official code lets `nan` through, which makes its means nan; here it is no number.

    Raises:
        InputError: if gold is no finite number.
    """
    true = number(gold)
    if true is None or math.isinf(true):
        raise InputError(f"gold {gold!r} is not a finite number")
    predicted = None if prediction is None else number(prediction)
    if predicted is None:
        predicted = _LOWEST if abs(_LOWEST - true) > abs(_HIGHEST - true) else _HIGHEST
    return abs(predicted - true)


def number(text: str) -> float | None:
    """What `float` makes of a text, from minus to plus infinity; None if that is nan or an error."""
    try:
        value = float(text.strip())
    except ValueError:
        return None
    return None if math.isnan(value) else value


def rouge(golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
    """ROUGE-1 and ROUGE-L, both from 0 to 1: the plain means of `rouge_of` over the samples.

    A named deviation: the official code reports the median of a random bootstrap of that mean, so it
    gives another number each time.

    Args:
        golds: what the users wrote.
        predictions: as many; None counts as an empty text.

    Raises:
        InputError: if there is no sample, or the numbers differ.
    """
    _check(golds, predictions)
    scores = [rouge_of(gold, prediction) for gold, prediction in zip(golds, predictions, strict=True)]
    return {name: sum(score[name] for score in scores) / len(scores) for name in _ROUGE}


@lru_cache(maxsize=10_000)
def _f1(gold: str, prediction: str) -> tuple[float, ...]:
    # A jackknife scores each sample once for every user.
    scores = _scorer().score(gold.strip(), prediction.strip())
    return tuple(float(scores[name].fmeasure) for name in _ROUGE)


def rouge_of(gold: str, prediction: str | None) -> dict[str, float]:
    """F1 of ROUGE-1 and of ROUGE-L of one sample, both from 0 to 1.

    Words are runs of a-z and 0-9 in lower case, not stemmed; a text without any scores 0, even against
    another one. ROUGE-1 compares how often each word occurs, ROUGE-L the longest common subsequence.
    """
    return dict(zip(_ROUGE, _f1(gold, prediction or ""), strict=True))


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE), use_stemmer=False)


def _check(golds: Sequence[str], predictions: Sequence[str | None]) -> None:
    if not golds or len(golds) != len(predictions):
        raise InputError(
            f"need as many predictions as golds and at least one, but got {len(predictions)} and {len(golds)}"
        )
