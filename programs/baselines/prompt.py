"""`prompt`: the question alone (section 3.1, Salemi et al. 2024)."""

from __future__ import annotations

import dspy

from personaagent.programs.baselines._answerer import Answerer
from personaagent.programs.baselines._program import Program


class Prompt(Program):
    """The question alone, in one ChainOfThought.

    ChainOfThought and not a bare Predict, since every other method's answer is one: ReAct's last step, which gives
    PersonaAgent's answer too, is a ChainOfThought. With a Predict the table would compare reasoning with none.

    Args:
        signature: any DSPy signature.
        max_iters: how often an unreadable answer is asked again at most; at least 1.
        query, response: names of the input and the output that memory is about. Default: the first of each.

    Raises:
        InputError: on a value out of range, or a field name that the prediction needs itself.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        max_iters: int = 6,
        query: str | None = None,
        response: str | None = None,
    ) -> None:
        super().__init__(Answerer(signature, max_iters=max_iters, query=query, response=response))
