"""What every script shares: the environment, the course of a run, exit codes and plain errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, Literal

# Before any heavy import: litellm would fetch a price list, MLflow would phone home, and two OpenMP
# threads beside worker threads are many times slower than one.
for _name, _value in (
    ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("OMP_NUM_THREADS", "1"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false"),
    ("MLFLOW_LOGGING_LEVEL", "WARNING"),
):
    os.environ.setdefault(_name, _value)

EXIT_INCOMPLETE, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def main(application: Callable[..., Any]) -> None:
    """Run a typer application: bad input is one message and exit code 2, never a traceback."""
    from personaagent.experiments.harness.secrets import mask_output, masked
    from personaagent.programs.errors import PersonaAgentError

    mask_output()
    try:
        application()
    except SystemExit as end:
        if end.code == EXIT_INTERRUPTED:
            # Python would wait for the threads of units that were given up, as long as their LM calls take.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)
        raise
    except PersonaAgentError as error:
        print(f"error: {masked(str(error))}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        from personaagent.experiments.harness.files import NO_ROOM, refused

        if error.errno not in NO_ROOM:
            raise
        # What is still to be printed would fail once more, as Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: {error.filename or 'the output'}: {refused(error)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        print("interrupted: what was done is kept, and the same command goes on from here", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def run_study(options: Any) -> int:
    """Run a study from its options to its files; the exit code.

    0: all done. 1: samples failed or wait for another run. 130: interrupted.

    Raises:
        InputError: if the options, the data, OUT or the tracking URI are wrong, or an LM refuses all calls.
        StoreError: if OUT's files, the recording or the cache of the data cannot be read or written.
        EncoderError: if the encoder cannot be had.
    """
    from rich.console import Console

    from personaagent.experiments.harness.dry_run import print_projection
    from personaagent.experiments.harness.progress import Progress
    from personaagent.experiments.harness.study import Study
    from personaagent.experiments.harness.tracking import Tracker
    from personaagent.programs.errors import InputError

    console = Console(markup=False)  # labels and messages are data
    study = Study(options)
    if options.dry_run:
        study.preview()
        print_projection(study, study.cells_asked(), console)
        return 0
    if options.rescore and not all((study.out / name).is_file() for name in ("study.json", "journal.jsonl")):
        raise InputError(f"--rescore reads what a study has done, but {study.out} holds none: give its --out")
    tracker = Tracker(options.tracking, options.script)
    with study:
        tracker.start(study)
        interrupted = False
        try:
            try:
                if not options.rescore:
                    _work(study, Progress())
            except KeyboardInterrupt:
                interrupted = True
                study.workers.stop()
            incomplete = _report(study, tracker, console)
        except BaseException:
            tracker.end("FAILED")
            raise
        for note in tracker.end("KILLED" if interrupted else "FAILED" if incomplete else "FINISHED"):
            print(f"note: {note}", file=sys.stderr)
            incomplete = True
    if interrupted:
        if study.workers.given_up:
            console.print(
                f"{study.workers.given_up} units were under way and are given up; their LM calls may be billed",
                highlight=False,
            )
        console.print("interrupted: what was done is kept, and the same command goes on from here")
        return EXIT_INTERRUPTED
    return EXIT_INCOMPLETE if incomplete else 0


def _work(study: Any, progress: Any) -> None:
    options = study.options
    if options.search is None:
        study.run(study.cells_asked(), progress, study.matrix_asked())
        return
    from personaagent.experiments.harness.cells import Cell
    from personaagent.experiments.harness.methods.registry import PERSONA_AGENT
    from personaagent.experiments.harness.results import row
    from personaagent.experiments.harness.search import Values, search
    from personaagent.experiments.harness.subjects import ALL

    if options.retry_failed:
        # A search does not come back to a cell. Cells of other LMs are not this run's to ask.
        own = [
            c for c in study.all_cells() if c.lm in options.lms and c.task in options.tasks and c.seed in study.seeds
        ]
        study.run(own, progress)

    def evaluate(cell: Cell) -> Values | Literal["waiting", "failed"]:
        study.run([cell], progress)
        result = row(study, cell)
        if result.waiting:
            return "waiting"
        if result.values["score"] is None:
            return "failed"
        values = result.values
        sign = 1 if study.task(cell).higher_is_better else -1
        calls = values["profile_lm_calls"] + values["align_lm_calls"] + values["serve_lm_calls"]
        return sign * values["score"], float(calls)

    for task in options.tasks:
        for lm in options.lms:
            for seed in study.seeds:
                for history in options.histories:
                    base = Cell(task, PERSONA_AGENT, lm, 0, 0, 0, history, seed)
                    name = f"{task} {lm} seed {seed}" + f" history {history}" * (history != ALL)
                    database = study.out / "search.db"
                    search(base, options.axes, options.search, database, options.data_seed, evaluate, name)


def _report(study: Any, tracker: Any, console: Any) -> bool:
    """Write, draw, log and print; whether anything failed or waits."""
    from personaagent.experiments.harness.report import print_summary, write_files
    from personaagent.experiments.harness.results import row
    from personaagent.experiments.harness.statistics import FEW_CLUSTERS

    rows = [row(study, cell) for cell in study.all_cells()]
    if any(len(data.users) < FEW_CLUSTERS for data in study.tasks.values()):
        study.notes.append(f"fewer than {FEW_CLUSTERS} users: the intervals are not to be relied on")
    written = write_files(study, rows)
    tracked = tracker.log_or_note(study, rows)
    print_summary(study, rows, console, tracker.how_to_open, written.files)
    swapped = [s for matrix in written.swapped for s in matrix.samples if s.user_id != s.served_by]
    failed = sum(r.values["failed"] for r in rows) + sum(not s.answered for s in swapped)
    if failed:
        again = " of an LM: a replay has no other answer" * (study.options.replay is not None)
        console.print(f"{failed} samples failed; --retry-failed asks them again{again}", highlight=False)
    asked, matrices = study.cells_asked(), study.matrix_asked()
    waits = [(r.waiting, r.cell in asked) for r in rows]
    own = {r.cell: r.waiting for r in rows}  # a matrix holds its cell's own samples, too
    waits += [(matrix.waiting - own[matrix.cell], matrix.cell in matrices) for matrix in written.swapped]
    known = {r.cell for r in rows}
    never = sum(cell not in known for cell in asked) if study.options.rescore else 0
    if never:
        console.print(f"never asked here, of what this command names: {never} cells", highlight=False)
    waiting = sum(count for count, is_asked in waits if is_asked)
    elsewhere = sum(count for count, is_asked in waits if not is_asked)
    if waiting and study.workers.calls_needed:
        console.print(
            f"{waiting} samples wait: --max-calls {study.options.max_calls} lets nothing begin, since the next unit "
            f"may take up to {study.workers.calls_needed} LM calls",
            highlight=False,
        )
    elif waiting:
        how = " without --rescore" * study.options.rescore
        console.print(f"{waiting} samples wait: the same command{how} goes on with them", highlight=False)
    if elsewhere:
        console.print(
            f"{elsewhere} samples wait in cells of this folder that this command did not ask for", highlight=False
        )
    return bool(failed or waiting or elsewhere or not tracked or not written.drawn)
