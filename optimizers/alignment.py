"""Test-time user-preference alignment: Algorithm 1 as a DSPy teleprompter.

For E iterations: simulate the user's last n interactions under the current persona, compare each answer
with what the user really answered (textual gradients, LLM_grad), and rewrite the persona (LLM_update).
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

import dspy
from dspy.teleprompt.teleprompt import Teleprompter
from dspy.utils.callback import with_callbacks
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from personaagent.optimizers.metric import Comparison, Metric, check_metric, compared
from personaagent.optimizers.running import Apart, Call, SideBySide, Work
from personaagent.optimizers.signatures import Update, gradient_signature
from personaagent.optimizers.spans import Alignment, AlignmentIteration, PersonaUpdate, Rollout, TextualGradient
from personaagent.optimizers.student import (
    BatchItem,
    Student,
    answer_of,
    batch_items,
    check_answered,
    check_calls,
    texts_in,
)
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

logger = logging.getLogger(__name__)

MAX_PERSONA_CHARS = 20_000
"""A longer rewrite is unusable: it would be sent with every later call."""

MAX_CRITIC_CHARS = 20_000
"""Longest question, answer or list of steps that the critic sees."""

MAX_FEEDBACK_CHARS = 4_000
"""Longest part of one gradient that the update sees."""

Aligned = TypeVar("Aligned", bound=Student)
"""A handle of any kind: what is aligned is of the student's."""

Method = TypeVar("Method", bound=Callable[..., Any])


