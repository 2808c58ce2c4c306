"""A study's settings: ranges, identity, the folder's name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.settings import StudyOptions, differing, lm_title
from personaagent.programs.errors import InputError

Make = Callable[..., StudyOptions]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"users": 0}, "--users must be at least 1 but got 0"),
        ({"queries_per_user": -1}, "--queries-per-user must be at least 1 but got -1"),
        ({"workers": 0}, "--workers must be at least 1"),
        ({"max_calls": -1}, "--max-calls must be at least 0"),
        ({"trace_samples": -1}, "--trace-samples must be at least 0"),
        ({"search": 0, "grid": False}, "--search must be at least 1"),
        ({"search": 2, "grid": True}, "--grid and --search exclude each other"),
        ({"temperature": -0.1}, "--temperature must be from 0 to 2"),
        ({"temperature": math.nan}, "--temperature must be from 0 to 2"),
        ({"timeout_seconds": 0}, "--timeout-seconds must be above 0"),
        ({"timeout_seconds": math.nan}, "--timeout-seconds must be above 0"),
        ({"timeout_seconds": math.inf}, "--timeout-seconds must be above 0"),
        ({"control": "other"}, "--control must be one of none, swap, matrix, equal-cost, but got 'other'"),
        ({"wikipedia": "maybe"}, "--wikipedia must be on, off or the URL"),
        ({"align_api_base": "http://x"}, "--align-api-base needs --align-lm"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_option(options: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        options(**changes)


OTHER_SETTINGS: list[dict[str, Any]] = [
    {"users": 2},
    {"queries_per_user": 1},
    {"queries_per_user": None},
    {"profile": False},
    {"wikipedia": "on"},
    {"wikipedia": "http://localhost/w/api.php"},
    {"control": "swap"},
    {"prompts": Prompts(gradient="x")},
    {"data_seed": 1},
    {"api_base": "http://localhost"},
    {"align_lm": "other/model"},
    {"temperature": 0.2},
]


@pytest.mark.parametrize("changes", OTHER_SETTINGS, ids=str)
def test_a_setting_is_part_of_the_identity_and_of_the_folders_name(options: Make, changes: dict[str, Any]) -> None:
    one, other = options(out=None), options(out=None, **changes)
    assert len(differing(one.identity, other.identity)) == 1
    assert one.out_folder != other.out_folder


OPERATIONAL_AND_AXES: list[dict[str, Any]] = [
    {"workers": 4},
    {"max_calls": 5},
    {"timeout_seconds": 1.0},
    {"tracking": "sqlite:///elsewhere.db"},
    {"trace_samples": 0},
    {"retry_failed": True},
    {"dry_run": True},
    {"grid": False},
    {"seeds": (1, 2)},
    {"lm": "other/model"},
    {"axes": ((1,), (1,), (1,))},
]


@pytest.mark.parametrize("changes", OPERATIONAL_AND_AXES, ids=str)
def test_axes_and_operational_options_are_not(options: Make, changes: dict[str, Any]) -> None:
    one, other = options(out=None), options(out=None, **changes)
    assert one.identity == other.identity
    assert one.out_folder == other.out_folder


def test_the_folders_name_has_8_hex_digits_and_depends_on_the_data(options: Make, tmp_path: Path) -> None:
    assert re.fullmatch(r"runs/scale-[0-9a-f]{8}", str(options(out=None).out_folder))
    assert options(out=None).out_folder != options(out=None, data=tmp_path).out_folder
    assert options(out=None).out_folder != options(out=None, data=None).out_folder
    assert options(out=tmp_path / "mine").out_folder == tmp_path / "mine"


def test_another_lm_for_alignment_that_is_the_same_one_is_said(options: Make) -> None:
    assert options(align_lm="a/b", align_api_base="http://x").align_endpoint == "http://x"
    assert options(api_base="http://y").align_endpoint == "http://y"
    assert options(align_lm="a/b", api_base="http://y").align_endpoint is None


def test_key_columns_say_on_and_off(options: Make) -> None:
    columns = options(profile=False, wikipedia="https://example.org/w/api.php").constant_columns
    assert (columns["profile"], columns["wikipedia"]) == ("off", "on")


def test_differences_are_shown_a_line_each_and_only_of_shared_names() -> None:
    assert differing({"a": 1, "b": 2, "old": 0}, {"a": 1, "b": 3, "new": 0}) == ["  b: 2 there, 3 now"]


def test_the_offline_reader_is_never_called_a_language_model() -> None:
    assert "not an LLM" in lm_title("offline")
    assert lm_title("openai/x") == "openai/x"


def test_a_persona_without_the_profiles_slot_is_refused_where_there_is_a_profile(options: Make) -> None:
    prompts = Prompts(persona="Serve this user.")
    with pytest.raises(InputError, match=r"has no \{profile\}, so the profile would be lost.*--profile off"):
        options(prompts=prompts, profile=True)
    assert options(prompts=prompts, profile=False).prompts is prompts
