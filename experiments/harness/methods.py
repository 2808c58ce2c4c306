"""How a method turns a cell into units of work: what each rests on, what it asks, what it costs at most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dspy

from personaagent.datasets.task import Query, Task, User
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.journal import Kind, unit_key
from personaagent.experiments.harness.prompts import Prompts
from personaagent.optimizers.alignment import PersonaAlignment
from personaagent.programs.agent import PersonaAgent
from personaagent.programs.episode import max_predictions
from personaagent.programs.lm.make import CALLS_PER_PREDICTION, OFFLINE
from personaagent.programs.memory.episodic import EpisodicMemory
from personaagent.programs.memory.semantic import MAX_HALVINGS, SUMMARY_INSTRUCTION, SemanticMemory
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

MAX_ITERS = 6
"""Most steps of the agent for one question, in every study."""


@dataclass(frozen=True)
class Work:
    """A unit to be done: its key, the call that does it, and the most LM calls it may take."""

    key: str
    kind: Kind
    run: Callable[[], dict[str, Any]]
    worst_case: int
    expected_calls: int
    """If nothing goes wrong: what --dry-run projects."""


@dataclass(frozen=True)
class Models:
    """The LMs of a study, and what identifies them in a unit's inputs."""

    lm: dspy.LM
    align_lm: dspy.LM
    align_name: str | None
    """Model string of `align_lm`; None if it is the cell's LM."""
    api_base: str | None
    align_api_base: str | None
    temperature: float


