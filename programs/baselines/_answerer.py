"""What all baselines answer with: PersonaAgent's loop and protections, without a persona."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import dspy

from personaagent.programs.agent import PersonaAgent
from personaagent.programs.errors import InputError
from personaagent.programs.persona import Persona

_NONE = Persona("none")  # so that no handle looks for one in the store


class Answerer(PersonaAgent):
    """PersonaAgent whose handles have no persona; without tools it is one ChainOfThought.

    Whatever it is built from, an answer comes of the same predictor (DSPy's ChainOfThought: `reasoning`, then the
    outputs), is read by the same adapters, and is asked again under the same rules if it cannot be read.
    """

    def __init__(self, signature: str | type[dspy.Signature], *args: Any, **options: Any) -> None:
        super().__init__(signature, *args, **options)
        if not self.tool_names:
            self.extract = _OneCall(self.signature)

    def for_user(self, user_id: str, *, persona: Persona | None = None, profile: str | None = None) -> Self:
        handle = super().for_user(user_id, persona=_NONE)
        handle.persona = None
        return handle


class _OneCall(dspy.ChainOfThought):
    """A ChainOfThought whose prompt has a `trajectory` only where it says that an answer could not be read."""

    def forward(self, **call: Any) -> dspy.Prediction:
        return self.predict(**_without_empty_trajectory(call))

    async def aforward(self, **call: Any) -> dspy.Prediction:
        return await self.predict.acall(**_without_empty_trajectory(call))


def _without_empty_trajectory(call: dict[str, Any]) -> dict[str, Any]:
    if not call["trajectory"]:
        return {name: value for name, value in call.items() if name != "trajectory"}
    return {**call, "signature": call["signature"].append("trajectory", dspy.InputField(), type_=str)}


def extended(signature: str | type[dspy.Signature], fields: Mapping[str, str]) -> type[dspy.Signature]:
    """The signature with further text inputs, name -> description, after its own.

    The question stays first: LaMP's templates put what is retrieved in front of it, DSPy's format names each part.

    Raises:
        InputError: if the signature has a field of one of these names.
    """
    made: Any = dspy.Signature(signature) if isinstance(signature, str) else signature
    for name, description in fields.items():
        if name in made.fields:
            raise InputError(f"the signature's field {name!r} is one that the baseline adds itself; rename it")
        made = made.append(name, dspy.InputField(desc=description), type_=str)
    return made
