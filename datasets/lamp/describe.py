"""What a folder of LaMP files holds: sizes, answers, dates, duplicates, and what would leak."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from personaagent.datasets.lamp.citation import SURROGATE_NOTE
from personaagent.datasets.lamp.layout import Files, find_files
from personaagent.datasets.lamp.official import SPLITS, outputs_file, questions_file
from personaagent.datasets.lamp.oppu import HISTORY_FILE
from personaagent.datasets.lamp.records import stream
from personaagent.datasets.lamp.source import LampSource, open_lamp
from personaagent.datasets.lamp.tasks import LAMP_1, TASKS, LampTask, task_named
from personaagent.datasets.task import Query, User
from personaagent.programs.errors import InputError

NEAR_DUPLICATE = 0.8
"""Texts of which so large a share of all their words is common to both are near-duplicates (Jaccard)."""
_OWN_TITLE = re.compile(r'title "(.*?)", which reference', re.DOTALL)
_UNCITED = "-"


class Hashes:
    """Hashes of texts and whose they are, 12 bytes each: of millions, all texts would not fit into memory."""

    def __init__(self) -> None:
        self._hashes, self._users = array("q"), array("i")

    def add(self, text: str, user: int) -> None:
        self._hashes.append(hash(text))
        self._users.append(user)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(hashes, users), in the order added."""
        return np.array(self._hashes, dtype=np.int64), np.array(self._users, dtype=np.int64)

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(hashes, users), sorted, each pair once."""
        hashes, users = self.arrays()
        if not len(hashes):
            return hashes, users
        order = np.lexsort((users, hashes))
        hashes, users = hashes[order], users[order]
        first = np.r_[True, (hashes[1:] != hashes[:-1]) | (users[1:] != users[:-1])]
        return hashes[first], users[first]


@dataclass
class Description:
    """What is found in one task's users, item by item."""

    history_sizes: list[int] = field(default_factory=list)
    query_counts: list[int] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """Of the histories; of free text the numbers of words, of LaMP-1 the citations."""
    unknown_answers: Counter[str] = field(default_factory=Counter)
    """Answers in histories that are no label of the task."""
    golds: int = 0
    own_users: bool = True
    """Whether each question is a user of its own, as in the user-based split."""
    first_date: str = ""
    last_date: str = ""
    undated: int = 0
    tied: int = 0
    """Items that share their date with another one of their user."""
    repeated: int = 0
    """Items whose text an earlier item of their user has; case and signs do not matter, here and below."""
    contradicting: int = 0
    """Those of them whose answer is another one."""
    queries_repeated: int = 0
    """Queries whose text an earlier query of their user has."""
    in_history_by_id: int = 0
    """Queries that are in their own user's history."""
    in_history_by_text: int = 0
    """Queries, beside those, whose text is an item's of their own user."""
    nearly_in_history: int = 0
    """Queries, beside those, of which an item of their own user is a near-duplicate."""
    same_gold_by_text: int = 0
    """Those of `in_history_by_text` whose gold is the answer of such an item."""
    same_gold_nearly: int = 0
    """The same of `nearly_in_history`."""
    _items: Hashes = field(default_factory=Hashes)
    _queries: Hashes = field(default_factory=Hashes)

    def add(self, user: User, task: LampTask) -> None:
        """Count a user in."""
        self.history_sizes.append(len(user.history))
        self.query_counts.append(len(user.queries))
        self.golds += sum(bool(query.gold) for query in user.queries)
        self.own_users &= [query.id for query in user.queries] == [user.user_id]
        for one in user.history:
            self.answers[one.response if task.labels else str(len(one.response.split()))] += 1
            if task.labels and not task.derived and one.response not in task.labels:
                self.unknown_answers[one.response] += 1
        dates = Counter(one.timestamp for one in user.history if one.timestamp)
        self.undated += len(user.history) - dates.total()
        self.tied += sum(count for count in dates.values() if count > 1)
        if dates:
            self.first_date = min(filter(None, (self.first_date, *dates)))
            self.last_date = max(self.last_date, *dates)
        self._add_duplicates(user, task)

    def _add_duplicates(self, user: User, task: LampTask) -> None:
        ids = {one.id for one in user.history}
        answers: dict[str, list[str]] = {}
        number = len(self.history_sizes)
        for one in user.history:
            text = _text(one.query, task)
            self._items.add(text, number)
            if text in answers:
                self.repeated += 1
                self.contradicting += answers[text][0] != one.response
            answers.setdefault(text, []).append(one.response)
        asked: set[str] = set()
        alone: dict[str, list[str]] = {}
        for query in user.queries:
            text, gold = _text(query.input, task), _gold(query, task)
            self._queries.add(text, number)
            self.queries_repeated += text in asked
            asked.add(text)
            if query.id in ids:
                self.in_history_by_id += 1
            elif text in answers:
                self.in_history_by_text += 1
                self.same_gold_by_text += gold in answers[text]
            else:
                alone.setdefault(text, []).append(gold)
        near = _nearest(alone, answers)
        for text, golds in alone.items():
            self.nearly_in_history += len(golds) if text in near else 0
            self.same_gold_nearly += sum(gold in near.get(text, ()) for gold in golds)

    def texts_of_several_users(self) -> int:
        """Texts that items of more than one user have."""
        hashes, _ = self._items.pairs()
        return int((np.unique(hashes, return_counts=True)[1] > 1).sum())

    def queries_of_others(self) -> int:
        """Queries whose text is an item's of another user."""
        hashes, users = self._items.pairs()
        asked, askers = self._queries.arrays()
        everywhere = np.searchsorted(hashes, asked, "right") - np.searchsorted(hashes, asked, "left")
        shared = np.isin(hashes, asked)
        own = set(zip(hashes[shared].tolist(), users[shared].tolist(), strict=True))
        mine = np.array([pair in own for pair in zip(asked.tolist(), askers.tolist(), strict=True)], dtype=int)
        return int((everywhere > mine).sum())


