"""From a task's name and options to its users."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from personaagent.datasets.lamp.source import open_lamp, users_from_entries
from personaagent.datasets.lamp.tasks import LAMP_2M, TASKS, task_named
from personaagent.datasets.logs import LOGS, open_logs
from personaagent.datasets.source import Source
from personaagent.programs.errors import InputError

SAMPLE_USERS = "sample users"


def check_task(name: str) -> str:
    """A task's name.

    Raises:
        InputError: naming the tasks there are.
    """
    if name != LOGS and name not in TASKS:
        raise InputError(f"unknown task {name!r}; the tasks are: {', '.join([*sorted(TASKS), LOGS])}")
    return name


def open_source(
    name: str,
    data: Path | None = None,
    split: str = "dev",
    data_seed: int = 0,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] = (),
) -> Source:
    """The users of a task.

    Args:
        name: of a LaMP task, or `logs`.
        data: folder or file; None: the sample users, which are for lamp-2m alone.
        split: of LaMP's official layout.
        data_seed: of what is drawn: the sample users, LaMP-1's references.
        columns, labels: of `logs`; see `open_logs`.

    Raises:
        InputError: if the data are missing or wrong.
        StoreError: if the cache of LaMP's files cannot be written.
    """
    check_task(name)
    if data is not None:
        if name == LOGS:
            return open_logs(data, columns, labels)
        return open_lamp(data, task_named(name), split, data_seed)
    if name != LAMP_2M.name:
        what = "a log file" if name == LOGS else "a folder"
        raise InputError(f"--tasks {name} needs --data, {what}: the {SAMPLE_USERS} are for lamp-2m only")
    from personaagent.datasets.sample import sample_users

    entries: list[Mapping[str, Any]] = [*sample_users(data_seed)]
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    return users_from_entries(entries, LAMP_2M, SAMPLE_USERS, digest)
