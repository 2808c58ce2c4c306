"""What the baselines share: handles of users, the profile, retrieval, and one way of answering."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import dspy

from personaagent.programs.baselines._answerer import Answerer
from personaagent.programs.baselines.protocol import Calls, Learnt
from personaagent.programs.episode import max_predictions
from personaagent.programs.errors import InputError, PersonaAgentError
from personaagent.programs.handles import Origin, check_count, own
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.episodic import EpisodicMemory, Recalled
from personaagent.programs.memory.semantic import MAX_HALVINGS, SemanticMemory
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import NO_PROFILE
from personaagent.programs.quoting import defuse

PROFILE = {"profile": "what is known of this user"}
RECORDS = {
    "records": (
        "the past interactions of this user that are most similar to the question, with the answers that the user "
        "gave, one a line, most similar first"
    )
}
NO_RECORDS = "This user has no past interactions."


class Context(NamedTuple):
    """What a method adds to one question."""

    fields: dict[str, str]
    recalled: list[str] | None = None
    """Ids of the interactions in it; None where the tool `recall` decides that."""


class Program(dspy.Module):
    """A baseline: an `Answerer` whose signature has the method's own inputs, and what goes into them.

    Args:
        answer: with the extended signature.
        memory: where users' interactions are.
        memories: K, of the retrieval in the prompt; from 0.
        search_text: the part of a question that is compared with memory (`Task.retrieval_query`). Default: all.
        semantic: if given, `learn` summarises a history into a profile, and the answer has the input `profile`.
    """

    def __init__(
        self,
        answer: Answerer,
        *,
        memory: MemoryStore | None = None,
        memories: int = 0,
        search_text: Callable[[str], str] | None = None,
        semantic: SemanticMemory | None = None,
    ) -> None:
        super().__init__()
        check_count("memories", memories, 0)
        self.answer = answer
        self.memory = memory
        self.memories = memories
        self.search_text = search_text
        self.semantic = semantic
        self.user_id: str | None = None
        self._learnt: Learnt = {}
        self._before: Interaction | Position | None = None
        self._since: Interaction | Position | None = None
        self._view: EpisodicMemory | None = None
        self._origin: Origin | None = None

    # -- learning -----------------------------------------------------------------------------------

    def learn(self, user_id: str, history: Sequence[Interaction]) -> Learnt:
        """See `Baseline.learn`."""
        check_history(user_id, history)
        return {"profile": self.semantic(interactions=history).profile} if self.semantic else {}

    async def alearn(self, user_id: str, history: Sequence[Interaction]) -> Learnt:
        """See `Baseline.alearn`."""
        check_history(user_id, history)
        return {"profile": (await self.semantic.acall(interactions=history)).profile} if self.semantic else {}

    def learning_calls(self, history: Sequence[Interaction]) -> Calls:
        """See `Baseline.learning_calls`."""
        return summary_calls(1 if self.semantic and history else 0)

    # -- handles ------------------------------------------------------------------------------------

    def for_user(self, user_id: str, *, learnt: Learnt | None = None) -> Self:
        """See `Baseline.for_user`. A method with a profile takes by default the newest in the memory store."""
        if self._origin is not None:
            # From the shared program: what was learnt, or loaded, for one user goes to no other.
            return self._origin.module.for_user(user_id, learnt=learnt)
        handle = self._handle()
        handle._origin = Origin(self)
        handle.answer = self.answer.for_user(user_id)
        handle.user_id = user_id
        handle._learnt = self._understood(user_id, learnt)
        return handle

    def as_of(self, before: Interaction | Position | None) -> Self:
        """See `Handle.as_of`. What was learnt stays as it is: it must have been learnt from what came before."""
        handle = self._handle()
        handle.answer = self.answer.as_of(before)
        handle._before = before
        return handle

    def since(self, oldest: Interaction | Position | None) -> Self:
        """See `Handle.since`. What was learnt stays as it is: it must have been learnt of nothing older."""
        handle = self._handle()
        handle.answer = self.answer.since(oldest)
        handle._since = oldest
        return handle

    def _understood(self, user_id: str, learnt: Learnt | None) -> Learnt:
        """What was learnt, checked; the default if it is None."""
        if self.semantic is None:
            return {}
        if learnt is None:
            return {"profile": (self.memory.profile(user_id) if self.memory else None) or ""}
        if not isinstance(learnt.get("profile"), str):
            has = ", ".join(learnt) or "nothing"
            raise InputError(f"learnt must be what `learn` returned, with a text `profile`, but it has {has}")
        return learnt

    def _handle(self) -> Self:
        # Down to the predictors, as PersonaAgent's: `load` writes into these, and must reach one user only.
        handle = copy.copy(self)
        handle.history, handle.callbacks = [], list(self.callbacks)
        for name, part in vars(self).items():
            if isinstance(part, dspy.Module) and part is not self.answer:
                setattr(handle, name, own(part))
        return handle

    # -- answering ----------------------------------------------------------------------------------

    def answering_calls(self) -> Calls:
        """See `Baseline.answering_calls`: each tool once, `finish`, and the answer; without tools the answer."""
        tools = len(self.answer.tool_names)
        return Calls(tools + 2 if tools else 1, max_predictions(self.answer.max_iters))

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """See `Handle.__call__`."""
        started = time.perf_counter()
        self._check(inputs)
        context = self._context(inputs)
        return self._finished(self.answer(**inputs, **context.fields), context, started)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """See `Handle.acall`."""
        started = time.perf_counter()
        self._check(inputs)
        # Encoding and searching would hold up every other question on the loop.
        context = await asyncio.to_thread(self._context, inputs)
        return self._finished(await self.answer.acall(**inputs, **context.fields), context, started)

    def _check(self, inputs: dict[str, Any]) -> None:
        """See that a question can be answered, before memory is searched for it."""
        self._user()
        if "max_iters" in inputs:
            check_count("max_iters", inputs["max_iters"], 1)

    def _context(self, inputs: dict[str, Any]) -> Context:
        """What the method adds to a question: here the profile, if it has one."""
        return Context({"profile": self._learnt["profile"].strip() or NO_PROFILE} if self.semantic else {})

    def _similar(self, inputs: dict[str, Any], count: int) -> list[Recalled]:
        """The interactions that `recall` would find for this question."""
        view, text = self._memory_view(), self._search_text(inputs)
        return view.recall(text, count, self._before, self._since) if text.strip() else []

    def _search_text(self, inputs: dict[str, Any]) -> str:
        question = str(inputs.get(self.answer.query_field, ""))
        return defuse(self.search_text(question) if self.search_text else question)

    def _memory_view(self) -> EpisodicMemory:
        assert self.memory is not None
        if self._view is None:
            # Kept with the handle: the store holds it weakly, and would read the history anew for each question.
            self._view = self.memory.episodic(self._user())
        return self._view

    def _user(self) -> str:
        if self.user_id is None:
            raise PersonaAgentError("this baseline serves no user yet: call for_user(user_id) and use what it returns")
        return self.user_id

    def _finished(self, prediction: dspy.Prediction, context: Context, started: float) -> dspy.Prediction:
        if context.recalled is not None:
            prediction.recalled = context.recalled
        prediction.seconds = time.perf_counter() - started
        return prediction


def summary_calls(summaries: int) -> Calls:
    """Of so many summaries by `SemanticMemory`."""
    return Calls(summaries, summaries * (1 + MAX_HALVINGS))


def check_history(user_id: str, history: Sequence[Interaction]) -> None:
    """See that a history is this user's.

    Raises:
        InputError: naming the interaction that is not.
    """
    for interaction in history:
        if interaction.user_id != user_id:
            raise InputError(f"the history of {user_id!r} holds an interaction of {interaction.user_id!r}")