def print_description(folder: Path, console: Console, split: str | None = None, task: str | None = None) -> None:
    """What a folder holds, a table for each task and split that is found in it.

    Args:
        folder: as for `find_files`.
        console: where to.
        split: `train`, `dev` or `test`; default: all there are.
        task: a task's name; default: all there are.

    Raises:
        InputError: if there is none, or a file is wrong.
        StoreError: if the cache of the files cannot be read or written.
    """
    names = [task_named(task).name] if task else list(TASKS)
    found = list(_found(folder, names, [split] if split else list(SPLITS), known=task is not None))
    for lamp_task, one_split in found:
        _print(open_lamp(folder, lamp_task, one_split), one_split, console)


def _found(folder: Path, names: list[str], splits: list[str], known: bool) -> Iterator[tuple[LampTask, str]]:
    """Each pair of files once. A folder of a split does not say whose it is: its first question does."""
    seen: set[tuple[Path, str]] = set()
    unknown: Path | None = None
    problems: list[InputError] = []
    for name in names:
        for split in splits:
            try:
                files = find_files(folder, TASKS[name], split)
            except InputError as error:
                problems.append(error)
                continue
            if (files.main, name) in seen:
                continue
            if known or _asks(files, TASKS[name]):
                seen.add((files.main, name))
                yield TASKS[name], split
            else:
                unknown = files.main
    if seen:
        return
    if unknown is not None:
        raise InputError(
            f"{unknown}: the first question is worded as none of a LaMP task, or there is none; say whose it is with "
            f"--task"
        )
    # Of a single task, of the folder itself, or of the split: what was searched for the others matters less.
    telling = problems if known else [error for error in problems if "no files of" not in str(error)]
    if telling:
        raise telling[0]
    questions = ", ".join(map(questions_file, splits))
    raise InputError(
        f"{folder}: no LaMP files. Looked for {HISTORY_FILE} (OPPU's layout) and for {questions} (the official "
        f"layout), here and in the folders of every task"
    )


