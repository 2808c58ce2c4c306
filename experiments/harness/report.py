"""What a study leaves to be read: tables, samples, personas, the figure, and the words at the end."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from personaagent.experiments.harness.files import replace_file
from personaagent.experiments.harness.results import (
    COLUMNS,
    USER_COLUMNS,
    Row,
    key_values,
    prediction_line,
    samples,
    user_rows,
)
from personaagent.experiments.harness.settings import lm_title
from personaagent.experiments.harness.study import Study
from personaagent.programs.lm.make import OFFLINE
from personaagent.programs.persona import Persona


def write_files(study: Study, rows: Sequence[Row]) -> None:
    """results.csv, users.csv, predictions.jsonl and personas.jsonl, each replaced as a whole.

    Raises:
        StoreError: if a file cannot be written; the journal is not touched.
    """
    replace_file(study.out / "results.csv", _csv(COLUMNS, (r.values for r in rows)))
    replace_file(study.out / "users.csv", _csv(USER_COLUMNS, (line for r in rows for line in user_rows(study, r.cell))))
    lines = (prediction_line(study, r.cell, s) for r in rows for s in samples(study, r.cell)[0])
    replace_file(study.out / "predictions.jsonl", _jsonl(lines))
    replace_file(study.out / "personas.jsonl", _jsonl(persona_lines(study, rows)))


def persona_lines(study: Study, rows: Sequence[Row]) -> Iterable[dict[str, Any]]:
    """Every persona version that the cells rest on, with the record of the step that made it; each once."""
    seen: set[tuple[Any, ...]] = set()
    for r in rows:
        cell = r.cell
        data = study.tasks[cell.task]
        keys = key_values(study, cell)
        for user in sorted(data.served_by.values(), key=lambda u: u.user_id):
            for iteration in range(cell.iterations + 1):
                chain = study.chain(user, cell, iteration)
                own = (
                    cell.task,
                    cell.lm,
                    cell.seed,
                    cell.memories,
                    iteration and cell.batch_size,
                    user.user_id,
                    iteration,
                )
                if not isinstance(chain.persona, Persona) or own in seen:
                    continue
                seen.add(own)
                step = dict(chain.units[-1].result) if iteration else None
                yield {
                    **{
                        name: keys[name] for name in ("task", "method", "lm", "align_lm", "memories", "seed", "prompts")
                    },
                    "batch_size": cell.batch_size if iteration else 0,
                    "iteration": iteration,
                    "user_id": user.user_id,
                    **chain.persona.dump_state(),
                    "digest": chain.persona.digest,
                    "step": step,
                }


def print_summary(study: Study, rows: Sequence[Row], console: Console, ui: str) -> None:
    """The table, what it is of, and what to open next."""
    shown = [r for r in rows if r.values["answered"] or r.values["failed"]]
    for task in dict.fromkeys(r.cell.task for r in shown):
        _print_table(study, task, [r for r in shown if r.cell.task == task], console)
    if any(r.cell.lm == OFFLINE for r in rows):
        console.print(
            "The offline reader is not a language model: these figures show that information about a user reaches "
            "the prompt. They say nothing of how an LM would use it, and do not compare with the paper's.",
            style="dim",
        )
    for note in study.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    # Whole lines, so that a path can be copied.
    console.print(f"\nresults  {study.out / 'results.csv'}", highlight=False, soft_wrap=True)
    console.print(f"figure   {study.out / 'scaling.png'}", highlight=False, soft_wrap=True)
    console.print(f"compare  {ui}", highlight=False, soft_wrap=True)


def _print_table(study: Study, task: str, rows: Sequence[Row], console: Console) -> None:
    data = study.tasks[task]
    queries = rows[0].values["queries"]
    control = "" if study.options.control == "none" else f", control {study.options.control}"
    title = f"{data.task.title}: {len(data.users)} users, {queries} queries, {data.source}{control}"
    console.print(title, style="bold", highlight=False, soft_wrap=True)
    table = Table(header_style="")
    several_lms = len({r.cell.lm for r in rows}) > 1
    several_seeds = len({r.cell.seed for r in rows}) > 1
    names = ["n", "E", "K", *(["LM"] * several_lms), *(["seed"] * several_seeds)]
    for name in [
        *names,
        *(m for m in data.task.metrics[:1]),
        "95 % interval",
        *data.task.metrics[1:],
        "unparsed",
        "failed",
        "LM calls",
    ]:
        table.add_column(name, justify="left" if name == "LM" else "right", no_wrap=True)
    for r in rows:
        v = r.values
        interval = "-"
        if v["score_low"] is not None:
            # A t interval of few users can leave the metric's range; results.csv has it as it is.
            most = 1.0 if data.task.higher_is_better else math.inf
            low, high = (min(most, max(0.0, v[bound])) for bound in ("score_low", "score_high"))
            interval = f"{low:.3f} to {high:.3f}"
        calls = v["profile_lm_calls"] + v["align_lm_calls"] + v["serve_lm_calls"]
        failed = str(v["failed"]) + (f" (+{r.waiting} waiting)" if r.waiting else "")
        axes = [r.cell.batch_size, r.cell.iterations, r.cell.memories]
        extra = [r.cell.lm] * several_lms + [str(r.cell.seed)] * several_seeds
        metrics = ["-" if v[m] is None else f"{v[m]:.3f}" for m in data.task.metrics]
        unparsable = f"{v['unparsable'] / v['answered']:.0%}" if v["answered"] else "-"
        table.add_row(*map(str, axes), *extra, metrics[0], interval, *metrics[1:], unparsable, failed, f"{calls:,}")
    console.print(table)
    lms = ", ".join(sorted({lm_title(r.cell.lm) for r in rows}))
    console.print(f"LM: {lms}. Intervals are clustered by user (t).\n", highlight=False, soft_wrap=True)


def _csv(columns: Sequence[str], lines: Iterable[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        # repr of a float is the shortest text that reads back as the same float.
        writer.writerow({k: "" if v is None else repr(v) if isinstance(v, float) else v for k, v in line.items()})
    return buffer.getvalue()


def _jsonl(lines: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
