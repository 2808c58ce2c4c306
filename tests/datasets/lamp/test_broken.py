"""Broken input, whatever it is: one line that says where and what to do, exit code 2, and nothing half-made."""

from __future__ import annotations

import errno
import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from personaagent.datasets.lamp.oppu import HISTORY_FILE, LABEL_FILE, OTHERS_FILE
from personaagent.datasets.lamp.source import open_lamp
from personaagent.datasets.lamp.tasks import LAMP_1, LAMP_2M, LAMP_3, LampTask
from personaagent.datasets.registry import open_source
from personaagent.programs.errors import InputError, PersonaAgentError

SCALE = Path(__file__).resolve().parents[3] / "experiments" / "scale.py"
QUESTIONS, OUTPUTS = "dev_questions.json", "dev_outputs.json"


def review(key: str) -> dict[str, Any]:
    return {"id": key, "text": f"Review {key}.", "score": "4", "date": "2012-03-06"}


def reviews() -> dict[str, Any]:
    """A right folder of the time-based split: {file: content}."""
    questions = [
        {"id": f"q{n}", "user_id": n // 2, "input": f"review: {n}", "profile": [review("a"), review("b")]}
        for n in range(4)
    ]
    golds = [{"id": f"q{n}", "output": str(n + 1)} for n in range(4)]
    return {QUESTIONS: questions, OUTPUTS: {"task": "LaMP_3", "golds": golds}}


def movies() -> dict[str, Any]:
    """A right folder of OPPU's."""
    users = [
        {
            "user_id": str(n),
            "profile": [{"id": "a", "description": f"Film {n}.", "tag": "comedy", "date": "2010-01-01"}],
            "query": [{"id": f"q{n}", "input": "?", "gold": "action"}],
        }
        for n in range(3)
    ]
    golds = [{"id": f"q{n}", "output": "action"} for n in range(3)]
    return {HISTORY_FILE: users, LABEL_FILE: {"task": "LaMP_2", "golds": golds}}


def papers() -> dict[str, Any]:
    """A right folder of OPPU's, with citations."""
    users = [
        {
            "user_id": str(n),
            "profile": [{"id": f"p{n}", "title": f"T{n}", "abstract": "A", "date": "2010", "citation": f"C{n}"}],
            "query": [{"id": f"q{n}", "input": "?", "gold": "[1]"}],
        }
        for n in range(3)
    ]
    return {HISTORY_FILE: users}


Files = dict[str, Any]
Change = Callable[[Files], object]


@dataclass
class Broken:
    """A right folder, what breaks it, and what its one line must say."""

    name: str
    change: Change
    said: tuple[str, ...]
    right: Callable[[], Files] = reviews
    task: LampTask = LAMP_3

    def write(self, folder: Path) -> Path:
        files = self.right()
        self.change(files)
        return write(folder, files)


def write(folder: Path, files: Files) -> Path:
    """Values are written as JSON, bytes as they are."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


def oppus(name: str, change: Change, *said: str) -> Broken:
    return Broken(name, change, said, movies, LAMP_2M)


def citing(name: str, change: Change, *said: str) -> Broken:
    return Broken(name, change, said, papers, LAMP_1)


def encoded(name: str, encode: Callable[[bytes], bytes]) -> Change:
    """A file's bytes, changed."""
    return lambda files: files.update({name: encode(json.dumps(files[name], ensure_ascii=False).encode())})


def instead(name: str, content: Any) -> Change:
    return lambda files: files.update({name: content})


def question(change: Change, number: int = 2) -> Change:
    return lambda files: change(files[QUESTIONS][number])


def item(change: Change, number: int = 1) -> Change:
    return question(lambda entry: change(entry["profile"][number]))


def golds(change: Callable[[list[Any]], object]) -> Change:
    return lambda files: change(files[OUTPUTS]["golds"])


def user(change: Change, number: int = 1) -> Change:
    return lambda files: change(files[HISTORY_FILE][number])


def labels(change: Callable[[list[Any]], object]) -> Change:
    return lambda files: change(files[LABEL_FILE]["golds"])


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
PLACE = "question at index 2 (id 'q2')"
USER = "user at index 1 (user_id '1')"

CASES = [
    # Files that are something else.
    Broken("no file", lambda files: files.clear(), ("no files of lamp-3", HISTORY_FILE, QUESTIONS)),
    Broken(
        "another split",
        lambda files: files.update({"test_questions.json": files.pop(QUESTIONS)}),
        ("no dev_questions.json of lamp-3", "--split test"),
    ),
    Broken("empty file", instead(QUESTIONS, b""), (QUESTIONS, "the file is empty", "download it again")),
    Broken("empty outputs", instead(OUTPUTS, b""), (OUTPUTS, "the file is empty")),
    Broken("white space", instead(QUESTIONS, b" \n\n"), (QUESTIONS, "ends too early", "Is the download complete?")),
    Broken("cut short", encoded(QUESTIONS, lambda b: b[:-200]), (QUESTIONS, "too early", "at index 3", "download")),
    Broken("cut by a byte", encoded(QUESTIONS, lambda b: b[:-1]), (QUESTIONS, "too early", "at index 4", "download")),
    Broken("outputs cut short", encoded(OUTPUTS, lambda b: b[:60]), (OUTPUTS, "too early", "after 60 bytes")),
    Broken("gzip", encoded(QUESTIONS, gzip.compress), (QUESTIONS, "gzip", "gunzip")),
    Broken("outputs in gzip", encoded(OUTPUTS, gzip.compress), (OUTPUTS, "gzip", "gunzip")),
    Broken("zip", instead(QUESTIONS, b"PK\x03\x04\x14"), (QUESTIONS, "zip file", "unpack it")),
    Broken("git-lfs pointer", instead(QUESTIONS, LFS), (QUESTIONS, "git-lfs pointer", "git lfs pull")),
    Broken("web page", instead(QUESTIONS, b"\n<!DOCTYPE html>"), (QUESTIONS, "web page", "download the file again")),
    Broken("a message", instead(QUESTIONS, b"Quota exceeded"), (QUESTIONS, "no JSON", "'Quota exceeded'")),
    Broken("UTF-16", encoded(QUESTIONS, lambda b: b.decode().encode("utf-16")), (QUESTIONS, "UTF-16", "save it")),
    Broken("UTF-16, unmarked", encoded(QUESTIONS, lambda b: b.decode().encode("utf-16-le")), (QUESTIONS, "UTF-16")),
    Broken("byte order mark", encoded(QUESTIONS, lambda b: b"\xef\xbb\xbf" + b), (QUESTIONS, "byte order mark")),
    Broken(
        "not UTF-8",
        encoded(QUESTIONS, lambda b: b.replace(b"Review a", b"Caf\xe9 a")),
        (QUESTIONS, "not UTF-8", "at index 0", "save it as UTF-8"),
    ),
    Broken("no text", instead(QUESTIONS, bytes(range(256))), (QUESTIONS, "no text at all")),
    Broken("JSON lines", encoded(QUESTIONS, lambda b: b[1:-1].replace(b"}, {", b"}\n{")), (QUESTIONS, "an object")),
    Broken("no JSON inside", encoded(QUESTIONS, lambda b: b.replace(b'"q3"', b"NaN")), (QUESTIONS, "index 3", "NaN")),
    Broken("something after it", encoded(OUTPUTS, lambda b: b + b"}"), (OUTPUTS, "trailing garbage")),
    Broken("too deep", instead(QUESTIONS, b"[" * 100_000), (QUESTIONS, "one inside the other")),
    Broken("no list", lambda files: files.update({QUESTIONS: {"golds": []}}), (QUESTIONS, "a list of questions")),
    Broken("no question", instead(QUESTIONS, []), (QUESTIONS, "at least one", "an empty list")),
    # Questions.
    Broken("no object", lambda files: files[QUESTIONS].append("x"), ("question at index 4", "found text, 'x'")),
    Broken("no id", question(lambda q: q.pop("id")), ("question at index 2: field 'id' is missing",)),
    Broken("an id twice", question(lambda q: q.update(id="q0")), ("question at index 2 (id 'q0')", "occurs twice")),
    Broken("no user_id", question(lambda q: q.pop("user_id")), (PLACE, "field 'user_id' is missing")),
    Broken("user_id is null", question(lambda q: q.update(user_id=None)), (PLACE, "'user_id' must be", "but is null")),
    Broken("no input", question(lambda q: q.pop("input")), (PLACE, "field 'input' is missing")),
    Broken("input is a number", question(lambda q: q.update(input=3)), (PLACE, "'input' must be text", "number, 3")),
    Broken("no profile", question(lambda q: q.pop("profile")), (PLACE, "field 'profile' is missing")),
    Broken("empty profile", question(lambda q: q.update(profile=[])), (PLACE, "'profile'", "but is an empty list")),
    Broken("profile is text", question(lambda q: q.update(profile="a")), (PLACE, "'profile'", "but is text, 'a'")),
    # Items.
    Broken("item is null", question(lambda q: q["profile"].append(None)), (PLACE, "profile item 2", "but found null")),
    Broken("item without id", item(lambda i: i.pop("id")), (PLACE, "profile item 1: field 'id' is missing")),
    Broken("item without score", item(lambda i: i.pop("score")), (PLACE, "profile item 1: field 'score' is missing")),
    Broken("text is null", item(lambda i: i.update(text=None)), (PLACE, "item 1: field 'text' must be text", "null")),
    Broken("score is blank", item(lambda i: i.update(score=" ")), (PLACE, "item 1: field 'score' must be", "' '")),
    Broken("golds are of two minds", golds(lambda g: g[1].update(output="nine")), (OUTPUTS, "index 1", "'nine'")),
    Broken("score is a list", item(lambda i: i.update(score=[5])), (PLACE, "item 1: field 'score'", "a list")),
    Broken("item id twice", item(lambda i: i.update(id="a")), (PLACE, "profile: id 'a' occurs twice")),
    Broken("no date", item(lambda i: i.update(date="soon")), (PLACE, "'date'", "'soon'", "such as 2007-08-31")),
    Broken("no real date", item(lambda i: i.update(date="2011-02-29")), (PLACE, "item 1: field 'date'", "2011-02-29")),
    Broken("date is null", item(lambda i: i.update(date=None)), (PLACE, "item 1: field 'date'", "None")),
    # Outputs.
    Broken("no golds", instead(OUTPUTS, {"task": "LaMP_3"}), (OUTPUTS, "field 'golds' is missing")),
    Broken("golds alone", lambda files: files.update({OUTPUTS: files[OUTPUTS]["golds"]}), (OUTPUTS, "'golds'", "list")),
    Broken("a gold too few", golds(lambda g: g.pop()), (QUESTIONS, OUTPUTS, "1 questions have no gold", "'q3'")),
    Broken(
        "a gold too many",
        golds(lambda g: g.append({"id": "q9", "output": "1"})),
        (QUESTIONS, OUTPUTS, "1 golds have no question", "'q9'", "of one download?"),
    ),
    Broken("gold without output", golds(lambda g: g[1].pop("output")), (OUTPUTS, "golds at index 1", "'output'")),
    Broken("gold without id", golds(lambda g: g[1].pop("id")), (OUTPUTS, "golds at index 1: field 'id' is missing")),
    Broken("gold twice", golds(lambda g: g.append(g[0])), (OUTPUTS, "golds at index 4: id 'q0' occurs twice")),
    Broken("no rating", golds(lambda g: g[1].update(output="6")), (OUTPUTS, "index 1", "'6' is not a rating", "1, 2")),
    Broken("gold is null", golds(lambda g: g[1].update(output=None)), (OUTPUTS, "index 1", "'output'", "null")),
    Broken("another task", lambda files: files[OUTPUTS].update(task="LaMP_4"), (OUTPUTS, "'LaMP_4'", "not", "lamp-3")),
    Broken(
        "another task's items",
        lambda files: files.pop(OUTPUTS),
        (QUESTIONS, "index 0", "'description' is missing"),
        task=LAMP_2M,
    ),
    # OPPU's layout.
    oppus(
        "OPPU's cut short", encoded(HISTORY_FILE, lambda b: b[: len(b) // 2]), HISTORY_FILE, "too early", "at index 1"
    ),
    oppus("OPPU's labels in gzip", encoded(LABEL_FILE, gzip.compress), LABEL_FILE, "gunzip"),
    oppus("a user twice", user(lambda u: u.update(user_id="0")), "user at index 1", "'0'", "occurs twice"),
    oppus("a user's empty profile", user(lambda u: u.update(profile=[])), USER, "'profile'", "an empty list"),
    oppus("no query", user(lambda u: u.pop("query")), USER, "field 'query' is missing"),
    oppus("query id twice", user(lambda u: u["query"].append(u["query"][0])), USER, "query: id 'q1' occurs twice"),
    oppus("no label", labels(lambda g: g[1].update(output="drama")), LABEL_FILE, "index 1", "'drama'", "sci-fi"),
    oppus("a label too few", labels(lambda g: g.pop()), "query 0 (id 'q2')", LABEL_FILE),
    oppus("a label too many", labels(lambda g: g.append({"id": "x", "output": "action"})), LABEL_FILE, "'x'"),
    citing("a gold of one's own", user(lambda u: u["query"][0].update(gold="[3]")), USER, "'[3]'", "[1]"),
    citing("citation is a list", user(lambda u: u["profile"][0].update(citation=[1])), "'1'", "'citation'", "a list"),
    citing("nobody else", lambda files: files[HISTORY_FILE].__delitem__(slice(1, None)), "'0'", OTHERS_FILE),
    citing("others in gzip", instead(OTHERS_FILE, gzip.compress(b"[]")), OTHERS_FILE, "gunzip"),
]


def half_made(cache: Path) -> list[str]:
    """What is in a cache and neither whole nor a lock."""
    found = cache.rglob("*") if cache.exists() else iter(())
    whole = {folder.parent for folder in cache.rglob("index.json")} if cache.exists() else set()
    return [
        str(path)
        for path in found
        if path.suffix == ".new"
        or not (path.suffix == ".lock" or path == cache / "personaagent" or path in whole or path.parent in whole)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- by the loader ---------------------------------------------------------------------------------


def test_the_folders_are_right_before_they_are_broken(tmp_path: Path) -> None:
    for right, task in ((reviews, LAMP_3), (movies, LAMP_2M), (papers, LAMP_1)):
        source = open_lamp(write(tmp_path / task.name, right()), task)
        assert all(query.gold for user in source.users() for query in user.queries)
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_a_broken_folder_is_one_line_and_leaves_nothing(tmp_path: Path, case: Broken) -> None:
    folder = case.write(tmp_path / "data")
    before = contents(folder)
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            list(open_lamp(folder, case.task).users())
        text = str(caught.value)
        assert text.isprintable() and str(folder) in text and len(text.replace(str(folder), "")) < 400, text
        assert all(part in text for part in case.said), text
    assert contents(folder) == before and half_made(tmp_path / "cache") == []
    right = {reviews: LAMP_3, movies: LAMP_2M, papers: LAMP_1}[case.right]
    assert list(open_lamp(write(tmp_path / "right", case.right()), right).users()), "what is right is still read"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opened = write(tmp_path / "data", reviews()), Path.open

    def denied(self: Path, *arguments: Any, **named: Any) -> Any:
        if self.name == OUTPUTS:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError) as caught:
        open_lamp(folder, LAMP_3)
    assert str(caught.value) == f"{folder / OUTPUTS}: cannot be read: Permission denied"
    assert half_made(tmp_path / "cache") == []


def test_a_file_that_fails_while_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "data", reviews())

    def items(*_: Any, **__: Any) -> Iterator[Any]:
        yield from reviews()[QUESTIONS]
        raise OSError(errno.EIO, "Input/output error")

    (folder / OUTPUTS).unlink()
    monkeypatch.setattr("ijson.items", items)
    with pytest.raises(InputError) as caught:
        open_lamp(folder, LAMP_3)
    assert str(caught.value) == f"{folder / QUESTIONS}: cannot be read: Input/output error"
    assert half_made(tmp_path / "cache") == []


def test_an_unknown_task_and_a_missing_folder_by_the_registry(tmp_path: Path) -> None:
    with pytest.raises(PersonaAgentError, match=r"^unknown task 'lamp-9'; the tasks are: lamp-1, .*, logs$"):
        open_source("lamp-9", tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_source("lamp-3", tmp_path / "nowhere")


# --- by the commands -------------------------------------------------------------------------------

BY_COMMAND = [
    "empty file",
    "cut short",
    "gzip",
    "git-lfs pointer",
    "not UTF-8",
    "no date",
    "no rating",
    "a label too few",
]


def run(argv: list[str], cwd: Path) -> tuple[int, str, str]:
    cwd.mkdir()
    done = subprocess.run([sys.executable, *argv], cwd=cwd, capture_output=True, text=True, check=False)
    assert not list(cwd.iterdir()), "a refused command leaves nothing behind"
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("command", ["describe", "scale"])
def test_a_command_says_it_in_one_line_and_exits_with_2(tmp_path: Path, command: str) -> None:
    chosen = [case for case in CASES if case.name in BY_COMMAND]
    chosen = chosen if command == "describe" else chosen[1::3]
    folders = [case.write(tmp_path / f"data-{number}") for number, case in enumerate(chosen)]
    calls = []
    for case, folder in zip(chosen, folders, strict=True):
        if command == "describe":
            argv = ["-m", "personaagent.datasets.lamp", "describe", str(folder), "--task", case.task.name]
        else:
            argv = [str(SCALE), "--data", str(folder), "--tasks", case.task.name]
        calls.append(argv)
    said = [case.said for case in chosen]
    tail = ["--tasks" if command == "scale" else "--task", "lamp-9"]
    calls += [calls[0][:-2] + tail, [part if part != str(folders[0]) else "../nowhere" for part in calls[0]]]
    said += [("unknown task 'lamp-9'", "lamp-2m"), ("../nowhere: no such folder",)]
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(run, calls, (tmp_path / f"cwd-{number}" for number in range(len(calls)))))
    for (code, out, error), parts, argv in zip(runs, said, calls, strict=True):
        assert (code, out) == (2, ""), (argv, code, out, error)
        assert error.startswith("error: ") and len(error.splitlines()) == 1 and "Traceback" not in error, error
        assert all(part in error for part in parts), (argv, error)
    assert half_made(tmp_path / "cache") == []