def _asks(files: Files, task: LampTask) -> bool:
    """Whether the first question of a file is one of the task's."""
    first = next(stream(files.main, "item.query.item.input" if files.layout == "oppu" else "item.input"), "")
    return task.asks(str(first))


def _print(source: LampSource, split: str, console: Console) -> None:
    task, d = source.task, Description()
    for user in _users(source):
        d.add(user, task)
    kind = "OPPU's layout" if source.files.layout == "oppu" else f"official layout, {split}"
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, lines in _rows(d, source, split).items():
        table.add_row(name, Text("\n".join(lines)))
    # As text: a path or a label may hold what rich takes for markup.
    console.print(Text(f"\n{task.title} ({task.name}; {kind})", style="bold"))
    console.print(Text(f"{source.files.main}, {source.files.main.stat().st_size / 1e6:,.1f} MB"), soft_wrap=True)
    console.print(table)
    notes = [SURROGATE_NOTE] if _UNCITED in d.answers and task.derived else []
    for note in [*notes, *source.notes]:
        console.print(Text(f"note: {note}"))


def _users(source: LampSource) -> Iterator[User]:
    """A source's users. LaMP-1's are as the files have them: to describe a file no references need be drawn."""
    if source.task is not LAMP_1:
        yield from source.users()
        return
    for user_id in source.user_ids:
        record = source.record(user_id)
        history = []
        for number, item in enumerate(record.items):
            cited = {"reference_1": "-", "reference_2": "-", "related": str(item.get("citation") or _UNCITED)}
            history.append(source.task.interaction(user_id, {**item, **cited}, number))
        yield User(user_id, tuple(history), tuple(Query(q.id, q.input, q.gold) for q in record.queries))


def _rows(d: Description, source: LampSource, split: str) -> dict[str, list[str]]:
    """What is printed: lines by the name that stands before them. What there is none of is left out."""
    items, queries = sum(d.history_sizes), sum(d.query_counts)
    golds = f"{_share(d.golds, queries)} with gold"
    if d.golds == queries:
        golds = "all with gold"
    elif source.files.golds is None and source.files.layout == "official":
        golds = f"no {outputs_file(split)}: nothing can be scored"
    span = f"{d.first_date} to {d.last_date}" if d.first_date else "none: the order in the file is that of time"
    undated = f"; {_share(d.undated, items, 'item')} without one" if d.undated and d.first_date else ""
    ties = f"{_share(d.tied, items, 'item')} with the date of another item of their user"
    other = f", {d.contradicting:,} answered otherwise" if d.contradicting else ""
    several = d.texts_of_several_users()
    duplicates = [
        (d.repeated, f"{_share(d.repeated, items, 'item')} with an earlier item's text{other}"),
        (d.queries_repeated, f"{_share(d.queries_repeated, queries, 'query')} with an earlier query's text"),
        (several, f"{_count(several, 'text')} in the histories of several users"),
    ]
    # Of questions with a profile each; see `LampSource.record`.
    common = "" if d.own_users or source.files.layout == "oppu" else " common to a user's questions"
    return {
        "users": [f"{len(d.history_sizes):,}" + (", each question its own" if d.own_users else "")],
        "history": [f"{_count(items, 'item')}{common}; per user {_spread(d.history_sizes)}"],
        "queries": [f"{queries:,}; per user {_spread(d.query_counts)}; {golds}"],
        "answers": _answers(d, source.task, items),
        "dates": [span + undated],
        "ties": [ties if d.tied else "none"],
        "duplicates": _those_there(duplicates) or ["none"],
        "leaks": _leaks(d, queries),
    }


