"""`icl`: examples that are not this user's (section 3.1, Liu et al. 2022)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import dspy

from personaagent.programs.baselines._answerer import Answerer, extended
from personaagent.programs.baselines._program import Context, Program, check_history
from personaagent.programs.baselines.protocol import Calls, Learnt
from personaagent.programs.errors import InputError
from personaagent.programs.handles import check_count
from personaagent.programs.interaction import Interaction
from personaagent.programs.quoting import record_line

EXAMPLES = {"examples": "questions that others were asked, with the answers that they gave, one a line"}
NO_EXAMPLES = "There are none."


class ICL(Program):
    """The question and a few examples from other users' histories, in one ChainOfThought.

    The examples are lines of the prompt, whole questions with their answers, and not DSPy demonstrations: histories
    hold no reasoning, DSPy would write "Not supplied for this particular example." in its place, and an LM that
    imitates its examples would stop reasoning in this row of the table only.

    What it learns is which examples a user is shown; it needs no LM and not even the user's history.

    Args:
        signature: any DSPy signature.
        pool: interactions of any users, none of them a query: where examples are taken from. The user's own
            are left out.
        examples: how many, at least 1; fewer if the pool has fewer. They are of as many users as there are.
        seed: chooses them. A user's examples change with the pool only where a newcomer wins a place.
        max_iters, query, response: as of `Prompt`.

    Raises:
        InputError: as `Prompt`, or if the signature has a field `examples`, which this method adds.
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        pool: Iterable[Interaction],
        examples: int = 4,
        *,
        seed: int = 0,
        max_iters: int = 6,
        query: str | None = None,
        response: str | None = None,
    ) -> None:
        check_count("examples", examples, 1)
        made = extended(signature, EXAMPLES)
        super().__init__(Answerer(made, max_iters=max_iters, query=query, response=response))
        self.examples = examples
        self.seed = seed
        self._pool = _Pool(pool)

    def learn(self, user_id: str, history: Sequence[Interaction]) -> Learnt:
        """`examples`: a list of {user_id, id, query, response}, best first."""
        check_history(user_id, history)
        chosen = self._pool.choose(user_id, self.examples, self.seed)
        names = ("user_id", "id", "query", "response")
        return {"examples": [{name: getattr(one, name) for name in names} for one in chosen]}

    async def alearn(self, user_id: str, history: Sequence[Interaction]) -> Learnt:
        """As `learn`."""
        return self.learn(user_id, history)

    def learning_calls(self, history: Sequence[Interaction]) -> Calls:
        """None."""
        return Calls(0, 0)

    def _understood(self, user_id: str, learnt: Learnt | None) -> Learnt:
        """By default what `learn` says, when the first question is asked."""
        if learnt is None:
            return {}
        chosen = learnt.get("examples")
        if not isinstance(chosen, list) or not all({"user_id", "query", "response"} <= set(one) for one in chosen):
            has = ", ".join(learnt) or "nothing"
            raise InputError(f"learnt must be what `learn` returned, with a list `examples`, but it has {has}")
        if any(one["user_id"] == user_id for one in chosen):
            raise InputError(f"learnt holds examples of {user_id!r}: they were chosen for another user")
        return learnt

    def _context(self, inputs: dict[str, Any]) -> Context:
        if not self._learnt:
            self._learnt = self.learn(self._user(), ())
        lines = [record_line(one["query"], one["response"]) for one in self._learnt["examples"]]
        return Context({"examples": "\n".join(lines) or NO_EXAMPLES}, [])


class _Pool:
    """Interactions by user. A program's copy uses the same."""

    def __init__(self, interactions: Iterable[Interaction]) -> None:
        self._of: dict[str, list[Interaction]] = {}
        for interaction in interactions:
            self._of.setdefault(interaction.user_id, []).append(interaction)

    def choose(self, user_id: str, count: int, seed: int) -> list[Interaction]:
        """So many interactions of others, in rounds of one a user."""

        def rank(*names: str) -> str:
            # A hash each, and no generator: whoever comes or goes, the others keep their ranks.
            return hashlib.sha256("\0".join((str(seed), user_id, *names)).encode()).hexdigest()

        others = sorted((other for other in self._of if other != user_id), key=rank)[:count]
        ranked = [sorted(self._of[other], key=lambda i: rank(i.user_id, i.id)) for other in others]
        rounds = range(max(map(len, ranked), default=0))
        return [theirs[turn] for turn in rounds for theirs in ranked if turn < len(theirs)][:count]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Pool:
        return self
