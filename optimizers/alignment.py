"""Test-time user-preference alignment: Algorithm 1 as a DSPy teleprompter.

For E iterations: simulate the user's last n interactions under the current persona, compare each answer
with what the user really answered (textual gradients, LLM_grad), and rewrite the persona (LLM_update).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import dspy
from dspy.teleprompt.teleprompt import Teleprompter
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from personaagent.optimizers.signatures import Update, gradient_signature
from personaagent.optimizers.spans import Alignment, AlignmentIteration, PersonaUpdate, Rollout, TextualGradient
from personaagent.optimizers.student import BatchItem, Metric, Student, answer_of, batch_item, compared, recalled_in
from personaagent.programs.adapter import careful
from personaagent.programs.errors import InputError
from personaagent.programs.handles import check_count
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.lm.meter import metering
from personaagent.programs.lm.scope import scope_part
from personaagent.programs.memory.semantic import SemanticMemory
from personaagent.programs.persona import Persona
from personaagent.programs.quoting import defuse, one_line, shorten, written
from personaagent.programs.spending import spending

MAX_PERSONA_CHARS = 20_000
"""A longer rewrite is unusable: it would be sent with every later call."""

MAX_CRITIC_CHARS = 20_000
"""Longest question, answer or list of steps that the critic sees."""

MAX_FEEDBACK_CHARS = 4_000
"""Longest part of one gradient that the update sees."""

Aligned = TypeVar("Aligned", bound=Student)
"""A handle of any kind: what is aligned is of the student's."""


@dataclass(frozen=True)
class Simulation:
    """One interaction of the batch: what the agent answered under the current persona, and the gradient."""

    interaction_id: str
    expected: str
    answered: str | None
    """None if the agent gave no answer."""
    feedback: str | None
    """None if the gradient was unusable and left out; `fault` says why."""
    fault: str | None
    recalled: tuple[str, ...]
    """Ids of what `recall` returned: all before this interaction."""
    lm_calls: int
    """Of rollout and gradient."""


