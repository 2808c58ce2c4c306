"""`python -m personaagent.datasets.lamp`: describe, download and convert LaMP's files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from rich.console import Console

from personaagent.datasets.lamp.convert import Layout, convert
from personaagent.datasets.lamp.describe import print_description
from personaagent.datasets.lamp.download import BASE_URL, download
from personaagent.datasets.lamp.source import open_lamp
from personaagent.datasets.lamp.tasks import task_named
from personaagent.programs.errors import InputError, PersonaAgentError

EXIT_BAD_INPUT = 2

application = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, no_args_is_help=True, help=__doc__
)

_Task = Annotated[str, typer.Option("--task", help="Such as lamp-3.")]
_Split = Annotated[str, typer.Option("--split", help="train, dev or test.")]


@application.command("describe")
def describe_command(
    folder: Annotated[Path, typer.Argument(readable=False, help="Of a split, of a task, or a root of several.")],
    task: Annotated[str | None, typer.Option("--task", help="Default: all that are found.")] = None,
    split: Annotated[str | None, typer.Option("--split", help="train, dev or test. Default: all.")] = None,
) -> None:
    """Users, histories, answers, ties, duplicates and leaks.

    Texts are compared without case and signs; a query is nearly in a history if 80 % of all words of it and of an
    item are common to both.
    """
    print_description(folder, Console(), split, task)


@application.command("download")
def download_command(
    to: Annotated[Path, typer.Argument(help="A root folder, which scale.py --data then takes.")],
    tasks: Annotated[str, typer.Option("--tasks", help="Comma-separated, such as lamp-2m,lamp-3.")],
    splits: Annotated[str, typer.Option("--splits", help="train, dev or test, comma-separated.")] = "dev",
    layout: Annotated[str, typer.Option("--layout", help="time or user: the time-based or user-based split.")] = "time",
    base_url: Annotated[str, typer.Option("--base-url", help="Where LaMP is.")] = BASE_URL,
) -> None:
    """The official files. The same command goes on where it was interrupted."""
    if layout not in ("time", "user"):
        raise InputError(f"--layout must be time or user, but got {layout!r}")
    chosen = [task_named(part.strip()) for part in tasks.split(",")]
    for task in chosen:
        for split in splits.split(","):
            kind = cast("Literal['time', 'user']", layout)
            for path in download(task.directory, split.strip(), to, layout=kind, base_url=base_url):
                print(path)


@application.command("convert")
def convert_command(
    folder: Annotated[Path, typer.Argument(help="As for describe.")],
    to: Annotated[Path, typer.Argument(help="A root folder, which is made.")],
    task: _Task,
    layout: Annotated[str, typer.Option("--to", help="oppu or official.")],
    split: _Split = "dev",
) -> None:
    """From one layout to the other.

    OPPU's has a record a user, the official one a record a question.
    """
    if layout not in ("oppu", "official"):
        raise InputError(f"--to must be oppu or official, but got {layout!r}")  # before a large file is read
    source = open_lamp(folder, task_named(task), split)
    for path in convert(source, to, cast("Layout", layout), split):
        print(path)


def main() -> None:
    """Run; bad input is one message and exit code 2."""
    try:
        application()
    except PersonaAgentError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
