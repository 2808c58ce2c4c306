"""The journal: what a crash leaves, and what is found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from personaagent.experiments.harness.journal import Journal, Unit, unit_key
from personaagent.programs.errors import InputError, StoreError
from personaagent.programs.lm.meter import Usage


def unit(key: str, raw: str = "comedy", error: str | None = None) -> Unit:
    result = {} if error else {"raw": raw, "recalled": ["a", "b"]}
    return Unit(key, "answer", result, error, Usage(3, 100, 20), 0.5)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def filled(path: Path, *units: Unit) -> None:
    journal = Journal(path)
    for one in units:
        journal.add(one)
    journal.close()


def test_what_was_added_is_found_by_the_next_run(path: Path) -> None:
    filled(path, unit("a", "«déjà vu»"), unit("b", error="LMServerError: down"))
    again = Journal(path)
    assert len(again) == 2
    assert again.get("a") == unit("a", "«déjà vu»")
    assert (again.get("b").ok, again.get("b").error) == (False, "LMServerError: down")  # type: ignore[union-attr]
    assert again.get("c") is None


def test_a_later_unit_of_the_same_key_replaces_an_earlier_one(path: Path) -> None:
    filled(path, unit("a", error="timeout"), unit("a"))
    assert Journal(path).get("a") == unit("a")
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_last_line_that_was_cut_short_is_dropped_and_its_place_is_used(path: Path, keep: int) -> None:
    filled(path, unit("a"), unit("b"))
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:keep])
    journal = Journal(path)
    assert (len(journal), journal.get("b")) == (1, None)
    journal.add(unit("c"))
    journal.close()
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]


def test_a_journal_that_holds_nothing_but_a_cut_line_is_empty(path: Path) -> None:
    path.write_text('{"key": "a", ')
    assert len(Journal(path)) == 0
    assert path.read_bytes() == b""


DAMAGE = ['{"key": "b", "kin', "[]", "3", '{"key": "b"}', "\x00\x00", '{"key": "b"} {"key": "c"}']


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_middle_line_is_named_by_its_number_and_nothing_is_touched(path: Path, damage: str) -> None:
    filled(path, unit("a"), unit("b"), unit("c"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], damage, lines[2]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"journal\.jsonl: line 2 is damaged\. Delete that line"):
        Journal(path)
    assert path.read_bytes() == before


def test_the_line_number_counts_lines_as_an_editor_does(path: Path) -> None:
    # U+2028 and NEL end a line for Python's text files, not for JSON Lines.
    filled(path, unit("a", "one\u2028two\u0085three\x0cfour"))
    with path.open("a") as file:
        file.write("\n\nbroken\n")
    with pytest.raises(InputError, match="line 4 is damaged"):
        Journal(path)


def test_a_unit_is_at_once_what_a_later_run_will_read(path: Path) -> None:
    journal = Journal(path)
    odd: dict[str, Any] = {"raw": "half a character: \ud83d", "tools": ("recall",)}
    journal.add(Unit("a", "answer", odd, None, Usage(), 0.1))
    journal.close()
    assert journal.get("a") == Journal(path).get("a")
    assert journal.get("a").result["tools"] == ["recall"]  # type: ignore[union-attr]
    path.read_text(encoding="utf-8")


def test_a_folder_in_its_place_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="journal cannot be opened"):
        Journal(tmp_path)


def test_what_a_run_had_spent_is_found_by_the_next_one(path: Path) -> None:
    spent = Usage(1, 10, 2)
    journal = Journal(path, run=4, spent=lambda: {**spent.to_dict(), "seconds": 0.25})
    journal.add(unit("a"))
    spent.add(Usage(5, 50, 10))  # of which 2 on a unit that is not done
    journal.add(unit("b", error="LMServerError: down"))
    assert journal.spent(4) == {}, "it is what earlier runs spent"
    journal.close()
    again = Journal(path, run=5)
    assert again.spent(4) == {"lm_calls": 6, "prompt_tokens": 60, "completion_tokens": 12, "seconds": 0.25}
    assert again.spent(3) == again.spent(5) == {}
    again.close()


def test_lines_of_before_there_was_an_account_are_read(path: Path) -> None:
    filled(path, unit("a"))
    entry = json.loads(path.read_text())
    del entry["run"], entry["spent"]
    path.write_text(json.dumps(entry) + "\n")
    journal = Journal(path)
    assert journal.get("a") == unit("a") and journal.spent(0) == {}
    journal.close()


WRITER = """
import sys
from pathlib import Path
from personaagent.experiments.harness.journal import Journal, Unit
from personaagent.programs.lm.meter import Usage
journal = Journal(Path(sys.argv[1]))
number = 0
while True:
    journal.add(Unit(str(number), "answer", {"raw": "x" * 20000}, None, Usage(), 0.1))
    print(number, flush=True)
    number += 1
"""


def test_kill_9_loses_no_unit_that_was_reported(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if line.strip() == "50":
            os.kill(writer.pid, signal.SIGKILL)
            break
    reported = 50 + len(writer.stdout.read().splitlines())
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    journal = Journal(path)
    assert all(journal.get(str(number)) is not None for number in range(reported + 1))
    assert len(journal) in (reported + 1, reported + 2)


def test_a_key_depends_on_kind_and_on_every_input_and_not_on_their_order() -> None:
    inputs = {"a": 1, "b": [1, 2], "c": None, "d": "x", "e": 0.1}
    same = dict(reversed(inputs.items()))
    assert unit_key("step", inputs) == unit_key("step", same)
    assert len(unit_key("step", inputs)) == 64
    others = [unit_key("answer", inputs)]
    others += [unit_key("step", {**inputs, name: "other"}) for name in inputs]
    others += [unit_key("step", {k: v for k, v in inputs.items() if k != name}) for name in inputs]
    others += [unit_key("step", {**inputs, "d": "\ud83d"}), unit_key("step", {**inputs, "b": [2, 1]})]
    assert len({unit_key("step", inputs), *others}) == len(others) + 1
