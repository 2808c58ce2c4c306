"""PersonaAgent: a ReAct agent that acts by its user's persona (section 2.1, eq. 4)."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from uuid import uuid4

import dspy
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from personaagent.programs.errors import InputError, PersonaAgentError
from personaagent.programs.interaction import Interaction, Position
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import PERSONA_TEMPLATE, Persona, initial_persona
from personaagent.programs.quoting import defuse, persona_block, shorten
from personaagent.programs.tools.recall import RECALL_DESCRIPTION, RecallSession, recall_tool, recalling

MAX_OBSERVATION_CHARS = 20_000
"""Longest observation in a prompt: K = 8 records of 2,000 characters fit."""

_EXTRA_FIELDS = (
    "trajectory",
    "reasoning",
    "persona_version",
    "recalled",
    "tools_called",
    "faults",
    "lm_calls",
    "prompt_tokens",
    "completion_tokens",
    "seconds",
)
_UNREADABLE_STEP = (
    "Your last step could not be read: {reason} Write the three fields exactly as asked, "
    "with one of the tools: {tools}."
)
_UNREADABLE_ANSWER = "Your last answer could not be read. Write every output field exactly as asked."
_INVALID_FIELD = re.compile(r"Failed to parse field (\w+) ")
_OVERFLOW_RETRIES = 3


class PersonaAgent(dspy.ReAct):
    """A ReAct agent whose system message holds its user's persona in every call.

    One agent serves many users: `agent.for_user(user_id)` is a cheap, isolated handle, and the handle is
    what answers. Both are ordinary DSPy modules.

    Args:
        signature: any DSPy signature.
        memory: where users' interactions are; None for an agent without memory.
        memories: K, how many interactions `recall` returns; from 0, which removes the tool.
        tools: further tools: functions, or `dspy.Tool`. Each returns text; what it raises is told to the
            LM in a sentence.
        max_iters: most steps (tool calls, unreadable steps and answers included); at least 1.
        query, response: names of the input and the output that memory is about. Default: the first of each.
        persona_template: text of an initial persona; see `initial_persona`.
        recall_description: what the LM is told of `recall`.

    Raises:
        InputError: on a value out of range, or a field name that the prediction needs itself.
    """

    signature: type[dspy.Signature]
    tools: dict[str, dspy.Tool]
    react: dspy.Predict
    extract: Any

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        memory: MemoryStore | None = None,
        memories: int = 4,
        tools: Sequence[Callable[..., Any] | dspy.Tool] = (),
        max_iters: int = 6,
        query: str | None = None,
        response: str | None = None,
        persona_template: str = PERSONA_TEMPLATE,
        recall_description: str = RECALL_DESCRIPTION,
    ) -> None:
        signature = dspy.Signature(signature) if isinstance(signature, str) else signature
        _check_count("memories", memories, 0)
        _check_count("max_iters", max_iters, 1)
        self.query_field = _field(query, signature.input_fields, "query")
        self.response_field = _field(response, signature.output_fields, "response")
        taken = [name for name in signature.fields if name in _EXTRA_FIELDS]
        if taken:
            raise InputError(f"the signature's field {taken[0]!r} is one that the prediction carries itself; rename it")
        remembers = memory is not None and memories > 0
        super().__init__(signature, [*([recall_tool(recall_description)] if remembers else []), *tools], max_iters)
        if len(self.tools) < len(tools) + remembers + 1:
            raise InputError(f"the tools' names must differ, and differ from 'recall' and 'finish': {list(self.tools)}")
        self.react = _ProtocolPredict(self.react.signature, tuple(str(tool) for tool in self.tools.values()))
        self.memory = memory
        self.memories = memories
        self.persona_template = persona_template
        self.user_id: str | None = None
        self.persona: Persona | None = None
        self._before: Interaction | Position | None = None
        self._spliced = _SplicedSignatures()

    # -- handles ----------------------------------------------------------------------------------

    def for_user(self, user_id: str, *, persona: Persona | None = None, profile: str | None = None) -> Self:
        """A handle that serves one user, sharing this agent's tools and memory and nothing that is the user's.

        Args:
            user_id: whose memory is recalled from.
            persona: the persona to act by. Default: the newest in the memory store, else an initial one.
            profile: P^u for an initial persona. Default: the newest in the memory store.
        """
        if not isinstance(user_id, str) or not user_id.strip():
            raise InputError(f"user_id must be text and not empty, but got {user_id!r}")
        if persona is None and profile is None and self.memory is not None:
            persona = self.memory.persona(user_id)
            profile = None if persona else self.memory.profile(user_id)
        handle = self._handle()
        handle.user_id = user_id
        handle.persona = copy.copy(persona) if persona else self.initial_persona(profile)
        return handle

    def initial_persona(self, profile: str | None = None) -> Persona:
        """Version 0 of a user's persona, with this agent's tools."""
        return initial_persona(profile, self.tool_names, self.persona_template)

    def with_persona(self, persona: Persona) -> Self:
        """This handle's user under another persona."""
        handle = self._handle()
        handle.persona = copy.copy(persona)
        return handle

    def as_of(self, before: Interaction | Position | None) -> Self:
        """This handle with a memory that holds only what came before: `recall` sees nothing at or after it."""
        handle = self._handle()
        handle._before = before
        return handle

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools, without ReAct's `finish`."""
        return tuple(name for name in self.tools if name != "finish")

    def record(
        self,
        query: str,
        response: str,
        *,
        id: str | None = None,
        timestamp: str | datetime | None = None,
        text: str = "",
    ) -> Interaction:
        """Remember what this user really answered.

        Args:
            query: the question as asked.
            response: the user's true response, not the agent's prediction.
            id: unique for this user; give your own so that a retry records nothing twice. Default: random.
            timestamp: ISO 8601 or a `datetime`. Default: now.
            text: what retrieval compares. Default: the query.

        Returns:
            The interaction as stored; it is durable when this returns.
        """
        if self.memory is None:
            raise PersonaAgentError("this agent has no memory: make it with memory=MemoryStore(...)")
        when = datetime.now(UTC) if timestamp is None else timestamp
        stamp = when.isoformat() if isinstance(when, datetime) else when
        new = Interaction(self._user(), id or uuid4().hex, query, response, stamp, text=text)
        return self.memory.add([new])[0]

    # -- answering --------------------------------------------------------------------------------

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Answer. Inputs are the signature's, and optionally `max_iters` for this call.

        Returns:
            The signature's outputs and: `trajectory` (dict), `reasoning`, `persona_version`, `recalled` (ids
            of the interactions that recall returned), `tools_called` (names, in order), `faults` (what went
            wrong and was overcome), `lm_calls`, `prompt_tokens`, `completion_tokens` (of this question; as
            far as the LM reports them), `seconds`.

        Raises:
            dspy's `LMError`: if an LM call fails for good. Malformed output of an LM does not raise.
        """
        episode = _Episode(self, inputs)
        with recalling(episode.session), dspy.track_usage() as usage:
            steps = episode.run()
            prediction = _drive(steps)
        return episode.finished(prediction, usage.usage_data)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """As `forward`; tools that are plain functions run in threads, beside the event loop."""
        episode = _Episode(self, inputs)
        with recalling(episode.session), dspy.track_usage() as usage:
            steps = episode.run()
            prediction = await _adrive(steps)
        return episode.finished(prediction, usage.usage_data)

    def spliced(self, predictor: dspy.Predict) -> type[dspy.Signature]:
        """The predictor's signature with the persona in front: made per handle, so no shared module changes."""
        return self._spliced.get(predictor.signature, self.persona)

    def _format_trajectory(self, trajectory: dict[str, Any]) -> str:
        # ReAct builds a pydantic class per step for this, which is half of an episode's time. Same text.
        if type(dspy.settings.adapter) not in (type(None), dspy.ChatAdapter):
            return super()._format_trajectory(trajectory) if trajectory else ""
        return "\n\n".join(
            f"[[ ## {key} ## ]]\n{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for key, value in trajectory.items()
        )

    def load_state(self, state: dict[str, Any], **options: Any) -> None:
        """Take over a saved program's state: its persona and demonstrations.

        Raises:
            InputError: if the file holds no persona, so was not saved from a handle of a user.
        """
        if "persona" in dict(self.named_parameters()) and "persona" not in state:
            raise InputError(
                f"the saved program holds no persona (it has {', '.join(sorted(state)) or 'nothing'}); "
                f"save a handle made by for_user, or an aligned one"
            )
        super().load_state(state, **options)

    def _handle(self) -> Self:
        # Shallow, down to the predictors: `load` writes into these, and must reach one user only.
        handle = copy.copy(self)
        handle.history, handle.callbacks = [], list(self.callbacks)
        handle.react = _own(self.react)
        handle.extract = copy.copy(self.extract)
        handle.extract.history = []
        handle.extract.predict = _own(self.extract.predict)
        if self.persona is not None:
            handle.persona = copy.copy(self.persona)
        handle._spliced = _SplicedSignatures()
        return handle

    def _user(self) -> str:
        if self.user_id is None:
            raise PersonaAgentError(
                "this agent serves no user yet: call agent.for_user(user_id) and use what it returns"
            )
        return self.user_id


