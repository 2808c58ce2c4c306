"""Progress bars: phase, units, failures and LM calls so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from personaagent.experiments.harness.journal import Unit
from personaagent.programs.lm.meter import Meter


def print_whole(table: Table, console: Console) -> None:
    """A table at the width that it needs: a narrow terminal folds its lines, and no figure is cut short."""
    usual = console.width
    needed = console.measure(table, options=console.options.update(max_width=1_000)).maximum
    console.width = max(usual, needed)
    try:
        console.print(table)
    finally:
        console.width = usual


class Bar:
    """One phase's bar."""

    def __init__(self, progress: RichProgress, task: TaskID, meter: Meter | None) -> None:
        self._progress, self._task, self._meter = progress, task, meter
        self.failures = 0
        self.waiting = 0

    def advance(self, unit: Unit | None = None) -> None:
        """One unit is over: done, failed, or (None in a phase of units) left for another run."""
        if self._meter is not None:
            self.waiting += unit is None
            self.failures += unit is not None and not unit.ok
        calls = f"{self._meter.spent.lm_calls} LM calls" if self._meter else ""
        parts = [
            calls,
            f"{self.failures} failed" * bool(self.failures),
            f"{self.waiting} waiting" * bool(self.waiting),
        ]
        self._progress.update(self._task, advance=1, state="  ".join(filter(None, parts)))


class Progress:
    """Bars on standard error, where a terminal is; else a line a phase.

    Args:
        console: where to; default standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    def say(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, highlight=False)

    @contextmanager
    def phase(self, name: str, total: int, meter: Meter | None = None) -> Iterator[Bar]:
        """A bar for `total` units; it stays on the screen when the phase is over."""
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
        )
        with RichProgress(*columns, console=self.console) as progress:
            yield Bar(progress, progress.add_task(name, total=total, state=""), meter)