@dataclass(frozen=True)
class AlignmentStep:
    """One iteration of Algorithm 1."""

    iteration: int
    """From 1."""
    batch: tuple[Simulation, ...]
    """Oldest first: the order of the gradients in the update."""
    before: Persona
    after: Persona
    """The same as `before` if the update was unusable; `kept_because` says why."""
    kept_because: str | None
    lm_calls: int
    """Of the step; of the first also those of `profile_before_batch`."""
    prompt_tokens: int
    """As far as the LM reports them."""
    completion_tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON-serialisable values."""
        personas = {"before": self.before.dump_state(), "after": self.after.dump_state()}
        batch = [{**asdict(s), "recalled": list(s.recalled)} for s in self.batch]
        rest = ("iteration", "kept_because", "lm_calls", "prompt_tokens", "completion_tokens", "seconds")
        return {**{name: getattr(self, name) for name in rest}, "batch": batch, **personas}


class PersonaAlignment(Teleprompter):
    """Rewrites the persona of one user's agent, or personalised program, from the user's last n interactions.

    The batch is the latest n, the same in every iteration; the agent answers it anew under the persona of
    the iteration before (Algorithm 1's line 15, as printed, would restart from the initial one). While
    interaction j is simulated, `recall` sees only what came before j: the agent cannot look up the answer.
    Rollouts and their gradients run side by side, then one update: R + 2 LM calls deep, where R is the
    number of LM calls of the longest rollout.

    Args:
        batch_size: n; from 0, which aligns nothing. Fewer interactions than n are all used.
        iterations: E; from 0, which aligns nothing.
        lm: the LM of gradient and update. Default: the one in `dspy.settings`.
        num_threads: most rollouts at a time; at least 1. Default: n.
        stop_at_failure: begins no further rollout once one has failed for good. False ends them all first, so that
            calls that are replayed cost what they cost when they were recorded.
        metric: `metric(example, prediction) -> float | bool | dspy.Prediction(score, feedback)`, as DSPy's optimizers
            take it. Its feedback on each rollout, or its score if it has none, is shown to the critic beside the two
            answers. Default: none, as in the paper.
        show_trajectory: lets the critic see the agent's steps too. The paper's sees question, expected and
            given answer.
        profile_before_batch: starts from a new initial persona, whose profile is summarised by
            `semantic_memory` from what came before the batch. The profile of eq. 3 has read the batch's
            answers.
        semantic_memory: needed for `profile_before_batch`.
        gradient_instruction, update_instruction: replace the prompts of App. C.

    Raises:
        InputError: on a value out of range.
    """

    def __init__(
        self,
        batch_size: int = 3,
        iterations: int = 1,
        *,
        lm: dspy.LM | None = None,
        num_threads: int | None = None,
        stop_at_failure: bool = True,
        metric: Metric | None = None,
        show_trajectory: bool = False,
        profile_before_batch: bool = False,
        semantic_memory: SemanticMemory | None = None,
        gradient_instruction: str | None = None,
        update_instruction: str | None = None,
    ) -> None:
        super().__init__()
        check_count("batch_size", batch_size, 0)
        check_count("iterations", iterations, 0)
        if num_threads is not None:
            check_count("num_threads", num_threads, 1)
        if profile_before_batch and semantic_memory is None:
            raise InputError("profile_before_batch=True needs semantic_memory=SemanticMemory(...)")
        self.batch_size = batch_size
        self.iterations = iterations
        self.lm = lm
        self.num_threads = num_threads
        self.stop_at_failure = stop_at_failure
        self.metric = metric
        self.show_trajectory = show_trajectory
        self.profile_before_batch = profile_before_batch
        self.semantic_memory = semantic_memory
        self.gradient = TextualGradient(gradient_signature(gradient_instruction, metric is not None, show_trajectory))
        self.update = PersonaUpdate(Update.with_instructions(update_instruction) if update_instruction else Update)

    def compile(
        self,
        student: Aligned,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> Aligned:
        """Align.

        Args:
            student: a handle made by `for_user`, of a PersonaAgent or a personalised program (see `Student`). It is
                not changed. A memory that is cut by `since` is cut in every rollout.
            trainset: the user's interactions as examples, in any order (`Interaction.to_example`). One
                without a timestamp and an ordinal counts as later than all of memory, in list order. All inputs of
                an example are passed; the critic sees the query, and with several inputs the others beside it.
            teacher, valset: not used; a DSPy optimizer takes them.

        Returns:
            The student with the new persona, and `alignment_steps`: a list of `AlignmentStep`. Nothing
            else is written: save the program, or `store.save_persona(user_id, aligned.persona)`.

        Raises:
            InputError: if the student serves no user, an example lacks a field, or the student's answer does.
            dspy's `LMError`: if an LM call fails for good.
        """
        if not isinstance(student, Student) or student.persona is None or student.user_id is None:
            raise InputError("the student serves no user: pass what agent.for_user(user_id) returns")
        if self.profile_before_batch and student.memory is None:
            raise InputError("profile_before_batch=True needs a student with a memory")
        batch = self._latest(student, trainset)
        shown = {"user_id": student.user_id, "interactions": [item.interaction_id for item in batch]}
        aligned: Aligned = Alignment(lambda: self._aligned(student, batch))(**shown)
        return aligned

    def _aligned(self, student: Student, batch: Sequence[BatchItem]) -> Any:
        assert student.persona is not None
        aligned: Any = student.with_persona(student.persona)
        steps: list[AlignmentStep] = []
        for iteration in range(1, (self.iterations if batch else 0) + 1):
            work = partial(self._step, aligned, batch, iteration)
            step: AlignmentStep = AlignmentIteration(work)(iteration=iteration)
            steps.append(step)
            aligned = aligned.with_persona(step.after)
        aligned.alignment_steps = steps
        return aligned

    def _step(self, agent: Student, batch: Sequence[BatchItem], iteration: int) -> AlignmentStep:
        started = time.perf_counter()
        with dspy.track_usage() as usage, metering() as metered:
            if iteration == 1 and self.profile_before_batch:
                agent = agent.with_persona(self._persona_before(agent, batch))
            before = agent.persona
            assert before is not None
            simulations = self._side_by_side(agent, batch)
            usable = [s for s in simulations if s.feedback]
            after, kept_because = self._rewrite(before, usable)
        calls = [entry for entries in usage.usage_data.values() for entry in entries]
        # Metered LMs count every attempt. Of others some report no usage: what must have been made counts all the same.
        at_least = max(metered.lm_calls, sum(s.lm_calls for s in simulations) + bool(usable))
        return AlignmentStep(
            iteration=iteration,
            batch=tuple(simulations),
            before=before,
            after=after,
            kept_because=kept_because,
            lm_calls=max(len(calls), at_least),
            prompt_tokens=sum(entry.get("prompt_tokens") or 0 for entry in calls),
            completion_tokens=sum(entry.get("completion_tokens") or 0 for entry in calls),
            seconds=time.perf_counter() - started,
        )

    def _side_by_side(self, agent: Student, batch: Sequence[BatchItem]) -> list[Simulation]:
        # A pool of our own: dspy.Parallel runs a slow item twice and loses all results past max_errors.
        threads = min(self.num_threads or len(batch), len(batch))
        if threads == 1 and self.stop_at_failure:
            return [self._simulate(agent, item, place) for place, item in enumerate(batch)]
        failures: list[BaseException] = []

        def simulate(item: BatchItem, place: int) -> Simulation:
            if failures and self.stop_at_failure:
                raise CancelledError  # what has not begun is not paid for
            try:
                return self._simulate(agent, item, place)
            except BaseException as error:
                failures.append(error)
                raise

        with ThreadPoolExecutor(threads, thread_name_prefix="alignment") as pool:
            # A context each: DSPy's settings and the meter's ledgers live in context variables.
            futures = [pool.submit(copy_context().run, simulate, item, i) for i, item in enumerate(batch)]
            try:
                return [future.result() for future in futures]
            except CancelledError:
                raise failures[0] from None
            except BaseException as error:  # of a rollout, or an interruption
                failures.append(error)
                raise

    def _simulate(self, agent: Student, item: BatchItem, place: int) -> Simulation:
        """A rollout and its gradient, in a replay told apart from those beside it."""
        with scope_part(f"rollout {place}"):
            shown = {"interaction": item.interaction_id, "expected": item.expected}
            simulation: Simulation = Rollout(lambda: self._simulated(agent, item))(**shown)
            return simulation

    def _simulated(self, agent: Student, item: BatchItem) -> Simulation:
        """Answer one interaction as if it had not happened yet, and criticise the answer (lines 5-8, 14)."""

        def simulation(**found: Any) -> Simulation:
            return Simulation(**{**_NOTHING, **found}, interaction_id=item.interaction_id, expected=item.expected)

        try:
            with spending() as spent:
                rollout = agent.as_of(item.before)(**item.inputs)
        except ContextWindowExceededError:
            return simulation(fault="the question did not fit the LM's context window", lm_calls=1)
        except AdapterParseError:  # of a program that does not see to it itself
            return simulation(fault="the answer could not be read", lm_calls=spent.lm_calls)
        answered = answer_of(rollout, agent.response_field)
        seen = {"answered": answered, "recalled": recalled_in(rollout), "lm_calls": spent.lm_calls + 1}
        texts = {
            "question": item.question,
            "expected_answer": item.expected,
            "given_answer": "(no answer)" if answered is None else answered,
        }
        if self.metric is not None:
            texts["comparison"] = compared(self.metric, item, rollout)
        if self.show_trajectory:
            texts["steps"] = _steps_as_text(getattr(rollout, "trajectory", {}))
        try:
            with dspy.context(**self._lm()), careful():
                shown = {name: shorten(defuse(text), MAX_CRITIC_CHARS) for name, text in texts.items()}
                feedback = shorten(written(self.gradient(**shown).feedback), MAX_FEEDBACK_CHARS)
        except AdapterParseError:
            return simulation(**seen, fault="the gradient could not be read")
        except ContextWindowExceededError:
            return simulation(**seen, fault="the gradient did not fit the LM's context window")
        return simulation(**seen, feedback=feedback or None, fault=None if feedback else "the gradient was empty")

    def _rewrite(self, persona: Persona, usable: Sequence[Simulation]) -> tuple[Persona, str | None]:
        """One update from all gradients (line 9), and why the persona was kept if it was."""
        if not usable:
            return persona, "there was no usable gradient"
        numbered = "\n".join(f"{i}. {simulation.feedback}" for i, simulation in enumerate(usable, 1))
        try:
            with dspy.context(**self._lm()), careful():
                update = self.update(current_persona=defuse(persona.text), feedback=numbered)
        except AdapterParseError:
            return persona, "the update could not be read"
        except ContextWindowExceededError:
            return persona, "the update did not fit the LM's context window"
        text = written(update.new_persona)
        if not text:
            return persona, "the update was empty"
        if len(text) > MAX_PERSONA_CHARS:
            return persona, f"the update has {len(text)} characters, more than {MAX_PERSONA_CHARS}"
        if text == persona.text.strip():
            return persona, "the update changed nothing"
        return persona.rewritten(text, [simulation.interaction_id for simulation in usable]), None

    def _lm(self) -> dict[str, Any]:
        return {"lm": self.lm} if self.lm is not None else {}

    def _persona_before(self, student: Student, batch: Sequence[BatchItem]) -> Persona:
        """An initial persona whose profile has read nothing of the batch, nor what came after its first."""
        assert self.semantic_memory is not None
        first = batch[0].before
        own = {item.interaction_id for item in batch}
        earlier = [
            i for i in student.interactions() if i.id not in own and (first is None or i.position < _position(first))
        ]
        return student.initial_persona(self.semantic_memory(interactions=earlier).profile)

    def _latest(self, student: Student, trainset: Sequence[dspy.Example]) -> list[BatchItem]:
        """The latest n of the trainset, oldest first."""
        items = [batch_item(student, example, index) for index, example in enumerate(trainset)]
        # Those without a place come last, in list order: sorted() is stable.
        items.sort(key=lambda item: (item.before is None, _position(item.before)))
        return items[len(items) - min(self.batch_size, len(items)) :] if self.batch_size else []


_NO_PLACE = Position("", 0)
_NOTHING: dict[str, Any] = {"answered": None, "feedback": None, "fault": None, "recalled": (), "lm_calls": 0}


def _position(before: Interaction | Position | None) -> Position:
    if before is None:
        return _NO_PLACE
    return before.position if isinstance(before, Interaction) else before


def _steps_as_text(trajectory: Any) -> str:
    """One line for each thought, call and observation: as fields they could pass for the prompt's own."""
    if not isinstance(trajectory, dict):  # of a program's own making
        return one_line(str(trajectory))
    named = ((key.rsplit("_", 1)[0].replace("_", " "), value) for key, value in trajectory.items())
    return "\n".join(
        f"{name}: {one_line(value if isinstance(value, str) else json.dumps(value, default=str))}"
        for name, value in named
    )
