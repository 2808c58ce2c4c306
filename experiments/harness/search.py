"""`--search N`: Optuna chooses cells, towards a high score and few LM calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from personaagent.experiments.harness.cells import Axes, Cell
from personaagent.experiments.harness.files import refused_by_sqlite
from personaagent.programs.errors import StoreError

Values = tuple[float, float]
"""(score_oriented, LM calls) of a cell."""

Evaluate = Callable[[Cell], Values | Literal["waiting", "failed"]]
"""Runs a cell: its values, `waiting` for another run, or `failed` if it has no score."""

_NAMES = ("batch_size", "iterations", "memories")


def search(
    base: Cell,
    axes: Axes,
    trials: int,
    storage: Path,
    seed: int,
    evaluate: Evaluate,
    study_name: str = "search",
) -> list[Cell]:
    """Run cells of the product of the axes until `trials` were chosen, no configuration twice, ever.

    The study is an SQLite file: a later call goes on with what is known, and one that was interrupted
    in a trial does that one first. A trial that has to wait is left for the next call. The same call
    again finds all `trials` done and evaluates nothing.

    Args:
        base: task, method, LM and seed of the cells.
        trials: how many cells, those of earlier calls included; fewer when the product is used up.
        storage: the SQLite file.
        seed: of the sampler.
        evaluate: see `Evaluate`.

    Returns:
        The cells that were evaluated in this call, in order.

    Raises:
        StoreError: if the file cannot be opened, read or written.
    """
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    candidates = axes.grid(base)
    try:
        study = optuna.create_study(
            study_name=study_name,
            storage=f"sqlite:///{storage}",
            directions=["maximize", "minimize"],
            sampler=_without_repetition(candidates, seed),
            load_if_exists=True,
        )
    except Exception as error:
        raise StoreError(f"{storage}: the search cannot be opened: {_reason(error)}") from error
    try:
        return _searched(study, base, candidates, trials, evaluate)
    except (SQLAlchemyError, StorageInternalError) as error:
        raise StoreError(
            f"{storage}: the search cannot go on: {_reason(error)}. The same command goes on from there."
        ) from error


def _reason(error: Exception) -> str:
    return refused_by_sqlite(error) or str(error).partition("\n")[0]


def _searched(study: Any, base: Cell, candidates: Sequence[Cell], trials: int, evaluate: Evaluate) -> list[Cell]:
    import optuna

    state = optuna.trial.TrialState
    done: list[Cell] = []

    def finished(number: int, params: dict[str, Any]) -> bool:
        cell = _cell(base, params)
        values = evaluate(cell)
        if values == "waiting":
            return False
        if values == "failed":
            study.tell(number, state=state.FAIL)
        else:
            study.tell(number, values)
        done.append(cell)
        return True

    for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
        if len(trial.params) < len(_NAMES):
            study.tell(trial.number, state=state.FAIL)  # killed while it was being chosen
        elif not finished(trial.number, trial.params):
            return done
    while len(_used(study)) < trials and _left(candidates, study):
        asked = study.ask({name: _range(candidates, name) for name in _NAMES})
        if not finished(asked.number, asked.params):
            return done
    return done


def _range(candidates: Sequence[Cell], name: str) -> Any:
    # Not categories: Optuna refuses these once an axis has another value than in an earlier call.
    from optuna.distributions import IntDistribution

    values = [getattr(cell, name) for cell in candidates]
    return IntDistribution(min(values), max(values))


def _point(cell: Cell) -> tuple[int, ...]:
    return tuple(getattr(cell, name) for name in _NAMES)


def _left(candidates: Sequence[Cell], study: Any) -> list[tuple[int, ...]]:
    used = _used(study)
    return [point for point in map(_point, candidates) if point not in used]


def _cell(base: Cell, params: dict[str, Any]) -> Cell:
    return Cell(
        base.task,
        base.method,
        base.lm,
        **{k: params[k] for k in _NAMES},
        history=base.history,
        seed=base.seed,
    )


def _used(study: Any) -> set[tuple[int, ...]]:
    return {tuple(t.params[name] for name in _NAMES) for t in study.get_trials(deepcopy=False) if len(t.params) == 3}


def _without_repetition(candidates: Sequence[Cell], seed: int) -> Any:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler, TPESampler

    class WithoutRepetition(BaseSampler):
        """TPE, moved to the nearest configuration that was not yet tried; the first few at random.

        Plain TPE repeats (10 of 40 on a 5 x 3 x 3 space), and every repetition would be paid for.
        """

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
            return {name: _range(candidates, name) for name in _NAMES}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            left, chosen = _left(candidates, study), len(_used(study))
            # Seeded anew for each choice: what is chosen after an interruption is what would have been.
            rng = random.Random(f"{seed}:{chosen}")
            tpe = TPESampler(seed=rng.getrandbits(32), multivariate=True, n_startup_trials=5)
            suggested = tpe.sample_relative(study, trial, search_space) if chosen else {}
            # In the sampler's first trials, none.
            point = min(left, key=lambda p: _distance(p, suggested, search_space)) if suggested else rng.choice(left)
            return dict(zip(_NAMES, point, strict=True))

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            raise AssertionError("every name is in the relative space")

    return WithoutRepetition()


def _distance(point: Sequence[int], suggested: Mapping[str, int], space: Mapping[str, Any]) -> float:
    """Sum over the axes of the distance as a share of the axis."""
    return sum(
        abs(value - suggested[name]) / max(1, space[name].high - space[name].low)
        for name, value in zip(_NAMES, point, strict=True)
    )
