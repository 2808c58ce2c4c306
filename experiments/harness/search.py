"""`--search N`: Optuna chooses cells, towards a high score and few LM calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from personaagent.experiments.harness.cells import Axes, Cell
from personaagent.programs.errors import StoreError

Evaluate = Callable[[Cell], tuple[float, float] | None]
"""Runs a cell; (score_oriented, LM calls), or None if it has to wait or has no score."""

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
    """Run up to `trials` more cells of the product of the axes, no configuration twice, ever.

    The study is an SQLite file: a later call goes on with what is known, and one that was interrupted
    in a trial does that one first. A trial that has to wait is left for the next call.

    Args:
        base: task, method, LM and seed of the cells.
        trials: how many new cells; fewer when the product is used up.
        storage: the SQLite file.
        seed: of the sampler.
        evaluate: see `Evaluate`.

    Returns:
        The cells that were evaluated in this call, in order.

    Raises:
        StoreError: if the file cannot be opened.
    """
    import optuna

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
        raise StoreError(f"{storage}: the search cannot be opened: {error}") from error
    done: list[Cell] = []
    for trial in [t for t in study.get_trials(deepcopy=False) if t.state == optuna.trial.TrialState.RUNNING]:
        if len(done) < trials:
            cell = _cell(base, trial.params)
            values = evaluate(cell)
            if values is None:
                return done
            study.tell(trial.number, values)
            done.append(cell)
    while len(done) < trials and len(_used(study)) < len(candidates):
        asked = study.ask({name: _choices(candidates, name) for name in _NAMES})
        cell = _cell(base, asked.params)
        values = evaluate(cell)
        if values is None:
            return done
        study.tell(asked, values)
        done.append(cell)
    return done


def _choices(candidates: Sequence[Cell], name: str) -> Any:
    from optuna.distributions import CategoricalDistribution

    return CategoricalDistribution(sorted({getattr(cell, name) for cell in candidates}))


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

    points = [tuple(getattr(cell, name) for name in _NAMES) for cell in candidates]

    class WithoutRepetition(BaseSampler):
        """TPE; where it would repeat a configuration, or has too few trials to go by, one not yet tried at random.

        Plain TPE repeats (10 of 40 on a 5 x 3 x 3 space), and every repetition would be paid for.
        """

        def __init__(self) -> None:
            self._tpe = TPESampler(seed=seed, multivariate=True, n_startup_trials=5)

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
            return {name: _choices(candidates, name) for name in _NAMES}

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            used = _used(study)
            left = [point for point in points if point not in used]
            suggested = self._tpe.sample_relative(study, trial, search_space) if used else {}
            point = tuple(suggested.get(name) for name in _NAMES)
            if point not in left:
                point = random.Random(f"{seed}:{trial.number}").choice(left)
            return dict(zip(_NAMES, point, strict=True))

        def sample_independent(self, study: Any, trial: Any, name: str, distribution: Any) -> Any:
            return self._tpe.sample_independent(study, trial, name, distribution)

    return WithoutRepetition()
