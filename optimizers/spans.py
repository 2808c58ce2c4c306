"""Names for the parts of an alignment in a trace: DSPy's callbacks, and with them MLflow, see modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy


class Span(dspy.Module):
    """A piece of work as a module call, under the name of its class. It changes nothing about the work.

    Args:
        work: called once.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self._work = work

    def forward(self, **shown: Any) -> Any:
        """Do it. What is passed is what the trace shows as its inputs."""
        return self._work()

    def _set_lm_usage(self, *_: Any) -> None:
        # DSPy would warn that what is returned is no prediction, on which it writes the usage of a module.
        pass


class Alignment(Span):
    """A whole `compile`."""


class AlignmentIteration(Span):
    """One iteration of Algorithm 1."""


class Rollout(Span):
    """One interaction: the simulated answer and its gradient."""


class TextualGradient(dspy.Predict):
    """LLM_grad."""


class PersonaUpdate(dspy.Predict):
    """LLM_update."""
