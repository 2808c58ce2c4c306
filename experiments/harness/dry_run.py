"""`--dry-run`: what a study would ask, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from rich.console import Console
from rich.table import Table

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.methods.personas import PersonaMethod
from personaagent.experiments.harness.progress import print_whole
from personaagent.experiments.harness.settings import lm_title
from personaagent.experiments.harness.study import Study
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.acting import acting_as
from personaagent.programs.baselines.registry import Setup
from personaagent.programs.persona import Persona

_PHASES = ("learn", "align", "serve")
_LEARNT_TEXTS = ("summary", "personality")
_CHARS_PER_TOKEN = 4
_COMPLETION_TOKENS = 100
_PROFILE_TOKENS = 120
_RECORD_EXTRA_TOKENS = 20


@dataclass
class Projection:
    """Expected LM calls and tokens of some units, if nothing goes wrong."""

    calls: int = 0
    prompt_tokens: int = 0

    def add(self, other: Projection) -> None:
        self.calls += other.calls
        self.prompt_tokens += other.prompt_tokens


def print_projection(study: Study, cells: Sequence[Cell], console: Console) -> None:
    """The cells with projected LM calls and prompt tokens by phase. Units that cells share count once in the total."""
    table = Table(title="Projection; nothing is spent", title_justify="left", header_style="")
    several = {name: len({getattr(cell, name) for cell in cells}) > 1 for name in ("task", "method", "lm", "history")}
    leading = [name for name, wanted in several.items() if wanted]
    columns = (*leading, "n", "E", "K", *(f"{phase} {what}" for phase in _PHASES for what in ("calls", "tokens")))
    for name in columns:
        table.add_column(name, justify="left" if name in leading else "right", no_wrap=True)
    total = Projection()
    units: set[str] = set()
    for cell in cells:
        phases, shared = _project(study, cell, study.pairs(cell), units)
        total.add(shared)
        spent = [text for p in phases for text in (f"{p.calls:,}", f"{p.prompt_tokens / 1_000:,.0f}k")]
        axes = (*(getattr(cell, name) for name in leading), cell.batch_size, cell.iterations, cell.memories)
        table.add_row(*map(str, axes), *spent)
    for cell in study.matrix_asked():
        _, shared = _project(study, cell, study.swapped_pairs(cell), units)
        total.add(shared)
    print_whole(table, console)
    if study.matrix_asked():
        console.print("and a swap matrix: every user's questions under every user's persona and memory")
    console.print(
        f"together, shared units once: about {total.calls:,} LM calls and {total.prompt_tokens:,} prompt tokens, "
        f"and some {total.calls * _COMPLETION_TOKENS:,} completion tokens ({_CHARS_PER_TOKEN} characters a token, "
        f"{_COMPLETION_TOKENS} tokens a completion), with {', '.join(sorted({lm_title(c.lm) for c in cells}))}.\n"
        f"Retries and an LM that takes more steps add to it; --max-calls sets a bound that is never exceeded.",
        highlight=False,
    )
    if study.options.search is not None:
        console.print(f"--search {study.options.search} runs so many of these cells", highlight=False)
    for note in study.notes:
        console.print(f"note: {note}", highlight=False)


def _project(
    study: Study, cell: Cell, pairs: Sequence[tuple[Subject, Subject]], units: set[str]
) -> tuple[list[Projection], Projection]:
    """(learning, align, serve) of a cell, and what of it no earlier cell has.

    What is learnt and aligned is part of the keys of what rests on it, and nobody knows it yet: a mark stands in for
    it, the same for all cells that share the unit.
    """
    method = study.method(cell)
    learn, align, serve, new = Projection(), Projection(), Projection(), Projection()

    def book(phase: Projection, calls: int, tokens: int, unit: str) -> None:
        one = Projection(calls, tokens)
        phase.add(one)
        if unit not in units:
            units.add(unit)
            new.add(one)

    question_tokens = _question_tokens(study, cell)
    for asked, subject in pairs:
        records = sum(len(i.text) // _CHARS_PER_TOKEN + _RECORD_EXTRA_TOKENS for i in subject.history)
        average = records // max(1, len(subject.history))
        n = min(cell.batch_size, len(subject.history))
        steps = method.iterations(cell)
        rollout = method.answer_calls(cell)
        seen = cell.memories * average if method.retrieves(cell) else 0
        if cell.method == "icl":
            seen = Setup.examples * average  # of others, who write no less
        work = method.learning(subject, cell)
        learnt: dict[str, Any] | None = None
        if work is not None:
            tokens = (records + 200) * (1 if work.kind == "profile" else 2) if work.expected_calls else 0
            book(learn, work.expected_calls, tokens, work.key)
            text = f"learnt {work.key}" if work.expected_calls else ""
            learnt = dict.fromkeys((*_LEARNT_TEXTS, "profile"), text) | {"remembered": {}, "dates": [], "until": None}
        state = method.start(subject, cell, learnt)
        for iteration in range(1, steps + 1):
            persona = n * iteration * average  # what the updates have added so far, at most
            answering = rollout * (question_tokens + persona) + (rollout - 1) * seen
            step = method.step(subject, cell, iteration, state)
            book(align, step.expected_calls, n * (answering + 300 + average) + 500 + persona if n else 0, step.key)
            if isinstance(state, Persona) and step.expected_calls:
                state = state.rewritten(f"step {step.key}", ())
        persona = n * steps * average
        for query in asked.queries:
            for one in method.answers(query, subject, cell, state):
                calls = one.expected_calls
                tokens = calls * (question_tokens + persona) + max(1, calls - 1) * seen
                book(serve, calls, tokens, one.key)
    return [learn, align, serve], new


def _question_tokens(study: Study, cell: Cell) -> int:
    """Prompt tokens of a step without memories: measured on one question's real prompt."""
    agent = PersonaMethod(study.tasks[cell.task].setting).agent(cell.memories)
    subject = study.subjects(cell)[0]
    persona = agent.initial_persona()
    handle = agent.for_user(subject.user_id, persona=persona)
    tools = study.method(cell).tools(cell)
    signature = handle.signature_of(handle.react) if tools else handle.signature
    inputs = {"query": subject.queries[0].input, "trajectory": ""}
    with acting_as(persona.text):
        messages = dspy.settings.adapter.format(signature, [], inputs)
    profile = _PROFILE_TOKENS if study.method(cell).learning(subject, cell) is not None else 0
    return sum(len(str(message["content"])) for message in messages) // _CHARS_PER_TOKEN + profile
