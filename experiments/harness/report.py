"""What a study leaves to be read: tables, samples, personas, the figure, and the words at the end."""

from __future__ import annotations

import csv
import io
import json
import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from personaagent.experiments.harness.files import replace_file
from personaagent.experiments.harness.markdown import About, Run, report
from personaagent.experiments.harness.methods.registry import METHODS
from personaagent.experiments.harness.progress import print_whole
from personaagent.experiments.harness.remarks import remarks, swap_sentence
from personaagent.experiments.harness.results import (
    COLUMNS,
    USER_COLUMNS,
    Row,
    key_values,
    prediction_line,
    user_rows,
)
from personaagent.experiments.harness.secrets import masked
from personaagent.experiments.harness.settings import lm_title, shortened
from personaagent.experiments.harness.study import Study
from personaagent.experiments.harness.swap_matrix import COLUMNS as MATRIX_COLUMNS
from personaagent.experiments.harness.swap_matrix import (
    SwapMatrix,
    matrix_lines,
    matrix_prediction_lines,
    swap_loss,
    swap_matrix,
)
from personaagent.experiments.harness.tables import TaskInfo, pairs_csv, tables
from personaagent.programs.errors import StoreError
from personaagent.programs.lm.make import OFFLINE


@dataclass(frozen=True)
class Written:
    """What a study has left."""

    files: dict[str, str]
    """Names of the files to be read, by what they are."""
    drawn: bool
    """False if the figure could not be drawn."""
    swapped: Sequence[SwapMatrix]


def write_files(study: Study, rows: Sequence[Row]) -> Written:
    """All that a study leaves, each file replaced as a whole; a figure that cannot be drawn is a note.

    Raises:
        StoreError: if a file cannot be written; the journal is not touched.
    """
    out = study.out
    replace_file(out / "results.csv", _csv(COLUMNS, (r.values for r in rows)))
    replace_file(out / "users.csv", _csv(USER_COLUMNS, (line for r in rows for line in user_rows(study, r))))
    lines = (prediction_line(study, r.cell, s) for r in rows for s in r.samples)
    replace_file(out / "predictions.jsonl", _jsonl(lines))
    replace_file(out / "personas.jsonl", _jsonl(persona_lines(study, rows)))
    files = {"results": "results.csv"}
    swapped = [swap_matrix(study, cell) for cell in study.record.matrix]
    if swapped:
        replace_file(
            out / "swap_matrix.csv", _csv(MATRIX_COLUMNS, (line for m in swapped for line in matrix_lines(study, m)))
        )
        lines = (line for matrix in swapped for line in matrix_prediction_lines(study, matrix))
        replace_file(out / "swap_predictions.jsonl", _jsonl(lines))
        files["swapped"] = "swap_matrix.csv"
        study.notes += [swap_sentence(study, loss) for m in swapped if (loss := swap_loss(study, m)) is not None]
    said = remarks(study, [r.cell for r in rows])
    infos = _task_infos(study, rows)
    made = tables(rows, infos)
    replace_file(out / "pairs.csv", pairs_csv(made))
    replace_file(out / "report.md", report(_about(study, said), made))
    study.notes += [f"{method}: {' '.join(sentences)}" for method, sentences in said.items()]
    figure, drawn = _draw(study, rows, infos)
    return Written({"report": "report.md", **files, "figure": figure}, drawn, swapped)


def _draw(study: Study, rows: Sequence[Row], infos: Mapping[str, TaskInfo]) -> tuple[str, bool]:
    """The script's figure: its name, and whether it could be drawn."""
    from personaagent.experiments.harness.figures.comparison import draw_comparison
    from personaagent.experiments.harness.figures.histories import draw_histories
    from personaagent.experiments.harness.figures.scaling import draw_scaling
    from personaagent.experiments.harness.figures.style import About as FigureAbout
    from personaagent.experiments.harness.figures.style import FigureTask

    draw, name = {
        "scale": (draw_scaling, "scaling.png"),
        "cold_start": (draw_histories, "histories.png"),
    }.get(study.options.script, (draw_comparison, "comparison.png"))
    about = FigureAbout(
        {
            name: FigureTask(i.title, tuple(i.metrics), i.higher_is_better, i.source, i.users, i.queries)
            for name, i in infos.items()
        },
        study.options.axes.centre,
        study.seeds[0],
        study.options.constant_columns["control"],
        study.options.histories[0],
    )
    try:
        draw(about, rows, study.out / name)
    except StoreError:
        raise
    except Exception as error:  # the numbers are in results.csv all the same
        study.notes.append(f"{name} could not be drawn: {type(error).__name__}: {error}")
        return name, False
    return name, True


def _task_infos(study: Study, rows: Sequence[Row]) -> dict[str, TaskInfo]:
    """By name: the tasks that have a row, or are asked for."""
    found = {}
    for name, data in study.tasks.items():
        values = next((r.values for r in rows if r.cell.task == name), {"users": 0, "queries": 0})
        task = data.task
        sizes = (values["users"], values["queries"])
        found[name] = TaskInfo(
            task.title, tuple(task.metrics), task.higher_is_better, *sizes, data.source, len(task.labels)
        )
    return found