def _leaks(d: Description, queries: int) -> list[str]:
    of_others = d.queries_of_others()
    by_text, nearly = (
        f", {same:,} answered alike" if same else "" for same in (d.same_gold_by_text, d.same_gold_nearly)
    )
    lines = (
        (d.in_history_by_id, "in the user's own history by id"),
        (d.in_history_by_text, f"in the user's own history by text{by_text}"),
        (d.nearly_in_history, f"nearly in the user's history{nearly}"),
        (of_others, "in another user's history by text"),
    )
    there = _those_there((number, f"{_share(number, queries, 'query')} {said}") for number, said in lines)
    return there or ["none: no query is in a history by id, by text or nearly"]


def _those_there(lines: Iterable[tuple[int, str]]) -> list[str]:
    return [line for number, line in lines if number]


def _answers(d: Description, task: LampTask, items: int) -> list[str]:
    if not task.labels:
        lengths = sorted(int(n) for n, count in d.answers.items() for _ in range(count))
        return [f"free text; words {_spread(lengths)}"]
    if task.derived:
        cited = items - d.answers[_UNCITED]
        return [f"drawn: [1] or [2]; {_share(cited, items, 'item') if cited else 'no item'} with a citation"]
    most = ", ".join(f"{label} ({count / items:.0%})" for label, count in d.answers.most_common(3))
    more = ", ..." if len(d.answers) > 3 else ""
    seen = len(set(d.answers) & set(task.labels))
    lines = [f"{seen} of {len(task.labels)} labels: {most}{more}"]
    if d.unknown_answers:
        names = ", ".join(repr(name) for name, _ in d.unknown_answers.most_common(3))
        unknown = _share(d.unknown_answers.total(), items, "item")
        lines.append(f"{unknown} with no label of the task, such as {names}")
    return lines


def _spread(numbers: list[int]) -> str:
    if not numbers:
        return "none"
    if min(numbers) == max(numbers):
        return f"{min(numbers):,}"
    return f"{min(numbers):,} to {max(numbers):,}, median {median(numbers):,.0f}"


def _count(number: int, noun: str) -> str:
    plural = "queries" if noun == "query" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _share(part: int, whole: int, noun: str = "") -> str:
    """A number and its percentage, which is neither 0 nor 100 unless the part is none or all."""
    said = _count(part, noun) if noun else f"{part:,}"
    if not whole:
        return said
    percent = f"{part / whole:.1%}"
    if 0 < part < whole:
        percent = {"0.0%": "<0.1%", "100.0%": ">99.9%"}.get(percent, percent)
    return f"{said} ({percent})"


def _text(question: str, task: LampTask) -> str:
    """What tells one question from another, without case and signs: of LaMP-1 the author's own title."""
    title = _OWN_TITLE.search(question) if task is LAMP_1 else None
    return _plain(title[1] if title else task.retrieval_query(question))


def _gold(query: Query, task: LampTask) -> str:
    """A query's gold as the histories have it: of LaMP-1 the reference's title."""
    found = re.search(task.query_pattern, query.input, re.DOTALL) if task is LAMP_1 else None
    return found[int(query.gold.strip("[]"))] if found and query.gold else query.gold


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold())) or text.strip()  # of signs alone: as they are


def _nearest(asked: Mapping[str, object], answers: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """{text asked: the answers of its near-duplicates}. Only the words of what is asked are all in memory."""
    words = [(text, frozenset(text.split())) for text in asked]
    found: dict[str, list[str]] = {}
    for other, those in answers.items() if words else ():
        own = frozenset(other.split())
        for text, of_text in words:
            if _near(of_text, own):
                found.setdefault(text, []).extend(those)
    return found


def _near(one: frozenset[str], other: frozenset[str]) -> bool:
    small, large = sorted((len(one), len(other)))
    if small < NEAR_DUPLICATE * large or not small:
        return False
    common = len(one & other)
    return common >= NEAR_DUPLICATE * (small + large - common)
