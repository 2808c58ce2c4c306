"""Test-time scaling (the paper's section 3.5): accuracy over batch size n, iterations E and memories K.

python experiments/scale.py                  the sample users and the offline reader: no key, no network
python experiments/scale.py --help           everything else
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from personaagent.experiments.harness import command  # first: it sets the environment

import typer  # isort: skip

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> typer.models.OptionInfo:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


_STUDY, _DATA, _LM, _RUN = "Study", "Data", "Language models", "Running"


@application.command()
def scale(
    tasks: Annotated[str, _option("--tasks", help="Tasks, comma-separated.", panel=_DATA)] = "lamp-2m",
    data: Annotated[
        Path | None,
        _option("--data", help="Folder of the data, in OPPU's layout. Default: the sample users.", panel=_DATA),
    ] = None,
    users: Annotated[int, _option("--users", help="The so many most active users.", panel=_DATA)] = 20,
    queries_per_user: Annotated[
        int | None,
        _option(
            "--queries-per-user",
            help="The first so many queries after the history; 0: all there are.",
            panel=_DATA,
        ),
    ] = 3,
    batch_sizes: Annotated[
        str,
        _option(
            "--batch-sizes",
            help="Axis n: interactions simulated in each alignment step; 0: no alignment.",
            panel=_STUDY,
        ),
    ] = "0,1,3,5",
    iterations: Annotated[str, _option("--iterations", help="Axis E: alignment steps.", panel=_STUDY)] = "1,2,3,4,5",
    memories: Annotated[
        str,
        _option("--memories", help="Axis K: interactions that recall returns; 0: no recall.", panel=_STUDY),
    ] = "0,1,4,8",
    grid: Annotated[
        bool,
        _option(
            "--grid",
            help="The product of the axes. Default: one axis at a time around n=3, E=1, K=4.",
            panel=_STUDY,
        ),
    ] = False,
    search: Annotated[
        int | None,
        _option(
            "--search",
            help="Let Optuna choose so many cells of the product: score up, LM calls down.",
            panel=_STUDY,
        ),
    ] = None,
    seeds: Annotated[str, _option("--seeds", help="Axis: seeds of LM sampling.", panel=_STUDY)] = "0",
    profile: Annotated[
        str,
        _option("--profile", help="on or off: start personas with the semantic memory's summary.", panel=_STUDY),
    ] = "on",
    wikipedia: Annotated[
        str | None,
        _option(
            "--wikipedia",
            help="on, off, or the URL of a MediaWiki API. Default: off with the offline reader, else on.",
            panel=_STUDY,
        ),
    ] = None,
    control: Annotated[
        str,
        _option(
            "--control",
            help="none, or swap: every user is served with the next user's memory and persona.",
            panel=_STUDY,
        ),
    ] = "none",
    prompts: Annotated[
        Path | None,
        _option("--prompts", help="YAML file of prompts in place of the built-in ones.", panel=_STUDY),
    ] = None,
    data_seed: Annotated[int, _option("--data-seed", help="Seed of everything drawn from data.", panel=_DATA)] = 0,
    lm: Annotated[
        str,
        _option(
            "--lm",
            help="DSPy model string; `offline` is the offline reader, which is not a language model.",
            panel=_LM,
        ),
    ] = "offline",
    api_base: Annotated[
        str | None, _option("--api-base", help="URL of an OpenAI-compatible server.", panel=_LM)
    ] = None,
    align_lm: Annotated[
        str | None, _option("--align-lm", help="LM of gradients and updates. Default: as --lm.", panel=_LM)
    ] = None,
    align_api_base: Annotated[str | None, _option("--align-api-base", help="Server of --align-lm.", panel=_LM)] = None,
    temperature: Annotated[float, _option("--temperature", help="Of sampling.", panel=_LM)] = 0.1,
    timeout_seconds: Annotated[float, _option("--timeout-seconds", help="Of one LM call.", panel=_LM)] = 60.0,
    workers: Annotated[
        int | None,
        _option(
            "--workers",
            help="Most LM calls in flight. Default: 1 with the offline reader, else 8.",
            panel=_RUN,
        ),
    ] = None,
    max_calls: Annotated[
        int | None,
        _option(
            "--max-calls",
            help="Most LM calls of this run, retries included; the rest waits for the next run.",
            panel=_RUN,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, _option("--retry-failed", help="Ask again what failed in an earlier run.", panel=_RUN)
    ] = False,
    out: Annotated[
        Path | None,
        _option(
            "--out",
            help="Folder of the study. Default: runs/scale- and a digest of the settings.",
            panel=_RUN,
        ),
    ] = None,
    tracking: Annotated[
        str | None,
        _option("--tracking", help="MLflow tracking URI. Default: what `make ui` opens.", panel=_RUN),
    ] = None,
    trace_samples: Annotated[
        int, _option("--trace-samples", help="Samples of each cell that become MLflow traces.", panel=_RUN)
    ] = 3,
    dry_run: Annotated[
        bool,
        _option(
            "--dry-run",
            help="Print the cells with projected LM calls and tokens, and spend nothing.",
            panel=_RUN,
        ),
    ] = False,
) -> None:
    """Measure accuracy and F1 over batch size n, iterations E and memories K; track the runs in MLflow."""
    from personaagent.datasets.lamp.tasks import task_named
    from personaagent.experiments.harness.cells import Axes, parse_axis
    from personaagent.experiments.harness.prompts import Prompts, load_prompts
    from personaagent.experiments.harness.settings import DEFAULT_TRACKING, StudyOptions
    from personaagent.programs.errors import InputError
    from personaagent.programs.lm.make import OFFLINE

    if profile not in ("on", "off"):
        raise InputError(f"--profile must be on or off, but got {profile!r}")
    names = tuple(dict.fromkeys(task_named(part.strip()).name for part in tasks.split(",")))
    options = StudyOptions(
        script="scale",
        tasks=names,
        axes=Axes(
            parse_axis("--batch-sizes", batch_sizes),
            parse_axis("--iterations", iterations),
            parse_axis("--memories", memories),
        ),
        seeds=parse_axis("--seeds", seeds),
        data=data,
        users=users,
        queries_per_user=queries_per_user or None,
        profile=profile == "on",
        wikipedia=wikipedia or ("off" if lm == OFFLINE else "on"),
        control=control,  # type: ignore[arg-type]
        prompts=load_prompts(prompts) if prompts else Prompts(),
        data_seed=data_seed,
        lm=lm,
        api_base=api_base,
        align_lm=align_lm,
        align_api_base=align_api_base,
        temperature=temperature,
        timeout_seconds=timeout_seconds,
        workers=workers if workers is not None else (1 if lm == OFFLINE else 8),
        max_calls=max_calls,
        out=out,
        tracking=tracking or DEFAULT_TRACKING,
        trace_samples=trace_samples,
        grid=grid,
        search=search,
        retry_failed=retry_failed,
        dry_run=dry_run,
        command=tuple(sys.argv[1:]),
    )
    raise typer.Exit(command.run_study(options))


if __name__ == "__main__":
    command.main(application)
