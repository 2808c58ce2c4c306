"""What is said beside the figures, and that it is true of the prompts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from personaagent.experiments.harness import study as study_module
from personaagent.experiments.harness.cells import Axes
from personaagent.experiments.harness.progress import Progress
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.remarks import remarks
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.study import Study

Make = Callable[..., StudyOptions]

USERS = ("ann", "bob", "cleo")


def write_users(folder: Path, users: tuple[str, ...] = USERS, dates: int = 6) -> Path:
    """Of each user an interaction a day, and a query."""

    def entry(user: str) -> dict[str, Any]:
        items = [
            {"id": f"{user}-{i}", "description": f"{user}'s film {i}", "tag": "comedy", "date": f"2010-01-{i + 1:02d}"}
            for i in range(dates)
        ]
        return {
            "user_id": user,
            "profile": items,
            "query": [{"id": f"{user}-q", "input": f"{user}?", "gold": "action"}],
        }

    folder.mkdir()
    (folder / "user_top_100_history.json").write_text(json.dumps([entry(user) for user in users]))
    return folder


@pytest.fixture
def make(tmp_path: Path, scripted: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Options of a study with an LM that a script answers for."""
    lm, _ = scripted()
    encoder.cache_size = 0
    monkeypatch.setattr(study_module, "make_lm", lambda model, **_: lm)
    monkeypatch.setattr(study_module, "load_encoder", lambda name: encoder)
    standard = StudyOptions(
        script="compare",
        tasks=("lamp-2m",),
        axes=Axes((2,), (1,), (3,)),
        seeds=(0,),
        data=write_users(tmp_path / "data"),
        users=3,
        queries_per_user=1,
        profile=True,
        wikipedia="off",
        control="none",
        prompts=Prompts(),
        data_seed=0,
        lm="scripted/one",
        api_base=None,
        align_lm=None,
        align_api_base=None,
        temperature=0.1,
        timeout_seconds=60.0,
        workers=1,
        max_calls=None,
        out=tmp_path / "out",
        tracking="nowhere",
        trace_samples=0,
    )
    yield lambda **changes: replace(standard, **changes)


def said(options: StudyOptions) -> dict[str, list[str]]:
    study = Study(options)
    study.preview()
    return remarks(study, study.cells_asked())


# -- Wikipedia is off -----------------------------------------------------------------------------


def test_methods_that_lose_their_only_tool_say_so_in_the_order_of_tables(make: Make) -> None:
    methods = ("memory-bank", "semantic-only", "no-memory", "react-wiki", "react", "rag", "no-action")
    found = said(make(methods=methods, memory_bank_dates=10))
    assert list(found) == ["react-wiki", "memory-bank", "no-memory", "semantic-only"]
    assert all(sentences[0].startswith("Wikipedia, its only tool, is off: it ") for sentences in found.values())
    assert all(len(sentences) == 1 for sentences in found.values())
    assert said(make(methods=methods, wikipedia="http://wiki", memory_bank_dates=10)) == {}


def test_react_without_memories_says_so_and_only_then(make: Make) -> None:
    words = ["With K=0 and Wikipedia off it has no tool: it sends what `prompt` sends."]
    assert said(make(methods=("react",), axes=Axes((2,), (1,), (3, 0)))) == {"react": words}
    assert said(make(methods=("react",))) == {}
    assert said(make(methods=("react",), axes=Axes((2,), (1,), (0,)), wikipedia="http://wiki")) == {}


@pytest.fixture
def prompts(make: Make, scripted: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[str]]:
    """What a method sends for the users' questions."""

    def run(method: str, **changes: Any) -> list[str]:
        lm, engine = scripted()
        monkeypatch.setattr(study_module, "make_lm", lambda model, **_: lm)
        with Study(make(methods=(method,), out=tmp_path / f"of-{method}", **changes)) as study:
            study.run(study.cells_asked(), Progress(Console(file=io.StringIO())))
        asked = [call for call in engine.calls if any(f"{user}?" in call.user for user in USERS)]
        return sorted(call.system + call.user for call in asked)

    return run


