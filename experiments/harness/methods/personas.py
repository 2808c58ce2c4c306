"""PersonaAgent, and what is left of it when a part is taken away: a persona each, by Algorithm 1 or without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from personaagent.datasets.task import Query
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.journal import Unit, unit_key
from personaagent.experiments.harness.methods.base import (
    MAX_ITERS,
    Notes,
    Setting,
    State,
    Work,
    answered,
    calls_per_prediction,
    summary_calls_at_most,
)
from personaagent.experiments.harness.subjects import Subject
from personaagent.optimizers.alignment import PersonaAlignment
from personaagent.programs.agent import PersonaAgent
from personaagent.programs.episode import max_predictions
from personaagent.programs.lm.make import OFFLINE
from personaagent.programs.memory.semantic import SemanticMemory
from personaagent.programs.persona import Persona


def profile_work(setting: Setting, subject: Subject, cell: Cell) -> Work:
    """P^u = f_s(S_t, D^u) (eq. 3): one unit for every method that has a profile."""
    inputs = {**setting.inputs(cell), "history": subject.history_digest, "user": subject.user_id}

    def run() -> dict[str, Any]:
        memory = SemanticMemory(setting.summary_instruction)
        return {"profile": memory(interactions=subject.history).profile}

    calls = 1 if subject.history else 0
    return Work(unit_key("profile", inputs), "profile", run, summary_calls_at_most(calls, cell.lm), calls, cell.lm)


@dataclass(frozen=True)
class PersonaMethod:
    """Profile (eq. 3), alignment steps (Algorithm 1) and answers (eq. 4), each part of which may be missing.

    No unit's key holds the method's name: what two of them ask alike is asked once. `no-alignment` is the
    persona-agent at n=0, unit for unit.
    """

    setting: Setting
    profile: bool = True
    """Whether the initial persona holds the semantic memory's summary; `--profile off` takes it from all."""
    wikipedia: bool = True
    """Whether it has the tool, where the study has one. That of memory is there where K is above 0."""
    _agents: dict[int, PersonaAgent] = field(default_factory=dict, init=False, compare=False)

    # -- units ------------------------------------------------------------------------------------

    def learning(self, subject: Subject, cell: Cell) -> Work | None:
        """The profile."""
        return profile_work(self.setting, subject, cell) if self.profile and self.setting.profile else None

    def start(self, subject: Subject, cell: Cell, learnt: Mapping[str, Any] | None) -> Persona:
        """The initial persona."""
        return self.agent(cell.memories).initial_persona(learnt["profile"] if learnt else None)

    def iterations(self, cell: Cell) -> int:
        """E."""
        return cell.iterations

    def step(self, subject: Subject, cell: Cell, iteration: int, state: State) -> Work:
        """One iteration of Algorithm 1 from this persona."""
        persona, setting = _persona(state), self.setting
        n = min(cell.batch_size, len(subject.history))
        inputs = {
            **setting.inputs(cell),
            "align_lm": self.align_name(cell),
            "align_api_base": setting.models.align_api_base,
            "history": subject.history_digest,
            "user": subject.user_id,
            "batch_size": n,
            "memories": cell.memories,
            "iteration": iteration,
            "persona": persona.digest,
            "wikipedia": self._wikipedia,
            "critic": "texts" if setting.task.labels else "texts and what differs",
        }

        def run() -> dict[str, Any]:
            alignment = PersonaAlignment(
                cell.batch_size,
                iterations=1,
                lm=setting.models.align_lm,
                num_threads=max(1, min(setting.workers, cell.batch_size)),
                stop_at_failure=not setting.models.replayed,
                gradient_instruction=setting.prompts.gradient,
                update_instruction=setting.prompts.update,
                # Two texts are never the same: the critic is told what differs. Of labels the paper's sees both.
                metric=None if setting.task.labels else setting.task.metric,
            )
            student = self._handle(subject, cell.memories, persona)
            aligned = alignment.compile(student, trainset=[i.to_example("query", "answer") for i in subject.history])
            return aligned.alignment_steps[0].to_dict() if aligned.alignment_steps else {"after": persona.dump_state()}

        per_align_call = calls_per_prediction(self.align_name(cell))
        worst = n * (self._answer_worst(cell) + per_align_call) + (per_align_call if n else 0)
        return Work(unit_key("step", inputs), "step", run, worst, self.step_calls(subject, cell), cell.lm)

    def answers(self, query: Query, subject: Subject, cell: Cell, state: State) -> list[Work]:
        """One question under a persona and memory: the user's own, or under a control another user's."""
        return [self.answer(query, subject, cell, _persona(state))]

    def answer(self, query: Query, subject: Subject, cell: Cell, persona: Persona, sample: int = 0) -> Work:
        """One answer; of several to the same question each is a sample of its own."""
        inputs = {
            **self.setting.inputs(cell),
            "history": subject.history_digest if cell.memories else None,
            "user": subject.user_id if cell.memories else None,
            "query": [query.id, query.input],
            "memories": cell.memories,
            "persona": persona.digest,
            "wikipedia": self._wikipedia,
            **({"sample": sample} if sample else {}),
        }

        def run() -> dict[str, Any]:
            return answered(self._handle(subject, cell.memories, persona)(query=query.input))

        worst, expected = self._answer_worst(cell), self.answer_calls(cell)
        return Work(unit_key("answer", inputs), "answer", run, worst, expected, cell.lm)

    def decided(self, units: Sequence[Unit]) -> Unit:
        """The only one."""
        return units[0]

    # -- parts ------------------------------------------------------------------------------------

    def agent(self, memories: int) -> PersonaAgent:
        """The shared agent for this K; handles of users are made from it."""
        made = self._agents.get(memories)
        if made is None:
            setting = self.setting
            made = self._agents[memories] = PersonaAgent(
                setting.task.signature,
                memory=setting.store,
                memories=memories,
                tools=[setting.wikipedia_tool] if setting.wikipedia_tool and self.wikipedia else [],
                max_iters=MAX_ITERS,
                persona_template=setting.prompts.persona,
                recall_description=setting.prompts.recall,
            )
        return made

    def tools(self, cell: Cell) -> tuple[str, ...]:
        """See `Method.tools`."""
        return self.agent(cell.memories).tool_names

    def retrieves(self, cell: Cell) -> bool:
        """See `Method.retrieves`."""
        return cell.memories > 0

    def answer_calls(self, cell: Cell) -> int:
        """LM calls of an undisturbed question: each tool once, `finish`, and the answer."""
        return len(self.tools(cell)) + 2 if self.tools(cell) else 1

    def step_calls(self, subject: Subject, cell: Cell) -> int:
        """LM calls of an undisturbed alignment step."""
        n = min(cell.batch_size, len(subject.history))
        return n * (self.answer_calls(cell) + 1) + (1 if n else 0)

    def align_name(self, cell: Cell) -> str:
        """Model string of the LM of gradient and update."""
        return self.setting.models.align_name or cell.lm

    @property
    def _wikipedia(self) -> str:
        return self.setting.wikipedia if self.wikipedia else "off"

    def _handle(self, subject: Subject, memories: int, persona: Persona) -> PersonaAgent:
        handle = self.agent(memories).for_user(subject.user_id, persona=persona)
        return handle.since(subject.since).as_of(subject.before)

    def _answer_worst(self, cell: Cell) -> int:
        """Most LM calls of a question: each step and each answer with its fallbacks, retries and shortenings."""
        if cell.lm == OFFLINE:  # it calls each tool once, and its output is always readable
            return self.answer_calls(cell)
        return max_predictions(MAX_ITERS) * calls_per_prediction(cell.lm)


