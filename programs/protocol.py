"""ReAct's tool protocol, kept out of reach of what rewrites instructions, and `recall` beside an agent's own tools.

DSPy writes the protocol and the list of tools into the instructions of the predictor that chooses a tool. There GEPA,
MIPROv2 and COPRO rewrite it, and `load` brings an old list back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import dspy
from dspy.utils.exceptions import AdapterParseError

from personaagent.programs.errors import InputError
from personaagent.programs.tools.recall import RecallTool

_logger = logging.getLogger(__name__)

_LAST_TOOL = {dspy.ReAct: "finish", dspy.ReActV2: "submit"}
"""What ends an agent of each kind. DSPy adds it to the tools that are given."""


class ProtocolPredict(dspy.Predict):
    """A predictor that chooses tools. Instructions that have lost the protocol are followed by it in the prompt.

    On load it keeps its own instructions if the file was saved with other tools: an agent without a tool would get it
    back. It says so by a warning. A file of a plain `dspy.Predict` lists no tools; its protocol must then be this one.

    Args:
        signature: with the protocol in its instructions.
        tools: how the prompt lists each.
        protocol: the part of the instructions that must not be lost.
    """

    signature: type[dspy.Signature]

    def __init__(self, signature: type[dspy.Signature], tools: Iterable[str], protocol: str) -> None:
        super().__init__(signature)
        self.keep(tools, protocol)

    def keep(self, tools: Iterable[str], protocol: str) -> None:
        """Take these for the tools and the protocol; see the class."""
        self.tool_list = tuple(tools)
        self.protocol = protocol
        self._completed: tuple[Any, Any] | None = None

    @property
    def whole_signature(self) -> type[dspy.Signature]:
        """The signature, with the protocol after its instructions if they have lost it."""
        if self._completed is None or self._completed[0] is not self.signature:
            signature = self.signature
            if _folded(self.protocol) not in _folded(signature.instructions):
                signature = signature.with_instructions(f"{signature.instructions}\n\n{self.protocol}".strip())
            self._completed = (self.signature, signature)
        return self._completed[1]

    def forward(self, **inputs: Any) -> Any:
        """As `dspy.Predict`, with the whole signature."""
        with self._seen_as_it_is():
            return super().forward(**{"signature": self.whole_signature, **inputs})

    async def aforward(self, **inputs: Any) -> Any:
        """As `forward`."""
        with self._seen_as_it_is():
            return await super().aforward(**{"signature": self.whole_signature, **inputs})

    @contextmanager
    def _seen_as_it_is(self) -> Iterator[None]:
        try:
            yield
        except AdapterParseError as error:
            if error.signature is self.whole_signature:
                error.signature = self.signature  # optimizers find the predictor that failed by it
            raise

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """As `dspy.Predict`, and the tools."""
        return {**super().dump_state(json_mode), "tool_list": list(self.tool_list)}

    def load_state(self, state: dict[str, Any], **options: Any) -> ProtocolPredict:
        """As `dspy.Predict`; see the class."""
        state = dict(state)
        saved_tools = state.pop("tool_list", None)
        unchanged = self.signature
        super().load_state(state, **options)
        if saved_tools is None:
            same = _folded(self.protocol) in _folded(self.signature.instructions)
        else:
            same = tuple(saved_tools) == self.tool_list
        if not same:
            if self.signature.instructions != unchanged.instructions:
                _logger.warning(
                    "the instructions of an agent's steps were not loaded: they were saved with other tools"
                )
            self.signature = unchanged
        return self


def protocol_in(instructions: str, task: str) -> str:
    """The protocol in the instructions of a predictor that chooses tools: all but those of the task itself."""
    return instructions.removeprefix(task).strip()


def chooses_tools(module: Any) -> bool:
    """Whether this is an agent of DSPy's ReAct kind, whose predictor `react` chooses from `tools`."""
    return (
        isinstance(module, dspy.ReAct | dspy.ReActV2)
        and isinstance(getattr(module, "react", None), dspy.Predict)
        and _kind(module) is not None
    )


def tools_of(agent: Any) -> list[dspy.Tool]:
    """The tools of a ReAct agent, without the one that ends it."""
    return [tool for name, tool in agent.tools.items() if name != _LAST_TOOL[_kind(agent)]]


def tools_held(module: Any) -> list[dspy.Tool]:
    """The tools in the attribute `tools` of a module of any kind, a list or a dictionary."""
    held = getattr(module, "tools", None)
    tools = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple) else ()
    return [tool for tool in tools if isinstance(tool, dspy.Tool)]


def keep_protocol(agent: Any, added: dspy.Tool | None = None) -> None:
    """Keep a ReAct agent's protocol from rewriters, and give it a further tool, before its own. In place.

    Args:
        agent: one that `chooses_tools`.
        added: the tool; an agent that has a `RecallTool` already gets no other one.

    Raises:
        InputError: if the agent has another tool of this name.
    """
    others = tools_of(agent)
    mine = [] if added is None or any(isinstance(tool, RecallTool) for tool in others) else [added]
    if any(tool.name in agent.tools for tool in mine):
        raise InputError(
            f"the agent has a tool {mine[0].name!r} already, which the memory's own would replace; rename it"
        )
    predictor, tools = agent.react, [*mine, *others]
    before, after = _as_dspy_makes_it(agent, others), _as_dspy_makes_it(agent, tools)
    protocol = protocol_in(after.react.signature.instructions, agent.signature.instructions)
    if mine:
        old = protocol_in(before.react.signature.instructions, agent.signature.instructions)
        instructions = predictor.signature.instructions
        listed = instructions.replace(old, protocol) if old in instructions else f"{instructions}\n\n{protocol}"
        signature = predictor.signature.with_instructions(listed)
        if "next_tool_name" in signature.fields:
            signature = signature.with_updated_fields("next_tool_name", type_=Literal[tuple(after.tools)])
        last = _LAST_TOOL[_kind(agent)]
        agent.tools = {**{tool.name: tool for tool in tools}, last: agent.tools[last]}
        predictor.signature = signature
    if type(predictor) is dspy.Predict:
        # In place: a program may hold the predictor elsewhere, too.
        predictor.__class__ = ProtocolPredict
        predictor.keep(map(str, after.tools.values()), protocol)


def _kind(agent: Any) -> Any:
    for kind, last in _LAST_TOOL.items():
        if isinstance(agent, kind) and last in agent.tools:
            return kind
    return None


def _as_dspy_makes_it(agent: Any, tools: list[dspy.Tool]) -> Any:
    return _kind(agent)(agent.signature, tools)


def _folded(text: str) -> str:
    return " ".join(text.split())
