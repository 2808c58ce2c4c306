"""One question from start to answer: ReAct's loop, made so that nothing an LM writes loses the question."""

from __future__ import annotations

import inspect
import json
import re
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio.to_thread
import dspy
from dspy.adapters.chat_adapter import field_header_pattern
from dspy.adapters.utils import parse_value
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from personaagent.programs.errors import PersonaAgentError
from personaagent.programs.handles import check_count
from personaagent.programs.lm.meter import Usage
from personaagent.programs.quoting import defuse, defuse_all, defused_demos, one_line, shorten, written
from personaagent.programs.spending import mark_measured
from personaagent.programs.tools.recall import RecallSession

if TYPE_CHECKING:
    from personaagent.programs.agent import PersonaAgent

MAX_OBSERVATION_CHARS = 20_000
"""Longest observation in a prompt: K = 8 records of 2,000 characters fit."""

MAX_THOUGHT_CHARS = 4_000
"""Longest thought, and longest arguments of a call, in a prompt."""

_UNREADABLE_STEP = (
    "Your last step could not be read: {reason} Write the three fields exactly as asked, "
    "with one of the tools: {tools}."
)
_UNREADABLE_ANSWER = "Your last answer could not be read. Write every output field exactly as asked."
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.\-]+){2,}")
_INVALID_FIELD = re.compile(r"Failed to parse field (\w+) ")
MAX_SHORTENINGS = 3
"""How often the observations of one question are halved when a prompt does not fit."""


class _PredictCall(NamedTuple):
    predictor: Any
    inputs: dict[str, Any]


class _ToolCall(NamedTuple):
    tool: dspy.Tool
    arguments: dict[str, Any]


_Steps = Generator[_PredictCall | _ToolCall, Any, dspy.Prediction]


