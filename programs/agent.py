"""PersonaAgent: a ReAct agent that acts by its user's persona (section 2.1, eq. 4)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any, Self

import dspy

from personaagent.programs.adapter import CarefulChatAdapter, careful
from personaagent.programs.episode import Episode, adrive, drive
from personaagent.programs.errors import InputError
from personaagent.programs.handles import ServesUsers, check_count, own, shallow
from personaagent.programs.lm.meter import metering
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import PERSONA_TEMPLATE, Persona
from personaagent.programs.protocol import ProtocolPredict, protocol_in
from personaagent.programs.quoting import persona_block
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
        protocol = protocol_in(self.react.signature.instructions, signature.instructions)
        self.react = ProtocolPredict(self.react.signature, map(str, self.tools.values()), protocol)
        self._serve_nobody(memory, memories, persona_template)
        self._spliced = _SplicedSignatures()

    @property
    def tool_names(self) -> tuple[str, ...]:
        """Names of the tools, without ReAct's `finish`."""
        return tuple(name for name in self.tools if name != "finish")

    def inputs_of(self, example: dspy.Example) -> dict[str, Any]:
        """The signature's inputs, as far as the example has them."""
        return {name: example[name] for name in self.signature.input_fields if name in example}

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
        whole = predictor.whole_signature if isinstance(predictor, ProtocolPredict) else predictor.signature
        return self._spliced.get(whole, self.persona, trajectory)

    def _format_trajectory(self, trajectory: dict[str, Any]) -> str:
        # ReAct builds a pydantic class per step for this, which is half of an episode's time. Same text.
        if type(dspy.settings.adapter) not in (type(None), dspy.ChatAdapter, CarefulChatAdapter):
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
        handle._spliced = _SplicedSignatures()
        return handle


class _SplicedSignatures:
    """A handle's signatures with its persona, made when first needed; dropped with the handle."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, bool], tuple[Any, str | None, Any]] = {}

    def get(self, signature: type[dspy.Signature], persona: Persona | None, trajectory: bool) -> type[dspy.Signature]:
        text = persona.text if persona and persona.text.strip() else None
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
