"""The methods by name: what each has (the table of the paper's section 3), and how its cells lie on the axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.methods.base import Method, Setting
from personaagent.experiments.harness.methods.baselines import BaselineMethod
from personaagent.experiments.harness.methods.personas import MoreMemories, PersonaMethod, Votes
from personaagent.programs.errors import InputError

PERSONA_AGENT = "persona-agent"


@dataclass(frozen=True)
class Entry:
    """A method's name and what is said of it."""

    name: str
    title: str
    """In one line: what it has and what it lacks."""
    make: Callable[[Setting], Method]
    memories: bool = True
    """Whether K is an axis of it; else its cells have K=0."""
    alignment: bool = False
    """Whether n and E are; else its cells have n=E=0."""
    ablation: bool = False
    """Whether it is a row of Table 3, or one of the two memories alone."""
    control: bool = False
    """A control of another method's cell: not one of `all`."""

    def cell(self, cell: Cell) -> Cell:
        """The cell of this method that a point of the axes means."""
        memories = cell.memories if self.memories else 0
        n, e = (cell.batch_size, cell.iterations) if self.alignment else (0, 0)
        return replace(cell, method=self.name, batch_size=n, iterations=e, memories=memories)


_ENTRIES = (
    Entry("prompt", "the question alone", lambda s: BaselineMethod(s, "prompt"), memories=False),
    Entry("icl", "4 examples from other users' histories", lambda s: BaselineMethod(s, "icl"), memories=False),
    Entry("rag", "the K most similar records in the prompt", lambda s: BaselineMethod(s, "rag", in_prompt=True)),
    Entry("pag", "as rag, with the profile", lambda s: BaselineMethod(s, "pag", profile=True, in_prompt=True)),
    Entry(
        "react",
        "tools recall and Wikipedia, no persona, no profile",
        lambda s: BaselineMethod(s, "react", recall=True, wikipedia=True),
    ),
    Entry(
        "react-wiki",
        "tool Wikipedia alone",
        lambda s: BaselineMethod(s, "react-wiki", wikipedia=True),
        memories=False,
    ),
    Entry(
        "memory-bank",
        "MemoryBank's notes and forgetting memory in the prompt, tool Wikipedia",
        lambda s: BaselineMethod(s, "memory-bank", in_prompt=True, wikipedia=True),
    ),
    Entry(PERSONA_AGENT, "the paper's method", PersonaMethod, alignment=True, ablation=True),
    Entry("no-alignment", "persona-agent at n=0: the initial persona", PersonaMethod, ablation=True),
    Entry(
        "no-persona",
        "both tools, the profile as an input, no persona",
        lambda s: BaselineMethod(s, "no-persona", profile=True, recall=True, wikipedia=True),
        ablation=True,
    ),
    Entry(
        "no-memory",
        "aligned persona, no profile, no recall",
        lambda s: PersonaMethod(s, profile=False),
        memories=False,
        alignment=True,
        ablation=True,
    ),
    Entry(
        "no-action",
        "aligned persona with profile, no tools",
        lambda s: PersonaMethod(s, wikipedia=False),
        memories=False,
        alignment=True,
        ablation=True,
    ),
    Entry(
        "episodic-only",
        "aligned persona, recall, no profile",
        lambda s: PersonaMethod(s, profile=False),
        alignment=True,
        ablation=True,
    ),
    Entry(
        "semantic-only",
        "aligned persona with profile, no recall",
        PersonaMethod,
        memories=False,
        alignment=True,
        ablation=True,
    ),
    Entry(
        "more-memories",
        "no alignment; K larger by what the LM calls of persona-agent's alignment at this n, E, K would have retrieved",
        MoreMemories,
        alignment=True,
        control=True,
    ),
    Entry(
        "self-consistency",
        "no alignment; the LM calls of persona-agent's alignment at this n, E, K spent on more samples of each answer",
        Votes,
        alignment=True,
        control=True,
    ),
)

METHODS: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every method of a study, in the order of tables."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": tuple(entry.name for entry in _ENTRIES if not entry.control),
    "paper": ("prompt", "icl", "rag", "pag", "react", "memory-bank", PERSONA_AGENT),
    "ablation": tuple(entry.name for entry in _ENTRIES if entry.ablation),
}
"""What `--methods` may say in place of names: all, those of Tables 2 and 4, those of Table 3 and two more."""

EQUAL_COST = tuple(entry.name for entry in _ENTRIES if entry.control)


def parse_methods(text: str) -> tuple[str, ...]:
    """Names of methods from `rag,persona-agent` or a group's name; repeated ones count once.

    Raises:
        InputError: naming the methods and groups there are.
    """
    names: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if part not in GROUPS and part not in GROUPS["all"]:
            raise InputError(
                f"--methods: unknown method {part!r}; the methods are: {', '.join(GROUPS['all'])}; "
                f"or one of the groups {', '.join(GROUPS)}"
            )
        names += GROUPS.get(part, (part,))
    return tuple(dict.fromkeys(names))


def in_order(method: str) -> int:
    """Where a method stands in tables."""
    return list(METHODS).index(method)