@dataclass
class Episode:
    """One question from start to answer. `run` yields the calls to make, so that sync and async share it."""

    agent: PersonaAgent
    given: dict[str, Any]
    session: RecallSession
    faults: list[str] = field(default_factory=list)
    tools_called: list[str] = field(default_factory=list)
    predictor_calls: int = 0
    shortenings_left: int = MAX_SHORTENINGS
    started: float = field(default_factory=time.perf_counter)

    def run(self) -> _Steps:
        inputs = {name: defuse_all(value) for name, value in self.given.items()}
        max_iters = inputs.pop("max_iters", self.agent.max_iters)
        check_count("max_iters", max_iters, 1)
        trajectory: dict[str, Any] = {}
        step = 0
        # Without tools there is nothing to choose: the answer is one call.
        finished = not self.agent.tool_names
        while not finished and step < max_iters:
            finished = yield from self._step(inputs, trajectory, step)
            step += 1
        if not finished:
            self.faults.append(f"stopped after {max_iters} steps without `finish`")
        return (yield from self._answer(inputs, trajectory, step, max_iters))

    def _step(self, inputs: dict[str, Any], trajectory: dict[str, Any], step: int) -> _Steps:
        try:
            chosen = yield from self._predict(self.agent.react, inputs, trajectory)
        except AdapterParseError as error:
            reason = _reason(error)
            self.faults.append(f"step {step + 1} could not be read: {reason}")
            names = ", ".join(self.agent.tools)
            _append(trajectory, step, "", "none", {}, _UNREADABLE_STEP.format(reason=reason, tools=names))
            return False
        except ContextWindowExceededError:
            self.faults.append(f"step {step + 1} did not fit the LM's context window")
            return True
        name, arguments = chosen.next_tool_name, _plain_arguments(chosen.next_tool_args)
        if name == "finish":
            _append(trajectory, step, chosen.next_thought, name, {}, "Completed.")
            return True
        self.tools_called.append(name)
        try:
            observation = _as_text((yield _ToolCall(self.agent.tools[name], arguments)))
        except PersonaAgentError:
            raise  # memory that cannot be read is not something an LM could work around
        except Exception as error:
            self.faults.append(f"tool {name} failed in step {step + 1}: {_reason(error)}")
            observation = f"The tool {name} failed: {_reason(error)}"
        _append(trajectory, step, chosen.next_thought, name, arguments, observation)
        return False

    def _answer(self, inputs: dict[str, Any], trajectory: dict[str, Any], step: int, max_iters: int) -> _Steps:
        shown: dict[str, Any] | None = trajectory
        known: dict[str, Any] = {}
        while True:
            try:
                answer = yield from self._predict(self.agent.extract, inputs, shown or {})
                return dspy.Prediction(trajectory=trajectory, **answer.toDict())
            except AdapterParseError as error:
                self.faults.append(f"the answer could not be read: {_reason(error)}")
                known |= self._readable(error)
                if known.keys() >= self.agent.signature.output_fields.keys() or step >= max_iters:
                    return self._from_known(known, error, trajectory)
                if shown is not None:
                    _append(trajectory, step, "", "none", {}, _UNREADABLE_ANSWER)
                step += 1
            except ContextWindowExceededError:
                if not shown:
                    raise
                self.faults.append("the answer was given without the trajectory: it did not fit the context window")
                shown = None

    def _readable(self, error: AdapterParseError) -> dict[str, Any]:
        """The output fields of an unreadable answer that are readable by themselves, in their types."""
        found: dict[str, Any] = {}
        for name, field_info in self.agent.signature.output_fields.items():
            for parsed in (error.parsed_result, _first_error(error).parsed_result):
                if isinstance(parsed, dict) and parsed.get(name) is not None:
                    try:
                        found[name] = parse_value(parsed[name], field_info.annotation)
                    except Exception:
                        continue  # not of its type: as good as missing
        return found

    def _from_known(
        self, known: dict[str, Any], error: AdapterParseError, trajectory: dict[str, Any]
    ) -> dspy.Prediction:
        """Answer from what is known; as a last resort, the LM's whole text as a text response. The rest is None."""
        fields = self.agent.signature.output_fields
        outputs = {"reasoning": None, **dict.fromkeys(fields), **known}
        response = self.agent.response_field
        if outputs[response] is None and fields[response].annotation is str:
            text = field_header_pattern.sub("", str(error.lm_response)).strip()
            outputs[response] = text if written(text) else ""
        return dspy.Prediction(trajectory=trajectory, **outputs)

    def _predict(self, module: Any, inputs: dict[str, Any], trajectory: dict[str, Any]) -> _Steps:
        predictor = module if isinstance(module, dspy.Predict) else module.predict
        demos = defused_demos(predictor)
        while True:
            self.predictor_calls += 1
            text = self.agent._format_trajectory(trajectory)
            # Without tools there are no steps to show, only that an answer could not be read.
            shown = {"trajectory": text} if text or self.agent.tool_names else {}
            options = {"signature": self.agent.signature_of(predictor, bool(shown)), "demos": demos}
            try:
                return (yield _PredictCall(module, {**inputs, **shown, **options}))
            except ContextWindowExceededError:
                if not self.shortenings_left or not _shorten_observations(trajectory):
                    raise
                self.shortenings_left -= 1

    def finished(
        self, prediction: dspy.Prediction, usage: dict[str, list[dict[str, Any]]], metered: Usage
    ) -> dspy.Prediction:
        calls = [entry for entries in usage.values() for entry in entries]
        prediction.persona_version = self.agent.persona.version if self.agent.persona else None
        prediction.recalled = [interaction.id for interaction in self.session.recalled]
        prediction.tools_called = self.tools_called
        prediction.faults = self.faults
        # Metered LMs count every attempt. Of others some report no usage, nor does DSPy's cache.
        prediction.lm_calls = max(metered.lm_calls, len(calls), self.predictor_calls)
        prediction.prompt_tokens = sum(entry.get("prompt_tokens") or 0 for entry in calls)
        prediction.completion_tokens = sum(entry.get("completion_tokens") or 0 for entry in calls)
        prediction.seconds = time.perf_counter() - self.started
        mark_measured(prediction)
        return prediction


def drive(steps: _Steps) -> dspy.Prediction:
    outcome: Any = None
    failure: Exception | None = None
    while True:
        try:
            call = steps.throw(failure) if failure else steps.send(outcome)
        except StopIteration as stop:
            return stop.value
        outcome, failure = None, None
        try:
            if isinstance(call, _PredictCall):
                outcome = call.predictor(**call.inputs)
            else:
                outcome = call.tool(**call.arguments)
        except Exception as error:
            failure = error


