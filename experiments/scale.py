"""Test-time scaling (the paper's section 3.5): accuracy over batch size n, iterations E and memories K.

python experiments/scale.py                  the sample users and the offline reader: no key, no network
python experiments/scale.py --help           everything else
"""

from __future__ import annotations

import sys

from personaagent.experiments.harness import command  # first: it sets the environment

import typer  # isort: skip

from personaagent.experiments.harness import options  # isort: skip

application = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@application.command()
def scale(
    tasks: options.Tasks = "lamp-2m",
    data: options.Data = None,
    split: options.Split = "dev",
    columns: options.Columns = None,
    labels: options.Labels = None,
    users: options.Users = 20,
    users_by: options.UsersBy = "active",
    queries_per_user: options.QueriesPerUser = 3,
    batch_sizes: options.BatchSizes = "0,1,3,5",
    iterations: options.Iterations = "1,2,3,4,5",
    memories: options.Memories = "0,1,4,8",
    grid: options.Grid = False,
    search: options.Search = None,
    seeds: options.Seeds = "0",
    profile: options.Profile = "on",
    wikipedia: options.Wikipedia = None,
    control: options.Control = "none",
    prompts: options.PromptsFile = None,
    data_seed: options.DataSeed = 0,
    lm: options.Lm = "offline",
    api_base: options.ApiBase = None,
    align_lm: options.AlignLm = None,
    align_api_base: options.AlignApiBase = None,
    temperature: options.Temperature = 0.1,
    timeout_seconds: options.TimeoutSeconds = 60.0,
    workers: options.Workers = None,
    max_calls: options.MaxCalls = None,
    retry_failed: options.RetryFailed = False,
    out: options.Out = None,
    tracking: options.Tracking = "sqlite:///runs/mlflow.db",
    trace_samples: options.TraceSamples = 3,
    dry_run: options.DryRun = False,
) -> None:
    """Measure accuracy and F1 over batch size n, iterations E and memories K; track the runs in MLflow."""
    from personaagent.datasets.logs import parse_columns
    from personaagent.datasets.registry import check_task
    from personaagent.experiments.harness.cells import Axes, parse_axis
    from personaagent.experiments.harness.prompts import Prompts, load_prompts
    from personaagent.experiments.harness.settings import StudyOptions
    from personaagent.programs.errors import InputError
    from personaagent.programs.lm.make import OFFLINE

    if profile not in ("on", "off"):
        raise InputError(f"--profile must be on or off, but got {profile!r}")
    offline = lm == OFFLINE
    study = StudyOptions(
        script="scale",
        tasks=tuple(dict.fromkeys(check_task(part.strip()) for part in tasks.split(","))),
        axes=Axes(
            parse_axis("--batch-sizes", batch_sizes),
            parse_axis("--iterations", iterations, most=100),
            parse_axis("--memories", memories),
        ),
        seeds=parse_axis("--seeds", seeds, most=2**31 - 1),
        data=data,
        split=split,
        columns=parse_columns(columns) if columns is not None else None,
        labels=tuple(part.strip() for part in labels.split(",")) if labels is not None else (),
        users=users,
        users_by=users_by,  # type: ignore[arg-type]
        queries_per_user=queries_per_user or None,
        profile=profile == "on",
        wikipedia=wikipedia or ("off" if offline else "on"),
        control=control,  # type: ignore[arg-type]
        prompts=load_prompts(prompts) if prompts else Prompts(),
        data_seed=data_seed,
        lm=lm,
        api_base=api_base,
        align_lm=align_lm,
        align_api_base=align_api_base,
        temperature=temperature,
        timeout_seconds=timeout_seconds,
        workers=workers if workers is not None else (1 if offline else 8),
        max_calls=max_calls,
        out=out,
        tracking=tracking,
        trace_samples=trace_samples,
        grid=grid,
        search=search,
        retry_failed=retry_failed,
        dry_run=dry_run,
        command=tuple(sys.argv[1:]),
    )
    raise typer.Exit(command.run_study(study))


if __name__ == "__main__":
    command.main(application)
