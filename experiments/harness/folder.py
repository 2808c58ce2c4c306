"""OUT: whose it is, what is in it, and what helps where its memory is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from personaagent.programs.errors import DamagedStoreError, InputError, StoreError

OWN_FILES = (
    *("study.json", "journal.jsonl", "wikipedia.jsonl", "search.db", "memory", ".lock"),
    *("results.csv", "users.csv", "pairs.csv", "predictions.jsonl", "personas.jsonl", "report.md"),
    *("swap_matrix.csv", "swap_predictions.jsonl", "scaling.png", "comparison.png", "histories.png"),
)
"""Names of what a study keeps or leaves in OUT."""


@contextmanager
def made_anew(database: Path) -> Iterator[None]:
    """To what is said of damage within the block, the remedy that only a study has.

    Raises:
        StoreError: in place of the block's `DamagedStoreError`.
    """
    try:
        yield
    except DamagedStoreError as error:
        raise StoreError(
            f"{error} Or delete {database}: a study makes its memory anew from its data, and asks nothing again."
        ) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """This run has OUT for itself within the block.

    Raises:
        InputError: if another run has it.
    """
    lock = FileLock(out / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{out} is in use by another run; wait for it, or give this one another --out") from None
    try:
        yield
    finally:
        lock.release()