async def adrive(steps: _Steps) -> dspy.Prediction:
    outcome: Any = None
    failure: Exception | None = None
    while True:
        try:
            call = steps.throw(failure) if failure else steps.send(outcome)
        except StopIteration as stop:
            return stop.value
        outcome, failure = None, None
        try:
            if isinstance(call, _PredictCall):
                outcome = await call.predictor.acall(**call.inputs)
            elif is_async(call.tool.func):
                outcome = await call.tool.acall(**call.arguments)
            else:
                # A tool that waits on a file or a socket would stop every other question on the loop. In a thread of
                # anyio's, from which DSPy's status messages find the loop.
                outcome, failure = await anyio.to_thread.run_sync(_outcome, call, abandon_on_cancel=True)
        except Exception as error:
            failure = error


def _outcome(call: _ToolCall) -> tuple[Any, Exception | None]:
    # Not raised in the thread: a StopIteration cannot leave it, and would be waited for for ever.
    try:
        return call.tool(**call.arguments), None
    except Exception as error:
        return None, error


def _append(
    trajectory: dict[str, Any],
    step: int,
    thought: str,
    tool: str,
    arguments: dict[str, Any],
    observation: str,
) -> None:
    shown = defuse_all(arguments)
    as_text = json.dumps(shown, ensure_ascii=False)
    trajectory[f"thought_{step}"] = shorten(defuse(str(thought)), MAX_THOUGHT_CHARS)
    trajectory[f"tool_name_{step}"] = tool
    fits = len(as_text) <= MAX_THOUGHT_CHARS
    trajectory[f"tool_args_{step}"] = shown if fits else {"too long": as_text[:500]}
    trajectory[f"observation_{step}"] = shorten(defuse(observation), MAX_OBSERVATION_CHARS)


def _as_text(value: Any) -> str:
    """What a tool returned, as the prompt shows it; what JSON cannot say, as Python shows it."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def _plain_arguments(arguments: Any) -> dict[str, Any]:
    """Arguments as JSON can say them; none if they are no object, or nested beyond all measure."""
    try:
        plain = json.loads(json.dumps(arguments, default=str))
    except (RecursionError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}


def is_async(function: Any) -> bool:
    """Whether a call returns a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _shorten_observations(trajectory: dict[str, Any]) -> bool:
    """Halve every observation; False if there is nothing left to shorten."""
    keys = [key for key in trajectory if key.startswith("observation_") and len(trajectory[key]) > 200]
    for key in keys:
        trajectory[key] = shorten(trajectory[key], max(100, len(trajectory[key]) // 2))
    return bool(keys)


def _reason(error: Exception) -> str:
    """One short line, without a traceback or a path: it may go to an LM."""
    if isinstance(error, AdapterParseError):
        return _unread_field(error)
    try:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    except Exception:  # a tool's own error, which may fail, too
        text = ""
    lines = _PATH.sub("(path)", text).strip().splitlines()
    first = one_line(lines[0], 200) if lines else ""
    return f"{type(error).__name__}: {first or 'no message'}"


def _unread_field(error: AdapterParseError) -> str:
    first = _first_error(error)
    invalid = _INVALID_FIELD.match(str(first))
    if invalid:
        return f"the field {invalid.group(1)} had no valid value."
    missing = [name for name in first.signature.output_fields if name not in (first.parsed_result or {})]
    return f"the field {missing[0]} was missing." if missing else "a field was not valid."


def _first_error(error: AdapterParseError) -> AdapterParseError:
    """The error of the first attempt: the JSON fallback's own hides it, and it knows the field."""
    while isinstance(error.__context__, AdapterParseError):
        error = error.__context__
    return error


def max_predictions(max_iters: int) -> int:
    """Most predictor calls of one question: each step or repeated answer, the answer, the shortenings of
    observations, and the answer without a trajectory. An adapter's fallback and retries come on top of each."""
    return max_iters + 1 + MAX_SHORTENINGS + 1
