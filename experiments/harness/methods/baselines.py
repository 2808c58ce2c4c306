"""The methods without a persona, as units of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from personaagent.experiments.harness.methods.personas import profile_work
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.baselines.memory_bank import MemoryBank
from personaagent.programs.baselines.protocol import Baseline
from personaagent.programs.baselines.registry import Setup, make_baseline
from personaagent.programs.lm.make import OFFLINE


@dataclass(frozen=True)
class BaselineMethod:
    """A baseline: what it learns of a history is a unit where that takes an LM, and each answer is one."""

    setting: Setting
    name: str
    """In `programs.baselines.BASELINES`."""
    profile: bool = False
    """Whether it learns the semantic memory's summary: the unit that personas start with."""
    recall: bool = False
    """Whether it has the tool of that name."""
    in_prompt: bool = False
    """Whether past interactions are in its prompt without asking."""
    wikipedia: bool = False
    """Whether it has that tool, where the study has it."""
    _made: dict[int, Baseline] = field(default_factory=dict, init=False, compare=False)
    _examples: dict[str, Notes] = field(default_factory=dict, init=False, compare=False)

    # -- units ------------------------------------------------------------------------------------

    def learning(self, subject: Subject, cell: Cell) -> Work | None:
        """The profile, or memory-bank's notes."""
        if self.profile:
            return profile_work(self.setting, subject, cell)
        return self._notes_work(subject, cell) if self.name == "memory-bank" else None

    def start(self, subject: Subject, cell: Cell, learnt: Mapping[str, Any] | None) -> Notes:
        """What was learnt; icl's examples, which take no LM, are chosen here."""
        if learnt is not None:
            return Notes(learnt)
        if self.name != "icl":
            return Notes()
        if subject.user_id not in self._examples:
            self._examples[subject.user_id] = Notes(self.baseline(cell.memories).learn(subject.user_id, ()))
        return self._examples[subject.user_id]

    def iterations(self, cell: Cell) -> int:
        """None."""
        return 0

    def step(self, subject: Subject, cell: Cell, iteration: int, state: State) -> Work:
        """Never asked for: its cells have E=0."""
        raise AssertionError(f"{self.name} has no alignment")

    def answers(self, query: Query, subject: Subject, cell: Cell, state: State) -> list[Work]:
        """One answer."""
        assert isinstance(state, Notes)
        learnt = dict(state.values)
        reads_memory = self.retrieves(cell)
        inputs = {
            **self.setting.inputs(cell),
            "method": self.name,
            "learnt": state.digest,
            "history": subject.history_digest if reads_memory else None,
            "user": subject.user_id if reads_memory else None,
            "query": [query.id, query.input],
            "memories": cell.memories,
            "wikipedia": self.setting.wikipedia if self.wikipedia else "off",
        }

        def run() -> dict[str, Any]:
            handle = self.baseline(cell.memories).for_user(subject.user_id, learnt=learnt)
            return answered(handle.since(subject.since).as_of(subject.before)(query=query.input))

        expected, most = self.baseline(cell.memories).answering_calls()
        # The offline reader's output is always readable.
        worst = expected if cell.lm == OFFLINE else most * calls_per_prediction(cell.lm)
        return [Work(unit_key("answer", inputs), "answer", run, worst, expected, cell.lm)]

    def decided(self, units: Sequence[Unit]) -> Unit:
        """The only one."""
        return units[0]

    def _notes_work(self, subject: Subject, cell: Cell) -> Work:
        bank = self.baseline(cell.memories)
        assert isinstance(bank, MemoryBank)
        inputs = {
            **self.setting.inputs(cell),
            "method": self.name,
            "history": subject.history_digest,
            "user": subject.user_id,
            "memories": cell.memories,
            "forgetting": [bank.curve, bank.clock, bank.items_per_day, bank.seed],
            "dates": bank.dates,
        }

        def run() -> dict[str, Any]:
            return bank.learn(subject.user_id, subject.history)

        expected = bank.learning_calls(subject.history).expected
        # The two overall notes are of notes, which are not halved; to count them as if they were costs nothing.
        worst = summary_calls_at_most(expected, cell.lm)
        return Work(unit_key("notes", inputs), "notes", run, worst, expected, cell.lm)

    # -- parts ------------------------------------------------------------------------------------

    def baseline(self, memories: int) -> Baseline:
        """The shared program for this K; handles of users are made from it."""
        made = self._made.get(memories)
        if made is None:
            setting = self.setting
            made = self._made[memories] = make_baseline(
                self.name,
                Setup(
                    setting.task.signature,
                    setting.store,
                    memories,
                    [setting.wikipedia_tool] if setting.wikipedia_tool and self.wikipedia else [],
                    MAX_ITERS,
                    search_text=setting.task.retrieval_query,
                    summary_instruction=setting.summary_instruction,
                    recall_description=setting.prompts.recall,
                    pool=setting.pool() if self.name == "icl" else (),
                    seed=setting.data_seed,
                    dates=setting.memory_bank_dates,
                    curve=setting.memory_bank_curve,
                    clock=setting.memory_bank_clock,
                ),
            )
        return made

    def tools(self, cell: Cell) -> tuple[str, ...]:
        """See `Method.tools`."""
        recall = ("recall",) if self.recall and cell.memories else ()
        wikipedia = self.setting.wikipedia_tool
        return (*recall, *((str(wikipedia.name),) if wikipedia and self.wikipedia else ()))

    def retrieves(self, cell: Cell) -> bool:
        """See `Method.retrieves`."""
        return cell.memories > 0 and (self.recall or self.in_prompt)

    def answer_calls(self, cell: Cell) -> int:
        """LM calls of one undisturbed question."""
        return self.baseline(cell.memories).answering_calls().expected
