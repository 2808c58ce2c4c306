"""`--dry-run`: what a study would ask, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dspy
from rich.console import Console
from rich.table import Table

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.settings import lm_title
from personaagent.experiments.harness.study import Study

_PHASES = ("profile", "align", "serve")
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
    for name in ("n", "E", "K", *(f"{phase} {what}" for phase in _PHASES for what in ("calls", "tokens"))):
        table.add_column(name, justify="right")
    total = Projection()
    units: set[tuple[object, ...]] = set()
    for cell in cells:
        phases, shared = _project(study, cell, units)
        total.add(shared)
        spent = [text for p in phases for text in (f"{p.calls:,}", f"{p.prompt_tokens / 1_000:,.0f}k")]
        table.add_row(str(cell.batch_size), str(cell.iterations), str(cell.memories), *spent)
    console.print(table)
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


def _project(study: Study, cell: Cell, units: set[tuple[object, ...]]) -> tuple[list[Projection], Projection]:
    """(profile, align, serve) of a cell, and what of it no earlier cell has."""
    data = study.tasks[cell.task]
    method = data.method
    profile, align, serve, new = Projection(), Projection(), Projection(), Projection()

    def book(phase: Projection, calls: int, tokens: int, *unit: object) -> None:
        one = Projection(calls, tokens)
        phase.add(one)
        if unit not in units:
            units.add(unit)
            new.add(one)

    question_tokens = _question_tokens(study, cell)
    rollout = method.answer_calls(cell.memories)
    for user in data.served_by.values():
        records = sum(len(i.text) // _CHARS_PER_TOKEN + _RECORD_EXTRA_TOKENS for i in user.history)
        average = records // max(1, len(user.history))
        if study.options.profile and user.history:
            book(profile, 1, records + 200, "profile", cell.task, cell.lm, cell.seed, user.user_id)
        n = min(cell.batch_size, len(user.history))
        for iteration in range(1, cell.iterations + 1):
            persona = n * iteration * average  # what the updates have added so far, at most
            answering = rollout * (question_tokens + persona) + (rollout - 1) * cell.memories * average
            tokens = n * (answering + 300 + average) + 500 + persona
            unit = (
                "step",
                cell.task,
                cell.lm,
                cell.seed,
                user.user_id,
                cell.batch_size,
                cell.memories,
                iteration,
            )
            book(align, n * (rollout + 1) + (1 if n else 0), tokens if n else 0, *unit)
        persona = n * cell.iterations * average
        for query in next(u.queries for u in data.users if data.served_by[u.user_id] is user):
            tokens = rollout * (question_tokens + persona) + (rollout - 1) * cell.memories * average
            book(serve, rollout, tokens, "answer", cell, user.user_id, query.id)
    return [profile, align, serve], new


def _question_tokens(study: Study, cell: Cell) -> int:
    """Prompt tokens of a step without memories: measured on one question's real prompt."""
    data = study.tasks[cell.task]
    agent = data.method.agent(cell.memories)
    user = data.users[0]
    handle = agent.for_user(user.user_id, persona=agent.initial_persona(None))
    signature = handle.spliced(handle.react)
    inputs = {"query": user.queries[0].input, "trajectory": ""}
    messages = dspy.ChatAdapter().format(signature, [], inputs)
    profile = _PROFILE_TOKENS if study.options.profile else 0
    return sum(len(str(message["content"])) for message in messages) // _CHARS_PER_TOKEN + profile
