"""Every baseline by its name in the paper's tables, made from what a study has at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from personaagent.programs.baselines.forgetting import ITEMS_PER_DAY, Clock, Curve
from personaagent.programs.baselines.icl import ICL
from personaagent.programs.baselines.memory_bank import DATES, MemoryBank
from personaagent.programs.baselines.no_persona import NoPersona
from personaagent.programs.baselines.pag import PAG
from personaagent.programs.baselines.prompt import Prompt
from personaagent.programs.baselines.protocol import Baseline
from personaagent.programs.baselines.rag import RAG
from personaagent.programs.baselines.react import React
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.semantic import SUMMARY_INSTRUCTION
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.tools.recall import RECALL_DESCRIPTION


@dataclass(frozen=True)
class Setup:
    """What baselines are made from. Each takes what is its own, and all the rest alike."""

    signature: str | type[dspy.Signature]
    memory: MemoryStore
    memories: int = 4
    tools: Sequence[Callable[..., Any] | dspy.Tool] = ()
    """Beside `recall`: Wikipedia, where it is on."""
    max_iters: int = 6
    query: str | None = None
    response: str | None = None
    search_text: Callable[[str], str] | None = None
    """`Task.retrieval_query`."""
    summary_instruction: str = SUMMARY_INSTRUCTION
    recall_description: str = RECALL_DESCRIPTION
    pool: Sequence[Interaction] = ()
    """Of icl: interactions of any users, none of them a query."""
    examples: int = 4
    seed: int = 0
    """Of icl's examples and memory-bank's forgetting."""
    dates: int = DATES
    curve: Curve = "paper"
    clock: Clock = "items"
    items_per_day: int = ITEMS_PER_DAY

    @property
    def common(self) -> dict[str, Any]:
        """What every baseline takes."""
        return {"max_iters": self.max_iters, "query": self.query, "response": self.response}


def _prompt(setup: Setup) -> Prompt:
    return Prompt(setup.signature, **setup.common)


def _icl(setup: Setup) -> ICL:
    return ICL(setup.signature, setup.pool, setup.examples, seed=setup.seed, **setup.common)


def _rag(setup: Setup) -> RAG:
    return RAG(setup.signature, setup.memory, setup.memories, search_text=setup.search_text, **setup.common)


def _pag(setup: Setup) -> PAG:
    return PAG(
        setup.signature,
        setup.memory,
        setup.memories,
        summary_instruction=setup.summary_instruction,
        search_text=setup.search_text,
        **setup.common,
    )


def _react(setup: Setup) -> React:
    return React(
        setup.signature,
        setup.memory,
        setup.memories,
        setup.tools,
        recall_description=setup.recall_description,
        **setup.common,
    )


def _react_wiki(setup: Setup) -> React:
    return React(setup.signature, None, 0, setup.tools, **setup.common)


def _no_persona(setup: Setup) -> NoPersona:
    return NoPersona(
        setup.signature,
        setup.memory,
        setup.memories,
        setup.tools,
        summary_instruction=setup.summary_instruction,
        recall_description=setup.recall_description,
        **setup.common,
    )


def _memory_bank(setup: Setup) -> MemoryBank:
    return MemoryBank(
        setup.signature,
        setup.memory,
        setup.memories,
        setup.tools,
        dates=setup.dates,
        curve=setup.curve,
        clock=setup.clock,
        items_per_day=setup.items_per_day,
        seed=setup.seed,
        search_text=setup.search_text,
        **setup.common,
    )


BASELINES: dict[str, Callable[[Setup], Baseline]] = {
    "prompt": _prompt,
    "icl": _icl,
    "rag": _rag,
    "pag": _pag,
    "react": _react,
    "react-wiki": _react_wiki,
    "no-persona": _no_persona,
    "memory-bank": _memory_bank,
}


def make_baseline(name: str, setup: Setup) -> Baseline:
    """The baseline of this name.

    Raises:
        InputError: naming the baselines there are, or from the baseline on a setting out of range.
    """
    if name not in BASELINES:
        raise InputError(f"unknown baseline {name!r}; there are {', '.join(BASELINES)}")
    return BASELINES[name](setup)
