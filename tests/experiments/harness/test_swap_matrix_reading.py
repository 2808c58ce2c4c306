"""What a swap matrix says, against figures that were worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from scipy import stats

from personaagent.datasets.lamp.tasks import LAMP_2M, LAMP_3
from personaagent.datasets.task import Query, Task
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.outcomes import Chain
from personaagent.experiments.harness.remarks import swap_sentence
from personaagent.experiments.harness.results import Sample
from personaagent.experiments.harness.swap_matrix import SwapLoss, SwapMatrix, swap_loss

CELL = Cell("lamp-2m", "persona-agent", "some/lm", 3, 1, 4)
CHAIN = Chain("waiting", ())


def sample(
    user: str, query: str, served_by: str, prediction: str | None, gold: str = "comedy", **changes: Any
) -> Sample:
    values = {"raw": prediction, "prediction": prediction, "error": None} | changes
    asked = Query(f"{user}-{query}", "which?", gold)
    return Sample(user, served_by, asked, CHAIN, None, (), recalled_labels=(), **values)


def study(task: Task = LAMP_2M) -> Any:
    return SimpleNamespace(task=lambda cell: task)


def loss(*samples: Sample, task: Task = LAMP_2M, waiting: int = 0) -> SwapLoss | None:
    return swap_loss(study(task), SwapMatrix(CELL, list(samples), waiting))


RIGHT, WRONG = "comedy", "action"


def test_the_diagonal_is_held_against_the_mean_over_the_others_question_by_question() -> None:
    """Ann: 1 - 1/2 and 1 - 0; bob: 0 - 1/2; cleo: 1 - 0. The mean is 1/2, the users' residuals sum to 1/2, -1, 1/2."""
    found = loss(
        sample("ann", "1", "ann", RIGHT),
        sample("ann", "1", "bob", RIGHT),
        sample("ann", "1", "cleo", WRONG),
        sample("ann", "2", "ann", RIGHT),
        sample("ann", "2", "bob", WRONG),
        sample("ann", "2", "cleo", None),
        sample("bob", "1", "ann", WRONG),
        sample("bob", "1", "bob", WRONG),
        sample("bob", "1", "cleo", RIGHT),
        sample("cleo", "1", "ann", WRONG),
        sample("cleo", "1", "bob", WRONG),
        sample("cleo", "1", "cleo", RIGHT),
    )
    assert found is not None
    assert (found.own, found.others) == (3 / 4, 1 / 4)
    assert found.loss.estimate == pytest.approx(1 / 2)
    assert (found.users, found.queries, found.failed, found.waiting) == (3, 4, 0, 0)
    # Clustered by who was asked (Cameron and Miller 2015): G / (G - 1) / N^2 times the squares of the users' sums.
    error = math.sqrt(3 / 2 / 16 * (0.25 + 1.0 + 0.25))
    half = stats.t.ppf(0.975, 2) * error
    assert (found.loss.low, found.loss.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_an_error_is_lost_with_its_sign() -> None:
    """Of ratings less is better: own answers are off by 0 and others' by 2 on average."""
    found = loss(
        sample("ann", "1", "ann", "4", "4"),
        sample("ann", "1", "bob", "1", "4"),
        sample("bob", "1", "bob", "2", "2"),
        sample("bob", "1", "ann", "3", "2"),
        task=LAMP_3,
    )
    assert found is not None
    assert (found.own, found.others, found.loss.estimate) == (0.0, 2.0, -2.0)


def test_only_questions_with_an_own_answer_and_anothers_count() -> None:
    """A failed sample is none, and what waits is not there; an answer that cannot be read is answered, and wrong."""
    found = loss(
        sample("ann", "1", "ann", RIGHT),
        sample("ann", "1", "bob", RIGHT),
        sample("ann", "1", "cleo", None, raw=None, error="out of order"),
        sample("ann", "2", "bob", WRONG),
        sample("ann", "2", "ann", None, raw=None, error="out of order"),
        sample("ann", "3", "ann", RIGHT),
        sample("bob", "1", "bob", None, raw="no idea"),
        sample("bob", "1", "ann", RIGHT),
        waiting=4,
    )
    assert found is not None
    assert (found.users, found.queries, found.failed, found.waiting) == (2, 2, 2, 4)
    assert (found.own, found.others, found.loss.estimate) == (0.5, 1.0, -0.5)


def test_one_user_has_a_figure_and_no_interval() -> None:
    found = loss(sample("ann", "1", "ann", RIGHT), sample("ann", "1", "bob", WRONG))
    assert found is not None
    assert found.loss.estimate == 1.0 and math.isnan(found.loss.low) and math.isnan(found.loss.high)


@pytest.mark.parametrize(
    "samples",
    [[], [sample("ann", "1", "ann", RIGHT)], [sample("ann", "1", "bob", RIGHT), sample("ann", "2", "ann", RIGHT)]],
    ids=["nothing", "own", "apart"],
)
def test_without_a_question_that_has_both_there_is_no_figure(samples: list[Sample]) -> None:
    assert loss(*samples) is None


def test_the_sentence_says_all_of_it() -> None:
    shown = [sample(user, "1", by, RIGHT if user == by else WRONG) for user in ("ann", "bob") for by in ("ann", "bob")]
    found = loss(*shown, sample("bob", "2", "ann", None, error="out of order"), waiting=3)
    assert found is not None
    assert swap_sentence(study(), found) == (
        "Swap matrix of persona-agent on lamp-2m (n=3, E=1, K=4, LM: some/lm): accuracy 1.000 by the user's own "
        "persona and memory, 0.000 by others', difference 1.000 (95 % interval 1.000 to 1.000) over 2 users and 2 "
        "queries; 1 failed; 3 wait. Each pair is in swap_matrix.csv."
    )
    alone = loss(*[one for one in shown if one.user_id == "ann"])
    assert alone is not None
    assert "difference 1.000 over 1 users and 1 queries. Each" in swap_sentence(study(), alone)
