"""A study: from options to finished units. What it has done once it never asks again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import dspy

from personaagent.datasets.registry import open_source
from personaagent.datasets.source import Source, chosen_users, leaked_queries
from personaagent.datasets.task import Query, Task, User
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.files import refused
from personaagent.experiments.harness.folder import OWN_FILES, locked, made_anew
from personaagent.experiments.harness.journal import Journal, Unit
from personaagent.experiments.harness.methods.base import Method, Models, Notes, Setting, Work
from personaagent.experiments.harness.methods.registry import EQUAL_COST, METHODS, PERSONA_AGENT, in_order
from personaagent.experiments.harness.outcomes import Answer, Chain, Failed, TaskData, Waiting
from personaagent.experiments.harness.pages import Pages
from personaagent.experiments.harness.pool import example_pool
from personaagent.experiments.harness.progress import Progress
from personaagent.experiments.harness.record import Record
from personaagent.experiments.harness.secrets import masked, without_secrets
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.subjects import ALL, Subject, newest, subjects
from personaagent.experiments.harness.workers import Workers
from personaagent.programs.errors import InputError, StoreError
from personaagent.programs.lm.make import OFFLINE, make_lm
from personaagent.programs.lm.meter import Meter
from personaagent.programs.lm.recording import Recording, check_place
from personaagent.programs.lm.scope import recording_scope
from personaagent.programs.memory.encoder import load_encoder
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona
from personaagent.programs.tools.wikipedia import ENGLISH, TIMEOUT_SECONDS, Wikipedia

_ENCODER_CACHE = 20_000


class Study:
    """Runs cells, unit by unit, against the journal in OUT.

    Use as a context manager: it holds a lock on OUT.

    Raises:
        InputError: if the options do not fit the data or OUT, before any work is done.
        StoreError: if OUT's files cannot be read or written.
    """

    def __init__(self, options: StudyOptions) -> None:
        self.options = options
        self.out = options.out_folder
        self.meter = Meter(options.max_calls, max_in_flight=options.workers)
        self.notes: list[str] = []
        self.seeds = options.seeds
        if {*options.lms, options.align_lm or OFFLINE} == {OFFLINE} and len(options.seeds) > 1:
            self.seeds = options.seeds[:1]
            self.notes.append(f"the offline reader does not sample: only seed {self.seeds[0]} is run")
        missing = [] if options.grid or options.search is not None else options.axes.left_out()
        if missing:
            self.notes.append(f"{', '.join(missing)} is in no cell: the centre has n=0; --grid takes the product")
        self._recording: Recording | None = None
        if options.record is not None:
            self._check_record(options.record)
        self._models = self._make_models()
        self.workers = self._make_workers()
        self._sources = {name: self._open_source(name) for name in options.tasks}
        self._chosen = {name: self._choose(name) for name in options.tasks}
        self._resources = ExitStack()
        self._opened = time.monotonic()
        self._pages: Pages | None = None
        self._wikipedia_tool: dspy.Tool | None = None
        self.tasks: dict[str, TaskData] = {}
        self.record: Record

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
            self._resources.enter_context(locked(self.out))
            (self.out / "memory").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.out}: cannot be written: {refused(error)}") from None
        data = {f"data {name}": self._sources[name].digest for name in self.options.tasks}
        self.record = Record(self.out, {**self.options.identity, **data})
        self.journal = Journal(self.out / "journal.jsonl", run=len(self.record.runs), spent=self._spent)
        self._resources.callback(self.journal.close)
        self._book_killed()
        self.record.begin_run()
        if self.options.record is not None and not self.options.rescore:
            self._record_calls(self.options.record)
        if self.options.wikipedia != "off":
            self._pages = Pages(self.out / "wikipedia.jsonl")
            self._resources.callback(self._pages.close)
        for name in dict.fromkeys([*self.options.tasks, *(cell.task for cell in self.record.cells)]):
            with made_anew(self._database(name)):
                store = MemoryStore(f"sqlite:///{self._database(name)}", encoder=_shared_encoder())
            self._resources.callback(store.close)
            self.tasks[name] = self._task_data(name, store)
        # Now, not with the first units: MLflow's runs are found again by the id in it.
        self._write_record(complete=self.options.rescore)

    def preview(self) -> None:
        """Instead of entering: tasks without OUT, for a dry run. Nothing is written."""
        for name in self.options.tasks:
            self.tasks[name] = self._task_data(name, MemoryStore("sqlite://", encoder=_shared_encoder()))

    # -- cells ------------------------------------------------------------------------------------

    def cells_asked(self) -> list[Cell]:
        """The cells that these options span; of a search, those that it chooses from."""
        options = self.options
        cells: list[Cell] = []
        for task in options.tasks:
            for lm in options.lms:
                for seed in self.seeds[:1] if {lm, options.align_lm or lm} == {OFFLINE} else self.seeds:
                    for history in options.histories:
                        base = Cell(task, PERSONA_AGENT, lm, 0, 0, 0, history, seed)
                        product = options.grid or options.search is not None
                        points = options.axes.grid(base) if product else options.axes.around_centre(base)
                        cells += [METHODS[name].cell(point) for name in options.methods for point in points]
        if options.control == "equal-cost":
            aligned = [cell for cell in cells if cell.method == PERSONA_AGENT and cell.iterations]
            cells += [replace(cell, method=name) for cell in aligned for name in EQUAL_COST if _applies(name, cell)]
        return list(dict.fromkeys(cells))

    def matrix_asked(self) -> list[Cell]:
        """The cells of a swap matrix: those asked for that serve a user by anything of the user's own."""
        if self.options.control != "matrix":
            return []
        n, e, k = self.options.axes.centre
        asked = [cell for cell in self.cells_asked() if cell.method == PERSONA_AGENT]
        return [cell for cell in asked if cell == replace(cell, batch_size=n, iterations=e, memories=k)]

    def all_cells(self) -> list[Cell]:
        """Every cell ever asked for in OUT, in the order of tables."""
        return sorted(self.record.cells, key=_place)

    def task(self, cell: Cell) -> Task:
        """A cell's task."""
        return self.tasks[cell.task].task

    def method(self, cell: Cell) -> Method:
        """A cell's method."""
        data = self.tasks[cell.task]
        if cell.method not in data.methods:
            data.methods[cell.method] = METHODS[cell.method].make(data.setting)
        return data.methods[cell.method]

    def subjects(self, cell: Cell) -> list[Subject]:
        """Who is asked in a cell."""
        data = self.tasks[cell.task]
        if cell.history not in data.subjects:
            data.subjects[cell.history] = subjects(data.users, cell.history, self.options.walk_forward)
        return data.subjects[cell.history]

    def pairs(self, cell: Cell) -> list[tuple[Subject, Subject]]:
        """(who is asked, by whose persona and memory): each by their own; under `swap` by the next one's."""
        asked = self.subjects(cell)
        serving = [*asked[1:], *asked[:1]] if self.options.control == "swap" else asked
        return list(zip(asked, serving, strict=True))

    def swapped_pairs(self, cell: Cell) -> list[tuple[Subject, Subject]]:
        """(who is asked, by whose persona and memory) for every two users, of a swap matrix."""
        return [(asked, serving) for asked in self.subjects(cell) for serving in self.subjects(cell)]

    # -- reading ----------------------------------------------------------------------------------

    def chain(self, subject: Subject, cell: Cell, iterations: int | None = None) -> Chain:
        """By what a user is answered in a cell, as far as the journal knows; or after only so many iterations."""
        method = self.method(cell)
        units: list[Unit] = []
        learnt: Mapping[str, Any] | None = None
        work = method.learning(subject, cell)
        if work is not None:
            unit = self.journal.get(work.key)
            if unit is None:
                return Chain("waiting", ())
            units.append(unit)
            if unit.error is not None:
                return Chain(Failed(f"{unit.kind}: {unit.error}"), tuple(units))
            learnt = unit.result
        state = method.start(subject, cell, learnt)
        steps = method.iterations(cell)
        for iteration in range(1, (steps if iterations is None else min(iterations, steps)) + 1):
            unit = self.journal.get(method.step(subject, cell, iteration, state).key)
            if unit is None:
                return Chain("waiting", tuple(units))
            units.append(unit)
            if unit.error is not None:
                return Chain(Failed(f"alignment step {iteration}: {unit.error}"), tuple(units))
            state = Persona(**unit.result["after"])
        return Chain(state, tuple(units))

    def questions(
        self, cell: Cell, pairs: Sequence[tuple[Subject, Subject]]
    ) -> Iterator[tuple[Subject, Subject, Query, Chain]]:
        """Each question of these pairs: who is asked, by whose memory, what, and by what it is answered."""
        chains = {id(serving): self.chain(serving, cell) for serving in self.subjects(cell)}
        for asked, serving in pairs:
            for query in asked.queries:
                yield asked, serving, query, chains[id(serving)]

    def answer(self, query: Query, served_by: Subject, cell: Cell, chain: Chain) -> Answer | Failed | Waiting:
        """What became of one question in a cell."""
        if not isinstance(chain.state, Persona | Notes):
            return chain.state
        method = self.method(cell)
        works = method.answers(query, served_by, cell, chain.state)
        units = [unit for work in works if (unit := self.journal.get(work.key)) is not None]
        if len(units) < len(works):
            return "waiting"
        return Answer(tuple(units), method.decided(units))

    # -- working ----------------------------------------------------------------------------------

    def run(self, cells: Sequence[Cell], progress: Progress, matrix: Sequence[Cell] = ()) -> None:
        """Do every unit of these cells, and of their swap matrices, that is not in the journal."""
        new, swapped = self.record.ask(cells, matrix)
        self._write_record(complete=False)
        try:
            self._run(cells, matrix, progress)
        except InputError:
            # A setting that cannot work, such as a key that is refused: cells of which nothing is done were a mistake.
            self.record.forget(
                [cell for cell in new if not self._begun(cell)],
                [cell for cell in swapped if not self._swapped(cell)],
            )
            self._write_record(complete=True)
            raise

    def _run(self, cells: Sequence[Cell], matrix: Sequence[Cell], progress: Progress) -> None:
        try:
            if self.options.retry_failed or not self._is_done(cells, matrix):
                self._ask(cells, matrix, progress)
        except BaseException:
            with suppress(StoreError):  # of a disk that is full, the first fault is told
                self._write_record(complete=True)
            raise
        self._write_record(complete=True)

    def _ask(self, cells: Sequence[Cell], matrix: Sequence[Cell], progress: Progress) -> None:
        def do(name: str, works: Iterator[Work]) -> None:
            self.workers.do(name, list(works), self.journal, progress)

        self._record_histories(progress)
        do("learning", self._learning_works(cells))
        for iteration in range(1, max((self.method(cell).iterations(cell) for cell in cells), default=0) + 1):
            do(f"alignment {iteration}", self._step_works(cells, iteration))
        do("answers", self._answer_works(cells, self.pairs))
        do("swap matrix", self._answer_works(matrix, self.swapped_pairs))

    def _is_done(self, cells: Sequence[Cell], matrix: Sequence[Cell]) -> bool:
        """Whether nothing waits, so that memory need not be read, nor the encoder loaded."""
        all_pairs = [*((c, self.pairs(c)) for c in cells), *((c, self.swapped_pairs(c)) for c in matrix)]
        return not any(
            self.answer(query, serving, cell, chain) == "waiting"
            for cell, pairs in all_pairs
            for _, serving, query, chain in self.questions(cell, pairs)
        )

    def _begun(self, cell: Cell) -> bool:
        return any(self.chain(serving, cell).units for _, serving in self.pairs(cell)) or self._answered(
            cell, self.pairs(cell)
        )

    def _swapped(self, cell: Cell) -> bool:
        """Whether anything of a swap matrix is done that is not its cell's own."""
        return self._answered(cell, [(asked, by) for asked, by in self.swapped_pairs(cell) if asked is not by])

    def _answered(self, cell: Cell, pairs: Sequence[tuple[Subject, Subject]]) -> bool:
        return any(
            isinstance(self.answer(query, serving, cell, chain), Answer)
            for _, serving, query, chain in self.questions(cell, pairs)
        )

    def _learning_works(self, cells: Sequence[Cell]) -> Iterator[Work]:
        for cell in cells:
            for subject in self.subjects(cell):
                work = self.method(cell).learning(subject, cell)
                if work is not None:
                    yield work

    def _step_works(self, cells: Sequence[Cell], iteration: int) -> Iterator[Work]:
        """One iteration of all cells: users, batch sizes and memories side by side within it."""
        # Cells that differ in E alone share the steps that they have in common.
        going_on = {replace(c, iterations=iteration): c for c in cells if self.method(c).iterations(c) >= iteration}
        for cell in going_on.values():
            for subject in self.subjects(cell):
                state = self.chain(subject, cell, iteration - 1).state
                if isinstance(state, Persona):
                    yield self.method(cell).step(subject, cell, iteration, state)

    def _answer_works(
        self, cells: Sequence[Cell], pairs: Callable[[Cell], list[tuple[Subject, Subject]]]
    ) -> Iterator[Work]:
        for cell in cells:
            for _, serving, query, chain in self.questions(cell, pairs(cell)):
                if isinstance(chain.state, Persona | Notes):
                    yield from self.method(cell).answers(query, serving, cell, chain.state)

    def _record_histories(self, progress: Progress) -> None:
        """Interactions into the stores, as many as any cell can see, and their vectors where any retrieves."""
        cells = self.record.cells
        todo = [(name, user) for name, data in self.tasks.items() for user in data.users]
        deepest = {name: _deepest([cell.history for cell in cells if cell.task == name]) for name in self.tasks}
        retrieving = {cell.task for cell in cells if self.method(cell).retrieves(cell)}

        def record(name: str, user: User) -> None:
            if self.workers.stopped:
                return
            setting = self.tasks[name].setting
            with made_anew(self._database(name)):
                seen = deepest[name] + (self.options.walk_forward or 0)
                setting.store.add(user.history[max(0, len(user.history) - seen) :])
                if name in retrieving:
                    setting.store.snapshot(user.user_id)
                    setting.hold(user.user_id)

        with progress.phase("histories", len(todo)) as bar, ThreadPoolExecutor(_processors()) as pool:
            # Each text is still encoded by itself, so the vectors are those of one thread.
            futures = [pool.submit(record, name, user) for name, user in todo]
            try:
                for future in futures:
                    future.result()
                    bar.advance()
            except BaseException:
                self.workers.stop()
                raise

    # -- loading ----------------------------------------------------------------------------------

    def _check_record(self, path: Path) -> None:
        """See that calls can be recorded here, before anything is done."""
        try:
            found = check_place(path)
        except (InputError, StoreError) as error:
            raise InputError(f"--record: {error}") from error
        if found.name in OWN_FILES and found.resolve().parent == self.out.resolve():
            raise InputError(f"--record {path} is a file of the study's own: record its calls in another one")

    def _record_calls(self, path: Path) -> None:
        """From now on every LM call, and every answer of Wikipedia, is in this file, too."""
        # What only looks like a secret stays in what is answered, as in the journal.
        about = {**self.options.recorded, "study": self.record.id}
        try:
            self._recording = Recording(path, about, mask=without_secrets)
        except (InputError, StoreError) as error:
            raise InputError(f"--record: {error}") from error
        self._resources.callback(self._recording.close)
        if lacking := self.journal.asked() - self._recording.scopes:
            self.notes.append(
                f"{path} lacks {len(lacking)} units that were done before: a replay lacks them, too. A study that is "
                f"recorded from its first call to its last is whole"
            )
        self._models = self._make_models()
        self.workers = self._make_workers()

    def _make_workers(self) -> Workers:
        options = self.options
        return Workers(options.workers, options.retry_failed, self.meter, self._models.lms, recording_scope)

    def _make_models(self) -> Models:
        options = self.options
        names = (options.align_lm, options.api_base, options.align_endpoint, options.temperature)
        if options.rescore or options.dry_run:  # no LM is asked, so no key is needed
            return Models({}, None, *names)
        if options.replay is not None:
            replay = options.replay
            lms = {name: replay.lm(name, meter=self.meter) for name in options.lms}
            align_lm = replay.lm(options.align_lm, meter=self.meter) if options.align_lm else None
            return Models(lms, align_lm, *names, replayed=True)
        settings: dict[str, Any] = {
            "temperature": options.temperature,
            "timeout_seconds": options.timeout_seconds,
            "meter": self.meter,
        }
        if self._recording is not None:
            settings["recording"] = self._recording
        lms = {name: make_lm(name, api_base=options.api_base, **settings) for name in options.lms}
        align_lm = None
        if options.align_lm is not None:
            align_lm = make_lm(options.align_lm, api_base=options.align_api_base, **settings)
        return Models(lms, align_lm, *names)

    def _open_source(self, name: str) -> Source:
        options = self.options
        return open_source(name, options.data, options.split, options.data_seed, options.columns, options.labels)

    def _task_data(self, name: str, store: MemoryStore) -> TaskData:
        options = self.options
        if name not in self._sources:
            # Of an earlier run, whose data must be the same, too.
            self._sources[name] = self._open_source(name)
            self.record.check({f"data {name}": self._sources[name].digest})
            self._chosen[name] = self._choose(name)
        source = self._sources[name]
        users = self._chosen[name]
        unknown = {i.response for user in users for i in user.history} - set(source.task.labels)
        if unknown and source.task.labels:
            first = sorted(unknown)[0]
            self.notes.append(
                f"{name}: histories of {source.where} hold answers that are no label of the task, such as {first!r}"
            )
        queries = options.selection(name).queries_per_user
        setting = Setting(
            task=source.task,
            store=store,
            models=self._models,
            prompts=options.prompts,
            profile=options.profile,
            wikipedia=masked(options.wikipedia),
            wikipedia_tool=self._wikipedia(),
            workers=options.workers,
            pool=cache(partial(example_pool, source, users, options.data_seed, options.walk_forward, queries)),
            data_seed=options.data_seed,
            memory_bank_dates=options.memory_bank_dates,
            memory_bank_curve=options.memory_bank_curve,
            memory_bank_clock=options.memory_bank_clock,
        )
        return TaskData(source.task, users, source.where, setting)

    def _choose(self, name: str) -> list[User]:
        """The users who are asked."""
        options = self.options
        source = self._sources[name]
        users = chosen_users(source, options.selection(name))
        self.notes += source.notes
        if options.control in ("swap", "matrix") and len(users) < 2:
            raise InputError(
                f"--control {options.control} needs at least 2 users, but {source.where} gives {len(users)}"
            )
        if len(users) < options.users:
            self.notes.append(f"{name}: {options.users} users were asked for and {source.where} has {len(users)}")
        if options.walk_forward is not None:
            return self._with_test_points(name, users)
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

    def _with_test_points(self, name: str, users: list[User]) -> list[User]:
        """Those of whom an interaction can be asked about, with something before it."""
        found = [user for user in users if len(user.history) > 1]
        if not found:
            raise InputError(f"--walk-forward needs histories of 2 interactions or more, but {name} has none")
        if alone := len(users) - len(found):
            self.notes.append(f"{name}: {alone} users have fewer than 2 interactions and are not asked about")
        if few := sum(len(user.history) <= (self.options.walk_forward or 0) for user in found):
            self.notes.append(
                f"{name}: {few} users have no more than {self.options.walk_forward} interactions: they are asked about "
                f"all but their first"
            )
        return found

    def _wikipedia(self) -> dspy.Tool | None:
        """One for all tasks: one session, one breaker, and no topic asked twice."""
        if self.options.wikipedia == "off":
            return None
        if self._wikipedia_tool is None:
            url = ENGLISH if self.options.wikipedia == "on" else self.options.wikipedia
            answers = self._pages.of(url) if self._pages is not None else None
            given = None
            if self.options.replay is not None:
                answers = self.options.replay.wikipedia()
            elif self._recording is not None and answers is not None:
                answers = recorded = self._recording.wikipedia(masked(url), answers)
                given = recorded.given
            seconds = min(TIMEOUT_SECONDS, self.options.timeout_seconds)
            tool = Wikipedia(url=url, timeout_seconds=seconds, answers=answers, given=given)
            self._wikipedia_tool = tool.as_tool(self.options.prompts.wikipedia)
        return self._wikipedia_tool

    # -- study.json -------------------------------------------------------------------------------

    def _write_record(self, complete: bool) -> None:
        """study.json as it is now; `complete` says whether this run will have spent no more than stands there."""
        command = [masked(part) for part in self.options.command]
        replay = {"replay": self.options.replay.path.name} if self.options.replay is not None else {}
        self.record.write({"command": command, **replay, **self._spent(), "complete": complete})

    def _database(self, task: str) -> Path:
        return self.out / "memory" / f"{task}.db"

    def _spent(self) -> dict[str, float]:
        """What this run really spent until now, failed attempts included."""
        return {**self.meter.spent.to_dict(), "seconds": round(time.monotonic() - self._opened, 3)}

    def _book_killed(self) -> None:
        """Complete the accounts of runs that were killed by what they had journalled.

        What they spent after their last unit is not known: at most the calls of `--workers` units.
        """
        for number, run in enumerate(self.record.runs):
            if not run.get("complete", True):
                for name, value in self.journal.spent(number).items():
                    run[name] = max(run.get(name, 0), value)


def _processors() -> int:
    """So many texts are encoded at a time: the encoder computes, and waits for nothing."""
    try:
        return max(1, min(8, len(os.sched_getaffinity(0))))
    except AttributeError:  # not on every system
        return max(1, min(8, os.cpu_count() or 1))


def _applies(control: str, cell: Cell) -> bool:
    """Whether an equal-cost control differs from its cell without alignment."""
    return control != "more-memories" or cell.memories > 0


def _deepest(histories: Sequence[str]) -> int:
    """How many of the newest interactions the cells of these histories can see, at most."""
    return max(map(newest, histories), default=newest(ALL))


def _place(cell: Cell) -> tuple[Any, ...]:
    axes = (cell.batch_size, cell.iterations, cell.memories)
    return (cell.task, in_order(cell.method), cell.lm, newest(cell.history), *axes, cell.seed)


def _shared_encoder() -> Any:
    encoder = load_encoder("auto")
    encoder.cache_size = max(encoder.cache_size, _ENCODER_CACHE)
    return encoder