@pytest.mark.parametrize(
    ("method", "same_as", "changes"),
    [
        ("react-wiki", "prompt", {}),
        ("react", "prompt", {"axes": Axes((2,), (1,), (0,))}),
        ("semantic-only", "no-action", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_said_to_be_sent_alike_is(prompts: Any, method: str, same_as: str, changes: dict[str, Any]) -> None:
    sent = prompts(method, **changes)
    assert len(sent) == len(USERS)
    assert sent == prompts(same_as, **changes)


@pytest.mark.parametrize("method", ["no-memory", "memory-bank"])
def test_what_is_said_to_answer_in_one_call_does(prompts: Any, method: str) -> None:
    assert len(prompts(method)) == len(USERS)
    assert len(prompts("episodic-only")) == 3 * len(USERS)


# -- what a method could not do -------------------------------------------------------------------


def test_icl_without_other_users_says_that_it_shows_none(make: Make, tmp_path: Path) -> None:
    assert said(make(methods=("icl", "rag"))) == {}
    alone = write_users(tmp_path / "alone", ("ann",))
    assert said(make(methods=("icl", "rag"), data=alone)) == {
        "icl": ["There is no other user to take examples from: it shows none."]
    }


def test_memory_bank_names_the_histories_with_more_dates_than_get_notes(make: Make) -> None:
    settings = {"methods": ("memory-bank",), "wikipedia": "http://wiki"}
    assert said(make(**settings, memory_bank_dates=6)) == {}
    capped = "histories have more than 4 dates (up to {}): only the latest 4 get notes (`--memory-bank-dates`)."
    assert said(make(**settings, memory_bank_dates=4)) == {
        "memory-bank": [f"On lamp-2m, 3 of 3 {capped.format(6)}"],
    }
    assert said(make(**settings, memory_bank_dates=4, histories=("2", "5", "all"))) == {
        "memory-bank": [
            f"On lamp-2m with histories of 5, 3 of 3 {capped.format(5)}",
            f"On lamp-2m, 3 of 3 {capped.format(6)}",
        ],
    }


# -- equal cost -----------------------------------------------------------------------------------


def test_equal_cost_controls_say_what_the_calls_bought(make: Make) -> None:
    """At n=2, K=3 alignment takes 9 calls beside an answer's 3: K is 12, and there are 3 further samples."""
    settings: dict[str, Any] = {"control": "equal-cost", "seeds": (0, 1)}
    assert said(make(**settings)) == {
        "more-memories": ["For the calls of persona-agent at n=2, E=1, K=3 on lamp-2m: K=12."],
        "self-consistency": ["For the calls of persona-agent at n=2, E=1, K=3 on lamp-2m: 4 samples of each answer."],
    }
    found = said(make(**settings, histories=("1", "all")))["more-memories"]
    assert found == [
        "For the calls of persona-agent at n=2, E=1, K=3 on lamp-2m with histories of 1: K=8.",
        "For the calls of persona-agent at n=2, E=1, K=3 on lamp-2m: K=12.",
    ]


def test_of_users_who_differ_the_range_is_said(make: Make, tmp_path: Path) -> None:
    """Alignment on one interaction takes 5 calls, and on two 9."""
    folder = write_users(tmp_path / "uneven")
    path = folder / "user_top_100_history.json"
    entries = json.loads(path.read_text())
    entries[0]["profile"] = entries[0]["profile"][:1]
    path.write_text(json.dumps(entries))
    found = said(make(control="equal-cost", data=folder))
    assert found["more-memories"] == ["For the calls of persona-agent at n=2, E=1, K=3 on lamp-2m: K=8 to 12."]
    assert found["self-consistency"][0].endswith(": 3 to 4 samples of each answer.")


def test_that_the_offline_reader_does_not_sample_is_said_once(make: Make) -> None:
    found = said(make(control="equal-cost", lm="offline", axes=Axes((2,), (1, 2), (3,))))
    assert found["self-consistency"].count("The offline reader does not sample: all of an answer's are the same.") == 1
    assert len(found["self-consistency"]) == 3