def _about(study: Study, said: Mapping[str, Sequence[str]]) -> About:
    options = study.options
    program = ("python", f"experiments/{options.script}.py")
    stored = study.record.values["settings"].items()
    settings = {name: shortened(value) for name, value in stored if value not in (None, {}, [])}
    return About(
        script=options.script,
        command=(*program, *(masked(part) for part in options.command)),
        lms={cell.lm: lm_title(cell.lm) for cell in study.all_cells()},
        centre=options.axes.centre,
        methods={name: entry.title for name, entry in METHODS.items()},
        remarks=said,
        notes=study.notes,
        controls={"equal-cost": "no alignment; what its LM calls would have retrieved, or more samples; see Methods"},
        settings={name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()},
        versions=versions(),
        spent=[
            Run(
                (*program, *run.get("command", ())),
                run.get("lm_calls", 0),
                run.get("prompt_tokens", 0),
                run.get("completion_tokens", 0),
                run.get("seconds", 0.0),
            )
            for run in study.record.runs
        ],
        walk_forward=options.walk_forward,
        replayed_from=", ".join(study.record.replays) or None,
        also_asked=study.record.has_asked,
    )


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    from importlib.metadata import version

    return {"personaagent": version("personaagent"), "dspy": version("dspy"), "python": platform.python_version()}


def persona_lines(study: Study, rows: Sequence[Row]) -> Iterable[dict[str, Any]]:
    """Every persona version that the cells rest on, with the record of the step that made it; each once."""
    seen: set[str] = set()
    for r in rows:
        cell = r.cell
        keys = key_values(study, cell)
        names = ("task", "method", "lm", "align_lm", "memories", "history", "seed", "prompts")
        for subject in sorted(study.subjects(cell), key=lambda s: s.user_id):
            for iteration in range(study.method(cell).iterations(cell) + 1):
                chain = study.chain(subject, cell, iteration)
                if chain.persona is None:
                    continue
                own = {
                    **{name: keys[name] for name in names},
                    "batch_size": cell.batch_size if iteration else 0,
                    "iteration": iteration,
                    "user_id": subject.user_id,
                }
                if study.options.walk_forward is not None:
                    own["before"] = subject.queries[0].id
                key = json.dumps(own, sort_keys=True)
                if key in seen:
                    continue
                seen.add(key)
                yield {
                    **own,
                    **chain.persona.dump_state(),
                    "digest": chain.persona.digest,
                    "step": dict(chain.units[-1].result) if iteration else None,
                }


def print_summary(study: Study, rows: Sequence[Row], console: Console, ui: str, files: Mapping[str, str]) -> None:
    """The table, what it is of, and what to open next.

    Args:
        ui: how MLflow's UI is opened.
        files: name in OUT by what it is, in the order to be read.
    """
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
    console.print()
    for what, name in files.items():
        # Whole lines, so that a path can be copied.
        console.print(f"{what:<8} {study.out / name}", highlight=False, soft_wrap=True)
    console.print(f"compare  {ui}", highlight=False, soft_wrap=True)


def _print_table(study: Study, task: str, rows: Sequence[Row], console: Console) -> None:
    data = study.tasks[task]
    queries = rows[0].values["queries"]
    control = ", control swap" if study.options.control == "swap" else ""
    walked = f", the last {study.options.walk_forward} of each user" if study.options.walk_forward else ""
    title = f"{data.task.title}: {rows[0].values['users']} users, {queries} queries{walked}, {data.source}{control}"
    console.print(title, style="bold", highlight=False, soft_wrap=True)
    # Only what tells rows apart.
    leading: dict[str, tuple[bool, Callable[[Row], str]]] = {
        "method": (len({r.cell.method for r in rows}) > 1, lambda r: r.cell.method),
        "history": (len({r.cell.history for r in rows}) > 1, lambda r: r.cell.history),
        "n": (True, lambda r: str(r.cell.batch_size)),
        "E": (True, lambda r: str(r.cell.iterations)),
        "K": (True, lambda r: str(r.cell.memories)),
        "LM": (len({r.cell.lm for r in rows}) > 1, lambda r: r.cell.lm),
        "seed": (len({r.cell.seed for r in rows}) > 1, lambda r: str(r.cell.seed)),
    }
    named = {name: text for name, (wanted, text) in leading.items() if wanted}
    metrics = data.task.metrics
    unread = any(r.values["unparsable"] for r in rows)
    columns = (*named, metrics[0], "95 % interval", *metrics[1:], *(["unparsed"] * unread), "failed", "LM calls")
    # Without frames: a method's row fits 80 columns.
    table = Table(header_style="", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in ("method", "LM") else "right", no_wrap=True)
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
        shown = ["-" if v[m] is None else f"{v[m]:.3f}" for m in metrics]
        unparsable = f"{v['unparsable'] / v['answered']:.0%}" if v["answered"] else "-"
        own = [text(r) for text in named.values()]
        table.add_row(*own, shown[0], interval, *shown[1:], *([unparsable] * unread), failed, f"{calls:,}")
    print_whole(table, console)
    lms = ", ".join(sorted({lm_title(r.cell.lm) for r in rows}))
    if study.record.replays:
        lms += f", {'in part ' * study.record.has_asked}replayed from {', '.join(study.record.replays)}"
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