class _ProtocolPredict(dspy.Predict):
    """ReAct's step predictor; on load it keeps its own instructions if the file was saved with other tools.

    DSPy saves the tool list inside the instructions, so an agent without a tool would get it back.
    """

    signature: type[dspy.Signature]

    def __init__(self, signature: type[dspy.Signature], tools: tuple[str, ...]) -> None:
        super().__init__(signature)
        self.tool_list = tools

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        return {**super().dump_state(json_mode), "tool_list": list(self.tool_list)}

    def load_state(self, state: dict[str, Any], **options: Any) -> _ProtocolPredict:
        state = dict(state)
        saved_tools = tuple(state.pop("tool_list", ()))
        own = self.signature
        super().load_state(state, **options)
        if saved_tools != self.tool_list:
            self.signature = own
        return self


class _SplicedSignatures:
    """A handle's signatures with its persona, made when first needed; dropped with the handle."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, Persona, Any]] = {}

    def get(self, signature: type[dspy.Signature], persona: Persona | None) -> type[dspy.Signature]:
        if persona is None:
            return signature
        made = self._made.get(id(signature))
        if made is None or made[0] is not signature or made[1].text != persona.text:
            instructions = f"{persona_block(persona.text)}\n\n{signature.instructions}"
            # The entry holds the signature, so that its id stays its own.
            made = self._made[id(signature)] = (signature, persona, signature.with_instructions(instructions))
        return made[2]

    def __deepcopy__(self, memo: dict[int, Any]) -> _SplicedSignatures:
        return _SplicedSignatures()

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": {}}


class _PredictCall(NamedTuple):
    predictor: Any
    inputs: dict[str, Any]


class _ToolCall(NamedTuple):
    tool: dspy.Tool
    arguments: dict[str, Any]


_Steps = Generator[_PredictCall | _ToolCall, Any, dspy.Prediction]


@dataclass
class _Episode:
    """One question from start to answer. `run` yields the calls to make, so that sync and async share it."""

    agent: PersonaAgent
    given: dict[str, Any]
    session: RecallSession = field(init=False)
    faults: list[str] = field(default_factory=list)
    tools_called: list[str] = field(default_factory=list)
    predictor_calls: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        agent = self.agent
        user_id = agent._user()
        memory = agent.memory.episodic(user_id) if agent.memory is not None and agent.memories > 0 else None
        self.session = RecallSession(memory, agent.memories, agent._before)

    def run(self) -> _Steps:
        inputs = {k: defuse(v) if isinstance(v, str) else v for k, v in self.given.items()}
        max_iters = int(inputs.pop("max_iters", self.agent.max_iters))
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
        name = chosen.next_tool_name
        arguments = chosen.next_tool_args if isinstance(chosen.next_tool_args, dict) else {}
        if name == "finish":
            _append(trajectory, step, chosen.next_thought, name, {}, "Completed.")
            return True
        self.tools_called.append(name)
        try:
            observation = yield _ToolCall(self.agent.tools[name], arguments)
        except PersonaAgentError:
            raise  # memory that cannot be read is not something an LM could work around
        except Exception as error:
            self.faults.append(f"tool {name} failed in step {step + 1}: {_reason(error)}")
            observation = f"The tool {name} failed: {_reason(error)}"
        _append(trajectory, step, chosen.next_thought, name, arguments, observation)
        return False

    def _answer(self, inputs: dict[str, Any], trajectory: dict[str, Any], step: int, max_iters: int) -> _Steps:
        while True:
            try:
                answer = yield from self._predict(self.agent.extract, inputs, trajectory)
                return dspy.Prediction(trajectory=trajectory, **answer.toDict())
            except AdapterParseError as error:
                self.faults.append(f"the answer could not be read: {_reason(error)}")
                if step >= max_iters:
                    return self._from_raw(error, trajectory)
                _append(trajectory, step, "", "none", {}, _UNREADABLE_ANSWER)
                step += 1
            except ContextWindowExceededError:
                if not trajectory:
                    raise
                self.faults.append("the answer was given without the trajectory: it did not fit the context window")
                trajectory = {}

    def _from_raw(self, error: AdapterParseError, trajectory: dict[str, Any]) -> dspy.Prediction:
        """Answer from what is known: the LM's text as the response; other outputs are None."""
        outputs = dict.fromkeys(self.agent.signature.output_fields)
        outputs.update(error.parsed_result if isinstance(error.parsed_result, dict) else {})
        response = self.agent.response_field
        if not outputs.get(response) and self.agent.signature.output_fields[response].annotation is str:
            outputs[response] = str(error.lm_response).strip()
        outputs.setdefault("reasoning", None)
        return dspy.Prediction(trajectory=trajectory, **outputs)

    def _predict(self, module: Any, inputs: dict[str, Any], trajectory: dict[str, Any]) -> _Steps:
        predictor = module if isinstance(module, dspy.Predict) else module.predict
        signature = self.agent.spliced(predictor)
        for attempt in range(_OVERFLOW_RETRIES + 1):
            self.predictor_calls += 1
            text = self.agent._format_trajectory(trajectory)
            try:
                return (yield _PredictCall(module, {**inputs, "trajectory": text, "signature": signature}))
            except ContextWindowExceededError:
                if attempt == _OVERFLOW_RETRIES or not _shorten_observations(trajectory):
                    raise
        raise AssertionError("unreachable")

    def finished(self, prediction: dspy.Prediction, usage: dict[str, list[dict[str, Any]]]) -> dspy.Prediction:
        calls = [entry for entries in usage.values() for entry in entries]
        prediction.persona_version = self.agent.persona.version if self.agent.persona else None
        prediction.recalled = [interaction.id for interaction in self.session.recalled]
        prediction.tools_called = self.tools_called
        prediction.faults = self.faults
        # Some LMs report no usage, and a fallback of the adapter is a call that only usage shows.
        prediction.lm_calls = max(len(calls), self.predictor_calls)
        prediction.prompt_tokens = sum(entry.get("prompt_tokens") or 0 for entry in calls)
        prediction.completion_tokens = sum(entry.get("completion_tokens") or 0 for entry in calls)
        prediction.seconds = time.perf_counter() - self.started
        return prediction


