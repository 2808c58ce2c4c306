"""The command-line options that every script takes, declared once, and what a study makes of them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from personaagent.experiments.harness.study_files import study_callback

if TYPE_CHECKING:
    from personaagent.experiments.harness.settings import StudyOptions
    from personaagent.programs.lm.replay import Replay


@dataclass(frozen=True)
class Arguments:
    """The options as they are written on the command line. A script may have defaults of its own."""

    # A whole study.
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            is_eager=True,
            callback=study_callback,
            help="A study file, or the name of one in experiments/studies; other options override what it says.",
        ),
    ] = None

    # What is studied, and on whom.
    tasks: Annotated[str, typer.Option("--tasks", help="Tasks, comma-separated.")] = "lamp-2m"
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            readable=False,
            help="LaMP's files (official or OPPU's), or a log file. Default: the sample users.",
        ),
    ] = None
    split: Annotated[str, typer.Option("--split", help="train, dev or test, of LaMP's official layout.")] = "dev"
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Of --tasks logs: user=...,query=...,response=...[,time=...][,id=...]."),
    ] = None
    labels: Annotated[
        str | None, typer.Option("--labels", help="Of --tasks logs: the possible answers. Default: free text.")
    ] = None
    users: Annotated[int, typer.Option("--users", help="So many users, chosen by --users-by.")] = 20
    users_by: Annotated[
        str, typer.Option("--users-by", help="active: the longest histories; random: drawn by --data-seed.")
    ] = "active"
    queries_per_user: Annotated[
        str,
        typer.Option(
            "--queries-per-user",
            help="The first so many queries after the history; 0: all there are. By task: lamp-2m:3,lamp-3:0.",
        ),
    ] = "3"
    walk_forward: Annotated[
        int | None,
        typer.Option(
            "--walk-forward",
            help="Ask about the last so many interactions of each user in place of the queries, one after the other, "
            "each with what came before it.",
        ),
    ] = None
    data_seed: Annotated[int, typer.Option("--data-seed", help="Seed of everything drawn from data.")] = 0

    # Axes.
    methods: Annotated[
        str,
        typer.Option("--methods", help="Methods, comma-separated; or a group: all, paper (Tables 2 and 4), ablation."),
    ] = "persona-agent"
    histories: Annotated[
        str, typer.Option("--histories", help="Axis: how many of a user's newest interactions are kept; or all.")
    ] = "all"
    batch_sizes: Annotated[
        str, typer.Option("--batch-sizes", help="Axis n: interactions simulated in each alignment step; 0: none.")
    ] = "3"
    iterations: Annotated[str, typer.Option("--iterations", help="Axis E: alignment steps.")] = "1"
    memories: Annotated[
        str, typer.Option("--memories", help="Axis K: interactions that are retrieved; 0: none, and no recall.")
    ] = "4"
    grid: Annotated[
        bool, typer.Option("--grid", help="The product of n, E and K. Default: one at a time around n=3, E=1, K=4.")
    ] = False
    search: Annotated[
        int | None,
        typer.Option("--search", help="Let Optuna choose so many cells of the product: score up, calls down."),
    ] = None
    seeds: Annotated[str, typer.Option("--seeds", help="Axis: seeds of LM sampling.")] = "0"

    # Settings.
    profile: Annotated[
        str, typer.Option("--profile", help="on or off: start personas with the semantic memory's summary.")
    ] = "on"
    wikipedia: Annotated[
        str | None,
        typer.Option(
            "--wikipedia", help="on, off, or a MediaWiki API's URL. Default: off with the offline reader, else on."
        ),
    ] = None
    control: Annotated[
        str,
        typer.Option(
            "--control",
            help="none; swap: every user is served with another's memory and persona; matrix: with everyone's, in "
            "swap_matrix.csv; equal-cost: rows that spend alignment's LM calls otherwise.",
        ),
    ] = "none"
    memory_bank_dates: Annotated[
        int,
        typer.Option(
            "--memory-bank-dates",
            help="Of memory-bank: the latest so many dates get notes, at 2 LM calls each and 2 for all.",
        ),
    ] = 10
    memory_bank_curve: Annotated[
        str,
        typer.Option(
            "--memory-bank-curve",
            help="Of memory-bank's forgetting: paper, exp(-t/S); or published, the authors' code, exp(-t/5*S).",
        ),
    ] = "paper"
    memory_bank_clock: Annotated[
        str,
        typer.Option(
            "--memory-bank-clock", help="Of memory-bank's forgetting: items, since dates span years; or days."
        ),
    ] = "items"
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="YAML file of prompts in place of the built-in ones.")
    ] = None

    # Language models.
    lm: Annotated[
        str,
        typer.Option(
            "--lm",
            help="Axis: DSPy model strings, comma-separated; `offline` is the offline reader, which is no language "
            "model; replay:FILE answers from what --record wrote.",
        ),
    ] = "offline"
    api_base: Annotated[str | None, typer.Option("--api-base", help="URL of an OpenAI-compatible server.")] = None
    align_lm: Annotated[
        str | None, typer.Option("--align-lm", help="LM of gradients and updates. Default: as --lm.")
    ] = None
    align_api_base: Annotated[str | None, typer.Option("--align-api-base", help="Server of --align-lm.")] = None
    temperature: Annotated[float, typer.Option("--temperature", help="Of sampling.")] = 0.1
    timeout_seconds: Annotated[
        float, typer.Option("--timeout-seconds", help="Of one LM call. A Wikipedia lookup: this, at most 10.")
    ] = 60.0

    # Running: these may change freely between runs.
    workers: Annotated[
        int | None,
        typer.Option("--workers", help="Most LM calls in flight. Default: 1 with the offline reader, else 8."),
    ] = None
    max_calls: Annotated[
        int | None,
        typer.Option("--max-calls", help="Most LM calls of this run, retries included; the rest waits for the next."),
    ] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed in an earlier run.")] = (
        False
    )
    record: Annotated[
        Path | None, typer.Option("--record", help="Append every LM call to this file, for --lm replay:FILE.")
    ] = None
    rescore: Annotated[bool, typer.Option("--rescore", help="Ask nothing: read and score again what OUT holds.")] = (
        False
    )
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder of the study. Default: runs/SCRIPT- and a digest of the settings."),
    ] = None
    tracking: Annotated[str, typer.Option("--tracking", help="MLflow tracking URI. Default: what `make ui` opens.")] = (
        "sqlite:///runs/mlflow.db"
    )
    trace_samples: Annotated[
        int, typer.Option("--trace-samples", help="Samples of each cell that become MLflow traces.")
    ] = 3
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells with projected LM calls and tokens, and spend nothing.")
    ] = False


def application(script: str, about: str | None, **defaults: Any) -> typer.Typer:
    """A script's command line: every option of `Arguments`, and what it does is to run a study.

    Args:
        script: its name.
        about: what --help says of it: the first line of this.
        defaults: of the script, by field of `Arguments`.
    """
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    hints = get_type_hints(Arguments, include_extras=True)

    def run(**values: Any) -> None:
        from personaagent.experiments.harness.command import run_study

        raise typer.Exit(run_study(study_options(script, Arguments(**values))))

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, field.default),
            annotation=hints[field.name],
        )
        for field in fields(Arguments)
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # which typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    made.command(name=script, help=(about or "").partition("\n")[0])(run)
    return made


def study_options(script: str, given: Arguments) -> StudyOptions:
    """What a study is to do.

    Raises:
        InputError: on a value that cannot be read or is out of range, naming the option.
    """
    from personaagent.datasets.logs import parse_columns
    from personaagent.datasets.registry import check_task
    from personaagent.experiments.harness.cells import Axes, parse_axis
    from personaagent.experiments.harness.methods.registry import parse_methods
    from personaagent.experiments.harness.prompts import Prompts, load_prompts
    from personaagent.experiments.harness.settings import StudyOptions
    from personaagent.experiments.harness.subjects import parse_histories
    from personaagent.programs.errors import InputError
    from personaagent.programs.lm.make import OFFLINE
    from personaagent.programs.lm.replay import PREFIX, Replay

    if given.profile not in ("on", "off"):
        raise InputError(f"--profile must be on or off, but got {given.profile!r}")
    replay = None
    if given.lm.startswith(PREFIX):
        try:
            replay = Replay(given.lm.removeprefix(PREFIX), strict=True)
        except InputError as error:
            raise InputError(f"--lm: {error}") from None
        given = _as_recorded(given, replay)
    offline = given.lm == OFFLINE
    tasks = tuple(dict.fromkeys(check_task(part.strip()) for part in given.tasks.split(",")))
    queries, by_task = _queries(given.queries_per_user)
    labels = given.labels
    read: dict[str, Any] = {
        "tasks": tasks,
        "axes": Axes(
            parse_axis("--batch-sizes", given.batch_sizes),
            parse_axis("--iterations", given.iterations, most=100),
            parse_axis("--memories", given.memories),
        ),
        "seeds": parse_axis("--seeds", given.seeds, most=2**31 - 1),
        "methods": parse_methods(given.methods),
        "histories": parse_histories(given.histories),
        "columns": parse_columns(given.columns) if given.columns is not None else None,
        "labels": tuple(part.strip() for part in labels.split(",")) if labels is not None else (),
        "queries_per_user": queries,
        "queries_by_task": by_task,
        "profile": given.profile == "on",
        "wikipedia": given.wikipedia if given.wikipedia is not None else ("off" if offline else "on"),
        "prompts": load_prompts(given.prompts) if given.prompts else Prompts(),
        "workers": given.workers if given.workers is not None else (1 if offline or replay is not None else 8),
        "replay": replay,
        "command": tuple(sys.argv[1:]),
    }
    # The rest is as it was written.
    rest = {field.name for field in fields(Arguments)} - {*read, "study", "batch_sizes", "iterations", "memories"}
    return StudyOptions(script=script, **read, **{name: getattr(given, name) for name in rest})


def _as_recorded(given: Arguments, replay: Replay) -> Arguments:
    """With the LMs that were recorded, and all that they were asked with.

    Raises:
        InputError: if the recording is not a study's, or one of these was given otherwise.
    """
    from personaagent.experiments.harness.secrets import masked
    from personaagent.programs.errors import InputError

    text = (str, type(None))
    kinds: dict[str, tuple[type, ...]] = {"lm": (str,), "api_base": text, "align_lm": text, "align_api_base": text}
    kinds |= {"temperature": (int, float), "wikipedia": (str,)}
    about = replay.about
    lacking = [name for name, kind in kinds.items() if not isinstance(about.get(name, ...), kind)]
    if lacking:
        raise InputError(
            f"--lm {given.lm}: this recording is not of a study (it lacks {', '.join(lacking)}): make one with --record"
        )
    for name in (name for name in kinds if name != "lm"):
        value, default = getattr(given, name), getattr(Arguments, name)
        shown = masked(value) if isinstance(value, str) else value
        if value != default and shown != about[name]:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: {shown!r} now, {about[name]!r} in the recording, as which it answers: drop it")
    return replace(given, **{name: about[name] for name in kinds})


def _queries(text: str) -> tuple[int | None, Mapping[str, int | None]]:
    """`--queries-per-user`: of all tasks, and of those that have their own.

    Raises:
        InputError: on anything but whole numbers from 0, on a task that there is not, and on one that is named twice.
    """
    from personaagent.datasets.registry import check_task
    from personaagent.programs.errors import InputError

    option = "--queries-per-user"
    counts: dict[str, int | None] = {}
    for part in text.split(","):
        task, colon, value = (piece.strip() for piece in part.rpartition(":"))
        if not (value.isascii() and value.isdigit() and len(value) <= 9):
            raise InputError(
                f"{option}: {value!r} is not a whole number from 0; write for example 3, or lamp-2m:3,lamp-3:0"
            )
        if colon:
            try:
                check_task(task)
            except InputError as error:
                raise InputError(f"{option}: {error}") from None
        if task in counts:
            raise InputError(f"{option}: {text!r} says it twice{f' of {task}' if task else ''}")
        counts[task] = int(value) or None
    return counts.pop("", 3), counts
