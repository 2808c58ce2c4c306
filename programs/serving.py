"""A program whose user is one of its inputs: what a model server, or anything that knows inputs only, can call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import dspy
from dspy.dsp.utils.settings import main_thread_config

from personaagent.programs.errors import InputError

_MISSING = ("None", "nan")
"""What MLflow's schema of text makes of a null: all who leave their id out would be one user."""


class ForUsers(Protocol):
    """What is served: `PersonaAgent`, a personalised program, a baseline but MemoryBank, whose notes are handed in."""

    def for_user(self, user_id: str) -> Any:
        """A handle that answers one user."""


class Served(dspy.Module):
    """Answers whoever asks: `served(user_id="ann", query="...")` is `program.for_user("ann")(query="...")`.

    Each call takes the user's newest persona from the program's memory, so that what is learnt elsewhere is used at
    once. It leaves nothing in DSPy's histories and trace, which would hold all users' prompts; a trace that is set
    with `dspy.context(trace=[])`, as GEPA does, is kept. Few-shot optimizers find no demonstrations in it, which would
    be of some users and go to all: optimise the program first, then serve it.

    `mlflow.dspy.log_model` and `mlflow models serve` take it as it is: it pickles (by cloudpickle, as MLflow does) with
    the address of its memory, not its content. An LM of `make_lm`, in it or in `dspy.settings`, leaves its key and its
    history behind; a `dspy.LM` of your own takes along the key that it was given, and all that it was asked.

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
            InputError: if no user is among the inputs. An id is a whole number, or text that is not empty; nor is it
                "None" or "nan", as which MLflow hands on a null.
            StoreError, EncoderError: if the memory cannot be read.
            dspy's `LMError`: if an LM call fails for good.
        """
        with _leaving_nothing():
            return self.program.for_user(self._user(inputs))(**self._rest(inputs))

    async def aforward(self, **inputs: Any) -> Any:
        """As `forward`; the memory is read in a thread, beside the event loop."""
        with _leaving_nothing():
            handle = await asyncio.to_thread(self.program.for_user, self._user(inputs))
            return await handle.acall(**self._rest(inputs))

    def _user(self, inputs: Mapping[str, Any]) -> str:
        given: Any = inputs.get(self.user_field)
        user = given.item() if getattr(given, "ndim", None) == 0 else given  # as MLflow's schema makes it
        if isinstance(user, bool) or not isinstance(user, str | int) or user in _MISSING:
            said = f"got {user!r}" if self.user_field in inputs else f"got only {', '.join(inputs) or 'nothing'}"
            raise InputError(f"the input {self.user_field!r} says who asks, by text or a whole number, but {said}")
        return str(user)

    def _rest(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in inputs.items() if name != self.user_field}


def _leaving_nothing() -> AbstractContextManager[None]:
    # DSPy's own trace is there from the start and keeps the last 10,000 calls. Without any, Refine and BestOfN fail.
    kept = dspy.settings.trace if dspy.settings.trace is not main_thread_config.get("trace") else []
    return dspy.context(disable_history=True, trace=kept)
