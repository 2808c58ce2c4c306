"""Synthetic users of any LaMP task, small, as files of each layout."""

from __future__ import annotations

import json
from pathlib import Path

from personaagent.datasets.lamp.tasks import LampTask

SYNTHETIC_USERS, ITEMS, QUERIES = ("ann", "bob", "cleo"), 5, 2


def item(task: LampTask, user: str, number: int) -> dict[str, str]:
    """A synthetic profile item of any task."""
    fields = {
        "id": f"{user}-{number}",
        "title": f"Notes {number} by {user}",
        "abstract": f"We study thing {number} as {user} would.",
        "text": f"A text {number} about what {user} saw.",
        "description": f"A film {number} that {user} saw.",
        "date": f"2010-01-{number + 1:02d}",
    }
    names = {*task.fields, "date"} - set(task.derived)
    values = {name: fields[name] for name in names if name in fields}
    if task.answer_field not in fields and task.labels and not task.derived:
        values[task.answer_field] = task.labels[number % 3]
    return values


def question(task: LampTask, user: str, number: int) -> dict[str, str]:
    """(id, input, gold) of a synthetic query."""
    about = item(task, user, ITEMS + number)
    references = {"reference_1": f"Other notes of {user}", "reference_2": "Something else", "related": "[1]"}
    values = {**about, **(references if task.derived else {})}
    return {
        "id": f"{user}-q{number}",
        "input": task.question.format_map(values),
        "gold": values[task.answer_field],
    }


def write_synthetic(root: Path, task: LampTask, layout: str) -> Path:
    """Synthetic users of a task, as a root folder of a layout: oppu, time or user. It may hold other tasks."""
    profiles = {user: [item(task, user, number) for number in range(ITEMS)] for user in SYNTHETIC_USERS}
    queries = {user: [question(task, user, number) for number in range(QUERIES)] for user in SYNTHETIC_USERS}
    if layout == "oppu":
        folder = root / task.folder
        folder.mkdir(parents=True)
        users = [{"user_id": user, "profile": profiles[user], "query": queries[user]} for user in SYNTHETIC_USERS]
        (folder / "user_top_100_history.json").write_text(json.dumps(users))
        return root
    folder = root / ("time" if layout == "time" else "") / task.directory / "dev"
    folder.mkdir(parents=True)
    asked = [
        {
            "id": q["id"],
            "input": q["input"],
            "profile": profiles[user],
            **({"user_id": user} if layout == "time" else {}),
        }
        for user in SYNTHETIC_USERS
        for q in queries[user]
    ]
    golds = [{"id": q["id"], "output": q["gold"]} for user in SYNTHETIC_USERS for q in queries[user]]
    (folder / "dev_questions.json").write_text(json.dumps(asked))
    (folder / "dev_outputs.json").write_text(json.dumps({"task": task.directory.split("/")[0], "golds": golds}))
    return root
