"""LaMP's files in both layouts, small, and a cache of each test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from personaagent.datasets.lamp.oppu import HISTORY_FILE, LABEL_FILE, OTHERS_FILE
from personaagent.datasets.lamp.tasks import TASKS, LampTask

_TEXT = {"citation": "Paper cited by {}", "abstract": "Abstract {}.", "title": "Title {}", "description": "Film {}."}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `cached` keeps what it makes; nothing is there yet."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "personaagent"


def _item(task: LampTask, key: str, **changes: Any) -> dict[str, Any]:
    names = [name for name in task.fields if name not in task.derived]
    made = {name: _TEXT.get(name, "Text {}.").format(key) for name in names}
    if task.labels and not task.derived:
        made[task.answer_field] = task.labels[0]
    return {**made, "id": key, "date": "2010-01-01", **changes}


@pytest.fixture
def item() -> Callable[..., dict[str, Any]]:
    """A profile item of a task, by its id: `item(task, "a", date="2011-01-01")`."""
    return _item


@pytest.fixture
def question() -> Callable[..., dict[str, Any]]:
    """A question of the official layout: `question(task, "q1", ["a", "b"], user="7")`; None: user-based."""

    def make(task: LampTask, key: str, items: Sequence[str | dict[str, Any]], user: Any = None) -> dict[str, Any]:
        profile = [_item(task, one) if isinstance(one, str) else one for one in items]
        values = {name: f"The {name} of {key}" for name in task.fields}
        owner = {} if user is None else {"user_id": user}
        return {"id": key, "input": task.question.format_map(values), "profile": profile, **owner}

    return make


@pytest.fixture
def official() -> Callable[..., Path]:
    """Writes a split of the official layout; `golds` by query id, in this order; None: no outputs."""

    def write(
        folder: Path, questions: Any, golds: Mapping[str, Any] | None = None, split: str = "dev", task: str = "LaMP_3"
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}_questions.json").write_text(json.dumps(questions), encoding="utf-8")
        if golds is not None:
            outputs = {"task": task, "golds": [{"id": key, "output": gold} for key, gold in golds.items()]}
            (folder / f"{split}_outputs.json").write_text(json.dumps(outputs), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def oppu() -> Callable[..., Path]:
    """Writes a task of OPPU's layout; `golds` by query id; None: no label file."""

    def write(folder: Path, users: Any, golds: Mapping[str, Any] | None = None, others: Any = None) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / HISTORY_FILE).write_text(json.dumps(users), encoding="utf-8")
        if golds is not None:
            labels = {"task": "LaMP", "golds": [{"id": key, "output": gold} for key, gold in golds.items()]}
            (folder / LABEL_FILE).write_text(json.dumps(labels), encoding="utf-8")
        if others is not None:
            (folder / OTHERS_FILE).write_text(json.dumps(others), encoding="utf-8")
        return folder

    return write


@pytest.fixture(params=sorted(TASKS))
def each_task(request: pytest.FixtureRequest) -> LampTask:
    """Every task in turn."""
    return TASKS[request.param]
