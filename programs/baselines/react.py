"""`react` and `react-wiki`: the agent's tools without a persona (section 3.1, Yao et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dspy

from personaagent.programs.baselines._answerer import Answerer, extended
from personaagent.programs.baselines._program import PROFILE, Program
from personaagent.programs.memory.semantic import SemanticMemory
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.tools.recall import RECALL_DESCRIPTION


class React(Program):
    """PersonaAgent's loop with the same tools, budget and protections, and no persona.

    Args:
        signature: any DSPy signature.
        memory: what `recall` searches; None, for `react-wiki`, removes the tool.
        memories: K, how many interactions `recall` returns; from 0, which removes the tool.
        tools: further tools, as of `PersonaAgent`. Without any the answer is one ChainOfThought, as of `Prompt`.
        max_iters: most steps; at least 1.
        recall_description: what the LM is told of `recall`.
        query, response: names of the input and the output that memory is about. Default: the first of each.
        semantic: adds a profile as an input; see `NoPersona`.

    Raises:
        InputError: as `PersonaAgent`, or if the signature has a field `profile` where this method adds one.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        memory: MemoryStore | None = None,
        memories: int = 4,
        tools: Sequence[Callable[..., Any] | dspy.Tool] = (),
        *,
        max_iters: int = 6,
        recall_description: str = RECALL_DESCRIPTION,
        query: str | None = None,
        response: str | None = None,
        semantic: SemanticMemory | None = None,
    ) -> None:
        answer = Answerer(
            extended(signature, PROFILE if semantic else {}),
            memory,
            memories,
            tools,
            max_iters,
            query,
            response,
            recall_description=recall_description,
        )
        super().__init__(answer, memory=memory, memories=memories, semantic=semantic)
