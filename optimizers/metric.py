"""A metric of DSPy's as the critic's helper: what it says of a rollout, as a text."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dspy

from personaagent.programs.episode import is_async
from personaagent.programs.errors import InputError
from personaagent.programs.quoting import one_line

Metric = Callable[..., Any]
"""Of DSPy: called with an example and a prediction, and with None for each further argument that it must be given."""

MAX_FAULT_CHARS = 200
"""Longest account of what a metric raised or returned."""


class Comparison(NamedTuple):
    """What a metric says of a rollout: one of the two is None."""

    text: str | None
    fault: str | None


def check_metric(metric: object) -> None:
    """See that a metric can be called.

    Raises:
        InputError: if it is no callable, is asynchronous, or does not take an example and a prediction.
    """
    if not callable(metric):
        raise InputError(f"metric must be a function of (example, prediction), but got {metric!r}")
    if is_async(metric):
        raise InputError(f"metric must be a plain function, but {_named(metric)} is asynchronous")
    if _arity(metric) is None:
        raise InputError(
            f"metric must take (example, prediction), and may take (trace, pred_name, pred_trace), "
            f"but {_named(metric)} takes {inspect.signature(metric)}"
        )


def compared(metric: Metric, example: dspy.Example, rollout: Any) -> Comparison:
    """Feedback of a metric on a rollout, else its score. Whatever it raises or returns, this raises nothing."""
    try:
        judged = metric(*(example, rollout, None, None, None)[: _arity(metric) or 2])
        said, score = _of(judged, "feedback", None), _of(judged, "score", judged)
        if said is not None and str(said).strip():
            return Comparison(str(said), None)
        number = _finite(score)
        if number is None:
            fault = f"the metric returned {one_line(repr(judged), MAX_FAULT_CHARS)}: no finite score, and no feedback"
            return Comparison(None, fault)
        return Comparison(f"score {number:.3f}", None)
    except Exception as error:
        return Comparison(None, f"the metric failed: {type(error).__name__}: {_message(error)}")


def _of(judged: Any, name: str, default: Any) -> Any:
    if isinstance(judged, dspy.Example | Mapping):
        return judged.get(name, default)
    return getattr(judged, name, default)


def _finite(score: Any) -> float | None:
    try:
        number = float(score)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _arity(metric: Callable[..., Any]) -> int | None:
    """How many arguments it is given: (example, prediction), with trace for older metrics, with more for GEPA's."""
    try:
        signature = inspect.signature(metric)
    except (TypeError, ValueError):
        return 2  # of a builtin, which does not tell
    for count in (2, 3, 4, 5):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    return None


def _named(metric: Any) -> str:
    return str(getattr(metric, "__name__", type(metric).__name__))


def _message(error: Exception) -> str:
    try:
        return one_line(str(error), MAX_FAULT_CHARS) or "no message"
    except Exception:  # an error of the metric's own, which may fail, too
        return "no message"
