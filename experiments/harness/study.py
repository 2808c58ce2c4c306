"""A study: from options to finished units. What it has done once it never asks again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import dspy
from dspy.utils.exceptions import LMError
from filelock import FileLock, Timeout

from personaagent.datasets.registry import open_source
from personaagent.datasets.source import Source, chosen_users, leaked_queries
from personaagent.datasets.task import Query, Task, User
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.files import refused, replace_file
from personaagent.experiments.harness.journal import Journal, Unit
from personaagent.experiments.harness.methods import Models, PersonaAgentMethod, Work, swapped
from personaagent.experiments.harness.pages import Pages
from personaagent.experiments.harness.progress import Progress
from personaagent.experiments.harness.secrets import masked
from personaagent.experiments.harness.settings import StudyOptions, differing
from personaagent.programs.errors import BudgetError, DamagedStoreError, InputError, PersonaAgentError, StoreError
from personaagent.programs.lm.endpoint import one_line_of, says_misconfigured
from personaagent.programs.lm.make import OFFLINE, make_lm
from personaagent.programs.lm.meter import Meter, metering
from personaagent.programs.memory.encoder import load_encoder
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona
from personaagent.programs.tools.wikipedia import ENGLISH, TIMEOUT_SECONDS, Wikipedia

METHOD = "persona-agent"
_ENCODER_CACHE = 20_000

GRACE_SECONDS = 3.0
"""After an interruption, for the units under way to end."""

Waiting = Literal["waiting"]


@dataclass(frozen=True)
class Failed:
    """Why something could not be had: a unit that it rests on failed for good."""

    reason: str


@dataclass(frozen=True)
class Chain:
    """A user's persona in a cell, with the units that it rests on."""

    persona: Persona | Failed | Waiting
    units: tuple[Unit, ...]
    """Profile first, then the steps."""


@dataclass
class TaskData:
    """One task of a study: its users, and the method that serves them."""

    task: Task
    users: list[User]
    """Each with the queries that are asked."""
    source: str
    method: PersonaAgentMethod
    served_by: dict[str, User] = field(default_factory=dict)


