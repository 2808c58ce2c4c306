"""`no-persona`: PersonaAgent without its persona (Table 3, "w/o persona")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dspy

from personaagent.programs.baselines.react import React
from personaagent.programs.memory.semantic import SUMMARY_INSTRUCTION, SemanticMemory
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.tools.recall import RECALL_DESCRIPTION


class NoPersona(React):
    """As `React`, with the profile that the persona would hold as an input beside the question.

    Both memories and both tools stay; what is gone is the system prompt that joins them, and with it the alignment,
    which has nothing to rewrite. The paper does not say where its ablation leaves the profile.

    It learns `profile`, as `PAG` does.

    Args:
        signature, memory, memories, tools, max_iters, recall_description, query, response: as of `React`.
        summary_instruction: S_t of eq. 3.

    Raises:
        InputError: as `React`.
        dspy's `AdapterParseError`: by `learn`, if the profile that the LM writes cannot be read.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        memory: MemoryStore | None = None,
        memories: int = 4,
        tools: Sequence[Callable[..., Any] | dspy.Tool] = (),
        *,
        summary_instruction: str = SUMMARY_INSTRUCTION,
        max_iters: int = 6,
        recall_description: str = RECALL_DESCRIPTION,
        query: str | None = None,
        response: str | None = None,
    ) -> None:
        super().__init__(
            signature,
            memory,
            memories,
            tools,
            max_iters=max_iters,
            recall_description=recall_description,
            query=query,
            response=response,
            semantic=SemanticMemory(summary_instruction),
        )
