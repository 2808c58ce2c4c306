"""What one question of a program cost: LM calls, tokens and seconds, in whatever threads and tasks it ran."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from personaagent.programs.lm.meter import metering

MEASURED = ("persona_version", "recalled", "lm_calls", "prompt_tokens", "completion_tokens", "seconds")
"""What a handle adds to its prediction, and the handle around it measures anew."""


def mark_measured(prediction: dspy.Prediction) -> None:
    """Note that these fields of a prediction are a handle's, and no outputs of a program."""
    prediction._measured = True


def is_measured(prediction: dspy.Prediction) -> bool:
    """Whether these fields of a prediction are a handle's."""
    return getattr(prediction, "_measured", False) is True


@dataclass
class Spent:
    """What was spent in a `spending` block; complete when the block has ended."""

    lm_calls: int = 0
    """With an LM of `make_lm` failed attempts are included; what came out of DSPy's cache is, too."""
    prompt_tokens: int = 0
    """As far as the LM reports them."""
    completion_tokens: int = 0
    seconds: float = 0.0


@contextmanager
def spending() -> Iterator[Spent]:
    """Count what is spent in the block. A usage tracker around it sees everything, too."""
    spent, started = Spent(), time.perf_counter()
    calls, tracker, outer = _Calls(), _SharedTracker(), dspy.settings.usage_tracker
    try:
        settings: dict[str, Any] = {"callbacks": [*dspy.settings.callbacks, calls], "usage_tracker": tracker}
        with metering() as metered, dspy.context(**settings):
            yield spent
    finally:
        entries = [entry for entries in tracker.usage_data.values() for entry in entries]
        if outer is not None:
            for lm, used in tracker.usage_data.items():
                outer.usage_data[lm].extend(used)
        # Metered LMs count every attempt. Neither they nor the tracker see all that runs in dspy.Parallel's threads.
        spent.lm_calls = max(metered.lm_calls, len(entries), len(calls.ids))
        spent.prompt_tokens = sum(entry.get("prompt_tokens") or 0 for entry in entries)
        spent.completion_tokens = sum(entry.get("completion_tokens") or 0 for entry in entries)
        spent.seconds = time.perf_counter() - started


class _Calls(BaseCallback):
    def __init__(self) -> None:
        self.ids: list[str] = []

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.ids.append(call_id)


class _SharedTracker(UsageTracker):
    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedTracker:
        return self  # dspy.Parallel would count on copies, and drop them
