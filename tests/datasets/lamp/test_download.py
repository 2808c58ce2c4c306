"""The downloader against a file server on the loopback interface that behaves and misbehaves as told."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from rich.console import Console
from servers import files as server_module

from personaagent.datasets.lamp import download as module
from personaagent.datasets.lamp.download import MAX_WAIT_SECONDS, download
from personaagent.programs.errors import InputError, StoreError

SERVER = Path(__file__).parents[2] / "servers" / "files.py"
QUESTIONS = json.dumps([{"id": str(number), "input": "q" * 90, "profile": []} for number in range(4000)]).encode()
OUTPUTS = json.dumps({"task": "LaMP_3", "golds": [{"id": str(number), "output": "5"} for number in range(50)]}).encode()
FOLDER = "time/LaMP_3/dev"
NAME = f"{FOLDER}/dev_questions.json"
LAST = len(QUESTIONS) - 1
Fault = server_module.Fault


class Client:
    """`download` of LaMP_3's dev split into a folder; what is said goes to `lines`."""

    def __init__(self, server: Any, to: Path) -> None:
        self.server, self.to = server, to
        self._text = io.StringIO()

    def __call__(self, **arguments: Any) -> list[Path]:
        given = {"directory": "LaMP_3", "split": "dev", "to": self.to, "base_url": self.server.url, **arguments}
        return download(**given, console=Console(file=self._text, width=200), timeout_seconds=20)

    @property
    def lines(self) -> list[str]:
        return self._text.getvalue().splitlines()

    @property
    def final(self) -> Path:
        return self.to / NAME

    @property
    def part(self) -> Path:
        return self.to / (NAME + ".part")

    def fails(self, kind: type[Exception] = InputError, **arguments: Any) -> str:
        """The error's message, which is one line; the final name holds nothing that it did not hold."""
        before = self.final.read_bytes() if self.final.exists() else None
        with pytest.raises(kind) as caught:
            self(**arguments)
        assert (self.final.read_bytes() if self.final.exists() else None) == before
        message = str(caught.value)
        assert len(message.splitlines()) == 1
        return message

    def ranges(self) -> list[str | None]:
        return [seen.range for seen in self.server.gets if seen.path == NAME]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with server_module.FilesServer({NAME: QUESTIONS, f"{FOLDER}/dev_outputs.json": OUTPUTS}) as running:
        yield running


