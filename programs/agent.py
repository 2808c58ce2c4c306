"""PersonaAgent: a ReAct agent that acts by its user's persona (section 2.1, eq. 4)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Self
from uuid import uuid4

import dspy

from personaagent.programs.adapter import CarefulChatAdapter, careful
from personaagent.programs.episode import Episode, adrive, drive
from personaagent.programs.errors import InputError, PersonaAgentError
from personaagent.programs.handles import Origin, check_count, own
from personaagent.programs.interaction import Interaction, Position, normalise_timestamp
from personaagent.programs.lm.meter import metering
from personaagent.programs.memory.episodic import EpisodicMemory, visible_rows
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import PERSONA_TEMPLATE, Persona, initial_persona
from personaagent.programs.quoting import persona_block
from personaagent.programs.tools.recall import RECALL_DESCRIPTION, RecallSession, recall_tool, recalling

_EXTRA_FIELDS = (
    "trajectory",
    "max_iters",
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


class PersonaAgent(dspy.ReAct):
    """A ReAct agent whose system message holds its user's persona in every call; without tools one ChainOfThought.

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
        check_count("memories", memories, 0)
        check_count("max_iters", max_iters, 1)
        self.query_field = _field(query, signature.input_fields, "query")
        self.response_field = _field(response, signature.output_fields, "response")
        taken = [name for name in signature.fields if name in _EXTRA_FIELDS]
        if taken:
            raise InputError(f"the signature's field {taken[0]!r} is one that the agent uses itself; rename it")
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
        self._since: Interaction | Position | None = None
        self._view: EpisodicMemory | None = None
        self._origin: Origin | None = None
        self._spliced = _SplicedSignatures()

    # -- handles ----------------------------------------------------------------------------------

    def for_user(self, user_id: str, *, persona: Persona | None = None, profile: str | None = None) -> Self:
        """A handle that serves one user, sharing this agent's tools and memory and nothing that is a user's.

        Called on a handle it is the shared agent's: nothing that was learnt for one user goes to another.

        Args:
            user_id: whose memory is recalled from.
            persona: the persona to act by. Default: the newest in the memory store, else an initial one.
            profile: P^u for an initial persona. Default: the newest in the memory store.
        """
        if not isinstance(user_id, str) or not user_id.strip():
            raise InputError(f"user_id must be text and not empty, but got {user_id!r}")
        if self._origin is not None:
            # From the shared agent, not from another user's handle: its demonstrations and its past are that user's.
            return self._origin.module.for_user(user_id, persona=persona, profile=profile)
        if persona is None and profile is None and self.memory is not None:
            persona = self.memory.persona(user_id)
            profile = None if persona else self.memory.profile(user_id)
        handle = self._handle()
        handle._origin = Origin(self)
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
        _check_place("before", before)
        handle = self._handle()
        handle._before = before
        return handle

    def since(self, oldest: Interaction | Position | None) -> Self:
        """This handle with a memory that holds nothing older than `oldest`, which itself it holds.

        The bound stays with every handle that is made of this one, `as_of` and an alignment's included; None takes
        it away. Persona and profile stay as they are: they should have been learnt of the same part of the history.
        """
        _check_place("oldest", oldest)
        handle = self._handle()
        handle._since = oldest
        return handle

    def interactions(self) -> list[Interaction]:
        """This user's interactions that this handle's memory holds, from `since` to `as_of`; oldest first.

        Raises:
            PersonaAgentError: if the agent has no memory, or serves no user.
        """
        history = self._memory().interactions(self._user())
        rows = visible_rows(history, self._before, self._since)
        return history[rows.start : rows.stop]

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
            timestamp: ISO 8601 or a `datetime`. Default: the time when it is first recorded.
            text: what retrieval compares. Default: the query.

        Returns:
            The interaction as stored; it is durable when this returns.
        """
        memory = self._memory()
        stamp = "" if timestamp is None else normalise_timestamp(timestamp)
        new = Interaction(self._user(), id or uuid4().hex, query, response, stamp, text=text)
        # The store fills the time in for what is new: a retry with the same id is not another interaction.
        return memory.add([new], now=datetime.now(UTC) if timestamp is None else None)[0]

    # -- answering --------------------------------------------------------------------------------

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Answer. Inputs are the signature's, and optionally `max_iters` for this call.

        Returns:
            The signature's outputs and: `trajectory` (dict), `reasoning`, `persona_version`, `recalled` (ids
            of the interactions that recall returned), `tools_called` (names, in order), `faults` (what went
            wrong and was overcome), `lm_calls` (of this question; with an LM of `make_lm`, failed attempts
            included), `prompt_tokens`, `completion_tokens` (as far as the LM reports them), `seconds`.

        Raises:
            dspy's `LMError`: if an LM call fails for good. Malformed output of an LM does not raise.
        """
        episode = Episode(self, inputs, self._recall_session())
        with recalling(episode.session), dspy.track_usage() as usage, metering() as metered, careful():
            prediction = drive(episode.run())
        return episode.finished(prediction, usage.usage_data, metered)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """As `forward`; tools that are plain functions run in threads, beside the event loop."""
        episode = Episode(self, inputs, self._recall_session())
        with recalling(episode.session), dspy.track_usage() as usage, metering() as metered, careful():
            prediction = await adrive(episode.run())
        return episode.finished(prediction, usage.usage_data, metered)

    def spliced(self, predictor: dspy.Predict, trajectory: bool = True) -> type[dspy.Signature]:
        """The predictor's signature with the persona in front: made per handle, so no shared module changes.

        Args:
            predictor: one of this agent's own.
            trajectory: False takes the field `trajectory` out. The predictor keeps it: saved programs of agents
                with tools and without have the same fields.
        """
        return self._spliced.get(predictor.signature, self.persona, trajectory)

    def _format_trajectory(self, trajectory: dict[str, Any]) -> str:
        # ReAct builds a pydantic class per step for this, which is half of an episode's time. Same text.
        if type(dspy.settings.adapter) not in (type(None), dspy.ChatAdapter, CarefulChatAdapter):
            return super()._format_trajectory(trajectory) if trajectory else ""
        return "\n\n".join(
            f"[[ ## {key} ## ]]\n{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for key, value in trajectory.items()
        )

    def load_state(self, state: dict[str, Any], **options: Any) -> None:
        """Take over a saved program's state: its persona and demonstrations.

        Raises:
            InputError: if the file was saved from a handle of a user and this is the shared agent, or the
                other way round.
        """
        if self.persona is None and "persona" in state:
            raise InputError(
                "the saved program is one user's: load it into agent.for_user(user_id), not into the shared agent"
            )
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
        handle.react, handle.extract = own(self.react), own(self.extract)
        if self.persona is not None:
            handle.persona = copy.copy(self.persona)
        handle._spliced = _SplicedSignatures()
        return handle

    def _recall_session(self) -> RecallSession:
        user_id = self._user()
        if self._view is None and self.memory is not None and self.memories > 0:
            # Kept with the handle: the store holds it weakly, and would read the history anew for each question.
            self._view = self.memory.episodic(user_id)
        return RecallSession(self._view, self.memories, self._before, self._since)

    def _memory(self) -> MemoryStore:
        if self.memory is None:
            raise PersonaAgentError("this agent has no memory: make it with memory=MemoryStore(...)")
        return self.memory

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
        unchanged = self.signature
        super().load_state(state, **options)
        if saved_tools != self.tool_list:
            self.signature = unchanged
        return self


