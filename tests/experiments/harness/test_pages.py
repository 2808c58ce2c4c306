"""What Wikipedia answered in a study: what is found again, and what a crash, a full disk or a hand leaves."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers.wikipedia import WikipediaServer

from personaagent.experiments.harness.pages import Pages
from personaagent.programs.errors import InputError, StoreError
from personaagent.programs.tools.wikipedia import Wikipedia

WIKI = "https://wiki.example.org/w/api.php"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wikipedia.jsonl"


def filled(path: Path, **texts: str) -> None:
    pages = Pages(path)
    for topic, text in texts.items():
        pages.of(WIKI)[topic] = text
    pages.close()


def found(path: Path, *topics: str, address: str = WIKI) -> list[str | None]:
    pages = Pages(path)
    texts = [pages.of(address).get(topic) for topic in topics]
    pages.close()
    return texts


def test_an_answer_is_in_the_file_at_once_and_found_by_the_next_run(path: Path) -> None:
    pages = Pages(path)
    pages.of(WIKI)["Île"] = "«déjà vu»"
    [entry] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert entry.pop("date").endswith("+00:00")
    assert entry == {"address": WIKI, "topic": "Île", "text": "«déjà vu»"}
    assert pages.of(WIKI).get("Île") == "«déjà vu»"
    pages.close()
    assert found(path, "Île", "île") == ["«déjà vu»", None]


def test_each_address_has_answers_of_its_own(path: Path) -> None:
    filled(path, Berlin="a city")
    assert found(path, "Berlin", address="https://de.example.org/w/api.php") == [None]


def test_a_password_in_the_address_is_not_written_and_a_new_one_finds_the_same(path: Path) -> None:
    pages = Pages(path)
    pages.of("https://me:hunter2@wiki.example.org/w/api.php?token=s3cret")["C"] = "A letter."
    pages.close()
    assert b"hunter2" not in path.read_bytes() and b"s3cret" not in path.read_bytes()
    assert found(path, "C", address="https://me:other@wiki.example.org/w/api.php?token=new") == ["A letter."]


def test_text_that_no_encoding_has_and_lines_within_it_come_back(path: Path) -> None:
    text = "one\u2028two\u0085three\x0cfour\nfive\rhalf a character: \ud83d"
    filled(path, odd=text, after="x")
    assert found(path, "odd", "after") == [text, "x"]


@pytest.mark.parametrize("keep", [1, 60, -2])
def test_a_last_line_that_was_cut_short_is_dropped_and_its_place_is_used(path: Path, keep: int) -> None:
    filled(path, a="A.", b="B.")
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:keep])
    assert found(path, "a", "b") == ["A.", None]
    filled(path, c="C.")
    assert [json.loads(line)["topic"] for line in path.read_text().splitlines()] == ["a", "c"]


DAMAGE = ['{"address": "b", "to', "[]", "3", '{"address": "b"}', "\x00\x00", '{"address":1,"topic":2,"text":3}']


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_middle_line_is_named_by_its_number_and_nothing_is_touched(path: Path, damage: str) -> None:
    filled(path, a="A.", b="B.", c="C.")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "", damage, lines[2]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"wikipedia\.jsonl: line 3 is damaged\. Delete that line to"):
        Pages(path)
    assert path.read_bytes() == before


def test_a_folder_in_its_place_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Wikipedia's answers cannot be opened"):
        Pages(tmp_path)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The kernel writes what fits and refuses the rest, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_error_and_what_was_written_before_and_after_is_whole(path: Path) -> None:
    pages = Pages(path)
    pages.of(WIKI)["a"] = "A."
    before = path.read_bytes()
    with no_file_longer_than(len(before) + 50):
        with pytest.raises(StoreError, match=r"wikipedia\.jsonl: cannot be written: File too large. Make"):
            pages.of(WIKI)["b"] = "B."
    assert path.read_bytes() == before
    assert pages.of(WIKI).get("b") is None  # it would not be found again
    pages.of(WIKI)["c"] = "C."
    pages.close()
    assert found(path, "a", "b", "c") == ["A.", None, "C."]


def test_an_answer_that_comes_after_the_end_is_refused(path: Path) -> None:
    pages = Pages(path)
    late = pages.of(WIKI)
    pages.close()
    with pytest.raises(StoreError, match="too late"):
        late["a"] = "A."
    assert found(path, "a") == [None]


def test_sixteen_threads_write_whole_lines(path: Path) -> None:
    pages = Pages(path)

    def keep(thread: int) -> None:
        for number in range(20):
            pages.of(WIKI)[f"{thread}-{number}"] = f"{thread} {number} " + "x" * 3000

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(keep, range(16)))
    pages.close()
    assert len(path.read_bytes().splitlines()) == 320
    assert found(path, "0-0", "15-19") == ["0 0 " + "x" * 3000, "15 19 " + "x" * 3000]


READER = """
import sys
from pathlib import Path
from personaagent.experiments.harness.pages import Pages
from personaagent.programs.tools.wikipedia import Wikipedia
path, url = sys.argv[1:]
tool = Wikipedia(url=url, timeout_seconds=60, answers=Pages(Path(path)).of(url))
number = 0
while True:
    print(tool(f"Topic {number}" if number % 2 else f"Nobody {number}"), flush=True)
    number += 1
"""


def test_kill_9_loses_no_answer_that_was_used_and_the_next_run_asks_for_none(path: Path) -> None:
    with WikipediaServer() as server:
        command = [sys.executable, "-c", READER, str(path), server.url]
        environment = {**os.environ, "NO_PROXY": "127.0.0.1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as reader:
            assert reader.stdout is not None
            used = [reader.stdout.readline() for _ in range(30)]
            reader.send_signal(signal.SIGKILL)
            used += [line for line in reader.stdout if line.endswith("\n")]
        asked = server.requests
        server.scenario = "reset"
        tool = Wikipedia(url=server.url, answers=Pages(path).of(server.url))
        for number, text in enumerate(used):
            assert tool(f"Topic {number}" if number % 2 else f"Nobody {number}") == text.rstrip("\n")
        assert server.requests == asked
