"""What a reader must know of a study beside its figures: what a method did otherwise than its name says, and caps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.methods.base import Method, Notes
from personaagent.experiments.harness.methods.personas import MoreMemories, Votes
from personaagent.experiments.harness.methods.registry import METHODS, PERSONA_AGENT
from personaagent.experiments.harness.study import Study
from personaagent.experiments.harness.subjects import ALL, Subject
from personaagent.experiments.harness.swap_matrix import SwapLoss
from personaagent.programs.lm.make import OFFLINE

_WITHOUT_WIKIPEDIA: Mapping[str, str] = {
    "react-wiki": "Wikipedia, its only tool, is off: it sends what `prompt` sends.",
    "semantic-only": "Wikipedia, its only tool, is off: it sends what `no-action` sends.",
    "no-memory": "Wikipedia, its only tool, is off: it answers in one call.",
    "memory-bank": "Wikipedia, its only tool, is off: it answers in one call.",
}


def remarks(study: Study, cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Sentences by method, in the order of tables."""
    found: dict[str, list[str]] = {}
    for method in METHODS:
        own = [cell for cell in cells if cell.method == method]
        if own and (sentences := list(dict.fromkeys(_of_method(study, method, own)))):
            found[method] = sentences
    return found


def _of_method(study: Study, name: str, cells: Sequence[Cell]) -> Iterator[str]:
    if study.options.wikipedia == "off":
        if name in _WITHOUT_WIKIPEDIA:
            yield _WITHOUT_WIKIPEDIA[name]
        elif name == "react" and not all(study.method(cell).tools(cell) for cell in cells):
            yield "With K=0 and Wikipedia off it has no tool: it sends what `prompt` sends."
    if name == "memory-bank":
        yield from _memory_bank(study, cells)
    if name == "icl":
        shown = [_examples(study.method(cell), subject, cell) for cell in cells for subject in study.subjects(cell)]
        if not all(shown):
            yield "There is no other user to take examples from: it shows none."
    for cell in cells:
        method, subjects = study.method(cell), study.subjects(cell)
        of = f"{PERSONA_AGENT} at n={cell.batch_size}, E={cell.iterations}, K={cell.memories} on {_data(cell)}"
        if isinstance(method, MoreMemories):
            counts = [method.memories(subject, cell) for subject in subjects]
            yield f"For the calls of {of}: K={_range(counts)}."
        elif isinstance(method, Votes):
            samples = [1 + extra for subject in subjects for extra in method.extra(subject, cell)]
            yield f"For the calls of {of}: {_range(samples)} samples of each answer."
            if cell.lm == OFFLINE:
                yield "The offline reader does not sample: all of an answer's are the same."


def _examples(method: Method, subject: Subject, cell: Cell) -> object:
    state = method.start(subject, cell, None)
    return state.values["examples"] if isinstance(state, Notes) else None


def _data(cell: Cell) -> str:
    return cell.task if cell.history == ALL else f"{cell.task} with histories of {cell.history}"


def _memory_bank(study: Study, cells: Sequence[Cell]) -> Iterator[str]:
    most = study.options.memory_bank_dates
    for cell in cells:
        dates = [len({one.timestamp[:10] for one in subject.history}) for subject in study.subjects(cell)]
        over = sum(count > most for count in dates)
        if over:
            yield (
                f"On {_data(cell)}, {over} of {len(dates)} histories have more than {most} dates (up to {max(dates)}): "
                f"only the latest {most} get notes (`--memory-bank-dates`)."
            )


def swap_sentence(study: Study, found: SwapLoss) -> str:
    """What a swap matrix says."""
    task, cell = study.task(found.cell), found.cell
    bounds = ""
    if found.loss.low == found.loss.low:
        bounds = f" (95 % interval {max(-1.0, found.loss.low):.3f} to {min(1.0, found.loss.high):.3f})"
        if not task.labels or not task.higher_is_better:
            bounds = f" (95 % interval {found.loss.low:.3f} to {found.loss.high:.3f})"
    undone = "".join(
        f"; {count} {what}" for count, what in ((found.failed, "failed"), (found.waiting, "wait")) if count
    )
    return (
        f"Swap matrix of {cell.method} on {cell.task} (n={cell.batch_size}, E={cell.iterations}, K={cell.memories}, "
        f"LM: {cell.lm}{f', history {cell.history}' if cell.history != 'all' else ''}): {task.metrics[0]} "
        f"{found.own:.3f} by the user's own persona and memory, {found.others:.3f} by others', difference "
        f"{found.loss.estimate:.3f}{bounds} over {found.users} users and {found.queries} queries{undone}. Each pair is "
        f"in swap_matrix.csv."
    )


def _range(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
