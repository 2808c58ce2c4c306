"""The tool `recall`: this user's own past interactions (App. E, the paper's RAG tool)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio.to_thread
import dspy

from personaagent.programs.errors import PersonaAgentError
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
    user_id: str | None = None
    keeps_failure: bool = False
    """Whether a memory that cannot be read is noted in `failure` and told to the LM in a sentence, and not raised: for
    agents that would show the LM a traceback. Whoever made the session raises it."""
    failure: PersonaAgentError | None = None

    def note(self, interactions: Iterable[Interaction]) -> None:
        """Add to what was recalled."""
        known = {interaction.id for interaction in self.recalled}
        self.recalled.extend(interaction for interaction in interactions if interaction.id not in known)


# A value of DSPy's context and not an attribute: the tool is shared by all handles of an agent, while a session
# belongs to one call. It follows into asyncio tasks, `dspy.Parallel`, and threads that copy the context.
_SETTING = "personaagent_recall_session"


@contextmanager
def recalling(session: RecallSession) -> Iterator[RecallSession]:
    """Let `recall` work on this session within the block. One of the same user around it is told what was recalled."""
    outer: RecallSession | None = dspy.settings.get(_SETTING)
    try:
        with dspy.context(**{_SETTING: session}):
            yield session
    finally:
        if outer is not None and outer.user_id is not None and outer.user_id == session.user_id:
            outer.note(session.recalled)


def recall(query: str) -> str:
    """Search the memory of the session that is active in this context; see `RECALL_DESCRIPTION`."""
    session: RecallSession | None = dspy.settings.get(_SETTING)
    if session is None or session.memory is None:
        return "There is no memory to search."
    text = defuse(str(query))  # an encoder refuses half of a surrogate pair
    if not text.strip():
        return "The search text is empty. Give words from the question."
    try:
        found = session.memory.recall(text, session.k, session.before, session.since)
    except PersonaAgentError as error:
        if not session.keeps_failure:
            raise
        session.failure = error
        return "The memory cannot be read."
    if not found:
        return "This user has no past interactions."
    session.note(f.interaction for f in found)
    return "\n".join(record_line(f.interaction.text, f.interaction.response, f.interaction.timestamp) for f in found)


class RecallTool(dspy.Tool):
    """`recall` as a DSPy tool."""

    async def acall(self, **arguments: Any) -> Any:
        # Encoding and searching would hold up every other question on the loop.
        return await anyio.to_thread.run_sync(partial(super().__call__, **arguments), abandon_on_cancel=True)


def recall_tool(description: str = RECALL_DESCRIPTION) -> dspy.Tool:
    """`recall` as a DSPy tool; awaited, it runs in a thread beside the event loop."""
    return RecallTool(recall, name="recall", desc=description)
