"""kill -9 at random moments of a study against an LM over HTTP: nothing is lost, and nothing is asked again.

KILLS gives the number of kills; default 20. `make soak` takes 100.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import re
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from faults import studies
from servers import llm as server_module

from personaagent.datasets.lamp.tasks import LAMP_2M
from personaagent.programs.memory.store import MemoryStore

KILLS = int(os.environ.get("KILLS", "20"))
WORKERS = 4
SEED = 20250606
LATENCY_SECONDS = 0.02
MOST_CALLS = 9
"""Of one unit of this study: a step of two rollouts with recall."""

AXES = ["--batch-sizes", "0,2", "--iterations", "1", "--memories", "2"]
SETTINGS = ["--lm", "openai/test", "--wikipedia", "off", "--users", "3", "--queries-per-user", "2"]
PLACES = ["--out", "out", "--tracking", "sqlite:///mlflow.db", "--trace-samples", "1"]


def reply(messages: list[dict[str, Any]]) -> str:
    """Recalls once if it can, finishes, and says what depends on every letter of the prompt."""
    time.sleep(LATENCY_SECONDS)
    texts = [m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] for m in messages]
    digest = hashlib.sha256("".join(texts).encode()).hexdigest()
    recalls = "(1) recall" in texts[0] and "[[ ## observation_0 ## ]]" not in texts[-1]
    said = {
        "next_tool_name": "recall" if recalls else "finish",
        "next_tool_args": json.dumps({"query": f"film {digest[:4]}"} if recalls else {}),
        "answer": LAMP_2M.labels[int(digest, 16) % len(LAMP_2M.labels)],
    }
    asked = [name for name in re.findall(r"`\[\[ ## (\w+) ## \]\]`", texts[-1]) if name != "completed"]
    return "\n\n".join(f"[[ ## {name} ## ]]\n{said.get(name, f'{name} {digest[:8]}')}" for name in asked)


def digest_of(seen: server_module.Seen) -> str:
    return hashlib.sha256(json.dumps(seen.body["messages"]).encode()).hexdigest()


@dataclass(frozen=True)
class Course:
    """How long a run takes before it asks first, and after it has asked last; in seconds."""

    start: float
    end: float


@dataclass(frozen=True)
class Moment:
    """When to kill: so far into one of a run's three parts. Amid the units it is counted in requests: a machine that
    is slower or faster today is killed there all the same."""

    part: Literal["start", "units", "end"]
    share: float
    """Of the part, from 0 to 1."""
    delay_seconds: float
    """After the request, amid the units: it may be on its way, answered, or its unit journalled."""

    @classmethod
    def random(cls, rng: random.Random, number: int) -> Moment:
        """Every second one is amid the units, the others are in turn before and after."""
        parts: tuple[Literal["start", "units", "end"], ...] = ("units", "start", "units", "end")
        return cls(parts[number % 4], rng.random(), rng.uniform(0, 2 * LATENCY_SECONDS))


class Undisturbed:
    """The study as it is if nothing happens to it, and which unit asks what.

    Args:
        warm: runs it.
        server: answers it.
        folder: to work in.
        database: MLflow's, empty.
    """

    def __init__(self, warm: studies.Warm, server: server_module.OpenAIServer, folder: Path, database: Path) -> None:
        self.warm, self.server, self.database = warm, server, database
        self.argv = [*SETTINGS, "--api-base", server.url, *AXES, *PLACES]
        for name in ("one", "side"):
            (folder / name).mkdir()
            shutil.copy(self.database, folder / name / "mlflow.db")
        one_by_one, _ = self._whole(folder / "one", 1)
        # One worker asks nothing before the unit that it has done is journalled: the journal's lines, as many as
        # there are when a request comes, are the units before its own.
        keys = list(studies.journalled(folder / "one" / "out"))
        self.unit_of = {digest: keys[line] for digest, line in one_by_one}
        assert len(self.unit_of) == len(one_by_one) and len(keys) == len({*self.unit_of.values()}), "not told apart"
        self.calls_of = Counter(self.unit_of.values())
        _, self.course = self._whole(folder / "side", WORKERS)
        self.left, self.tracked = self.now(folder / "side")
        assert (self.left, self.tracked) == self.now(folder / "one")

    def course_of(self, folder: Path) -> Course:
        """The course of a run that has to make MLflow's database first."""
        folder.mkdir()
        return self._whole(folder, WORKERS)[1]

    def _whole(self, folder: Path, workers: int) -> tuple[list[tuple[str, int]], Course]:
        """A run without a kill: each request with the lines that the journal had, and the run's course."""
        asked: list[tuple[str, int]] = []
        times = [time.monotonic()]
        journal = folder / "out" / "journal.jsonl"

        def noted(messages: list[dict[str, Any]]) -> str:
            times.append(time.monotonic())
            lines = journal.read_bytes().count(b"\n")
            asked.append((hashlib.sha256(json.dumps(messages).encode()).hexdigest(), lines))
            return reply(messages)

        self.server.reply = noted
        run = self.warm.run([*self.argv, "--workers", str(workers)], folder)
        self.server.reply = reply
        assert run["code"] == 0, run
        assert studies.record(folder / "out")["runs"][0]["lm_calls"] == len(asked)
        end = run["started"] + run["seconds"] - times[-1]
        return asked, Course(times[1] - run["started"], end)

    @staticmethod
    def now(folder: Path) -> tuple[Any, Any]:
        return studies.left_by(folder / "out"), studies.tracked_in(folder / "mlflow.db")


