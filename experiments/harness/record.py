"""`OUT/study.json`: the settings that every run under OUT shares, the cells ever asked for, and what each run spent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.files import refused, replace_file
from personaagent.experiments.harness.settings import differing
from personaagent.programs.errors import InputError, StoreError


class Record:
    """A study's record, as it stands in the file.

    Args:
        out: the study's folder.
        settings: of this run.

    Raises:
        InputError: if the file is no record, or holds other settings (which).
        StoreError: if it cannot be read.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.path = out / "study.json"
        fresh: dict[str, Any] = {"study": 1, "id": uuid4().hex, "settings": dict(settings), "cells": [], "runs": []}
        self.existed = self.path.exists()
        if not self.existed:
            self.values = fresh
            return
        try:
            stored: dict[str, Any] = json.loads(self.path.read_bytes())
            known: Mapping[str, Any] = dict(stored["settings"])
            runs = [dict(run) for run in stored.get("runs", ())]
            [Cell(**entry) for entry in (*stored["cells"], *stored.get("matrix", ()))]
        except (AttributeError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: not a study's record ({error}); use another --out") from None
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {refused(error)}") from error
        self.values = {**fresh, **stored, "settings": known, "runs": runs}
        self.check(settings)
        self.values["settings"] = {**known, **settings}

    def check(self, settings: Mapping[str, Any]) -> None:
        """See that these settings, as far as the record holds them, are the same there.

        Raises:
            InputError: saying which are not.
        """
        changed = differing(self.values["settings"], settings)
        if changed:
            raise InputError(
                f"{self.path.parent} holds a study with other settings:\n" + "\n".join(changed) + "\n"
                "Give this one another --out, or drop --out for a folder of its own."
            )

    @property
    def id(self) -> str:
        """The study's own, by which MLflow's runs are found again."""
        return str(self.values["id"])

    @property
    def cells(self) -> list[Cell]:
        """Every cell ever asked for, in the order of asking."""
        return [Cell(**entry) for entry in self.values["cells"]]

    @property
    def matrix(self) -> list[Cell]:
        """The cells of which a swap matrix was ever asked for."""
        return [Cell(**entry) for entry in self.values.get("matrix", ())]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """One for each run: command, what was spent, whether that is all."""
        found: list[dict[str, Any]] = self.values["runs"]
        return found

    @property
    def replays(self) -> tuple[str, ...]:
        """Names of the recordings that answered in place of the LMs."""
        return tuple(dict.fromkeys(run["replay"] for run in self.runs if run.get("lm_calls") and "replay" in run))

    @property
    def has_asked(self) -> bool:
        """Whether any run has asked the LMs themselves."""
        return any(run.get("lm_calls") and "replay" not in run for run in self.runs)

    def begin_run(self) -> None:
        """A further run, of which nothing is known yet."""
        self.runs.append({})

    def ask(self, cells: Sequence[Cell], matrix: Sequence[Cell] = ()) -> tuple[list[Cell], list[Cell]]:
        """Note cells as asked for, and their swap matrices; those of either that are new."""
        known, swapped = set(self.cells), set(self.matrix)
        new = [cell for cell in dict.fromkeys(cells) if cell not in known]
        self.values["cells"] = [*self.values["cells"], *(cell.to_dict() for cell in new)]
        more = [cell for cell in dict.fromkeys(matrix) if cell not in swapped]
        if more:
            self.values["matrix"] = [*self.values.get("matrix", ()), *(cell.to_dict() for cell in more)]
        return new, more

    def forget(self, cells: Sequence[Cell], matrix: Sequence[Cell] = ()) -> None:
        """Take cells out again, and swap matrices of cells."""
        for name, gone in (("cells", cells), ("matrix", matrix)):
            if name in self.values:
                entries = [cell.to_dict() for cell in gone]
                self.values[name] = [entry for entry in self.values[name] if entry not in entries]

    def write(self, run: Mapping[str, Any]) -> None:
        """The file as a whole, with what is known of this run."""
        self.runs[-1] = dict(run)
        replace_file(self.path, json.dumps(self.values, indent=1, ensure_ascii=False) + "\n")