@dataclass(frozen=True)
class MoreMemories(PersonaMethod):
    """Equal-cost control: no alignment, and as many more memories as its LM calls are more than serving takes.

    K becomes K * (calls of alignment and answers) / (calls of answers), rounded up, for each user: what the same
    number of calls would have retrieved at K each. It takes fewer calls and longer prompts than what it is held
    against.
    """

    def iterations(self, cell: Cell) -> int:
        """None: n and E are those of the cell that it is held against."""
        return 0

    def answers(self, query: Query, subject: Subject, cell: Cell, state: State) -> list[Work]:
        """One answer with the larger K."""
        return [self.answer(query, subject, replace(cell, memories=self.memories(subject, cell)), _persona(state))]

    def memories(self, subject: Subject, cell: Cell) -> int:
        """K of one user."""
        serving = self.answer_calls(cell) * max(1, len(subject.queries))
        return -(-cell.memories * (serving + cell.iterations * self.step_calls(subject, cell)) // serving)


@dataclass(frozen=True)
class Votes(PersonaMethod):
    """Equal-cost control: no alignment, and each question answered several times (self-consistency, Wang et al. 2023).

    The calls that an undisturbed alignment takes are spent on further samples of the user's questions, in turns,
    rounded up. Labels are voted on, ties going to the answer that was given first; of texts, which hardly ever are
    the same, the one that scores best against the others is taken (minimum Bayes risk).
    """

    def iterations(self, cell: Cell) -> int:
        """None: n and E are those of the cell that it is held against."""
        return 0

    def answers(self, query: Query, subject: Subject, cell: Cell, state: State) -> list[Work]:
        """As many samples as the question's share of the calls allows."""
        count = 1 + self.extra(subject, cell)[subject.queries.index(query)]
        return [self.answer(query, subject, cell, _persona(state), sample) for sample in range(count)]

    def extra(self, subject: Subject, cell: Cell) -> list[int]:
        """Further samples of each of a user's questions."""
        calls = cell.iterations * self.step_calls(subject, cell)
        samples, asked = -(-calls // self.answer_calls(cell)), len(subject.queries)
        return [samples // asked + (turn < samples % asked) for turn in range(asked)]

    def decided(self, units: Sequence[Unit]) -> Unit:
        """The unit whose answer wins; a sample that failed has no vote."""
        task = self.setting.task
        voting = [unit for unit in units if unit.ok] or list(units[:1])
        parsed = [task.parse(unit.result["raw"]) if unit.ok else None for unit in voting]
        if task.labels:
            counts = Counter(answer for answer in parsed if answer is not None)
            most = counts.most_common(1)[0][0] if counts else None
            return voting[parsed.index(most)]
        sign = 1 if task.higher_is_better else -1

        def agreement(index: int) -> float:
            mine = parsed[index]
            others = [other for place, other in enumerate(parsed) if place != index and other is not None]
            return sum(sign * task.score(other, mine) for other in others)

        readable = [index for index, answer in enumerate(parsed) if answer is not None] or [0]
        return voting[max(readable, key=lambda index: (agreement(index), -index))]


def _persona(state: State) -> Persona:
    assert not isinstance(state, Notes), "a method with a persona was given another's notes"
    return state