@dataclass(frozen=True)
class PersonaAgentMethod:
    """The paper's method on one task: profile (eq. 3), alignment steps (Algorithm 1), answers (eq. 4)."""

    task: Task
    store: MemoryStore
    models: Models
    prompts: Prompts
    profile: bool
    wikipedia: str
    """`off`, `on`, or the address of another MediaWiki API."""
    wikipedia_tool: dspy.Tool | None
    workers: int

    # -- units ------------------------------------------------------------------------------------

    def profile_work(self, user: User, cell: Cell) -> Work:
        """P^u = f_s(S_t, D^u)."""
        inputs = {**self._inputs(cell), "history": self._history_digest(user), "user": user.user_id}

        def run() -> dict[str, Any]:
            memory = SemanticMemory(self.summary_instruction)
            return {"profile": memory(interactions=user.history).profile}

        calls = 1 if user.history else 0
        worst = calls * (_calls_per_prediction(cell.lm) + (0 if cell.lm == OFFLINE else MAX_HALVINGS))
        return Work(unit_key("profile", inputs), "profile", run, worst, calls)

    def step_work(self, user: User, cell: Cell, iteration: int, persona: Persona) -> Work:
        """One iteration of Algorithm 1 from this persona."""
        inputs = {
            **self._inputs(cell),
            "align_lm": self.align_name(cell),
            "align_api_base": self.models.align_api_base,
            "history": self._history_digest(user),
            "user": user.user_id,
            "batch_size": cell.batch_size,
            "memories": cell.memories,
            "iteration": iteration,
            "persona": persona.digest,
            "wikipedia": self.wikipedia,
            "critic": "texts" if self.task.labels else "texts and what differs",
        }

        def run() -> dict[str, Any]:
            alignment = PersonaAlignment(
                cell.batch_size,
                iterations=1,
                lm=self.models.align_lm,
                num_threads=max(1, min(self.workers, cell.batch_size)),
                gradient_instruction=self.prompts.gradient,
                update_instruction=self.prompts.update,
                # Two texts are never the same: the critic is told what differs. Of labels the paper's sees both.
                metric=None if self.task.labels else self.task.metric,
            )
            student = self.agent(cell.memories).for_user(user.user_id, persona=persona)
            aligned = alignment.compile(student, trainset=[self._example(i) for i in user.history])
            return aligned.alignment_steps[0].to_dict() if aligned.alignment_steps else {"after": persona.dump_state()}

        n = min(cell.batch_size, len(user.history))
        rollouts = self.answer_calls(cell.memories)
        per_align_call = _calls_per_prediction(self.align_name(cell))
        worst = n * (self._answer_worst(cell) + per_align_call) + (per_align_call if n else 0)
        return Work(unit_key("step", inputs), "step", run, worst, n * (rollouts + 1) + (1 if n else 0))

    def answer_work(self, query: Query, served_by: User, cell: Cell, persona: Persona) -> Work:
        """One question under a persona and memory: the user's own, or under a control another user's."""
        inputs = {
            **self._inputs(cell),
            "history": self._history_digest(served_by) if cell.memories else None,
            "user": served_by.user_id if cell.memories else None,
            "query": [query.id, query.input],
            "memories": cell.memories,
            "persona": persona.digest,
            "wikipedia": self.wikipedia,
        }

        def run() -> dict[str, Any]:
            handle = self.agent(cell.memories).for_user(served_by.user_id, persona=persona)
            prediction = handle(query=query.input)
            return {
                "raw": "" if prediction.answer is None else str(prediction.answer),
                "reasoning": prediction.reasoning,
                "recalled": prediction.recalled,
                "tools": prediction.tools_called,
                "faults": prediction.faults,
                "trajectory": prediction.trajectory,
            }

        worst, expected = self._answer_worst(cell), self.answer_calls(cell.memories)
        return Work(unit_key("answer", inputs), "answer", run, worst, expected)

    def hold(self, user: User) -> None:
        """Keep a user's view of memory, which handles come and go by, for the time of the study."""
        self._views[user.user_id] = self.store.episodic(user.user_id)

    # -- parts ------------------------------------------------------------------------------------

    def agent(self, memories: int) -> PersonaAgent:
        """The shared agent for this K; handles of users are made from it."""
        made = self._agents.get(memories)
        if made is None:
            made = self._agents[memories] = PersonaAgent(
                self.task.signature,
                memory=self.store,
                memories=memories,
                tools=[self.wikipedia_tool] if self.wikipedia_tool else [],
                max_iters=MAX_ITERS,
                persona_template=self.prompts.persona,
                recall_description=self.prompts.recall,
            )
        return made

    def initial_persona(self, memories: int, profile: str | None) -> Persona:
        return self.agent(memories).initial_persona(profile)

    @property
    def summary_instruction(self) -> str:
        return self.prompts.summary or self.task.summary_instruction or SUMMARY_INSTRUCTION

    @cached_property
    def _agents(self) -> dict[int, PersonaAgent]:
        return {}

    @cached_property
    def _views(self) -> dict[str, EpisodicMemory]:
        return {}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {}

    def _example(self, interaction: Any) -> dspy.Example:
        return interaction.to_example("query", "answer")

    def align_name(self, cell: Cell) -> str:
        """Model string of the LM of gradient and update."""
        return self.models.align_name or cell.lm

    def _inputs(self, cell: Cell) -> dict[str, Any]:
        """What every unit of a cell depends on."""
        return {
            "lm": cell.lm,
            "api_base": self.models.api_base,
            "temperature": self.models.temperature,
            "seed": cell.seed,
            "task": self.task.name,
            "instructions": [self.task.signature.instructions, self.summary_instruction],
            "prompts": self.prompts.digest,
            "max_iters": MAX_ITERS,
        }

    def _history_digest(self, user: User) -> str:
        if user.user_id not in self._digests:
            rows = [[i.id, i.query, i.response, i.timestamp, i.ordinal, i.text] for i in user.history]
            self._digests[user.user_id] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        return self._digests[user.user_id]

    def _tool_count(self, memories: int) -> int:
        return (1 if memories else 0) + (1 if self.wikipedia_tool else 0)

    def answer_calls(self, memories: int) -> int:
        """LM calls of an undisturbed question: each tool once, `finish`, and the answer."""
        tools = self._tool_count(memories)
        return tools + 2 if tools else 1

    def _answer_worst(self, cell: Cell) -> int:
        """Most LM calls of a question: each step and each answer with its fallbacks, retries and shortenings."""
        if cell.lm == OFFLINE:
            return self.answer_calls(cell.memories)  # it calls each tool once, and its output is always readable
        return max_predictions(MAX_ITERS) * _calls_per_prediction(cell.lm)


def _calls_per_prediction(model: str) -> int:
    return 1 if model == OFFLINE else CALLS_PER_PREDICTION


def swapped(users: Sequence[User], control: str) -> dict[str, User]:
    """Who serves whom: with `none` each user their own; with `swap` the next in this order, cyclically."""
    if control == "none":
        return {user.user_id: user for user in users}
    return {user.user_id: users[(i + 1) % len(users)] for i, user in enumerate(users)}