@pytest.fixture(scope="module")
def undisturbed(
    warm: studies.Warm, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Undisturbed]:
    with server_module.OpenAIServer(reply) as server:
        yield Undisturbed(warm, server, tmp_path_factory.mktemp("undisturbed"), empty_database)


class Killed:
    """One study in a folder of its own, killed and started again until it is done."""

    def __init__(self, undisturbed: Undisturbed, folder: Path, new_database: bool) -> None:
        self.whole, self.folder, self.out = undisturbed, folder, folder / "out"
        self.kills = 0
        self.asked = 0
        self.done = 0
        folder.mkdir()
        if not new_database:
            shutil.copy(undisturbed.database, folder / "mlflow.db")

    def run(self, course: Course | None = None, moment: Moment | None = None) -> bool:
        """Start the same command again; whether it was killed. Nothing that was journalled is asked."""
        done = studies.journalled(self.out)
        server, left = self.whole.server, sum(n for key, n in self.whole.calls_of.items() if key not in done)
        before = len(server.requests)
        argv = [*self.whole.argv, "--workers", str(WORKERS)]
        run = self.whole.warm.run(argv, self.folder, **(self._kill(course, moment, left) if course and moment else {}))
        server.reply = reply
        asked = {self.whole.unit_of[digest_of(seen)] for seen in server.requests[before:]}
        assert not asked & done.keys(), "asked again"
        now_done = studies.journalled(self.out)
        assert done.keys() <= now_done.keys(), "lost"
        self.done = len(now_done)
        self.asked += len(server.requests) - before
        if run["code"] == -9:
            self.kills += 1
            return True
        assert run["code"] == 0, run
        self._check_end()
        return False

    def _kill(self, course: Course, moment: Moment, left: int) -> dict[str, Any]:
        """How to have a run killed that has so many requests to make."""
        if moment.part == "start" or not left:
            seconds = course.start if moment.part == "start" else course.start + course.end
            return {"kill_after": moment.share * seconds}
        number, seconds = left, moment.share * course.end
        if moment.part == "units":
            number, seconds = 1 + int(moment.share * left), moment.delay_seconds
        now = self.folder / f"kill-{self.kills}-{number}-{seconds}"
        seen = itertools.count(1)

        def counted(messages: list[dict[str, Any]]) -> str:
            if next(seen) == number:
                now.touch()
            return reply(messages)

        self.whole.server.reply = counted
        return {"kill_when": str(now), "kill_after": seconds}

    def _check_end(self) -> None:
        left, tracked = self.whole.now(self.folder)
        assert left == self.whole.left
        assert [run["name"] for run in tracked] == [run["name"] for run in self.whole.tracked]
        for own, undisturbed in zip(tracked, self.whole.tracked, strict=True):
            assert [(name, own[name], undisturbed[name]) for name in own if own[name] != undisturbed[name]] == []
        for database in (self.folder / "mlflow.db", self.out / "memory" / "lamp-2m.db"):
            with closing(sqlite3.connect(database)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with closing(MemoryStore(f"sqlite:///{self.out / 'memory' / 'lamp-2m.db'}")) as store:
            assert len(store.users()) == 3 and all(store.interactions(user) for user in store.users())
        self._check_account()

    def _check_account(self) -> None:
        """What was really spent: of a killed run all but the calls of the units that were under way."""
        runs, units = studies.record(self.out)["runs"], studies.journalled(self.out).values()
        assert runs[-1]["complete"]
        for number, run in enumerate(runs):
            assert run["lm_calls"] >= sum(unit["lm_calls"] for unit in units if unit["run"] == number)
        # Kills before the first study.json leave no account, and nothing was asked then.
        killed, spent = sum(not run["complete"] for run in runs), sum(run["lm_calls"] for run in runs)
        # A call is booked before it is sent, so a kill may leave one of each worker that no server has seen.
        assert -WORKERS * killed <= self.asked - spent <= WORKERS * MOST_CALLS * killed


@pytest.mark.parametrize(("new_database", "share"), [(True, 0.2), (False, 0.8)], ids=["new-database", "old-database"])
def test_kill_9_at_random_moments(undisturbed: Undisturbed, tmp_path: Path, new_database: bool, share: float) -> None:
    """Every study is killed as it begins anew and as it goes on, and then does the rest."""
    rng = random.Random(f"{SEED} {new_database}")
    units = len(undisturbed.left["journal.jsonl"])
    whole = undisturbed.course_of(tmp_path / "whole") if new_database else undisturbed.course
    left: list[int] = []
    for number in range(math.ceil(share * KILLS / 2)):
        study = Killed(undisturbed, tmp_path / f"study-{number}", new_database)
        for course, moment in (
            (whole, Moment.random(rng, number)),
            (undisturbed.course, Moment.random(rng, number + 1)),
        ):
            kills = study.kills
            while not study.run(course, moment):  # the machine is faster than it was
                if not kills:
                    study = Killed(undisturbed, study.folder.with_name(f"{study.folder.name}-again"), new_database)
                moment = replace(moment, share=0.8 * moment.share)
            left.append(study.done)
        assert not study.run()
    assert any(0 < done < units for done in left), f"no kill was amid the units: {left}"
    print(f"{len(left)} kills, when so many of {units} units were done: {left}")
