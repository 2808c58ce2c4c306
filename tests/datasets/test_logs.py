"""A person's own logs: what is read from them, in which order, and what is said of one that is wrong."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value, config
from personaagent.datasets.logs import log_task, open_logs, parse_columns, users_from_dataset
from personaagent.datasets.registry import open_source
from personaagent.datasets.selection import Selection
from personaagent.datasets.source import UserTable, chosen_users, leaked_queries
from personaagent.datasets.task import Task
from personaagent.programs.errors import InputError

Rows = list[dict[str, Any]]
Open = Callable[..., UserTable]

COLUMNS = {"user": "customer", "query": "question", "response": "answer", "time": "asked_at"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(users: Mapping[str, int], responses: str = "tea coffee") -> Rows:
    """So many rows of each user, a day apart."""
    names = responses.split()
    return [
        {"user": user, "query": f"{user} asks {i}", "response": names[i % len(names)], "time": f"2024-01-{i + 1:02d}"}
        for user, count in users.items()
        for i in range(count)
    ]


def write_jsonl(path: Path, content: Iterable[Any]) -> Path:
    lines = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in content]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_csv(path: Path, content: Rows, encoding: str = "utf-8", delimiter: str = ",") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(content[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(content)
    return path


def write_saved(path: Path, content: Rows) -> Path:
    Dataset.from_list(content).save_to_disk(str(path))
    return path


def write_text(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def message(path: Path, columns: Mapping[str, str] | None = None, labels: tuple[str, ...] = ()) -> str:
    """What is said of a log that is wrong: one line that begins with the file."""
    with pytest.raises(InputError) as caught:
        open_logs(path, columns, labels)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(str(path))
    return text.removeprefix(str(path)).removeprefix(": ")


def ids(table: UserTable) -> dict[str, tuple[list[str], list[str]]]:
    """{user: (ids of the history, ids of the queries)}."""
    return {u.user_id: ([one.id for one in u.history], [q.id for q in u.queries]) for u in table.users}


def with_times(path: Path, times: Iterable[Any]) -> Path:
    """A log of one user; the ids say where in the file a row is."""
    made = [
        {"user": "ann", "query": f"q{i}", "response": "tea", "id": f"at-{i}", "time": t} for i, t in enumerate(times)
    ]
    return write_jsonl(path, made)


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_jsonl, "log.jsonl"),
        (write_jsonl, "log.NDJSON"),
        (write_csv, "log.csv"),
        (lambda path, content: write_csv(path, content, delimiter="\t"), "log.tsv"),
        (lambda path, content: write_csv(path, content, encoding="utf-8-sig"), "bom.csv"),
        (write_saved, "saved"),
    ],
)
def test_every_kind_of_log_gives_the_same_users_and_the_same_digest(
    tmp_path: Path, write: Callable[[Path, Rows], Path], name: str
) -> None:
    content = rows({"Ann": 8, "José 🎬": 3}, "tè 紅茶")
    content[0]["query"] = 'Two lines,\none "quoted", a comma'
    table = open_logs(write(tmp_path / name, content))
    assert table.users == users_from_dataset(Dataset.from_list(content)).users
    assert table.digest == users_from_dataset(Dataset.from_list(content)).digest
    ann, jose = table.users
    assert (ann.user_id, len(ann.history), len(ann.queries)) == ("Ann", 5, 3)
    assert (jose.user_id, len(jose.history), len(jose.queries)) == ("José 🎬", 2, 1)
    assert ann.history[0].query == ann.history[0].text == 'Two lines,\none "quoted", a comma'
    assert ann.history[1].response == "紅茶"
    assert [(q.input, q.gold) for q in ann.queries] == [
        ("Ann asks 5", "紅茶"),
        ("Ann asks 6", "tè"),
        ("Ann asks 7", "紅茶"),
    ]
    assert table.notes == ()


def test_columns_are_mapped_and_others_passed_over(tmp_path: Path) -> None:
    content = [
        {"session": 9, "customer": 7, "question": f"q{i}", "answer": i, "asked_at": 2001 + i, "extra": None}
        for i in range(4)
    ]
    table = open_logs(write_jsonl(tmp_path / "log.jsonl", content), COLUMNS)
    [user] = table.users
    assert (user.user_id, [one.response for one in user.history]) == ("7", ["0", "1", "2"])
    assert [one.timestamp for one in user.history] == ["2001", "2002", "2003"]


def test_labels_are_asked_with_the_query_and_retrieval_compares_the_query_alone(tmp_path: Path) -> None:
    table = open_logs(write_jsonl(tmp_path / "log.jsonl", rows({"ann": 4})), labels=("tea", "coffee"))
    [user] = table.users
    assert user.history[0].query == "ann asks 0\noptions: [tea, coffee]" and user.history[0].text == "ann asks 0"
    assert user.queries[0].input == "ann asks 3\noptions: [tea, coffee]" and user.queries[0].gold == "coffee"
    assert table.task.retrieval_query(user.queries[0].input) == "ann asks 3"
    assert table.task.metrics == ("accuracy", "f1") and table.task.parse("I think coffee.") == "coffee"


def test_free_text_is_asked_as_it_is(tmp_path: Path) -> None:
    content = rows({"ann": 3})
    content[2]["query"] = "which of these?\noptions: [a, b]"
    table = open_logs(write_jsonl(tmp_path / "log.jsonl", content))
    assert table.users[0].queries[0].input == "which of these?\noptions: [a, b]"
    assert table.task.retrieval_query(table.users[0].queries[0].input) == "which of these?\noptions: [a, b]"
    assert table.task.metrics == ("rouge1", "rougeL") and table.task.labels == ()


@pytest.mark.parametrize("labels", [(), ("yes", "no")])
def test_the_task_of_logs_keeps_the_promises_of_one(labels: tuple[str, ...]) -> None:
    task = log_task(labels)
    assert isinstance(task, Task) and task.name == "logs" and task.labels == labels
    assert task.signature.instructions == task.instruction
    assert list(task.signature.input_fields) == ["query"] and list(task.signature.output_fields) == ["answer"]
    assert task.score("yes", "yes") == 1.0 and task.score("yes", None) == 0.0
    assert set(task.evaluate(["yes"], ["yes"])) == set(task.metrics)


def test_white_space_around_users_and_responses_does_not_matter(tmp_path: Path) -> None:
    text = "user,query,response\nann,one, tea \n ann,two,tea\nann ,three,coffee\n"
    [user] = open_logs(write_text(tmp_path / "log.csv", text), labels=("tea", "coffee")).users
    assert [one.response for one in user.history] == ["tea", "tea"] and user.queries[0].gold == "coffee"


def test_a_class_label_of_a_dataset_is_its_name(tmp_path: Path) -> None:
    features = Features(user=Value("string"), query=Value("string"), response=ClassLabel(names=["tea", "coffee"]))
    content = [{"user": "ann", "query": f"q{i}", "response": i % 2} for i in range(4)]
    dataset = Dataset.from_list(content, features=features)
    [user] = users_from_dataset(dataset, labels=("tea", "coffee")).users
    assert [one.response for one in user.history] == ["tea", "coffee", "tea"]
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert open_logs(tmp_path / "saved", labels=("tea", "coffee")).users == (user,)


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    content = rows({"ann": 3})
    one = open_logs(write_jsonl(tmp_path / "log.jsonl", ["", content[0], "  ", *content[1:], ""]))
    header = ",".join(content[0])
    lines = [",".join(row.values()) for row in content]
    # Spreadsheets leave rows of commas behind.
    two = open_logs(write_text(tmp_path / "log.csv", "\r\n".join([header, "", *lines[:2], ",,,", lines[2], "", ""])))
    assert ids(one) == ids(two) == {"ann": (["row-0", "row-1"], ["row-2"])}


def test_a_jsonl_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\r\n" for row in rows({"ann": 2}))
    assert len(open_logs(write_text(tmp_path / "log.jsonl", text.encode("utf-8-sig"))).users) == 1


def test_a_dataset_in_memory_takes_columns_and_labels() -> None:
    content = [
        {"customer": "ann", "question": f"q{i}", "answer": "yes", "asked_at": date(2024, 1, 9 - i)} for i in (0, 1)
    ]
    table = users_from_dataset(Dataset.from_list(content), COLUMNS, ("yes", "no"), name="my data")
    assert ids(table) == {"ann": (["row-1"], ["row-0"])} and table.where == "my data"
    with pytest.raises(InputError, match=r"^my data: row 1: column 'answer': 'si' is not a label: yes, no"):
        users_from_dataset(
            Dataset.from_list([content[0], {**content[1], "answer": "si"}]), COLUMNS, ("yes", "no"), "my data"
        )


# --- order ---------------------------------------------------------------------------------------


def test_rows_are_put_in_order_of_time_and_ties_in_that_of_the_file(tmp_path: Path) -> None:
    days = ["2024-03-03", "2024-01-01", "2024-02-02", "2024-01-01", "2023-12-31", "2024-02-02"]
    assert ids(open_logs(with_times(tmp_path / "log.jsonl", days))) == {
        "ann": (["at-4", "at-1", "at-3", "at-2"], ["at-5", "at-0"])
    }


def test_without_times_the_order_is_that_of_the_file_and_a_note_says_so(tmp_path: Path) -> None:
    content = [{k: v for k, v in row.items() if k != "time"} for row in rows({"ann": 4})]
    table = open_logs(write_csv(tmp_path / "log.csv", content))
    assert ids(table) == {"ann": (["row-0", "row-1", "row-2"], ["row-3"])}
    [note] = table.notes
    assert note == f"{tmp_path / 'log.csv'}: no row has a time: the order of the rows is taken for that of time"


def test_rows_without_a_time_among_others_come_first_and_a_note_says_so(tmp_path: Path) -> None:
    table = open_logs(with_times(tmp_path / "log.jsonl", ["2024-01-02", None, "2024-01-01", "  "]))
    assert ids(table) == {"ann": (["at-1", "at-3", "at-2"], ["at-0"])}
    assert table.notes == (f"{tmp_path / 'log.jsonl'}: 2 of 4 rows have no time and are taken for the oldest",)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2023-11-14", "2023-11-14"),
        ("2023-11", "2023-11"),
        (2023, "2023"),
        ("2023", "2023"),
        ("2023-11-14 22:13", "2023-11-14T22:13:00.000000Z"),
        ("2023-11-14T23:13:20+01:00", "2023-11-14T22:13:20.000000Z"),
        (1700000000, "2023-11-14T22:13:20.000000Z"),
        ("1700000000", "2023-11-14T22:13:20.000000Z"),
        (1700000000.5, "2023-11-14T22:13:20.500000Z"),
        (1700000000.0, "2023-11-14T22:13:20.000000Z"),
        ("1700000000.5", "2023-11-14T22:13:20.500000Z"),
        (" 1700000000.123456789 ", "2023-11-14T22:13:20.123456Z"),
        (978300760, "2000-12-31T22:12:40.000000Z"),
    ],
)
def test_a_time_is_iso_text_a_year_or_seconds_since_1970(tmp_path: Path, time: Any, expected: str) -> None:
    [user] = open_logs(with_times(tmp_path / "log.jsonl", [time, "2100"])).users
    assert user.history[0].timestamp == expected


@pytest.mark.parametrize(
    "time",
    [
        datetime(2023, 11, 14, 22, 13, 20),
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        date(2023, 11, 14),
        1700000000,
        1700000000.25,
        "2023-11-14 22:13:20",
    ],
)
def test_a_time_of_a_dataset_may_be_of_any_type(time: Any) -> None:
    content = [{"user": "ann", "query": q, "response": "tea", "time": time} for q in "ab"]
    [user] = users_from_dataset(Dataset.from_list(content)).users
    assert user.history[0].timestamp.startswith("2023-11-14")


@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("14/11/2023", "column 'asked_at': timestamp must be ISO 8601, such as 2007-08-31"),
        ("2023-02-30", "column 'asked_at': timestamp '2023-02-30' names no real date"),
        (
            1700000000000,
            "1700000000000 is no number of seconds since 1970 before the year 10000; divide milliseconds by",
        ),
        (
            "1700000000000",
            "'1700000000000' is no number of seconds since 1970 before the year 10000; divide milliseconds by",
        ),
        (10**400, "is no number of seconds since 1970"),
        (20231114, "timestamp must be ISO 8601"),
        (3.5, "timestamp must be ISO 8601"),
        (-1700000000, "timestamp must be ISO 8601"),
        (float("nan"), "must be text and not empty, but is nan"),
        (float("inf"), "timestamp must be ISO 8601"),
        (True, "column 'asked_at' must be text and not empty, but is True"),
        ([2023], "column 'asked_at' must be text and not empty, but is [2023]"),
    ],
)
def test_a_time_that_is_none_is_named_with_its_place(tmp_path: Path, time: Any, said: str) -> None:
    made = [{"customer": "ann", "question": "q", "answer": "a", "asked_at": t} for t in ("2024", time)]
    text = message(write_jsonl(tmp_path / "log.jsonl", made), COLUMNS)
    assert text.startswith("line 2: column 'asked_at'") and said in text
    assert len(text) < 300


_MOMENTS = st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)), min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(_MOMENTS, st.integers(0, 3))
def test_no_query_is_before_its_history_or_in_it(moments: list[datetime], repeated: int) -> None:
    moments += moments[:repeated]
    content = [{"user": "ann", "query": "the same", "response": "tea", "time": moment} for moment in moments]
    table = users_from_dataset(Dataset.from_list(content))
    [user] = table.users
    when = {f"row-{i}": (moment, i) for i, moment in enumerate(moments)}
    order = [when[one.id] for one in user.history] + [when[query.id] for query in user.queries]
    assert order == sorted(when.values()) and user.history and user.queries
    assert leaked_queries(table.users) == []


# --- who is left out, and what is the same --------------------------------------------------------


def test_users_with_one_row_are_left_out_and_a_note_counts_them(tmp_path: Path) -> None:
    table = open_logs(write_jsonl(tmp_path / "log.jsonl", rows({"ann": 2, "bob": 1, "cleo": 1})))
    assert [user.user_id for user in table.users] == ["ann"]
    assert table.notes == (f"{tmp_path / 'log.jsonl'}: 2 users have one row only and are left out",)
    table = open_logs(write_jsonl(tmp_path / "log.jsonl", rows({"ann": 2, "bob": 1})))
    assert table.notes == (f"{tmp_path / 'log.jsonl'}: 1 user has one row only and is left out",)


def test_the_longest_histories_are_chosen_with_the_first_of_their_queries(tmp_path: Path) -> None:
    table = open_logs(write_jsonl(tmp_path / "log.jsonl", rows({"ann": 5, "bob": 20, "cleo": 10})))
    users = chosen_users(table, Selection(users=2, queries_per_user=3))
    assert [(u.user_id, len(u.history), len(u.queries)) for u in users] == [("bob", 13, 3), ("cleo", 6, 3)]


def test_ids_are_kept_and_may_repeat_between_users(tmp_path: Path) -> None:
    made = [{**row, "id": i % 3} for i, row in enumerate(rows({"ann": 3, "bob": 3}))]
    assert ids(open_logs(write_jsonl(tmp_path / "log.jsonl", made))) == {
        "ann": (["0", "1"], ["2"]),
        "bob": (["0", "1"], ["2"]),
    }


def test_the_digest_follows_content_order_columns_and_labels(tmp_path: Path) -> None:
    content = rows({"ann": 4})
    other = [{**row, "other": "text"} for row in content]
    path = tmp_path / "log.jsonl"

    def digest(made: Rows, columns: Mapping[str, str] | None = None, labels: tuple[str, ...] = ()) -> str:
        return open_logs(write_jsonl(path, made), columns, labels).digest

    changed = [
        digest(content),
        digest([{**content[0], "response": "milk"}, *content[1:]]),
        digest([{**content[0], "time": "2023-01-01"}, *content[1:]]),
        digest(content[:3]),
        digest(content[::-1]),
        digest(content, labels=("tea", "coffee")),
        digest(content, labels=("coffee", "tea")),
        digest(other, {"user": "user", "query": "other", "response": "response", "time": "time"}),
        digest(other, {"user": "user", "query": "query", "response": "response"}),
    ]
    assert len(set(changed)) == len(changed)
    assert digest(content) == changed[0] and digest(other) == changed[0], "what is not read does not matter"
    assert all(len(one) == 64 for one in changed)


def test_the_digest_is_the_same_when_a_dataset_is_saved_again(tmp_path: Path) -> None:
    dataset = Dataset.from_list(rows({"ann": 4}))
    dataset.save_to_disk(str(tmp_path / "one"))
    dataset.filter(lambda row: True).save_to_disk(str(tmp_path / "two"))
    assert open_logs(tmp_path / "one").digest == open_logs(tmp_path / "two").digest


def test_the_registry_hands_columns_and_labels_on(tmp_path: Path) -> None:
    made = [{"customer": "ann", "question": "q", "answer": "yes", "asked_at": i} for i in (2001, 2002)]
    path = write_jsonl(tmp_path / "log.jsonl", made)
    source = open_source("logs", path, columns=COLUMNS, labels=("yes", "no"))
    assert source.digest == open_logs(path, COLUMNS, ("yes", "no")).digest
    with pytest.raises(InputError, match="--tasks logs needs --data, a log file"):
        open_source("logs")


# --- options -------------------------------------------------------------------------------------


def test_columns_are_roles_and_names() -> None:
    assert parse_columns("user=customer, query=question,response=answer,time=asked_at") == COLUMNS
    assert parse_columns("response=r,query=q=1,user=Ünit 2,id=key,")["query"] == "q=1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "--columns: user, query, response is missing"),
        ("user=u,query=q", "--columns: response is missing; user, query and response are needed"),
        ("user=u,query=q,answer=a", "--columns: 'answer=a' is not ROLE=COLUMN with a role of user, query, response"),
        ("user=u,user=v,query=q,response=r", "--columns: 'user=v' is not"),
        ("user=u,query=q,response=", "--columns: 'response=' is not"),
        ("user=u,query,response=r", "--columns: 'query' is not"),
        ("user=u,query=q,response=q", "--columns: 'response=q' is not"),
        ("User=u,query=q,response=r", "--columns: 'User=u' is not"),
    ],
)
def test_columns_that_are_wrong(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_columns(text)
    assert str(caught.value).startswith(said) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("labels", [("yes",), ("yes", ""), ("yes", "yes "), ("a,b", "c"), ("",)])
def test_labels_that_are_wrong(labels: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="--labels must be two or more different labels, comma-separated"):
        log_task(labels)


# --- rows that are wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"response": "Tea"}, "line 2: column 'response': 'Tea' is not a label: tea, coffee"),
        ({"response": ""}, "line 2: column 'response' must be text and not empty, but is ''"),
        ({"response": None}, "line 2: column 'response' must be text and not empty, but is None"),
        ({"response": ["tea"]}, "line 2: column 'response' must be text and not empty, but is ['tea']"),
        ({"query": " \t"}, "line 2: column 'query' must be text and not empty, but is ' \\t'"),
        ({"query": [{"role": "user"}]}, "line 2: column 'query' must be text and not empty, but is [{'role': 'user'}]"),
        ({"user": None}, "line 2: column 'user' must be text and not empty, but is None"),
        ({"user": True}, "line 2: column 'user' must be text and not empty, but is True"),
        ({"user": float("nan")}, "line 2: column 'user' must be text and not empty, but is nan"),
        ({"id": "one"}, "line 2: id 'one' of user 'ann' is already that of "),
        ({"query": "half \ud83d of one"}, "line 2: "),
    ],
)
def test_a_wrong_row_is_named_with_line_column_and_value(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    content = [{**row, "id": name} for row, name in zip(rows({"ann": 3}), ("one", "two", "three"), strict=True)]
    content[1] |= change
    lines = [json.dumps(row) for row in content]  # with escapes: half a surrogate pair is no UTF-8
    assert message(write_jsonl(tmp_path / "log.jsonl", lines), labels=("tea", "coffee")).startswith(said)


def test_a_long_value_is_named_by_its_beginning(tmp_path: Path) -> None:
    content = rows({"ann": 2})
    content[0]["response"] = "a long text " * 1000
    assert len(message(write_jsonl(tmp_path / "log.jsonl", content), labels=("tea", "coffee"))) < 300
    content[0]["response"] = ["a long text "] * 1000
    assert len(message(write_jsonl(tmp_path / "log.jsonl", content))) < 300


@pytest.mark.parametrize("write", [write_jsonl, write_csv, write_saved])
def test_an_unknown_column_is_answered_with_those_there_are(
    tmp_path: Path, write: Callable[[Path, Rows], Path]
) -> None:
    names = {write_jsonl: "log.jsonl", write_csv: "log.csv", write_saved: "saved"}
    path = write(tmp_path / names[write], rows({"ann": 2}))
    text = message(path, {"user": "user", "query": "question", "response": "response"})
    place = {write_jsonl: "line 1", write_csv: "line 2", write_saved: "row 0"}[write]
    assert text == (
        f"{place}: there is no column 'question' for query (--columns query=...); the columns are: 'user', 'query', "
        f"'response', 'time'"
    )


def test_a_time_column_that_was_named_must_be_there(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "log.jsonl", rows({"ann": 2}))
    columns = {"user": "user", "query": "query", "response": "response", "time": "when"}
    assert "there is no column 'when' for time" in message(path, columns)


def test_too_few_rows(tmp_path: Path) -> None:
    one_each = write_jsonl(tmp_path / "log.jsonl", rows({"ann": 1, "bob": 1}))
    assert message(one_each) == "no user has two rows or more: one for the history, one to be asked"


# --- files that are wrong ------------------------------------------------------------------------


HEADER = "user,query,response\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("log.jsonl", "", "there is no row"),
        ("log.jsonl", "\n\n", "there is no row"),
        ("log.csv", "", "there is no row"),
        ("log.csv", HEADER, "there is no row"),
        ("log.jsonl", '{"user": 1}\n', "line 1: there is no column 'query' for query (--columns query=...)"),
        ("log.jsonl", "[]\n", "line 1: expected an object, but found an empty list"),
        ("log.jsonl", '"x"\n', "line 1: expected an object, but found text"),
        ("log.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        ("log.csv", HEADER + "ann,a,b\nann,a,b,c\n", "line 3: has 4 fields, but the header 3: quote a text that holds"),
        ("log.csv", HEADER + "ann,a\n", "line 2: has 2 fields, but the header 3"),
        ("log.csv", HEADER + 'ann,"a\nb",c\n\nann,"a\nb"\n', "line 5: has 2 fields, but the header 3"),
        ("log.csv", HEADER + 'ann,a,b\nann,"a,b\nann,a,b\nann,a,b\n', "line 3: not valid CSV: "),
        ("log.csv", HEADER + 'ann,"a"b,c\n', "line 2: not valid CSV: "),
        ("log.csv", "user,query,user\nann,a,b\n", "line 1: two columns are called 'user'"),
        (
            "log.csv",
            "user;query;response\nann;a;b\n",
            "line 2: there is no column 'user' for user (--columns user=...)",
        ),
        ("log.csv", b"user,query,response\nann,a,b\nann,\xe9t\xe9,b\n", "line 3: not UTF-8"),
        ("log.jsonl", b'{"user": "\xe9"}\n', "line 1: not UTF-8"),
        ("log.csv", (HEADER + "ann,a,b\n").encode("utf-16"), "it is UTF-16, and UTF-8 is expected"),
        ("log.json", "[]", "a log is a .jsonl, .ndjson, .csv or .tsv file, or a folder of a saved dataset"),
        ("log", "[]", "a log is a .jsonl, .ndjson, .csv or .tsv file"),
        ("log.jsonl.gz", gzip.compress(b"{}", mtime=0), "unpack"),
        ("log.jsonl", gzip.compress(b"{}", mtime=0), "it is a gzip file"),
        ("log.csv", gzip.compress(b"{}", mtime=0), "it is a gzip file"),
    ],
)
def test_a_wrong_file_is_named_with_the_line(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    assert said in message(write_text(tmp_path / name, content))


def test_a_broken_line_in_the_middle_is_named_by_line_and_column(tmp_path: Path) -> None:
    content = rows({"ann": 3})
    path = write_jsonl(tmp_path / "log.jsonl", [content[0], "", '{"user": oops}', content[1]])
    assert message(path) == "line 3: not valid JSON: Expecting value at column 10"


def test_the_line_that_is_not_utf8_is_the_right_one_in_a_long_file(tmp_path: Path) -> None:
    lines = [b"ann,a question of some length,an answer"] * 3000
    lines[2500] = b"ann,caf\xe9,b"
    path = write_text(tmp_path / "log.csv", b"\n".join([b"user,query,response", *lines]))
    assert message(path) == "line 2502: not UTF-8; save it as UTF-8"


def test_what_is_no_file_and_no_dataset(tmp_path: Path) -> None:
    assert message(tmp_path / "gone.csv").startswith("no such file; --data takes a .jsonl or .csv file of logs")
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "log.jsonl", rows({"ann": 2}))
    assert message(tmp_path / "folder").startswith("not a dataset that `datasets` has saved")
    (tmp_path / "link.csv").symlink_to(tmp_path / "link.csv")
    assert message(tmp_path / "link.csv")


def test_several_splits_are_refused_by_name(tmp_path: Path) -> None:
    one = Dataset.from_list(rows({"ann": 2}))
    DatasetDict(train=one, test=one).save_to_disk(str(tmp_path / "both"))
    assert (
        message(tmp_path / "both")
        == f"holds several splits; give the folder of one: {tmp_path}/both/train or {tmp_path}/both/test"
    )
    assert len(open_logs(tmp_path / "both" / "train").users) == 1


def test_a_dataset_with_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = write_saved(tmp_path / "saved", rows({"ann": 2}))
    [arrow] = folder.glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:100])
    assert message(folder).startswith("not a dataset that `datasets` has saved")


def test_many_rows_are_read_in_a_moment(tmp_path: Path) -> None:
    """One pass: 20,000 rows of 2,000 users; a quadratic step would take minutes."""
    content = rows({f"user {i}": 10 for i in range(2000)})
    before = datetime.now(UTC)
    assert len(open_logs(write_csv(tmp_path / "log.csv", content)).users) == 2000
    assert datetime.now(UTC) - before < timedelta(seconds=30)
