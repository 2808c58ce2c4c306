"""The statistics keep their word over simulated studies: fewer than experiments/calibration.py's, and the script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from personaagent.experiments import calibration
from personaagent.experiments.calibration import all_queries, few_queries


def test_the_simulated_studies_have_the_truth_that_is_claimed() -> None:
    generator = np.random.default_rng(0)
    study = calibration.binary_study(generator, np.full(40_000, 20))
    assert study.first.mean() == pytest.approx(0.25 + 0.4 / 2, abs=0.005)
    assert study.second.mean() == pytest.approx(0.25 + 0.7 / 2, abs=0.005)
    assert set(np.unique(study.first - study.second)) == {-1.0, 0.0, 1.0}
    halves = [np.bincount(study.users[i::2], (study.first - study.second)[i::2]) / 10 for i in (0, 1)]
    # Halves of a user's queries share this user's chances and nothing else.
    assert np.sqrt(np.cov(*halves)[0, 1]) == pytest.approx(0.17, abs=0.01)


def test_the_simulated_users_differ_in_size_as_is_claimed() -> None:
    generator = np.random.default_rng(0)
    assert set(few_queries(generator, 1_000).tolist()) == {1, 2, 3}
    counts = all_queries(generator, 100_000)
    assert counts.min() >= 2 and np.median(counts) < 10
    assert 0.01 < np.mean(counts > 100) < 0.03


@pytest.mark.parametrize("users", [10, 20, 50])
def test_intervals_hold_the_truth_as_often_as_they_say(users: int) -> None:
    # Standard error 0.7 points at 1,000 studies.
    for held in calibration.interval_coverage(few_queries, users, "G-1", studies=1_000):
        assert 0.93 <= held <= 0.97


def test_users_of_very_unequal_size_need_the_correction() -> None:
    """A limit of the interval with G - 1 degrees of freedom, kept in sight."""
    plain = calibration.interval_coverage(all_queries, 10, "G-1", studies=600)
    corrected = calibration.interval_coverage(all_queries, 10, "bell-mccaffrey", studies=600)
    assert max(plain) < 0.91 < 0.92 < min(corrected)


@pytest.mark.parametrize("counts", [few_queries, all_queries])
@pytest.mark.parametrize("users", [10, 20])
def test_the_permutation_test_errs_as_often_as_it_says(counts: calibration.Counts, users: int) -> None:
    # Standard error 0.5 points at 2,000 studies. With 10 users the reachable p below 0.05 is 50/1024.
    assert 0.04 <= calibration.continuous_error(counts, users, studies=2_000) <= 0.06


@pytest.mark.parametrize("users", [4, 10, 20])
def test_ties_never_make_it_err_more(users: int) -> None:
    assert calibration.binary_error(users, studies=1_000) <= 0.06


def test_with_4_users_it_never_errs_and_never_finds() -> None:
    assert calibration.continuous_error(few_queries, 4, studies=200) == 0


def test_holms_correction_holds_for_a_table_and_is_needed() -> None:
    alone, together = calibration.family_error(5, 12, studies=200)
    assert alone > 0.2
    assert together <= 0.08  # standard error 1.5 points at 5 %


def test_the_users_needed_have_the_power_that_is_claimed() -> None:
    users, found = calibration.power_reached(0.2, 0.4, studies=1_000)
    assert users == 34
    assert 0.76 <= found <= 0.84  # standard error 1.3 points


def test_the_script_prints_its_table_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibration, "STUDIES", 1_000)
    assert calibration.main(["power"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 4 and lines[2].startswith("difference 0.2, spread 0.4: 34 users, ")
    assert not list(tmp_path.iterdir())


def test_a_missed_target_is_said_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(calibration, "CHECKS", {"kept": lambda: True, "broken": lambda: False})
    assert calibration.main([]) == 1
    assert "missed its target: broken" in capsys.readouterr().out
    assert calibration.main(["kept"]) == 0


def test_an_unknown_check_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(["coverages"]) == 2
    assert "unknown check 'coverages'; there are coverage, errors, family, power" in capsys.readouterr().err