def _called_back(compile: Method) -> Method:
    """Tell DSPy's callbacks of it, as `Teleprompter` does for `compile`; and keep its types."""
    wrapped: Method = with_callbacks(compile)
    return wrapped


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
    """Of rollout and gradient, retries and an adapter's fallbacks included. Not those of a metric."""
    faults: list[str] = field(default_factory=list, hash=False)
    """What went wrong in the rollout and was overcome, such as a tool that failed: those of its prediction, [] if it
    has none. A `dspy.ReAct` in a program keeps such failures in its trajectory only."""
    metric_fault: str | None = None
    """What the metric raised, or that what it returned is of no use; then the gradient was asked without it."""


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

    `compile` runs them in threads, `acompile` in tasks on the caller's event loop: for students with asynchronous
    tools, such as those of MCP, for programs that have an `aforward` only, and in servers.

    Args:
        batch_size: n; from 0, which aligns nothing. Default: 3. Fewer interactions than n are all used.
        iterations: E; from 0, which aligns nothing. Default: 1.
        lm: the LM of gradient and update. Default: the one in `dspy.settings`.
        num_threads: most rollouts at a time, threads or tasks; at least 1. Default: n.
        stop_at_failure: begins no further rollout once one has failed for good. False ends them all first, so that
            calls that are replayed cost what they cost when they were recorded.
        metric: a plain function of (example, prediction), as DSPy's optimizers take it; what else it must be given
            (trace, pred_name, pred_trace) is None. It returns a finite number or a bool, or
            `dspy.Prediction(score=..., feedback=...)` or a dictionary with one of the two or both. Its feedback on each
            rollout, or its score if it has none, is shown to the critic beside the two answers. Where it raises, or
            returns something else, the critic does without, `Simulation.metric_fault` says why, and a warning is
            logged once in an alignment. It is called in several threads at a time. Default: none, as in the paper.
        show_trajectory: lets the critic see the agent's steps too. Default: no; the paper's sees question, expected
            and given answer.
        profile_before_batch: starts from a new initial persona, whose profile is summarised by
            `semantic_memory` from what came before the batch. Default: no, as in the paper; but the profile of eq. 3
            has read the batch's answers.
        semantic_memory: needed for `profile_before_batch`.
        gradient_instruction, update_instruction: replace the prompts of App. C.

    Raises:
        InputError: on a value out of range, a metric that is asynchronous or does not take an example and a
            prediction, or `profile_before_batch` without `semantic_memory`.
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
        if metric is not None:
            check_metric(metric)
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
        trainset: Iterable[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Iterable[dspy.Example] | None = None,
    ) -> Aligned:
        """Align.

        Args:
            student: a handle made by `for_user`, of a PersonaAgent or a personalised program (see `Student`). It is
                not changed. A memory that is cut by `since` is cut in every rollout.
            trainset: the user's interactions as examples, in any order (`Interaction.to_example`, which says whose
                they are). One without a timestamp and an ordinal counts as later than all of memory, in list order.
                All inputs of an example are passed; the critic sees the query, and with several inputs the others
                beside it. The response may be of any type; in the batch it may not be None.
            teacher, valset: not used; a DSPy optimizer takes them.

        Returns:
            The student with the new persona, and `alignment_steps`: a list of `AlignmentStep`, empty where nothing is
            aligned. Nothing else is written: save the program, or `store.save_persona(user_id, aligned.persona)`.
            What another optimizer has frozen (`_compiled`) is not frozen in the result: a program that contains it
            saves it.

        Raises:
            InputError: before any LM call, if the student serves no user, has no memory for `profile_before_batch`, or
                can only be called by `acall` (use `acompile`); if the trainset is no list of examples, or one of them
                lacks a field, has a wrong timestamp or ordinal, is of another user, or has None for a response.
                Later, if the student's answer has no such field.
            StoreError, EncoderError: if the memory cannot be read, or a query not be encoded.
            dspy's `LMError`: if an LM call fails for good; also as `LMUnexpectedError` where the cap on calls is met.
            dspy's `AdapterParseError`: if the profile of `profile_before_batch` cannot be read.
            Whatever the student raises besides. An answer, gradient or update that cannot be read, or a prompt that
                does not fit the context window, does not raise: it is recorded and left out.
        """
        alignment, shown = self._prepared(student, trainset, asynchronous=False)
        alignment(**shown)
        aligned: Aligned = alignment.aligned
        return aligned

    @_called_back
    async def acompile(
        self,
        student: Aligned,
        *,
        trainset: Iterable[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Iterable[dspy.Example] | None = None,
    ) -> Aligned:
        """As `compile`, with the same prompts, result and errors, on the caller's event loop, which is not blocked.

        All LM calls are made by `acall`: the LMs need an asynchronous engine, which those of `make_lm` and DSPy have.
        The metric runs in threads. Cancelled, it cancels its rollouts and waits for their end.

        Raises:
            InputError: as `compile`; and if the student's program has no `aforward` (use `compile`).
            All else as `compile`.
        """
        prepared = partial(self._prepared, student, trainset, asynchronous=True)
        alignment, shown = await asyncio.to_thread(prepared)  # it may look up places in the memory
        await alignment.acall(**shown)
        aligned: Aligned = alignment.aligned
        return aligned

    def _prepared(
        self, student: Student, trainset: Iterable[dspy.Example], asynchronous: bool
    ) -> tuple[Alignment, dict[str, Any]]:
        """What is to be done, and what the trace shows of it; all that is handed in has been checked."""
        if not isinstance(student, Student) or student.persona is None or student.user_id is None:
            raise InputError("the student serves no user: pass what agent.for_user(user_id) returns")
        if self.profile_before_batch and student.memory is None:
            raise InputError("profile_before_batch=True needs a student with a memory")
        check_calls(student, asynchronous)
        batch = self._latest(student, trainset)
        shown = {"user_id": student.user_id, "interactions": [item.interaction_id for item in batch]}
        alignment = Alignment(lambda: self._summary(alignment, student, batch))
        return alignment, shown

    def _summary(self, alignment: Alignment, student: Student, batch: Sequence[BatchItem]) -> Work[dict[str, Any]]:
        """The alignment's result, kept on its span, and what the trace shows of it."""
        aligned = alignment.aligned = yield from self._aligned(student, batch)
        steps: list[AlignmentStep] = aligned.alignment_steps
        return {
            "persona_version": aligned.persona.version,
            "persona": aligned.persona.text,
            "kept_because": [step.kept_because for step in steps],
            "lm_calls": sum(step.lm_calls for step in steps),
        }

    def _aligned(self, student: Student, batch: Sequence[BatchItem]) -> Work[Any]:
        assert student.persona is not None
        aligned: Any = student.with_persona(student.persona)
        # Of a compiled module inside another one DSPy saves nothing: the persona would be lost.
        aligned._compiled = False
        steps: list[AlignmentStep] = []
        warned = False
        for iteration in range(1, (self.iterations if batch else 0) + 1):
            step: AlignmentStep = yield Call(
                AlignmentIteration(partial(self._step, aligned, batch, iteration)), {"iteration": iteration}
            )
            steps.append(step)
            warned = warned or _warn(step)
            aligned = aligned.with_persona(step.after)
        aligned.alignment_steps = steps
        return aligned

    def _step(self, agent: Student, batch: Sequence[BatchItem], iteration: int) -> Work[AlignmentStep]:
        started = time.perf_counter()
        with dspy.track_usage() as usage, metering() as metered:
            if iteration == 1 and self.profile_before_batch:
                agent = agent.with_persona((yield from self._persona_before(agent, batch)))
            before = agent.persona
            assert before is not None
            works = [partial(self._simulate, agent, item, place) for place, item in enumerate(batch)]
            most = min(self.num_threads or len(batch), len(batch))
            simulations: list[Simulation] = yield SideBySide(works, most, self.stop_at_failure)
            usable = [s for s in simulations if s.feedback]
            after, kept_because = yield from self._rewrite(before, usable)
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

    def _simulate(self, agent: Student, item: BatchItem, place: int) -> Work[Simulation]:
        """A rollout and its gradient, in a replay told apart from those beside it."""
        with scope_part(f"rollout {place}"):
            shown = {"interaction": item.interaction_id, "expected": item.expected}
            simulation: Simulation = yield Call(Rollout(lambda: self._simulated(agent, item)), shown)
            return simulation

    def _simulated(self, agent: Student, item: BatchItem) -> Work[Simulation]:
        """Answer one interaction as if it had not happened yet, and criticise the answer (lines 5-8, 14)."""

        def simulation(**found: Any) -> Simulation:
            return Simulation(**{**_NOTHING, **found}, interaction_id=item.interaction_id, expected=item.expected)

        try:
            with spending() as spent:
                rollout = yield Call(agent.as_of(item.before), item.inputs)
        except ContextWindowExceededError:
            fault = "the question did not fit the LM's context window"
            return simulation(fault=fault, lm_calls=spent.lm_calls or 1)
        except AdapterParseError:  # of a program that does not see to it itself
            return simulation(fault="the answer could not be read", lm_calls=spent.lm_calls)
        answered = answer_of(rollout, agent.response_field)
        recalled = tuple(texts_in(rollout, "recalled"))
        seen: dict[str, Any] = {"answered": answered, "recalled": recalled, "faults": texts_in(rollout, "faults")}
        texts = {
            "question": item.question,
            "expected_answer": item.expected,
            "given_answer": "(no answer)" if answered is None else answered,
        }
        options: dict[str, Any] = {}
        if self.metric is not None:
            comparison: Comparison = yield Apart(partial(compared, self.metric, item.example, rollout))
            seen["metric_fault"] = comparison.fault
            if comparison.text is None:
                options["signature"] = self.gradient.signature.delete("comparison")
            else:
                texts["comparison"] = comparison.text
        if self.show_trajectory:
            texts["steps"] = _steps_as_text(getattr(rollout, "trajectory", {}))
        shown = {name: shorten(defuse(text), MAX_CRITIC_CHARS) for name, text in texts.items()}
        feedback = ""
        try:
            with spending() as criticised, dspy.context(**self._lm()), careful():
                gradient = yield Call(self.gradient, {**shown, **options})
            feedback = shorten(written(gradient.feedback), MAX_FEEDBACK_CHARS)
            fault = "the gradient was empty"
        except AdapterParseError:
            fault = "the gradient could not be read"
        except ContextWindowExceededError:
            fault = "the gradient did not fit the LM's context window"
        calls = spent.lm_calls + (criticised.lm_calls or 1)
        return simulation(**seen, feedback=feedback or None, fault=None if feedback else fault, lm_calls=calls)

    def _rewrite(self, persona: Persona, usable: Sequence[Simulation]) -> Work[tuple[Persona, str | None]]:
        """One update from all gradients (line 9), and why the persona was kept if it was."""
        if not usable:
            return persona, "there was no usable gradient"
        numbered = "\n".join(f"{i}. {simulation.feedback}" for i, simulation in enumerate(usable, 1))
        try:
            with dspy.context(**self._lm()), careful():
                inputs = {"current_persona": defuse(persona.text), "feedback": numbered}
                update = yield Call(self.update, inputs)
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

    def _persona_before(self, student: Student, batch: Sequence[BatchItem]) -> Work[Persona]:
        """An initial persona whose profile has read nothing of the batch, nor what came after its first."""
        assert self.semantic_memory is not None
        first = batch[0].before
        own = {item.interaction_id for item in batch}
        known: list[Interaction] = yield Apart(student.interactions)
        earlier = [i for i in known if i.id not in own and (first is None or i.position < _position(first))]
        summary = yield Call(self.semantic_memory, {"interactions": earlier})
        return student.initial_persona(summary.profile)

    def _latest(self, student: Student, trainset: Iterable[dspy.Example]) -> list[BatchItem]:
        """The latest n of the trainset, oldest first."""
        items = batch_items(student, trainset)
        # Those without a place come last, in list order: sorted() is stable.
        items.sort(key=lambda item: (item.before is None, _position(item.before)))
        batch = items[len(items) - min(self.batch_size, len(items)) :] if self.batch_size else []
        for item in batch:
            check_answered(student, item)
        return batch


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


def _warn(step: AlignmentStep) -> bool:
    """Log what the metric did wrong, if anything."""
    faults = [(s.interaction_id, s.metric_fault) for s in step.batch if s.metric_fault]
    if faults:
        logger.warning(
            "iteration %d, %d of %d answers were criticised without the metric; interaction %s: %s",
            *(step.iteration, len(faults), len(step.batch)),
            *faults[0],
        )
    return bool(faults)
