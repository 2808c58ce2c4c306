"""Names for the parts of an alignment in a trace: DSPy's callbacks, and with them MLflow, see modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy

from personaagent.optimizers.running import Work, adrive, drive


class Span(dspy.Module):
    """A piece of work as a module call, under the name of its class. It changes nothing about the work.

    Args:
        work: called once, to begin.
    """

    def __init__(self, work: Callable[[], Work[Any]]) -> None:
        super().__init__()
        self._work = work

    def forward(self, **shown: Any) -> Any:
        """Do it. What is passed is what the trace shows as its inputs."""
        return drive(self._work())

    async def aforward(self, **shown: Any) -> Any:
        """As `forward`, on the event loop."""
        return await adrive(self._work())

    def _set_lm_usage(self, *_: Any) -> None:
        # DSPy would warn that what is returned is no prediction, on which it writes the usage of a module.
        pass


class Alignment(Span):
    """A whole `compile` or `acompile`. What it returns is a summary, which a trace can show."""

    aligned: Any = None
    """The result."""


class AlignmentIteration(Span):
    """One iteration of Algorithm 1."""


class Rollout(Span):
    """One interaction: the simulated answer and its gradient."""


class TextualGradient(dspy.Predict):
    """LLM_grad."""


class PersonaUpdate(dspy.Predict):
    """LLM_update."""
