"""PersonaAgent: a ReAct agent that acts by its user's persona (section 2.1, eq. 4)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self

import dspy

from personaagent.programs.acting import kind_of
from personaagent.programs.adapter import CarefulChatAdapter, careful
from personaagent.programs.episode import Episode, adrive, drive
from personaagent.programs.errors import InputError
from personaagent.programs.handles import ServesUsers, check_count, own, shallow
from personaagent.programs.lm.meter import Usage, metering
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import PERSONA_TEMPLATE
from personaagent.programs.protocol import ProtocolPredict, protocol_in
from personaagent.programs.tools.recall import RECALL_DESCRIPTION, recall_tool, recalling

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


class PersonaAgent(ServesUsers, dspy.ReAct):
    """A ReAct agent whose system message holds its user's persona in every call; without tools one ChainOfThought.

    One agent serves many users: `agent.for_user(user_id)` is a cheap, isolated handle, and the handle is
    what answers. Both are ordinary DSPy modules.

    Args:
        signature: any DSPy signature.
        memory: where users' interactions are; None for an agent without memory.
        memories: K, how many interactions `recall` returns; from 0, which removes the tool.
        tools: further tools: functions, or `dspy.Tool`. Each returns text; what it raises is told to the
            LM in a sentence, but for a `PersonaAgentError`, which ends the question.
        max_iters: most steps (tool calls, unreadable steps and answers included); at least 1.
        query, response: names of the input and the output that memory is about. Default: the first of each.
        persona_template: text of an initial persona; see `initial_persona`.
        recall_description: what the LM is told of `recall`.

    Raises:
        InputError: on a value out of range; if `query` or `response` is no field of the signature, or a field is one
            that the prediction needs itself; if two tools have one name, or one is called `finish` or, where the
            memory's own is added, `recall`.
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
        if not (isinstance(signature, type) and issubclass(signature, dspy.Signature)):
            raise InputError(f"signature must be a DSPy signature or its text, but got {signature!r}")
        if not isinstance(tools, Sequence) or not all(map(callable, tools)):
            raise InputError(f"tools must be a list of functions and dspy.Tool, but got {tools!r}")
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
        protocol = protocol_in(self.react.signature.instructions, signature.instructions)
        self.react = ProtocolPredict(self.react.signature, map(str, self.tools.values()), protocol)
        self._serve_nobody(memory, memories, persona_template)

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools, without ReAct's `finish`."""
        return tuple(name for name in self.tools if name != "finish")

    def inputs_of(self, example: dspy.Example) -> dict[str, Any]:
        """The signature's inputs, as far as the example has them."""
        return {name: example[name] for name in self.signature.input_fields if name in example}

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Answer. Inputs are the signature's, and optionally `max_iters` (at least 1) for this call.

        Returns:
            The signature's outputs and: `trajectory` (dict), `reasoning`, `persona_version`, `recalled` (ids
            of the interactions that recall returned), `tools_called` (names, in order), `faults` (what went
            wrong and was overcome), `lm_calls` (of this question; with an LM of `make_lm`, failed attempts
            included), `prompt_tokens`, `completion_tokens` (as far as the LM reports them), `seconds`.

        Raises:
            PersonaAgentError: if no user is served, or the memory cannot be read.
            InputError: if `max_iters` is out of range, or a bound of `as_of` or `since` is an interaction without an
                ordinal.
            dspy's `LMError`: if an LM call fails for good. Malformed output of an LM does not raise.
        """
        episode = Episode(self, inputs, self._recall_session())
        with self._measured(episode) as (usage, metered):
            prediction = drive(episode.run())
        return episode.finished(prediction, usage.usage_data, metered)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """As `forward`; tools that are plain functions run in threads, beside the event loop."""
        episode = Episode(self, inputs, self._recall_session())
        with self._measured(episode) as (usage, metered):
            prediction = await adrive(episode.run())
        return episode.finished(prediction, usage.usage_data, metered)

    @contextmanager
    def _measured(self, episode: Episode) -> Iterator[tuple[Any, Usage]]:
        with recalling(episode.session), dspy.track_usage() as usage, metering() as metered:
            with careful(), self._acting():
                yield usage, metered

    def signature_of(self, predictor: Any, trajectory: bool = True) -> type[dspy.Signature]:
        """What a predictor is asked with: its own signature, ReAct's protocol in it.

        Args:
            predictor: one of this agent's own.
            trajectory: False takes the field `trajectory` out. The predictor keeps it: saved programs of agents
                with tools and without have the same fields.
        """
        whole: Any = predictor.whole_signature if isinstance(predictor, ProtocolPredict) else predictor.signature
        return whole if trajectory else _without_trajectory(whole)

    def _format_trajectory(self, trajectory: dict[str, Any]) -> str:
        # ReAct builds a pydantic class per step for this, which is half of an episode's time. Same text.
        if kind_of(dspy.settings.adapter) not in (type(None), dspy.ChatAdapter, CarefulChatAdapter):
            return super()._format_trajectory(trajectory) if trajectory else ""
        return "\n\n".join(
            f"[[ ## {key} ## ]]\n{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for key, value in trajectory.items()
        )

    def _handle(self) -> Self:
        # Shallow, down to the predictors: `load` writes into these, and must reach one user only.
        handle = shallow(self)
        handle.react, handle.extract = own(self.react), own(self.extract)
        if self.persona is not None:
            handle.persona = copy.copy(self.persona)
        return handle


@lru_cache(maxsize=256)
def _without_trajectory(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    return signature.delete("trajectory")


def _field(given: str | None, fields: dict[str, Any], what: str) -> str:
    if not fields:
        raise InputError(f"the signature has no field that could be the {what}")
    if given is not None and given not in fields:
        raise InputError(f"{what}={given!r} is not a field of the signature; it has {', '.join(fields)}")
    return given or next(iter(fields))
