"""The command-line options that every script takes, declared once: `users: options.Users = 20`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# What is studied, and on whom.
Tasks = Annotated[str, typer.Option("--tasks", help="Tasks, comma-separated.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", readable=False, help="LaMP's files (official or OPPU's), or a log file. Default: the sample users."
    ),
]
Split = Annotated[str, typer.Option("--split", help="train, dev or test, of LaMP's official layout.")]
Columns = Annotated[
    str | None,
    typer.Option("--columns", help="Of --tasks logs: user=...,query=...,response=...[,time=...][,id=...]."),
]
Labels = Annotated[
    str | None, typer.Option("--labels", help="Of --tasks logs: the possible answers. Default: free text.")
]
Users = Annotated[int, typer.Option("--users", help="So many users, chosen by --users-by.")]
UsersBy = Annotated[
    str, typer.Option("--users-by", help="active: the longest histories; random: drawn by --data-seed.")
]
QueriesPerUser = Annotated[
    int, typer.Option("--queries-per-user", help="The first so many queries after the history; 0: all there are.")
]
DataSeed = Annotated[int, typer.Option("--data-seed", help="Seed of everything drawn from data.")]

# Axes.
BatchSizes = Annotated[
    str, typer.Option("--batch-sizes", help="Axis n: interactions simulated in each alignment step; 0: none.")
]
Iterations = Annotated[str, typer.Option("--iterations", help="Axis E: alignment steps.")]
Memories = Annotated[str, typer.Option("--memories", help="Axis K: interactions that recall returns; 0: no recall.")]
Grid = Annotated[
    bool, typer.Option("--grid", help="The product of the axes. Default: one at a time around n=3, E=1, K=4.")
]
Search = Annotated[
    int | None, typer.Option("--search", help="Let Optuna choose so many cells of the product: score up, calls down.")
]
Seeds = Annotated[str, typer.Option("--seeds", help="Axis: seeds of LM sampling.")]

# Settings.
Profile = Annotated[
    str, typer.Option("--profile", help="on or off: start personas with the semantic memory's summary.")
]
Wikipedia = Annotated[
    str | None,
    typer.Option(
        "--wikipedia", help="on, off, or a MediaWiki API's URL. Default: off with the offline reader, else on."
    ),
]
Control = Annotated[
    str, typer.Option("--control", help="none, or swap: every user is served with another's memory and persona.")
]
PromptsFile = Annotated[
    Path | None, typer.Option("--prompts", help="YAML file of prompts in place of the built-in ones.")
]

# Language models.
Lm = Annotated[
    str, typer.Option("--lm", help="DSPy model string; `offline` is the offline reader, which is no language model.")
]
ApiBase = Annotated[str | None, typer.Option("--api-base", help="URL of an OpenAI-compatible server.")]
AlignLm = Annotated[str | None, typer.Option("--align-lm", help="LM of gradients and updates. Default: as --lm.")]
AlignApiBase = Annotated[str | None, typer.Option("--align-api-base", help="Server of --align-lm.")]
Temperature = Annotated[float, typer.Option("--temperature", help="Of sampling.")]
TimeoutSeconds = Annotated[
    float, typer.Option("--timeout-seconds", help="Of one LM call. A Wikipedia lookup: this, at most 10.")
]

# Running: these may change freely between runs.
Workers = Annotated[
    int | None,
    typer.Option("--workers", help="Most LM calls in flight. Default: 1 with the offline reader, else 8."),
]
MaxCalls = Annotated[
    int | None,
    typer.Option("--max-calls", help="Most LM calls of this run, retries included; the rest waits for the next."),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Ask again what failed in an earlier run.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the study. Default: runs/SCRIPT- and a digest of the settings.")
]
Tracking = Annotated[str, typer.Option("--tracking", help="MLflow tracking URI. Default: what `make ui` opens.")]
TraceSamples = Annotated[int, typer.Option("--trace-samples", help="Samples of each cell that become MLflow traces.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the cells with projected LM calls and tokens, and spend nothing.")
]