class _SplicedSignatures:
    """A handle's signatures with its persona, made when first needed; dropped with the handle."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, bool], tuple[Any, str | None, Any]] = {}

    def get(self, signature: type[dspy.Signature], persona: Persona | None, trajectory: bool) -> type[dspy.Signature]:
        text = persona.text if persona else None
        if text is None and trajectory:
            return signature
        made = self._made.get((id(signature), trajectory))
        if made is None or made[0] is not signature or made[1] != text:
            fields = {name: field for name, field in signature.fields.items() if trajectory or name != "trajectory"}
            persona_first = "" if text is None else f"{persona_block(text)}\n\n"
            spliced = dspy.Signature(fields, persona_first + signature.instructions)
            # The entry holds the signature, so that its id stays its own.
            made = self._made[id(signature), trajectory] = (signature, text, spliced)
        return made[2]

    def __deepcopy__(self, memo: dict[int, Any]) -> _SplicedSignatures:
        return _SplicedSignatures()

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": {}}


def _field(given: str | None, fields: dict[str, Any], what: str) -> str:
    if not fields:
        raise InputError(f"the signature has no field that could be the {what}")
    if given is not None and given not in fields:
        raise InputError(f"{what}={given!r} is not a field of the signature; it has {', '.join(fields)}")
    return given or next(iter(fields))


def _check_place(name: str, place: object) -> None:
    if place is not None and not isinstance(place, Interaction | Position):
        raise InputError(f"{name} must be an Interaction, a Position or None, but got {place!r}")