@pytest.fixture
def fetch(server: Any, tmp_path: Path) -> Client:
    return Client(server, tmp_path / "data")


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses, none of which is made."""
    seconds: list[float] = []
    monkeypatch.setattr(module, "_sleep", seconds.append)
    return seconds


def whole(client: Client) -> bool:
    """The file is right, and nothing of the fetching is left but the lock."""
    left = sorted(path.name for path in client.final.parent.iterdir() if "questions" in path.name)
    return client.final.read_bytes() == QUESTIONS and left == ["dev_questions.json", "dev_questions.json.part.lock"]


# --- where all is well -----------------------------------------------------------------------------


def test_both_files_of_the_time_layout_land_where_a_reader_looks_for_them(fetch: Client, slept: list[float]) -> None:
    outputs = fetch.to / FOLDER / "dev_outputs.json"
    assert fetch() == [fetch.final, outputs]
    assert whole(fetch) and outputs.read_bytes() == OUTPUTS
    assert slept == []


def test_the_user_layout_and_a_task_in_two_folders(fetch: Client) -> None:
    place = "LaMP_2/new/train"
    fetch.server.files = {f"{place}/train_questions.json": b"[]", f"{place}/train_outputs.json": b"{}\n"}
    found = fetch(directory="LaMP_2/new", split="train", layout="user", base_url=fetch.server.url + "/")
    assert [path.relative_to(fetch.to).as_posix() for path in found] == list(fetch.server.files)


def test_a_request_says_who_asks_and_for_bytes_as_they_are_stored(fetch: Client) -> None:
    fetch()
    headers = fetch.server.gets[0].headers
    assert (headers["User-Agent"], headers["Accept-Encoding"]) == ("personaagent", "identity")
    assert "Range" not in headers and "If-Range" not in headers


def test_a_bar_names_the_file_and_goes_to_the_end(fetch: Client) -> None:
    fetch()
    assert any("dev_questions.json" in line and "534.9/534.9 kB" in line for line in fetch.lines), fetch.lines


def test_by_default_it_speaks_on_standard_error(fetch: Client, capsys: pytest.CaptureFixture[str]) -> None:
    download("LaMP_3", "dev", fetch.to, base_url=fetch.server.url)
    printed = capsys.readouterr()
    assert printed.out == "" and "dev_questions.json" in printed.err


# --- a connection that breaks ----------------------------------------------------------------------


def test_a_cut_body_is_gone_on_from_where_it_was(fetch: Client, slept: list[float]) -> None:
    fetch.server.script = [Fault(cut_after=100_000), Fault(cut_after=50_001)]
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None, "bytes=100000-", "bytes=150001-"]
    first, second = fetch.server.gets[1].headers["If-Range"], fetch.server.gets[2].headers["If-Range"]
    assert first == second and first.startswith('"')
    assert slept == [1.0, 2.0]
    assert any("ended before" in line or "broke" in line for line in fetch.lines)


def test_a_reset_before_an_answer_and_one_in_the_middle(fetch: Client) -> None:
    sizes: list[int] = []
    note: Callable[[], None] = lambda: sizes.append(fetch.part.stat().st_size)  # noqa: E731
    fetch.server.script = [Fault(reset_after=0), Fault(reset_after=200_000), Fault(before=note)]
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None, None, f"bytes={sizes[0]}-" if sizes[0] else None]


def test_after_the_last_attempt_the_message_says_where_the_same_command_goes_on(
    fetch: Client, slept: list[float]
) -> None:
    fetch.server.always = Fault(cut_after=10)
    message = fetch.fails(attempts=3)
    assert fetch.server.url in message and "3 attempts" in message
    assert "the same command goes on from byte 30" in message
    assert fetch.ranges() == [None, "bytes=10-", "bytes=20-"]
    assert slept == [1.0, 2.0]  # none after the last
    fetch.server.always = None
    fetch()
    assert whole(fetch)
    assert fetch.ranges()[3:] == ["bytes=30-"]


def test_the_pauses_double_up_to_a_minute(fetch: Client, slept: list[float]) -> None:
    fetch.server.always = Fault(status=500)
    assert "HTTP 500; given up after 9 attempts" in fetch.fails(attempts=9)
    assert slept == [1, 2, 4, 8, 16, 32, 60, 60]


def test_nothing_listens(fetch: Client) -> None:
    message = fetch.fails(base_url="http://127.0.0.1:1/LaMP", attempts=2)
    assert message == (
        f"http://127.0.0.1:1/LaMP/{NAME}: Connection refused; given up after 2 attempts; "
        "the same command goes on from byte 0"
    )


def test_a_server_that_says_nothing_for_too_long(fetch: Client) -> None:
    fetch.server.script = [Fault(stall_after=1000)]
    with pytest.raises(
        InputError, match=r"nothing came for 0\.1 s; given up after 1 attempt; the same command goes on"
    ):
        download("LaMP_3", "dev", fetch.to, base_url=fetch.server.url, timeout_seconds=0.1, attempts=1)


def test_what_a_killed_process_left_is_gone_on_from(fetch: Client) -> None:
    fetch.server.script = [Fault(stall_after=123_456)]
    program = (
        "import sys, pathlib\n"
        "from personaagent.datasets.lamp.download import download\n"
        "download('LaMP_3', 'dev', pathlib.Path(sys.argv[1]), base_url=sys.argv[2])\n"
    )
    command = [sys.executable, "-c", program, str(fetch.to), fetch.server.url]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (fetch.part.exists() and fetch.part.stat().st_size == 123_456):
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not fetch.final.exists()
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None, "bytes=123456-"]


def test_a_body_without_a_length_that_is_cut_is_not_taken_for_whole(fetch: Client) -> None:
    fetch.server.script = [Fault(no_length=True, cut_after=100_000), Fault(no_length=True)]
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None, "bytes=100000-"]


# --- going on with a part --------------------------------------------------------------------------


def test_a_server_that_ignores_ranges_is_heard_from_the_start(fetch: Client) -> None:
    fetch.server.script = [Fault(cut_after=100_000), Fault(ignore_range=True)]
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None, "bytes=100000-"]


@pytest.mark.parametrize("ignore_if_range", [False, True])
@pytest.mark.parametrize("validators", ["strong", "weak", "date"])
def test_a_file_that_changed_in_between_starts_over(fetch: Client, validators: str, ignore_if_range: bool) -> None:
    changed = QUESTIONS.replace(b"q", b"r")  # of the same size

    def change() -> None:
        fetch.server.files[NAME] = changed

    fetch.server.validators = validators
    fetch.server.script = [Fault(cut_after=100_000), Fault(before=change, ignore_if_range=ignore_if_range)]
    fetch()
    assert fetch.final.read_bytes() == changed
    assert fetch.ranges() == [None, "bytes=100000-", None][: 3 if ignore_if_range else 2]


def test_a_weak_etag_is_no_condition_but_the_date_beside_it_is(fetch: Client) -> None:
    fetch.server.validators = "weak"
    fetch.server.script = [Fault(cut_after=9)]
    fetch()
    assert whole(fetch)
    assert fetch.server.gets[1].headers["If-Range"].endswith("GMT")


def test_without_any_validator_the_size_must_agree(fetch: Client) -> None:
    def change() -> None:
        fetch.server.files[NAME] = b"[" + b" " * 200_000 + b"]"

    fetch.server.validators = "none"
    fetch.server.script = [Fault(cut_after=100_000), Fault(cut_after=1), Fault(before=change)]
    fetch()
    assert fetch.final.read_bytes() == fetch.server.files[NAME]
    assert fetch.ranges() == [None, "bytes=100000-", "bytes=100001-", None]


def test_another_piece_than_asked_for_is_not_used(fetch: Client) -> None:
    fetch.server.script = [Fault(cut_after=100_000), Fault(shift_range=5)]
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None, "bytes=100000-", None]


def test_a_part_that_is_whole_needs_only_its_name(fetch: Client) -> None:
    fetch.server.script = [Fault(cut_after=LAST)]
    fetch.fails(attempts=1)
    fetch.part.write_bytes(QUESTIONS)  # as of a process that ended before the rename
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None, f"bytes={LAST + 1}-"]


def test_a_part_longer_than_the_file_now_starts_over(fetch: Client) -> None:
    fetch.server.script = [Fault(cut_after=LAST)]
    fetch.fails(attempts=1)
    fetch.server.files[NAME] = b"[1]"
    fetch.server.script = [Fault(ignore_if_range=True)]  # a 416
    fetch()
    assert fetch.final.read_bytes() == b"[1]"
    assert fetch.ranges() == [None, f"bytes={LAST}-", None]


@pytest.mark.parametrize("version", [None, "", "[]", '{"url": "http://elsewhere/", "size": 3}', '{"unknown": 1}'])
def test_a_part_of_unknown_origin_is_not_gone_on_from(fetch: Client, version: str | None) -> None:
    fetch.part.parent.mkdir(parents=True)
    fetch.part.write_bytes(b"[older bytes")
    if version is not None:
        fetch.part.with_name(fetch.part.name + ".json").write_text(version)
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None]


# --- a server that is busy -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_is_obeyed(fetch: Client, slept: list[float], status: int) -> None:
    busy = [Fault(status=status, headers={"Retry-After": seconds}) for seconds in ("0", "7", "soon")]
    fetch.server.script = [*busy, Fault(status=status)]
    fetch()
    assert whole(fetch)
    assert slept == [0.0, 7.0, 4.0, 8.0]


def test_a_retry_after_may_be_a_date(fetch: Client, slept: list[float]) -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    fetch.server.script = [Fault(status=503, headers={"Retry-After": date}) for date in (when, past)]
    fetch()
    assert 0 < slept[0] <= 100 and slept[1] == 0


def test_a_long_retry_after_ends_the_command(fetch: Client, slept: list[float]) -> None:
    fetch.server.script = [Fault(cut_after=64), Fault(status=503, headers={"Retry-After": f"{MAX_WAIT_SECONDS + 1:g}"})]
    assert "HTTP 503; it asks to wait 121 s; the same command goes on from byte 64" in fetch.fails()
    assert slept == [1.0]


# --- what is not the file --------------------------------------------------------------------------


def test_a_missing_file_of_questions_is_an_error(fetch: Client) -> None:
    del fetch.server.files[NAME]
    message = fetch.fails()
    assert f"{fetch.server.url}/{NAME}: there is no such file (HTTP 404)" in message and str(fetch.final) in message
    assert fetch.ranges() == [None]


def test_missing_outputs_are_an_error_but_of_the_test_split(fetch: Client) -> None:
    del fetch.server.files[f"{FOLDER}/dev_outputs.json"]
    with pytest.raises(InputError, match=r"dev_outputs\.json: there is no such file \(HTTP 404\)"):
        fetch()
    place = "time/LaMP_3/test"
    fetch.server.files = {f"{place}/test_questions.json": QUESTIONS}
    assert fetch(split="test") == [fetch.to / place / "test_questions.json"]
    said = [line for line in fetch.lines if "test_outputs" in line]
    assert said == [f"{place}/test_outputs.json: not on the server, so there are no gold answers of this split"]


def test_a_refusal_is_not_tried_again(fetch: Client) -> None:
    fetch.server.always = Fault(status=403)
    assert "the server refuses it (HTTP 403)" in fetch.fails()
    assert fetch.ranges() == [None]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(body=b"\xef\xbb\xbf \n<!DOCTYPE html><p>Log in first</p>"),
        Fault(body=b"Log in first", headers={"Content-Type": "text/html; charset=utf-8"}),
    ],
)
def test_a_page_is_refused_and_leaves_nothing(fetch: Client, fault: Any) -> None:
    fetch.server.always = fault
    assert "the server sent a web page instead of the data" in fetch.fails()
    assert fetch.ranges() == [None]
    assert [path.name for path in fetch.part.parent.iterdir()] == ["dev_questions.json.part.lock"]


def test_a_page_does_not_cost_what_has_arrived(fetch: Client) -> None:
    fetch.server.script = [Fault(cut_after=100_000), Fault(body=b"<html>", ignore_range=True)]
    assert "a web page" in fetch.fails()
    fetch()
    assert whole(fetch)
    assert fetch.ranges() == [None, "bytes=100000-", "bytes=100000-"]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(body=b"No space"), "the server sent something else instead of the data"),
        (Fault(body=b""), "the server sent an empty file"),
        (Fault(body=b" \n"), "the server sent an empty file"),
        (Fault(headers={"Content-Encoding": "gzip"}), "it comes compressed ('gzip')"),
        (Fault(status=302, headers={"Location": "ftp://127.0.0.1/x"}), "it cannot be asked for"),
        (Fault(status=302, headers={"Location": f"/LaMP/{NAME}"}), "it cannot be asked for"),
    ],
)
def test_other_things_that_are_not_the_file(fetch: Client, fault: Any, said: str) -> None:
    fetch.server.always = fault
    assert said in fetch.fails()
    assert not fetch.part.exists()


def test_a_length_that_is_too_short_is_found_out(fetch: Client) -> None:
    fetch.server.always = Fault(headers={"Content-Length": "1000"})
    assert "a file that breaks off (1,000 bytes)" in fetch.fails()
    assert not fetch.part.exists()


def test_a_length_that_is_too_long_is_a_cut(fetch: Client) -> None:
    fetch.server.script = [Fault(headers={"Content-Length": str(LAST + 100)})]
    assert f"goes on from byte {LAST + 1}" in fetch.fails(attempts=1)
    fetch()  # the server tells the right size now, and so that all is there
    assert fetch.final.read_bytes() == QUESTIONS


# --- a file that is there --------------------------------------------------------------------------


def test_a_file_of_the_servers_size_is_not_fetched_again(fetch: Client) -> None:
    first = fetch()
    fetch.server.seen.clear()
    assert fetch() == first
    assert [seen.method for seen in fetch.server.seen] == ["HEAD", "HEAD"]
    assert f"{NAME}: already here, 534,890 bytes" in fetch.lines


def test_a_file_of_another_size_is_replaced_in_one_step(fetch: Client) -> None:
    fetch.final.parent.mkdir(parents=True)
    fetch.final.write_bytes(b"[1]")
    fetch.server.script = [Fault(cut_after=100_000)]
    fetch.fails(attempts=1)
    fetch()
    assert whole(fetch)
    assert f"{NAME}: 3 bytes here, but not so many on the server; fetching it again" in fetch.lines


@pytest.mark.parametrize("head", ["refused", "page", "no length", "zero", "gone"])
def test_a_file_is_kept_where_the_server_does_not_tell_its_size(fetch: Client, head: str) -> None:
    fetch.final.parent.mkdir(parents=True)
    fetch.final.write_bytes(b"[1]")
    if head == "gone":
        del fetch.server.files[NAME]
    else:
        fetch.server.head = head
    fetch()
    assert fetch.final.read_bytes() == b"[1]"
    assert f"{NAME}: already here, 3 bytes; kept, although the server does not tell its size" in fetch.lines


def test_files_that_are_there_are_kept_without_a_network_and_in_a_folder_that_cannot_be_written(
    fetch: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fetch()
    for path in fetch.final.parent.glob("*.lock"):
        path.unlink()

    def unwritable(*arguments: Any, **named: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "FileLock", unwritable)
    assert fetch(base_url="http://127.0.0.1:1/LaMP") == found


# --- the disk and other processes ------------------------------------------------------------------


def test_a_disk_that_is_too_full_is_said_before_anything_is_written(
    fetch: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.server.script = [Fault(cut_after=100_000)]
    fetch.fails(attempts=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=434_889))
    message = fetch.fails(StoreError)
    assert "434,890 bytes more are needed" in message and "434,889 are free" in message
    assert "the same command goes on from byte 100000" in message
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=434_890))
    fetch.server.files[f"{FOLDER}/dev_outputs.json"] = b"{}"
    fetch()
    assert whole(fetch)


def test_trouble_with_the_disk_is_one_line(fetch: Client) -> None:
    fetch.to.write_text("a file where the folder should be")
    assert "cannot write" in fetch.fails(StoreError)
    fetch.to.unlink()
    fetch.final.mkdir(parents=True)
    with pytest.raises(StoreError, match="is in the way: it is not a file"):
        fetch()
    assert fetch.server.gets == []


def test_a_disk_that_fills_up_meanwhile_keeps_what_has_arrived(fetch: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch.server.script = [Fault(cut_after=100_000)]
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "No space left on device; the same command goes on from byte 534890" in fetch.fails(StoreError)
    monkeypatch.setattr(os, "replace", replace)
    fetch()
    assert whole(fetch)


def test_two_at_once_fetch_each_file_once(fetch: Client) -> None:
    other = Client(fetch.server, fetch.to)
    # The first GET is answered to its end only when the other one has said that it waits.
    fetch.server.script = [Fault(stall_after=1000)]
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(client) for client in (fetch, other)]
        while not any("waiting" in line for line in [*fetch.lines, *other.lines]) and not any(r.done() for r in runs):
            time.sleep(0.01)
        fetch.server.go_on.set()
        first, second = [run.result() for run in runs]
    assert first == second
    assert whole(fetch)
    assert [seen.path for seen in fetch.server.gets] == [NAME, f"{FOLDER}/dev_outputs.json"]


def test_the_final_name_is_given_only_to_a_whole_file(fetch: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        seen.append(Path(source).read_bytes() in (QUESTIONS, OUTPUTS) and not Path(target).exists())
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    peeks: list[bool] = []
    peek: Callable[[], None] = lambda: peeks.append(fetch.final.exists())  # noqa: E731
    fetch.server.script = [Fault(cut_after=n, before=peek) for n in (1, 1000, 100_000)]
    fetch()
    assert seen == [True, True] and peeks == [False] * 3


def test_an_interrupt_passes_and_leaves_a_part_and_a_free_lock(fetch: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    fetch.server.script = [Fault(cut_after=5000)]
    monkeypatch.setattr(module, "_sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch()
    assert fetch.part.stat().st_size == 5000
    fetch()
    assert whole(fetch)


# --- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"directory": "../LaMP_3"}, "directory must be like LaMP_3 or LaMP_2/new but got '../LaMP_3'"),
        ({"directory": "LaMP_3/"}, "directory must be"),
        ({"directory": ""}, "directory must be"),
        ({"split": "validation"}, "split must be train, dev or test but got 'validation'"),
        ({"layout": "date"}, "layout must be time or user but got 'date'"),
        ({"attempts": 0}, "attempts must be at least 1 but got 0"),
        ({"base_url": "file:///data"}, "base_url must be a plain http or https address but got 'file:///data'"),
        ({"base_url": "ftp://host/LaMP"}, "base_url must be"),
        ({"base_url": "http://"}, "base_url must be"),
        ({"base_url": "http://host/a\nb"}, "base_url must be"),
        ({"base_url": "http://host/?x=1"}, "base_url must be"),
        ({"base_url": "http://[host"}, "base_url is not a web address"),
        ({"base_url": "http://host:port/"}, "base_url is not a web address"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    fetch: Client, arguments: dict[str, Any], said: str
) -> None:
    assert said in fetch.fails(**arguments)
    assert not fetch.to.exists() and fetch.server.seen == []


@pytest.mark.parametrize("timeout_seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_timeout_must_be_above_0_and_finite(fetch: Client, timeout_seconds: float) -> None:
    with pytest.raises(InputError, match="timeout_seconds must be above 0 and finite"):
        download("LaMP_3", "dev", fetch.to, timeout_seconds=timeout_seconds)


def test_a_password_is_neither_taken_nor_shown(fetch: Client) -> None:
    assert "secret" not in fetch.fails(base_url="https://me:secret@host/LaMP")


def test_errors_of_requests_are_told_in_a_few_words() -> None:
    assert module._reason(requests.ConnectionError(OSError(101, "Network is\nunreachable")), 1) == (
        "Network is unreachable"
    )
    assert module._reason(requests.ReadTimeout("HTTPConnectionPool(...)"), 2.5) == "nothing came for 2.5 s"
    assert module._reason(ValueError("?"), 1) == "the connection broke"
