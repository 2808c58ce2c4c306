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
    """PersonaAgent whose handles have no persona.

    Whatever it is built from, an answer comes of the same predictor (DSPy's ChainOfThought: `reasoning`, then the
    outputs), is read by the same adapters, and is asked again under the same rules if it cannot be read.
    """

    def for_user(self, user_id: str, *, persona: Persona | None = None, profile: str | None = None) -> Self:
        handle = super().for_user(user_id, persona=_NONE)
        handle.persona = None
        return handle


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
