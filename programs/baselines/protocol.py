"""What a baseline is to everything that runs it.

What is learnt of a history, once, and the answering of one question are apart: between them lies a state that
JSON can hold, so that a study can keep it and never learn it twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import dspy

from personaagent.programs.interaction import Interaction, Position

Learnt = dict[str, Any]
"""What a baseline learnt of one user's history, as values that JSON can hold; {} if it learns nothing."""


class Calls(NamedTuple):
    """How many predictor calls something costs."""

    expected: int
    """If nothing goes wrong."""
    most: int
    """If everything does. An adapter's fallback and an LM's retries come on top of each."""


@runtime_checkable
class Handle(Protocol):
    """A baseline as it serves one user. An ordinary DSPy module.

    `save` and `load` carry its predictors; what was learnt is JSON, and kept by whoever holds it.
    """

    user_id: str | None

    def as_of(self, before: Interaction | Position | None) -> Self:
        """This handle with a memory that holds only what came before."""

    def since(self, oldest: Interaction | Position | None) -> Self:
        """This handle with a memory that holds nothing older than `oldest`, which itself it holds.

        The bound stays with every handle that is made of this one; None takes it away.
        """

    def __call__(self, **inputs: Any) -> dspy.Prediction:
        """Answer. Inputs are the signature's, and optionally `max_iters` for this call; at least 1.

        Returns:
            The signature's outputs and what PersonaAgent's prediction has: `trajectory`, `reasoning`, `recalled`
            (ids of the user's interactions that were in the prompt), `tools_called`, `faults`, `lm_calls`,
            `prompt_tokens`, `completion_tokens`, `seconds`; `persona_version` is None.

        Raises:
            InputError: if `max_iters` is no integer from 1.
            StoreError: if the memory store cannot be read.
            EncoderError: if a text cannot be encoded.
            PersonaAgentError: if it serves no user yet.
            dspy's `LMError`: if an LM call fails for good. Malformed output of an LM does not raise.
        """

    async def acall(self, **inputs: Any) -> dspy.Prediction:
        """As a call, with the same prompts."""


@runtime_checkable
class Baseline(Protocol):
    """One method, serving all users. An ordinary DSPy module."""

    def learn(self, user_id: str, history: Sequence[Interaction]) -> Learnt:
        """What the method learns of a user's history. Nothing is written anywhere; the same for the same history.

        Args:
            user_id: whose history it is; it may be empty.
            history: of this user only, oldest first.

        Raises:
            InputError: if an interaction is another user's, or is not what the method needs (see there).
            StoreError, EncoderError: if the method reads its memory, and cannot.
            dspy's `LMError`: if an LM call fails for good.
            dspy's `AdapterParseError`: if a profile that the LM writes cannot be read.
        """

    async def alearn(self, user_id: str, history: Sequence[Interaction]) -> Learnt:
        """As `learn`, with the same prompts."""

    def learning_calls(self, history: Sequence[Interaction]) -> Calls:
        """What `learn` costs for this history."""

    def answering_calls(self) -> Calls:
        """What one question costs."""

    def for_user(self, user_id: str, *, learnt: Learnt | None = None) -> Handle:
        """A handle that serves one user. It is cheap, and shares nothing that is a user's.

        Args:
            user_id: whose questions it answers.
            learnt: what `learn` returned for this user. Default: see the method; most learn nothing.

        Raises:
            InputError: if `learnt` is not what this method learns, or is missing where it must be given.
            StoreError: if its default is in the memory store, which cannot be read.
        """
