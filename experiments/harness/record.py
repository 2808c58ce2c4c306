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
            known: Mapping[str, Any] = stored["settings"]
            [Cell(**entry) for entry in stored["cells"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.path}: not a study's record ({error}); use another --out") from None
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {refused(error)}") from error
        changed = differing(known, settings)
        if changed:
            raise InputError(
                f"{out} holds a study with other settings:\n" + "\n".join(changed) + "\n"
                "Give this one another --out, or drop --out for a folder of its own."
            )
        self.values = {**fresh, **stored, "settings": {**known, **settings}}

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

    def begin_run(self) -> None:
        """A further run, of which nothing is known yet."""
        self.runs.append({})

    def ask(self, cells: Sequence[Cell], matrix: Sequence[Cell] = ()) -> list[Cell]:
        """Note cells as asked for; those that are new."""
        known = set(self.cells)
        new = [cell for cell in dict.fromkeys(cells) if cell not in known]
        self.values["cells"] = [*self.values["cells"], *(cell.to_dict() for cell in new)]
        more = [cell for cell in dict.fromkeys(matrix) if cell not in set(self.matrix)]
        if more:
            self.values["matrix"] = [*self.values.get("matrix", ()), *(cell.to_dict() for cell in more)]
        return new

    def forget(self, cells: Sequence[Cell]) -> None:
        """Take cells out again."""
        gone = [cell.to_dict() for cell in cells]
        for name in ("cells", "matrix"):
            if name in self.values:
                self.values[name] = [entry for entry in self.values[name] if entry not in gone]

    def write(self, run: Mapping[str, Any]) -> None:
        """The file as a whole, with what is known of this run."""
        self.runs[-1] = dict(run)
        replace_file(self.path, json.dumps(self.values, indent=1, ensure_ascii=False) + "\n")