def _drive(steps: _Steps) -> dspy.Prediction:
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


async def _adrive(steps: _Steps) -> dspy.Prediction:
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
            elif asyncio.iscoroutinefunction(call.tool.func):
                outcome = await call.tool.acall(**call.arguments)
            else:
                # A tool that waits on a file or a socket would stop every other question on the loop.
                outcome = await asyncio.to_thread(call.tool, **call.arguments)
        except Exception as error:
            failure = error


def _append(
    trajectory: dict[str, Any],
    step: int,
    thought: str,
    tool: str,
    arguments: dict[str, Any],
    observation: Any,
) -> None:
    text = observation if isinstance(observation, str) else json.dumps(observation, ensure_ascii=False, default=str)
    trajectory[f"thought_{step}"] = defuse(thought)
    trajectory[f"tool_name_{step}"] = tool
    trajectory[f"tool_args_{step}"] = json.loads(defuse(json.dumps(arguments, ensure_ascii=False, default=str)))
    trajectory[f"observation_{step}"] = shorten(defuse(text), MAX_OBSERVATION_CHARS)


def _shorten_observations(trajectory: dict[str, Any]) -> bool:
    """Halve every observation; False if there is nothing left to shorten."""
    keys = [key for key in trajectory if key.startswith("observation_") and len(trajectory[key]) > 200]
    for key in keys:
        trajectory[key] = shorten(trajectory[key], max(100, len(trajectory[key]) // 2))
    return bool(keys)


def _reason(error: Exception) -> str:
    """One short line, without a traceback or a path: it may go to an LM."""
    if isinstance(error, AdapterParseError):
        # The JSON fallback's error hides the first one, which knows the field.
        while isinstance(error.__context__, AdapterParseError):
            error = error.__context__
        invalid = _INVALID_FIELD.match(str(error))
        if invalid:
            return f"the field {invalid.group(1)} had no valid value."
        parsed = error.parsed_result or {}
        missing = [name for name in error.signature.output_fields if name not in parsed]
        return f"the field {missing[0]} was missing." if missing else "a field was not valid."
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {shorten(lines[0], 200) if lines else 'no message'}"


def _own(predictor: Any) -> Any:
    own = copy.copy(predictor)
    own.demos, own.traces, own.train, own.history = list(predictor.demos), [], [], []
    return own


def _field(given: str | None, fields: dict[str, Any], what: str) -> str:
    if not fields:
        raise InputError(f"the signature has no field that could be the {what}")
    if given is not None and given not in fields:
        raise InputError(f"{what}={given!r} is not a field of the signature; it has {', '.join(fields)}")
    return given or next(iter(fields))


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an integer from {least}, but got {value!r}")
