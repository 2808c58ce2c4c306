"""Where a task's files are, under any folder that a person would name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from personaagent.datasets.lamp.official import SPLITS, check_split, outputs_file, questions_file
from personaagent.datasets.lamp.oppu import HISTORY_FILE, LABEL_FILE, OTHERS_FILE
from personaagent.datasets.lamp.records import unreadable
from personaagent.datasets.lamp.tasks import LampTask
from personaagent.programs.errors import InputError


@dataclass(frozen=True)
class Files:
    """A task's files."""

    layout: Literal["oppu", "official"]
    main: Path
    """Of the users, or of the questions."""
    golds: Path | None
    others: Path | None
    """OPPU's file of other users, who are not asked; of a task that draws from them."""

    @property
    def read(self) -> list[Path]:
        """What decides on users, histories, queries and golds."""
        return [path for path in (self.main, self.golds, self.others) if path is not None]


def find_files(folder: Path, task: LampTask, split: str = "dev") -> Files:
    """A task's files in OPPU's or the official layout.

    Args:
        folder: of the split (`.../dev`), of the task, or a root that holds several tasks; the time-based split of
            such a root is preferred to the user-based one.
        task: OPPU's folder and the official one are known to it.
        split: `train`, `dev` or `test`; OPPU's layout has none.

    Raises:
        InputError: if the folder cannot be read, or holds no such file: where was looked, and what there is.
    """
    check_split(split)
    try:
        if not folder.is_dir():
            said = "is a file" if folder.exists() else "no such folder"
            raise InputError(f"{folder}: {said}; --data takes a folder of LaMP files, see docs/lamp.md")
    except OSError as error:
        raise unreadable(folder, error) from None
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: the folder cannot be read: permission denied; chmod u+rx gives it")
    for place in (folder, folder / task.folder):
        if exists(place / HISTORY_FILE):
            labels, others = place / LABEL_FILE, place / OTHERS_FILE
            drawn = bool(task.derived) and exists(others)
            return Files("oppu", place / HISTORY_FILE, labels if exists(labels) else None, others if drawn else None)
    places = _official_places(folder, task)
    for place in places:
        for inside in (place, place / split):
            if exists(inside / questions_file(split)):
                golds = inside / outputs_file(split)
                return Files("official", inside / questions_file(split), golds if exists(golds) else None, None)
    there = sorted({s for place in places for s in SPLITS for q in (place, place / s) if exists(q / questions_file(s))})
    if there:
        raise InputError(f"{folder}: no {questions_file(split)} of {task.name}; give --split {' or '.join(there)}")
    raise InputError(
        f"{folder}: no files of {task.name}. Looked for {HISTORY_FILE} (OPPU's layout) here and in {task.folder}/, and "
        f"for {questions_file(split)} (the official layout) here, in {split}/, and in {task.directory}/{split}/"
    )


def _official_places(folder: Path, task: LampTask) -> list[Path]:
    """Where a task's folder may be, the nearest first; LaMP-2M's is inside that of LaMP-2N."""
    inner = Path(task.directory)
    roots = [folder, folder / "time", folder / "user"]
    places = [folder]
    if inner.name != inner.as_posix():
        places.insert(0, folder / inner.name)
    return [*places, *(root / part for root in (roots[1], roots[0], roots[2]) for part in (inner, task.folder))]


def exists(path: Path) -> bool:
    """Whether a file is there.

    Raises:
        InputError: if that cannot be found out, such as in a folder that may not be entered.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise unreadable(path, error) from None
