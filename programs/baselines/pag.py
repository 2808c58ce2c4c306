"""`pag`: the profile and the most similar records in the prompt (section 3.1; Richardson et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable

import dspy

from personaagent.programs.baselines.rag import RAG
from personaagent.programs.memory.semantic import SUMMARY_INSTRUCTION, SemanticMemory
from personaagent.programs.memory.store import MemoryStore


class PAG(RAG):
    """As `RAG`, with the user's profile: PersonaAgent's semantic memory (eq. 3), which follows PAG (App. F).

    It learns `profile`, the text that PersonaAgent's initial persona holds, so that one summary serves both. By
    default it is the newest profile in the memory store. OPPU's summary is of 10 items drawn at random, ours of the
    newest 200.

    Args:
        signature, memory, memories, search_text, max_iters, query, response: as of `RAG`.
        summary_instruction: S_t of eq. 3.

    Raises:
        InputError: as `RAG`.
        dspy's `AdapterParseError`: by `learn`, if the profile that the LM writes cannot be read.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        memory: MemoryStore,
        memories: int = 4,
        *,
        summary_instruction: str = SUMMARY_INSTRUCTION,
        search_text: Callable[[str], str] | None = None,
        max_iters: int = 6,
        query: str | None = None,
        response: str | None = None,
    ) -> None:
        super().__init__(
            signature,
            memory,
            memories,
            search_text=search_text,
            max_iters=max_iters,
            query=query,
            response=response,
            semantic=SemanticMemory(summary_instruction),
        )
