"""Semantic memory: the user's profile P^u = f_s(S_t, D^u) (eq. 3)."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction
from personaagent.programs.quoting import record_line, written

SUMMARY_INSTRUCTION = (
    "Summarise what this user prefers and how this user answers, from the interactions in the history. "
    "Name the answers that the user gives most often. Write at most five sentences and nothing else."
)
"""S_t where a task has none of its own."""


class SemanticMemory(dspy.Module):
    """Summarises a history into a profile, with the task's instruction S_t.

    Args:
        instruction: S_t.
        max_interactions: the newest so many are summarised (a prompt has to end somewhere); at least 1.
    """

    def __init__(self, instruction: str = SUMMARY_INSTRUCTION, max_interactions: int = 200) -> None:
        super().__init__()
        if max_interactions < 1:
            raise InputError(f"max_interactions must be at least 1 but got {max_interactions}")
        self.max_interactions = max_interactions
        signature = dspy.Signature("history: str -> profile: str", instruction)
        self.summarize = dspy.Predict(signature)

    def forward(self, interactions: Sequence[Interaction]) -> dspy.Prediction:
        """Summarise interactions, given oldest first.

        Returns:
            A prediction with `profile`: text, or "" for an empty history, for which no LM is called.
        """
        history = self.render(interactions)
        if not history:
            return dspy.Prediction(profile="")
        return self._prediction(self.summarize(history=history))

    async def aforward(self, interactions: Sequence[Interaction]) -> dspy.Prediction:
        """As `forward`."""
        history = self.render(interactions)
        if not history:
            return dspy.Prediction(profile="")
        return self._prediction(await self.summarize.acall(history=history))

    def render(self, interactions: Sequence[Interaction]) -> str:
        """The history as the prompt shows it: one interaction a line, oldest first."""
        newest = interactions[-self.max_interactions :]
        return "\n".join(record_line(i.text, i.response, i.timestamp) for i in newest)

    @staticmethod
    def _prediction(prediction: dspy.Prediction) -> dspy.Prediction:
        return dspy.Prediction(profile=written(prediction.profile))
