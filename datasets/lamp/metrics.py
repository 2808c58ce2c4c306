"""LaMP's official metrics, as its evaluation code computes them (LaMP-Benchmark/LaMP, eval/evaluation.py)."""

from __future__ import annotations

from collections.abc import Sequence

from personaagent.programs.errors import InputError

_UNPARSABLE = -1
"""The official class of a prediction that is no label: it never equals a gold, so it counts as wrong."""


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

    if not golds or len(golds) != len(predictions):
        raise InputError(
            f"need as many predictions as golds and at least one, but got {len(predictions)} and {len(golds)}"
        )
    index = {label: i for i, label in enumerate(labels)}
    unknown = sorted({gold for gold in golds if gold.strip() not in index})
    if unknown:
        raise InputError(f"gold {unknown[0]!r} is not one of the labels: {', '.join(labels)}")
    y_true = [index[gold.strip()] for gold in golds]
    y_pred = [index.get((p or "").strip(), _UNPARSABLE) for p in predictions]
    f1 = f1_score(y_true, y_pred, labels=list(range(len(labels))), average="macro", zero_division=0)
    return {"accuracy": float(accuracy_score(y_true, y_pred)), "f1": float(f1)}