class Study:
    """Runs cells, unit by unit, against the journal in OUT.

    Use as a context manager: it holds a lock on OUT.

    Raises:
        InputError: if the options do not fit the data or OUT, before any work is done.
    """

    def __init__(self, options: StudyOptions) -> None:
        self.options = options
        self.out = options.out_folder
        self.meter = Meter(options.max_calls, max_in_flight=options.workers)
        self.notes: list[str] = []
        self.seeds = options.seeds
        if options.lm == OFFLINE and options.align_model == OFFLINE and len(options.seeds) > 1:
            self.seeds = options.seeds[:1]
            self.notes.append(f"the offline reader does not sample: only seed {self.seeds[0]} is run")
        missing = [] if options.grid or options.search is not None else options.axes.left_out()
        if missing:
            self.notes.append(f"{', '.join(missing)} is in no cell: the centre has n=0; --grid takes the product")
        self._models = self._make_models()
        self._sources = {name: self._open_source(name) for name in options.tasks}
        self._chosen = {name: self._choose(name) for name in options.tasks}
        self._resources = ExitStack()
        self._stop = threading.Event()
        self._retried: set[str] = set()
        self._refused: list[int] = []
        self._journalling = threading.Lock()
        self._closed = False
        self._opened = time.monotonic()
        self._pages: Pages | None = None
        self._wikipedia_tool: dspy.Tool | None = None
        self.given_up = 0
        """Units that were under way at an interruption and did not end in time: their threads may still run."""
        self.tasks: dict[str, TaskData] = {}
        self.record: dict[str, Any] = {}

    # -- opening and closing ----------------------------------------------------------------------

    def __enter__(self) -> Study:
        try:
            self._open()
        except BaseException:
            self._resources.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def _open(self) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._resources.enter_context(_locked(self.out))
            (self.out / "memory").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.out}: cannot be written: {refused(error)}") from None
        self.record = self._read_record()
        self.journal = Journal(self.out / "journal.jsonl", run=len(self.record["runs"]), spent=self._spent)
        self._resources.callback(self.journal.close)
        self._book_killed()
        self.record["runs"].append({})
        if self.options.wikipedia != "off":
            self._pages = Pages(self.out / "wikipedia.jsonl")
            self._resources.callback(self._pages.close)
        for name in dict.fromkeys([*self.options.tasks, *(entry["task"] for entry in self.record["cells"])]):
            with _made_anew(self._database(name)):
                store = MemoryStore(f"sqlite:///{self._database(name)}", encoder=_shared_encoder())
            self._resources.callback(store.close)
            self.tasks[name] = self._task_data(name, store)
        # Now, not with the first units: MLflow's runs are found again by the id in it.
        self._write_record(complete=False)

    def preview(self) -> None:
        """Instead of entering: tasks without OUT, for a dry run. Nothing is written."""
        for name in self.options.tasks:
            self.tasks[name] = self._task_data(name, MemoryStore("sqlite://", encoder=_shared_encoder()))

    def cells_asked(self) -> list[Cell]:
        """The cells that these options span; of a search, those that it chooses from."""
        cells: list[Cell] = []
        for task in self.options.tasks:
            for seed in self.seeds:
                base = Cell(task, METHOD, self.options.lm, 0, 0, 0, seed=seed)
                axes = self.options.axes
                product = self.options.grid or self.options.search is not None
                cells += axes.grid(base) if product else axes.around_centre(base)
        return list(dict.fromkeys(cells))

    def all_cells(self) -> list[Cell]:
        """Every cell ever asked for in OUT, in order."""
        return sorted(Cell(**entry) for entry in self.record["cells"])

    # -- working ----------------------------------------------------------------------------------

    def run(self, cells: Sequence[Cell], progress: Progress) -> None:
        """Do every unit of these cells that is not in the journal."""
        known = {json.dumps(cell, sort_keys=True) for cell in self.record["cells"]}
        new = [c.to_dict() for c in cells if json.dumps(c.to_dict(), sort_keys=True) not in known]
        self.record["cells"] += new
        self._write_record(complete=False)
        try:
            self._run(cells, progress)
        except InputError:
            # A setting that cannot work, such as a key that is refused: cells of which nothing is done were a mistake.
            self.record["cells"] = [c for c in self.record["cells"] if c not in new or self._begun(Cell(**c))]
            self._write_record(complete=True)
            raise

    def _run(self, cells: Sequence[Cell], progress: Progress) -> None:
        try:
            self._record_histories(progress)
            self._phase("profiles", list(self._profile_works(cells)), progress)
            self._align(cells, progress)
            self._phase("answers", list(self._answer_works(cells)), progress)
        except BaseException:
            with suppress(StoreError):  # of a disk that is full, the first fault is told
                self._write_record(complete=True)
            raise
        self._write_record(complete=True)

    def _begun(self, cell: Cell) -> bool:
        return any(self.chain(user, cell).units for user in self.tasks[cell.task].served_by.values())

    @property
    def calls_needed(self) -> int | None:
        """What --max-calls must be at least, if it was too low for any unit to be done in this run."""
        return min(self._refused) if self._refused and not self.meter.spent.lm_calls else None

    def stop(self) -> None:
        """Start no further unit."""
        self._stop.set()

    def chain(self, user: User, cell: Cell, iterations: int | None = None) -> Chain:
        """A user's persona in a cell, as far as the journal knows; or after only so many iterations."""
        data = self.tasks[cell.task]
        units: list[Unit] = []
        profile: str | None = None
        if self.options.profile:
            unit = self.journal.get(data.method.profile_work(user, cell).key)
            if unit is None:
                return Chain("waiting", ())
            units.append(unit)
            if unit.error is not None:
                return Chain(Failed(f"profile: {unit.error}"), tuple(units))
            profile = unit.result["profile"]
        persona = data.method.initial_persona(cell.memories, profile)
        for iteration in range(1, (cell.iterations if iterations is None else iterations) + 1):
            unit = self.journal.get(data.method.step_work(user, cell, iteration, persona).key)
            if unit is None:
                return Chain("waiting", tuple(units))
            units.append(unit)
            if unit.error is not None:
                return Chain(Failed(f"alignment step {iteration}: {unit.error}"), tuple(units))
            persona = Persona(**unit.result["after"])
        return Chain(persona, tuple(units))

    def answer(self, query: Query, served_by: User, cell: Cell, chain: Chain) -> Unit | Failed | Waiting:
        """What became of one question in a cell."""
        if not isinstance(chain.persona, Persona):
            return chain.persona
        work = self.tasks[cell.task].method.answer_work(query, served_by, cell, chain.persona)
        return self.journal.get(work.key) or "waiting"

    def _profile_works(self, cells: Sequence[Cell]) -> Iterator[Work]:
        if not self.options.profile:
            return
        for cell in {(cell.task, cell.seed): cell for cell in cells}.values():
            for user in self.tasks[cell.task].served_by.values():
                yield self.tasks[cell.task].method.profile_work(user, cell)

    def _align(self, cells: Sequence[Cell], progress: Progress) -> None:
        """Iteration by iteration: users, batch sizes and memories side by side within each."""
        for iteration in range(1, max((cell.iterations for cell in cells), default=0) + 1):
            works = []
            # Cells that differ in E alone share the steps that they have in common.
            going_on = [cell for cell in cells if cell.iterations >= iteration]
            for cell in {(c.task, c.seed, c.batch_size, c.memories): c for c in going_on}.values():
                data = self.tasks[cell.task]
                for user in data.served_by.values():
                    chain = self.chain(user, cell, iteration - 1)
                    if isinstance(chain.persona, Persona):
                        works.append(data.method.step_work(user, cell, iteration, chain.persona))
            self._phase(f"alignment {iteration}", works, progress)

    def _answer_works(self, cells: Sequence[Cell]) -> Iterator[Work]:
        for cell in cells:
            data = self.tasks[cell.task]
            for user in data.users:
                served_by = data.served_by[user.user_id]
                chain = self.chain(served_by, cell)
                if isinstance(chain.persona, Persona):
                    for query in user.queries:
                        yield data.method.answer_work(query, served_by, cell, chain.persona)

    def _record_histories(self, progress: Progress) -> None:
        """Interactions into the stores, and their vectors where any cell recalls."""
        recalls = any(entry["memories"] for entry in self.record["cells"])
        todo = [(name, data, user) for name, data in self.tasks.items() for user in data.users]
        with progress.phase("histories", len(todo)) as bar:
            for name, data, user in todo:
                if self._stop.is_set():
                    return
                store = data.method.store
                with _made_anew(self._database(name)):
                    store.add(user.history)
                    if recalls:
                        store.snapshot(user.user_id)
                        data.method.hold(user)
                bar.advance()

    def _phase(self, name: str, works: Sequence[Work], progress: Progress) -> None:
        unique = {work.key: work for work in works}
        todo = [work for work in unique.values() if self._is_open(work.key)]
        if not todo:
            return
        with progress.phase(name, len(todo), self.meter) as bar:
            if self.options.workers == 1:
                for work in todo:
                    bar.advance(self._do(work))
                return
            self._side_by_side(todo, bar.advance, progress)

    def _side_by_side(self, todo: Sequence[Work], advance: Callable[[Unit | None], None], progress: Progress) -> None:
        pool = ThreadPoolExecutor(self.options.workers, thread_name_prefix="study")
        pending: set[Future[Unit | None]] = {pool.submit(self._do, work) for work in todo}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    advance(future.result())
            pool.shutdown()
        except BaseException as stopped:
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            begun = {future for future in pending if not future.cancelled()}  # who was cancelled so is never done
            if isinstance(stopped, KeyboardInterrupt):
                progress.say("interrupted: a moment for the units under way, so that they are not paid for twice")
                _, left = wait(begun, timeout=GRACE_SECONDS)
                with self._journalling:
                    self.given_up = sum(future.running() for future in left)
                    self._closed = True
            else:
                wait(begun)
            raise

    def _is_open(self, key: str) -> bool:
        unit = self.journal.get(key)
        return unit is None or (self.options.retry_failed and not unit.ok and key not in self._retried)

    def _do(self, work: Work) -> Unit | None:
        """Do one unit and journal it; None if it has to wait for another run."""
        if self._stop.is_set():
            return None
        self._retried.add(work.key)
        with self.meter.admitted(work.worst_case) as admitted, metering() as usage:
            if not admitted:
                self._refused.append(work.worst_case)
                return None
            if self._stop.is_set():  # while it waited to be admitted
                return None
            started = time.perf_counter()
            result: dict[str, Any] = {}
            error: str | None = None
            try:
                # No trace and no history: they would hold every user's prompts. The host's settings stay.
                with dspy.context(
                    lm=self._models.lm,
                    adapter=dspy.ChatAdapter(),
                    trace=None,
                    disable_history=True,
                    callbacks=[],
                ):
                    result = work.run()
            except Exception as failure:
                if _by_the_cap(failure):
                    return None
                if isinstance(failure, PersonaAgentError):
                    raise
                error = _one_line(failure)
                # An LM that has answered in this run was not mistaken, whatever it says now.
                if isinstance(failure, LMError) and says_misconfigured(failure):
                    if not self.meter.has_answered(failure.model or "", getattr(failure, "endpoint", "")):
                        raise InputError(f"the LM cannot be used: {error}") from failure
            unit = Unit(work.key, work.kind, result, error, usage, time.perf_counter() - started)
        with self._journalling:
            if self._closed:  # given up after an interruption: the study's files are written without it
                return None
            self.journal.add(unit)
        return unit

    # -- loading ----------------------------------------------------------------------------------

    def _make_models(self) -> Models:
        options = self.options
        settings: dict[str, Any] = {
            "temperature": options.temperature,
            "timeout_seconds": options.timeout_seconds,
            "meter": self.meter,
        }
        lm = make_lm(options.lm, api_base=options.api_base, **settings)
        if options.align_lm is None:
            align_lm = lm
        else:
            align_lm = make_lm(options.align_lm, api_base=options.align_api_base, **settings)
        return Models(lm, align_lm, options.align_lm, options.api_base, options.align_endpoint, options.temperature)

    def _open_source(self, name: str) -> Source:
        options = self.options
        return open_source(name, options.data, options.split, options.data_seed, options.columns, options.labels)

    def _task_data(self, name: str, store: MemoryStore) -> TaskData:
        options = self.options
        if name not in self._sources:
            self._sources[name] = self._open_source(name)
            self._chosen[name] = self._choose(name)
        source = self._sources[name]
        users = self._chosen[name]
        unknown = {i.response for user in users for i in user.history} - set(source.task.labels)
        if unknown and source.task.labels:
            first = sorted(unknown)[0]
            self.notes.append(
                f"{name}: histories of {source.where} hold answers that are no label of the task, such as {first!r}"
            )
        method = PersonaAgentMethod(
            task=source.task,
            store=store,
            models=self._models,
            prompts=options.prompts,
            profile=options.profile,
            wikipedia=masked(options.wikipedia),
            wikipedia_tool=self._wikipedia(),
            workers=options.workers,
        )
        return TaskData(source.task, users, source.where, method, swapped(users, options.control))

    def _choose(self, name: str) -> list[User]:
        """The users who are asked."""
        options = self.options
        source = self._sources[name]
        users = chosen_users(source, options.selection)
        self.notes += source.notes
        if options.control == "swap" and len(users) < 2:
            raise InputError(f"--control swap needs at least 2 users, but {source.where} gives {len(users)}")
        if len(users) < options.users:
            self.notes.append(f"{name}: {options.users} users were asked for and {source.where} has {len(users)}")
        if empty := sum(not user.history for user in users):
            self.notes.append(
                f"{name}: {empty} users have no history: the profiles of their asked questions have nothing in common"
            )
        if leaks := leaked_queries(users):
            self.notes.append(
                f"{name}: {len(leaks)} queries are in their own user's history, such as {leaks[0][1]!r} of user "
                f"{leaks[0][0]!r}: recall can look their answers up"
            )
        return users

    def _wikipedia(self) -> dspy.Tool | None:
        """One for all tasks: one session, one breaker, and no topic asked twice."""
        if self.options.wikipedia == "off":
            return None
        if self._wikipedia_tool is None:
            url = ENGLISH if self.options.wikipedia == "on" else self.options.wikipedia
            answers = self._pages.of(url) if self._pages is not None else None
            seconds = min(TIMEOUT_SECONDS, self.options.timeout_seconds)
            tool = Wikipedia(url=url, timeout_seconds=seconds, answers=answers)
            self._wikipedia_tool = tool.as_tool(self.options.prompts.wikipedia)
        return self._wikipedia_tool

    # -- study.json -------------------------------------------------------------------------------

    def _read_record(self) -> dict[str, Any]:
        settings = {**self.options.identity, **{f"data {n}": self._sources[n].digest for n in self.options.tasks}}
        fresh = {"study": 1, "id": uuid4().hex, "settings": settings, "cells": [], "runs": []}
        path = self.out / "study.json"
        if not path.exists():
            return fresh
        try:
            stored: dict[str, Any] = json.loads(path.read_bytes())
            known: Mapping[str, Any] = stored["settings"]
            [Cell(**entry) for entry in stored["cells"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a study's record ({error}); use another --out") from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {refused(error)}") from error
        changed = differing(known, settings)
        if changed:
            raise InputError(
                f"{self.out} holds a study with other settings:\n" + "\n".join(changed) + "\n"
                "Give this one another --out, or drop --out for a folder of its own."
            )
        return {**fresh, **stored, "settings": {**known, **settings}}

    def _write_record(self, complete: bool) -> None:
        """study.json as it is now; `complete` says whether this run will have spent no more than stands there."""
        command = [masked(part) for part in self.options.command]
        self.record["runs"][-1] = {"command": command, **self._spent(), "complete": complete}
        replace_file(self.out / "study.json", json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")

    def _database(self, task: str) -> Path:
        return self.out / "memory" / f"{task}.db"

    def _spent(self) -> dict[str, float]:
        """What this run really spent until now, failed attempts included."""
        return {**self.meter.spent.to_dict(), "seconds": round(time.monotonic() - self._opened, 3)}

    def _book_killed(self) -> None:
        """Complete the accounts of runs that were killed by what they had journalled.

        What they spent after their last unit is not known: at most the calls of `--workers` units.
        """
        for number, run in enumerate(self.record["runs"]):
            if not run.get("complete", True):
                for name, value in self.journal.spent(number).items():
                    run[name] = max(run.get(name, 0), value)


def _shared_encoder() -> Any:
    encoder = load_encoder("auto")
    encoder.cache_size = max(encoder.cache_size, _ENCODER_CACHE)
    return encoder


@contextmanager
def _made_anew(database: Path) -> Iterator[None]:
    """To what is said of damage within the block, the remedy that only a study has."""
    try:
        yield
    except DamagedStoreError as error:
        raise StoreError(
            f"{error} Or delete {database}: a study makes its memory anew from its data, and asks nothing again."
        ) from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    lock = FileLock(out / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{out} is in use by another run; wait for it, or give this one another --out") from None
    try:
        yield
    finally:
        lock.release()


def _by_the_cap(failure: BaseException) -> bool:
    """Whether a call was refused by --max-calls; DSPy wraps what an engine raises."""
    cause: BaseException | None = failure
    while cause is not None and not isinstance(cause, BudgetError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None


def _one_line(error: Exception) -> str:
    if isinstance(error, LMError):
        return masked(f"{type(error).__name__}: [{error.model}] {one_line_of(error)}")
    text = " ".join(masked(str(error)).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
