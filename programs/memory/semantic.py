"""Semantic memory: the user's profile P^u = f_s(S_t, D^u) (eq. 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import dspy
from dspy.utils.exceptions import ContextWindowExceededError

from personaagent.programs.adapter import careful
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction
from personaagent.programs.quoting import defused_demos, record_line, written

SUMMARY_INSTRUCTION = (
    "Summarise what this user prefers and how this user answers, from the interactions in the history. "
    "Name the answers that the user gives most often. Write at most five sentences and nothing else."
)
"""S_t where a task has none of its own."""

MAX_HALVINGS = 5
"""How often the older half of a history is left out when a prompt does not fit: of 200 interactions 6 stay."""


class SemanticMemory(dspy.Module):
    """Summarises a history into a profile, with the task's instruction S_t.

    Args:
        instruction: S_t.
        max_interactions: the newest so many are summarised (a prompt has to end somewhere); at least 1.

    Raises:
        InputError: if `max_interactions` is below 1.
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

        A history that does not fit the LM's context window is summarised from its newer half, or the newer
        half of that.

        Returns:
            A prediction with `profile`: text, or "" for an empty history, for which no LM is called.

        Raises:
            dspy's `LMError`: if the LM call fails for good.
            dspy's `AdapterParseError`: if what the LM writes cannot be read. (An empty profile in its place would say
                that nothing is known of this user.)
        """
        for newest in self._ever_fewer(interactions):
            try:
                with careful():
                    return self._prediction(self.summarize(**self._inputs(newest)))
            except ContextWindowExceededError as error:
                too_long = error
        if interactions:
            raise too_long
        return dspy.Prediction(profile="")

    async def aforward(self, interactions: Sequence[Interaction]) -> dspy.Prediction:
        """As `forward`."""
        for newest in self._ever_fewer(interactions):
            try:
                with careful():
                    return self._prediction(await self.summarize.acall(**self._inputs(newest)))
            except ContextWindowExceededError as error:
                too_long = error
        if interactions:
            raise too_long
        return dspy.Prediction(profile="")

    def _ever_fewer(self, interactions: Sequence[Interaction]) -> Iterator[Sequence[Interaction]]:
        count = min(len(interactions), self.max_interactions)
        for _ in range(1 + MAX_HALVINGS):
            if count:
                yield interactions[-count:]
            count //= 2

    def _inputs(self, interactions: Sequence[Interaction]) -> dict[str, Any]:
        return {"history": self.render(interactions), "demos": defused_demos(self.summarize)}

    def render(self, interactions: Sequence[Interaction]) -> str:
        """The history as the prompt shows it: one interaction a line, oldest first."""
        newest = interactions[-self.max_interactions :]
        return "\n".join(record_line(i.text, i.response, i.timestamp) for i in newest)

    @staticmethod
    def _prediction(prediction: dspy.Prediction) -> dspy.Prediction:
        return dspy.Prediction(profile=written(prediction.profile))
