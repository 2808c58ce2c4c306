"""From the command line's words to a study's options: what is read, what is taken as it is, what is refused."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from personaagent.experiments import ablate, cold_start, compare, scale
from personaagent.experiments.harness.cells import Axes
from personaagent.experiments.harness.options import Arguments, application, study_options
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.programs.errors import InputError
from personaagent.programs.lm.recording import Recording

SCRIPTS = {"ablate": ablate, "cold_start": cold_start, "compare": compare, "scale": scale}


def read(**given: Any) -> StudyOptions:
    return study_options("compare", Arguments(**given))


# -- from the command line ------------------------------------------------------------------------

TAKEN: dict[str, tuple[Any, Any]] = {
    "tasks": (" lamp-3 , lamp-2m,lamp-3", ("lamp-3", "lamp-2m")),
    "data": (Path("folder"), Path("folder")),
    "split": ("test", "test"),
    "users": (7, 7),
    "users_by": ("random", "random"),
    "walk_forward": (3, 3),
    "data_seed": (-5, -5),
    "methods": (" rag , icl,rag", ("rag", "icl")),
    "histories": (" 10, all ,010", ("10", "all")),
    "seeds": ("0, 3,0", (0, 3)),
    "grid": (True, True),
    "profile": ("off", False),
    "wikipedia": ("http://wiki", "http://wiki"),
    "control": ("swap", "swap"),
    "memory_bank_dates": (0, 0),
    "memory_bank_curve": ("published", "published"),
    "memory_bank_clock": ("days", "days"),
    "lm": ("openai/a, openai/b", "openai/a, openai/b"),
    "api_base": ("http://there/v1", "http://there/v1"),
    "align_lm": ("openai/critic", "openai/critic"),
    "temperature": (0.7, 0.7),
    "timeout_seconds": (5.0, 5.0),
    "workers": (3, 3),
    "max_calls": (0, 0),
    "retry_failed": (True, True),
    "record": (Path("calls.jsonl"), Path("calls.jsonl")),
    "rescore": (True, True),
    "out": (Path("out"), Path("out")),
    "tracking": ("sqlite:///x.db", "sqlite:///x.db"),
    "trace_samples": (0, 0),
    "dry_run": (True, True),
}


@pytest.mark.parametrize("name", TAKEN)
def test_every_option_arrives(name: str) -> None:
    given, taken = TAKEN[name]
    assert getattr(read(**{name: given}), name) == taken


def test_no_option_is_forgotten() -> None:
    elsewhere = {"study", "columns", "labels", "queries_per_user", "align_api_base", "prompts", "search"}
    elsewhere |= {"batch_sizes", "iterations", "memories"}  # together they are the axes
    assert {field.name for field in fields(Arguments)} == {*TAKEN, *elsewhere}
    axes = read(batch_sizes="0, 3,0", iterations="2", memories="4,0").axes
    assert axes == Axes((0, 3), (2,), (4, 0))
    logs = read(tasks="logs", columns="user=u,query=q,response=r", labels=" yes, no ")
    assert (logs.columns, logs.labels) == ({"user": "u", "query": "q", "response": "r"}, ("yes", "no"))
    assert read(align_lm="openai/x", align_api_base="http://x").align_api_base == "http://x"
    assert read(search=2, methods="persona-agent").search == 2


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_scripts_command_line_is_that_of_every_other_but_for_its_own_defaults(script: str) -> None:
    own = {
        "ablate": {"methods": "ablation"},
        "cold_start": {"methods": "pag,react,memory-bank,persona-agent", "histories": "10", "users_by": "random"},
        "compare": {"methods": "all"},
        "scale": {"batch_sizes": "0,1,3,5", "iterations": "1,2,3,4,5", "memories": "0,1,4,8"},
    }[script]
    [command] = SCRIPTS[script].app.registered_commands
    assert command.callback is not None and command.name == script
    parameters = inspect.signature(command.callback).parameters
    assert {name: p.default for name, p in parameters.items()} == {
        field.name: own.get(field.name, field.default) for field in fields(Arguments)
    }
    made = study_options(script, Arguments(**{name: p.default for name, p in parameters.items()}))
    assert made.script == script


def test_a_scripts_help_is_the_first_line_of_what_is_said_of_it() -> None:
    [command] = application("x", "What it does.\n\nHow.").registered_commands
    assert command.help == "What it does."


# -- defaults that depend -------------------------------------------------------------------------


def test_the_offline_reader_has_one_worker_and_no_wikipedia_and_an_lm_has_eight_and_has_it() -> None:
    assert (read().workers, read().wikipedia) == (1, "off")
    lm = read(lm="openai/a")
    assert (lm.workers, lm.wikipedia) == (8, "on")
    both = read(lm="offline,openai/a", workers=2, wikipedia="off")
    assert (both.workers, both.wikipedia) == (2, "off")


# -- queries ---------------------------------------------------------------------------------------

QUERIES: dict[str, tuple[int | None, dict[str, int | None]]] = {
    "3": (3, {}),
    "0": (None, {}),
    " 003 ": (3, {}),
    "lamp-2m:3,lamp-3:0": (3, {"lamp-2m": 3, "lamp-3": None}),
    "lamp-3:5": (3, {"lamp-3": 5}),
    "1, lamp-3 : 5": (1, {"lamp-3": 5}),
    "lamp-3:5,0": (None, {"lamp-3": 5}),
    "logs:2": (3, {"logs": 2}),
}


@pytest.mark.parametrize("text", QUERIES)
def test_queries_are_those_of_all_tasks_and_of_those_that_have_their_own(text: str) -> None:
    made = read(queries_per_user=text)
    assert (made.queries_per_user, made.queries_by_task) == QUERIES[text]
    for task, count in made.queries_by_task.items():
        assert made.selection(task).queries_per_user == count
    assert made.selection("lamp-1").queries_per_user == made.queries_per_user


BAD_QUERIES = {
    "": "--queries-per-user: '' is not a whole number from 0; write for example 3, or lamp-2m:3,lamp-3:0",
    "3,": "'' is not a whole number",
    "-1": "'-1' is not a whole number",
    "1.5": "'1.5' is not a whole number",
    "٣": "'٣' is not a whole number",
    "9" * 5000: "is not a whole number",
    "lamp-2m": "'lamp-2m' is not a whole number",
    "lamp-2m:": "'' is not a whole number",
    "lamp-2m:x": "'x' is not a whole number",
    ":3": "--queries-per-user: unknown task ''; the tasks are: lamp-1,",
    "lamp-99:3": "--queries-per-user: unknown task 'lamp-99'; the tasks are: lamp-1,",
    "1:2:3": "unknown task '1:2'",
    "3,4": "--queries-per-user: '3,4' says it twice",
    "lamp-3:1,lamp-3:2": "says it twice of lamp-3",
}


@pytest.mark.parametrize("text", BAD_QUERIES, ids=[text[:20] for text in BAD_QUERIES])
def test_queries_that_cannot_be_read_are_named(text: str) -> None:
    with pytest.raises(InputError, match=r"^--queries-per-user: ") as caught:
        read(queries_per_user=text)
    assert BAD_QUERIES[text] in str(caught.value)


# -- a replay --------------------------------------------------------------------------------------

ABOUT: dict[str, Any] = {
    "lm": "openai/a,openai/b",
    "api_base": "http://there/v1",
    "align_lm": "openai/critic",
    "align_api_base": None,
    "temperature": 0.7,
    "wikipedia": "http://***@wiki/api",
    "study": "0" * 32,
}


@pytest.fixture
def recording(tmp_path: Path) -> Callable[..., str]:
    """A recording with these settings, as --lm has it."""

    def write(**changes: Any) -> str:
        path = tmp_path / "calls.jsonl"
        path.unlink(missing_ok=True)
        about = {name: value for name, value in {**ABOUT, **changes}.items() if value is not ...}
        with Recording(path, about) as made:
            for model in ("openai/a", "openai/b", "openai/critic"):
                made.add_lm(model, 0.7)
        return f"replay:{path}"

    return write


def test_a_replay_has_the_lms_that_were_recorded_and_all_that_they_were_asked_with(recording: Any) -> None:
    made = read(lm=recording(), users=5)
    assert (made.lms, made.api_base, made.align_lm) == (("openai/a", "openai/b"), "http://there/v1", "openai/critic")
    assert (made.temperature, made.wikipedia, made.workers, made.users) == (0.7, "http://***@wiki/api", 1, 5)
    assert made.replay is not None and made.recorded == {name: ABOUT[name] for name in ABOUT if name != "study"}
    assert read(lm=recording(), workers=4).workers == 4


def test_a_replay_is_the_study_that_was_recorded(recording: Any) -> None:
    """So that it may go on in the folder of either."""
    given = {name: value for name, value in ABOUT.items() if name != "study"}
    real, replay = read(**{**given, "wikipedia": "http://me:secret@wiki/api"}), read(lm=recording())
    assert replay.identity == real.identity and replay.out_folder == real.out_folder


def test_the_same_value_may_be_given_and_another_is_refused(recording: Any) -> None:
    same = {name: value for name, value in ABOUT.items() if name not in ("lm", "study")}
    assert read(lm=recording(), **{**same, "wikipedia": "http://me:secret@wiki/api"}).temperature == 0.7
    others = {
        "api_base": "http://else/v1",
        "align_lm": "openai/else",
        "align_api_base": "http://else/v1",
        "temperature": 0.5,
        "wikipedia": "off",
    }
    for name, value in others.items():
        said = f"--{name.replace('_', '-')}: {value!r} now, {ABOUT[name]!r} in the recording"
        with pytest.raises(InputError) as caught:
            read(lm=recording(), **{name: value})
        assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    "changes",
    [{"wikipedia": ...}, {"lm": ..., "align_lm": ...}, {"lm": 3}, {"temperature": "0.1"}, {"api_base": []}],
    ids=lambda changes: ",".join(changes),
)
def test_a_recording_of_something_else_is_refused(recording: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        read(lm=recording(**changes))
    assert "this recording is not of a study" in str(caught.value)
    assert f"(it lacks {', '.join(changes)}): make one with --record" in str(caught.value)


@pytest.mark.parametrize("name", ["missing", "", "/", "~nobody-of-this-name/x", "a" * 300], ids=range(5))
def test_a_recording_that_cannot_be_read_names_the_option(name: str) -> None:
    with pytest.raises(InputError, match=r"^--lm: .*: the recording cannot be read: .* as replay:FILE\."):
        read(lm=f"replay:{name}")


def test_a_damaged_recording_names_the_option_and_the_line(recording: Any) -> None:
    lm = recording()
    path = Path(lm.removeprefix("replay:"))
    path.write_text(path.read_text() + '{"lm": 3}\n' + json.dumps({"lm": "x", "temperature": 1}) + "\n")
    with pytest.raises(InputError, match=r"^--lm: .*calls\.jsonl: line 5 is damaged"):
        read(lm=lm)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lm": "openai/a,replay:x"}, "--lm 'openai/a,replay:x': a recording answers for all LMs"),
        ({"lm": "openai/a", "align_lm": "replay:x"}, "--align-lm 'replay:x': a recording answers for all LMs"),
    ],
    ids=["beside", "align"],
)
def test_a_recording_answers_alone(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(**given)
    assert str(caught.value).startswith(said) and "give --lm replay:FILE alone" in str(caught.value)


def test_a_replay_is_not_recorded(recording: Any) -> None:
    with pytest.raises(InputError, match="--record and --lm replay:FILE exclude each other"):
        read(lm=recording(), record=Path("more.jsonl"))
