"""The tool `recall`: this user's own past interactions (App. E, the paper's RAG tool)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import dspy

from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.episodic import EpisodicMemory
from personaagent.programs.quoting import defuse, record_line

RECALL_DESCRIPTION = (
    "Finds the past interactions of this user that are most similar to a search text, with the answers that "
    "the user gave. Good for: how this user answered similar questions, and what this user prefers. "
    "Input: a specific search text on the content of the question; the more specific, the better. "
    "Output: past interactions, one a line, most similar first. Use it at least once before you answer."
)


@dataclass
class RecallSession:
    """What `recall` may see while one question is answered, and what it returned."""

    memory: EpisodicMemory | None
    k: int
    before: Interaction | Position | None = None
    since: Interaction | Position | None = None
    recalled: list[Interaction] = field(default_factory=list)
    """In the order returned, without repetition."""


# A context variable and not an attribute: the tool is shared by all handles of an agent, while a
# session belongs to one call. It follows into asyncio tasks, and into threads that copy the context.
_session: ContextVar[RecallSession | None] = ContextVar("personaagent_recall_session", default=None)


@contextmanager
def recalling(session: RecallSession) -> Iterator[RecallSession]:
    """Let `recall` work on this session within the block."""
    token = _session.set(session)
    try:
        yield session
    finally:
        _session.reset(token)


def recall(query: str) -> str:
    """Search the memory of the session that is active in this context; see `RECALL_DESCRIPTION`."""
    session = _session.get()
    if session is None or session.memory is None:
        return "There is no memory to search."
    text = defuse(str(query))  # an encoder refuses half of a surrogate pair
    if not text.strip():
        return "The search text is empty. Give words from the question."
    found = session.memory.recall(text, session.k, session.before, session.since)
    if not found:
        return "This user has no past interactions."
    known = {i.id for i in session.recalled}
    session.recalled.extend(f.interaction for f in found if f.interaction.id not in known)
    return "\n".join(record_line(f.interaction.text, f.interaction.response, f.interaction.timestamp) for f in found)


def recall_tool(description: str = RECALL_DESCRIPTION) -> dspy.Tool:
    """`recall` as a DSPy tool."""
    return dspy.Tool(recall, name="recall", desc=description)
