"""Doing units: each once, one by one or side by side; what a unit is given, and what becomes of its failures."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError, LMAuthError, LMServerError
from rich.console import Console

from personaagent.experiments.harness import workers as workers_module
from personaagent.experiments.harness.journal import Journal, Unit
from personaagent.experiments.harness.methods.base import Work
from personaagent.experiments.harness.progress import Progress
from personaagent.experiments.harness.workers import Workers
from personaagent.programs.errors import BudgetError, InputError, StoreError
from personaagent.programs.lm.engines import MeteredEngine
from personaagent.programs.lm.meter import Meter, Usage

MODEL = "scripted/one"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.jsonl")
    yield made
    made.close()


def progress() -> Progress:
    return Progress(Console(file=io.StringIO(), width=200))


def workers(count: int = 1, retry_failed: bool = False, meter: Meter | None = None, **settings: Any) -> Workers:
    lms = {MODEL: dspy.LM(MODEL, cache=False), "scripted/two": dspy.LM("scripted/two", cache=False)}
    return Workers(count, retry_failed, meter or Meter(), settings.pop("lms", lms), **settings)


def work(key: str, run: Callable[[], dict[str, Any]] = lambda: {}, worst_case: int = 1, lm: str = MODEL) -> Work:
    return Work(key, "answer", run, worst_case, worst_case, lm)


def noting(done: list[str], key: str) -> Work:
    def run() -> dict[str, Any]:
        done.append(key)
        return {"raw": key}

    return work(key, run)


@pytest.mark.parametrize("count", [0, -1])
def test_there_is_at_least_one(count: int) -> None:
    with pytest.raises(InputError, match=f"count must be at least 1 but got {count}"):
        workers(count)


def raising(error: BaseException, key: str = "a", **settings: Any) -> Work:
    def run() -> dict[str, Any]:
        raise error

    return work(key, run, **settings)


def caused(outer: Exception, by: Exception, as_cause: bool = True) -> Exception:
    """An error that wraps another, as DSPy does it or as Python does."""
    try:
        try:
            raise by
        except Exception as inner:
            if as_cause:
                raise outer from inner
            raise outer  # noqa: B904 - that is the case
    except Exception as made:
        return made


def failed(key: str) -> Unit:
    return Unit(key, "answer", {}, "LMServerError: down", Usage(1), 0.1)


# -- what is done ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_each_unit_is_done_once_and_what_the_journal_has_is_not(journal: Journal, count: int) -> None:
    journal.add(Unit("b", "answer", {"raw": "old"}, None, Usage(1), 0.1))
    journal.add(failed("c"))
    done: list[str] = []
    with_all = workers(count)
    for _ in range(2):
        with_all.do("answers", [noting(done, key) for key in "abacda"], journal, progress())
    assert sorted(done) == ["a", "d"] and (count > 1 or done == ["a", "d"])
    found = {key: journal.get(key) for key in "abcd"}
    assert [unit and (unit.ok, unit.result.get("raw")) for unit in found.values()] == [
        (True, "a"),
        (True, "old"),
        (False, None),
        (True, "d"),
    ]


def test_what_failed_in_an_earlier_run_is_tried_once(journal: Journal) -> None:
    journal.add(failed("a"))
    tried: list[str] = []

    def run() -> dict[str, Any]:
        tried.append("a")
        raise ValueError("again")

    again = workers(retry_failed=True)
    for name in ("learning", "answers"):
        again.do(name, [work("a", run)], journal, progress())
    assert tried == ["a"]
    unit = journal.get("a")
    assert unit is not None and unit.error == "ValueError: again"


def test_what_fails_in_this_run_is_not_tried_again_in_it(journal: Journal) -> None:
    again = workers(retry_failed=True)
    again.do("answers", [raising(ValueError("x"))], journal, progress())
    done: list[str] = []
    again.do("answers", [noting(done, "a")], journal, progress())
    assert not done


def test_a_bar_is_shown_where_there_is_something_to_do_alone(journal: Journal) -> None:
    told = progress()
    workers().do("learning", [], journal, told)
    assert told.console.file.getvalue() == ""  # type: ignore[attr-defined]
    workers().do("answers", [raising(ValueError("x")), work("b"), work("c", worst_case=9)], journal, told)
    assert "3/3" in told.console.file.getvalue() and "1 failed" in told.console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("count", [1, 3])
def test_after_stop_nothing_begins(journal: Journal, count: int) -> None:
    done: list[str] = []
    stopping = workers(count)

    def run() -> dict[str, Any]:
        stopping.stop()
        return {}

    stopping.do("answers", [work("first", run)], journal, progress())
    stopping.do("answers", [noting(done, key) for key in "abc"], journal, progress())
    assert stopping.stopped and not done and len(journal) == 1


# -- what a unit is given -------------------------------------------------------------------------


def test_a_unit_has_its_lm_its_scope_and_no_trace_and_the_hosts_settings_stay(journal: Journal) -> None:
    scopes: list[str] = []

    @contextmanager
    def scope(key: str) -> Iterator[None]:
        scopes.append(f"in {key}")
        yield
        scopes.append(f"out of {key}")

    seen: list[Any] = []

    def run() -> dict[str, Any]:
        settings = dspy.settings
        seen.append((settings.lm.model, type(settings.adapter), settings.trace, settings.callbacks, list(scopes)))
        return {}

    with dspy.context(lm=dspy.LM("host/lm"), trace=[], adapter=dspy.JSONAdapter(), callbacks=[]):
        workers(scope=scope).do("answers", [work("a", run, lm="scripted/two")], journal, progress())
        assert dspy.settings.lm.model == "host/lm" and isinstance(dspy.settings.adapter, dspy.JSONAdapter)
    assert seen == [("scripted/two", dspy.ChatAdapter, None, [], ["in a"])]
    assert scopes == ["in a", "out of a"]


@pytest.mark.parametrize("count", [1, 4])
def test_a_unit_costs_its_own_calls_and_those_of_no_other(journal: Journal, scripted: Any, count: int) -> None:
    meter = Meter(max_in_flight=count)
    _, engine = scripted(latency_seconds=0.002)
    lm = dspy.LM(MODEL, engine=MeteredEngine(engine, meter), cache=False, num_retries=0)

    def ask(times: int) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            for _ in range(times):
                dspy.Predict("question -> answer")(question="?")
            if times == 3:
                raise ValueError("after three")
            return {}

        return run

    works = [work(str(times), ask(times)) for times in (0, 1, 2, 3, 4)]
    workers(count, meter=meter, lms={MODEL: lm}).do("answers", works, journal, progress())
    costs = {key: unit.usage.to_dict() for key in "01234" if (unit := journal.get(key))}
    assert costs == {str(n): {"lm_calls": n, "prompt_tokens": 100 * n, "completion_tokens": 20 * n} for n in range(5)}
    assert meter.spent.lm_calls == 10


# -- caps -----------------------------------------------------------------------------------------


def test_a_unit_that_does_not_fit_under_the_cap_waits_and_a_smaller_one_is_done(journal: Journal) -> None:
    capped = workers(meter=Meter(max_calls=5))
    capped.do("answers", [work("large", worst_case=6), work("fits", worst_case=5)], journal, progress())
    assert journal.get("large") is None and journal.get("fits") is not None
    assert capped.calls_needed == 6, "nothing was spent"


def test_the_cap_that_would_be_needed_is_the_least_of_what_was_refused(journal: Journal) -> None:
    meter = Meter(max_calls=1)
    capped = workers(meter=meter)
    assert capped.calls_needed is None
    capped.do("answers", [work("a", worst_case=9), work("b", worst_case=4)], journal, progress())
    assert capped.calls_needed == 4
    meter.begin()
    assert capped.calls_needed is None, "something could be done"


@pytest.mark.parametrize("as_cause", [True, False])
def test_a_unit_that_meets_the_cap_within_waits_however_that_is_wrapped(journal: Journal, as_cause: bool) -> None:
    error = caused(LMServerError("wrapped", model=MODEL), caused(KeyError("k"), BudgetError("cap"), as_cause), as_cause)
    workers().do("answers", [raising(error)], journal, progress())
    assert len(journal) == 0


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_a_failure_is_journalled_in_one_line_and_the_others_are_done(journal: Journal, count: int) -> None:
    works = [
        raising(ValueError("two\n  lines\tof it"), "a"),
        raising(KeyError(), "b"),
        raising(LMServerError("  the server\nis down", model=MODEL, status=503), "c"),
        raising(RuntimeError("x" * 400), "d"),
        work("e"),
    ]
    workers(count).do("answers", works, journal, progress())
    assert {key: unit.error for key in "abcde" if (unit := journal.get(key))} == {
        "a": "ValueError: two lines of it",
        "b": "KeyError",
        "c": f"LMServerError: [{MODEL}] the server is down (HTTP 503)",
        "d": f"RuntimeError: {'x' * 300}",
        "e": None,
    }


def test_a_failures_reason_holds_no_key(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment-1234")
    works = [
        raising(ValueError("sent sk-of-the-environment-1234"), "a"),
        raising(LMServerError("Authorization: Bearer sk-of-the-environment-1234", model=MODEL), "b"),
    ]
    workers().do("answers", works, journal, progress())
    assert "sk-of" not in journal.path.read_text() and "sent ***" in journal.path.read_text()


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("as_cause", [True, False])
def test_a_disk_that_is_full_ends_the_run_whatever_wraps_it(journal: Journal, count: int, as_cause: bool) -> None:
    full = StoreError("calls.jsonl: cannot be written")
    error = caused(
        AdapterParseError("x", dspy.Signature("a -> b"), "y"), caused(KeyError("k"), full, as_cause), as_cause
    )
    ending = workers(count)
    with pytest.raises(StoreError) as caught:
        ending.do("answers", [raising(error), *(work(str(i)) for i in range(50))], journal, progress())
    assert caught.value is full
    assert journal.get("a") is None
    assert (count == 1 and len(journal) == 0) or (ending.stopped and len(journal) < 50)


def test_what_is_under_way_when_a_run_ends_is_done_and_journalled(journal: Journal) -> None:
    begun, failed = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        begun.set()
        assert failed.wait(10)
        return {"raw": "done"}

    def fail() -> dict[str, Any]:
        assert begun.wait(10)
        failed.set()
        raise InputError("a setting that cannot work")

    with pytest.raises(InputError, match="cannot work"):
        works = [work("slow", slow), work("fail", fail), *(work(str(i), slow) for i in range(5))]
        workers(2).do("answers", works, journal, progress())
    unit = journal.get("slow")
    assert unit is not None and unit.result == {"raw": "done"}


# -- a key that is refused ------------------------------------------------------------------------


def refusal(endpoint: str | None = "http://here") -> LMAuthError:
    error = LMAuthError("Incorrect API key", model=MODEL, status=401)
    if endpoint is not None:
        error.endpoint = endpoint
    return error


@pytest.mark.parametrize("endpoint", ["http://here", None])
def test_an_lm_that_refuses_before_it_has_answered_was_a_mistake_of_the_settings(
    journal: Journal, endpoint: str | None
) -> None:
    with pytest.raises(InputError, match=r"the LM cannot be used: LMAuthError: \[scripted/one\] Incorrect API key"):
        workers().do("answers", [raising(refusal(endpoint))], journal, progress())
    assert len(journal) == 0


@pytest.mark.parametrize(("answered", "at"), [("scripted/two", "http://here"), (MODEL, "http://else")])
def test_another_lms_answer_and_another_endpoints_do_not_speak_for_it(journal: Journal, answered: str, at: str) -> None:
    meter = Meter()
    meter.endpoint("http://here")
    meter.endpoint(at).answered.add(answered)
    with pytest.raises(InputError, match="the LM cannot be used"):
        workers(meter=meter).do("answers", [raising(refusal())], journal, progress())


def test_one_that_has_answered_in_this_run_is_a_failure_of_the_unit(journal: Journal) -> None:
    meter = Meter()
    meter.endpoint("http://here").answered.add(MODEL)
    workers(meter=meter).do("answers", [raising(refusal())], journal, progress())
    unit = journal.get("a")
    assert unit is not None and unit.error == f"LMAuthError: [{MODEL}] Incorrect API key (HTTP 401)"


# -- an interruption ------------------------------------------------------------------------------


def test_after_an_interruption_what_ends_in_time_is_journalled_and_the_rest_is_given_up(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "GRACE_SECONDS", 0.3)
    begun, interrupted, late, over = threading.Barrier(3), threading.Event(), threading.Event(), threading.Event()

    def quick() -> dict[str, Any]:
        begun.wait(10)
        assert interrupted.wait(10)
        return {"raw": "in time"}

    def slow() -> dict[str, Any]:
        begun.wait(10)
        assert late.wait(10)
        over.set()
        return {"raw": "too late"}

    def interrupt() -> None:
        begun.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
        while not interrupted_workers.stopped:
            time.sleep(0.001)
        interrupted.set()

    told, interrupted_workers = progress(), workers(2)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        works = [work("quick", quick), work("slow", slow), *(work(str(i), slow) for i in range(5))]
        interrupted_workers.do("answers", works, journal, told)
    assert interrupted_workers.given_up == 1 and interrupted_workers.stopped
    assert "interrupted: a moment for the units under way" in told.console.file.getvalue()  # type: ignore[attr-defined]
    late.set()
    assert over.wait(10)
    for thread in threading.enumerate():
        if thread.name.startswith("study"):
            thread.join(10)
    assert len(journal) == 1 and journal.get("quick") is not None, "the files are written without what comes later"
