"""A program whose user is one of its inputs: what a model server, or anything that knows inputs only, can call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import dspy

from personaagent.programs.errors import InputError


class ForUsers(Protocol):
    """What is served: `PersonaAgent`, a personalised program, a baseline."""

    def for_user(self, user_id: str) -> Any:
        """A handle that answers one user."""


class Served(dspy.Module):
    """Answers whoever asks: `served(user_id="ann", query="...")` is `program.for_user("ann")(query="...")`.

    Each call takes the user's newest persona from the program's memory, so that what is learnt elsewhere is used at
    once. It leaves nothing in DSPy's histories, which would hold all users' prompts, and which MLflow pickles with the
    LM. It pickles itself with the address of its memory, not its content, and without keys: `mlflow.dspy.log_model`
    and `mlflow models serve` take it as it is.

    Args:
        program: the shared one, which serves no user yet.
        user_field: name of the input that holds the user's id.

    Raises:
        InputError: if the program makes no handles, or is one user's already.
    """

    def __init__(self, program: ForUsers, user_field: str = "user_id") -> None:
        super().__init__()
        if not callable(getattr(program, "for_user", None)):
            raise InputError(f"what is served must have for_user(user_id), but got {type(program).__name__}")
        if getattr(program, "user_id", None) is not None:
            raise InputError(f"the program is {program.user_id!r}'s: serve the shared one that it came of")  # type: ignore[attr-defined]
        self.program = program
        self.user_field = user_field

    def forward(self, **inputs: Any) -> Any:
        """Answer.

        Raises:
            InputError: if there is no user among the inputs.
            dspy's `LMError`: if an LM call fails for good.
        """
        with dspy.context(disable_history=True):
            return self.program.for_user(self._user(inputs))(**self._rest(inputs))

    async def aforward(self, **inputs: Any) -> Any:
        """As `forward`."""
        with dspy.context(disable_history=True):
            return await self.program.for_user(self._user(inputs)).acall(**self._rest(inputs))

    def _user(self, inputs: Mapping[str, Any]) -> str:
        if self.user_field not in inputs:
            raise InputError(f"the input {self.user_field!r} is missing: it says who asks; got {', '.join(inputs)}")
        return str(inputs[self.user_field])

    def _rest(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name != self.user_field}
