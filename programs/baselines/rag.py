"""`rag`: the most similar records of the user's memory in the prompt (section 3.1; LaMP, Salemi et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dspy

from personaagent.programs.baselines._answerer import Answerer, extended
from personaagent.programs.baselines._program import NO_RECORDS, PROFILE, RECORDS, Context, Program
from personaagent.programs.memory.semantic import SemanticMemory
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.quoting import record_line


class RAG(Program):
    """The question and the K most similar records of the user's own memory, in one ChainOfThought.

    Records are found as by the tool `recall` and written as it writes them, one a line. LaMP's and OPPU's templates
    say the same in other words (`the tag for the movie: "..." is "..."`, `description: ... tag: ...`), in front of
    the question and not after it; OPPU ranks by BM25 over lines that hold the labels.

    Args:
        signature: any DSPy signature.
        memory: where users' interactions are.
        memories: K; from 0, with which the question is alone.
        search_text: the part of a question that is compared with memory (`Task.retrieval_query`). Default: all.
        max_iters, query, response: as of `Prompt`.
        semantic: adds a profile to the prompt; see `PAG`.

    Raises:
        InputError: as `Prompt`, or if the signature has a field of one that this method adds (`records` if K is above
            0, `profile` with `semantic`).
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        memory: MemoryStore,
        memories: int = 4,
        *,
        search_text: Callable[[str], str] | None = None,
        max_iters: int = 6,
        query: str | None = None,
        response: str | None = None,
        semantic: SemanticMemory | None = None,
    ) -> None:
        fields = {**(PROFILE if semantic else {}), **(RECORDS if memories else {})}
        answer = Answerer(extended(signature, fields), max_iters=max_iters, query=query, response=response)
        super().__init__(answer, memory=memory, memories=memories, search_text=search_text, semantic=semantic)

    def _context(self, inputs: dict[str, Any]) -> Context:
        fields = super()._context(inputs).fields
        if not self.memories:
            return Context(fields, [])
        found = [recalled.interaction for recalled in self._similar(inputs, self.memories)]
        lines = "\n".join(record_line(i.text, i.response, i.timestamp) for i in found)
        return Context({**fields, "records": lines or NO_RECORDS}, [i.id for i in found])
