"""LaMP's official layout: `{split}_questions.json` and `{split}_outputs.json`, a record a question.

In the time-based split a record has a `user_id` and users have several questions; in the user-based one each question
is a user of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from personaagent.datasets.lamp.cache import StoredQuery, StoredRow
from personaagent.datasets.lamp.checks import a_list, asked_text, checked_items, golds_by_id
from personaagent.datasets.lamp.records import an_object, required, stream
from personaagent.datasets.lamp.tasks import TASKS, LampTask
from personaagent.programs.errors import InputError

SPLITS = ("train", "dev", "test")

_OWN_NAMES = {"lamp-2m": {"LAMP_2", "LAMP_2M"}, "lamp-2n": {"LAMP_2", "LAMP_2N", "LAMP_2_OLD"}}
"""What an outputs file may call its task, where that is not its name: `LaMP_2` has been both."""


def check_split(split: str) -> None:
    """See that a split is one.

    Raises:
        InputError: naming the three.
    """
    if split not in SPLITS:
        raise InputError(f"--split must be train, dev or test, but got {split!r}")


def questions_file(split: str) -> str:
    """The name of a split's questions."""
    return f"{split}_questions.json"


def outputs_file(split: str) -> str:
    """The name of a split's golds."""
    return f"{split}_outputs.json"


def official_rows(path: Path, task: LampTask, outputs: Path | None) -> Iterator[StoredRow]:
    """The questions of a file, checked, each with its own profile.

    Args:
        path: of the questions.
        task: whose items these are.
        outputs: the golds; without them every gold is empty.

    Raises:
        InputError: naming file, question, item, field and value; or if the ids of questions and golds differ.
    """
    golds: Mapping[str, str] | None = None
    if outputs is not None:
        _check_task(outputs, task)
        golds = golds_by_id(outputs, task)
    seen: set[str] = set()
    without: list[str] = []
    by_user: bool | None = None
    for index, entry in enumerate(a_list(path, "questions")):
        place = f"{path}: question at index {index}"
        entry = an_object(entry, place)
        query_id = str(required(entry, "id", (str, int), place))
        place += f" (id {query_id!r})"
        if query_id in seen:
            raise InputError(f"{place}: this id occurs twice")
        seen.add(query_id)
        if by_user is None:
            by_user = "user_id" in entry
        user_id = str(required(entry, "user_id", (str, int), place)) if by_user else query_id
        if not by_user and "user_id" in entry:
            raise InputError(f"{place}: field 'user_id' is there, and not in the questions before it")
        text = asked_text(entry, task, place)
        items = checked_items(entry, task, place)
        if golds is not None and query_id not in golds:
            without.append(query_id)
        yield StoredRow(user_id, tuple(items), (StoredQuery(query_id, text, (golds or {}).get(query_id, "")),))
    if golds is not None and (without or seen != set(golds)):
        extra = sorted(set(golds) - seen)
        parts = [f"{len(without)} questions have no gold, such as id {without[0]!r}"] if without else []
        parts += [f"{len(extra)} golds have no question, such as id {extra[0]!r}"] if extra else []
        raise InputError(
            f"{path} and {outputs}: the ids do not match: {'; '.join(parts)}. Are the two files of one download?"
        )


def _check_task(outputs: Path, task: LampTask) -> None:
    """Refuse another task's file: movies and news are both found under LaMP_2."""
    said = next(stream(outputs, "task"), None)
    if not isinstance(said, str):
        return
    name = said.strip().upper().replace("-", "_")
    names = {other: _OWN_NAMES.get(other, {other.upper().replace("-", "_")}) for other in TASKS}
    if name not in names[task.name] and any(name in of for of in names.values()):
        raise InputError(f"{outputs}: field 'task' is {said!r}: these are not the answers of {task.name}")
