"""The Wikipedia tool where the site or the network fails: what it says, how long it takes, when it asks again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from servers import wikipedia as server_module

from personaagent.programs.breaker import Breaker
from personaagent.programs.errors import InputError
from personaagent.programs.tools import _http as http_module
from personaagent.programs.tools.wikipedia import Wikipedia

UNAVAILABLE = "Wikipedia is not available right now ({})."
EINSTEIN = "Albert Einstein: «Albert Einstein was a theoretical physicist. He published the theory of relativity.»"

# --- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("forbidden", "HTTP 403"),
        ("too-many-requests", "HTTP 429"),
        ("server-error", "HTTP 500"),
        ("overloaded", "HTTP 503"),
        ("reset", "no connection"),
        ("cut", "no connection"),
        ("html", "unreadable answer"),
        ("invalid-utf8", "unreadable answer"),
        ("deep", "unreadable answer"),
        ("list", "unreadable answer"),
        ("hollow", "unreadable answer"),
        ("api-error", "it reported an error"),
        ("too-large", "answer too large"),
        ("redirect-loop", "too many redirects"),
    ],
)
def test_every_fault_is_a_plain_sentence_and_none_is_kept(
    server: Any, tool: Wikipedia, scenario: str, reason: str
) -> None:
    server.scenario = scenario
    assert tool("Einstein") == UNAVAILABLE.format(reason)
    server.scenario = "ok"
    assert tool("Einstein") == EINSTEIN


def test_an_answer_without_what_was_asked_does_not_make_a_page_missing(server: Any, tool: Wikipedia) -> None:
    """The package takes it for a page that does not exist; and the next request is fine."""

    def changing() -> Iterator[str]:
        yield "hollow"
        while True:
            yield "ok"

    scenarios = changing()
    server.arrived = lambda *_: next(scenarios)
    assert tool("Einstein") == UNAVAILABLE.format("unreadable answer")
    assert tool("Einstein") == EINSTEIN


@pytest.mark.parametrize("scenario", ["hang", "drip", "drip-headers"])
def test_a_question_ends_in_time_whatever_the_server_does(server: Any, scenario: str) -> None:
    server.scenario = scenario
    tool = Wikipedia(url=server.url, timeout_seconds=0.5)
    started = time.monotonic()
    assert tool("Einstein") == UNAVAILABLE.format("no answer in time")
    assert time.monotonic() - started < 5  # the server would take 30 s, or for ever
    assert server.requests == 1


def test_a_server_that_is_not_there() -> None:
    with server_module.WikipediaServer() as gone:
        pass
    assert Wikipedia(url=gone.url)("Einstein") == UNAVAILABLE.format("no connection")


def test_a_password_in_the_address_is_used_and_never_shown(server: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tool = Wikipedia(url=server.url.replace("//", "//me:hunter2@"))
    assert tool("Einstein") == EINSTEIN
    assert {seen.authorization for seen in server.seen} == {"Basic bWU6aHVudGVyMg=="}
    for server.scenario in ("html", "reset"):
        tool("Topic 1")
    assert "//***@127.0.0.1" in caplog.text and "Wikipedia is not available" in caplog.text
    with pytest.raises(InputError) as caught:
        Wikipedia(url="ftp://me:hunter2@127.0.0.1/w/api.php")
    assert "hunter2" not in caplog.text + str(caught.value)


def test_a_redirect_of_the_whole_api_is_followed(server: Any, tool: Wikipedia) -> None:
    server.scenario = "moved"
    assert tool("Albert Einstein") == EINSTEIN
    assert tool.requests_sent == 4


# --- the breaker -----------------------------------------------------------------------------------


def test_after_three_failures_nothing_is_sent_until_one_trial(server: Any, tool: Wikipedia, clock: Any) -> None:
    server.scenario = "server-error"
    for _ in range(3):
        assert tool("Einstein") == UNAVAILABLE.format("HTTP 500")
    clock.now = 59.9
    assert tool.is_open
    assert tool("Einstein") == UNAVAILABLE.format("paused after failures")
    assert server.requests == 3

    clock.now = 60.0
    assert tool("Einstein") == UNAVAILABLE.format("HTTP 500")  # the trial fails: open again
    assert tool("Einstein") == UNAVAILABLE.format("paused after failures")
    assert server.requests == 4

    clock.now = 120.0
    server.scenario = "ok"
    assert tool("Einstein") == EINSTEIN
    server.scenario = "server-error"
    for number in range(3):  # closed, and counting from zero
        assert tool(f"Topic {number}") == UNAVAILABLE.format("HTTP 500")
    assert tool.is_open


def test_only_failures_in_a_row_open_the_breaker(server: Any, tool: Wikipedia) -> None:
    for number in range(6):
        server.scenario = "ok" if number % 3 == 2 else "forbidden"
        tool(f"Topic {number}")
        assert not tool.is_open


def test_one_trial_at_a_time(server: Any, clock: Any) -> None:
    tool = Wikipedia(url=server.url, timeout_seconds=1.0, failures_to_open=1, clock=clock)
    server.scenario = "reset"
    tool("Einstein")
    clock.now, server.scenario = 60.0, "hang"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(tool, [f"Topic {number}" for number in range(8)]))
    assert answers.count(UNAVAILABLE.format("no answer in time")) == 1
    assert answers.count(UNAVAILABLE.format("paused after failures")) == 7
    assert server.requests == 2


@pytest.mark.parametrize("scenario", ["too-many-requests", "overloaded"])
@pytest.mark.parametrize("pause", [7, 3600])
def test_retry_after_is_obeyed_at_once_and_to_the_second(
    server: Any, tool: Wikipedia, clock: Any, scenario: str, pause: int
) -> None:
    server.scenario, server.retry_after = scenario, str(pause)
    tool("Einstein")
    server.scenario = "ok"
    clock.now = pause - 0.1
    assert tool("Einstein") == UNAVAILABLE.format("paused after failures")
    assert server.requests == 1
    clock.now = pause
    assert tool("Einstein") == EINSTEIN
    assert tool("Topic 1") == "Topic 1: «Topic 1 has the number 1.»"


def test_retry_after_may_be_a_date(server: Any, tool: Wikipedia, clock: Any) -> None:
    server.scenario = "overloaded"
    server.retry_after = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    tool("Einstein")
    clock.now = 3000.0
    assert tool.is_open
    clock.now = 3600.0
    assert not tool.is_open


@pytest.mark.parametrize("header", ["soon", "", "-5", "0", "1.5", "9" * 400, "Sun, 06 Nov 1994 08:49:37 GMT", "٣"])
def test_a_retry_after_that_says_nothing_counts_as_one_failure(server: Any, tool: Wikipedia, header: str) -> None:
    server.scenario, server.retry_after = "too-many-requests", header.encode().decode("latin-1")
    assert tool("Einstein") == UNAVAILABLE.format("HTTP 429")
    assert not tool.is_open


def test_a_success_from_before_does_not_end_a_pause(server: Any, tool: Wikipedia, clock: Any) -> None:
    breaker = Breaker(3, 60.0, clock)
    first, second = breaker.admit(), breaker.admit()
    assert first == second == "closed"
    breaker.pause(10)
    breaker.record(second, usable=False)
    breaker.record(first, usable=True)
    clock.now = 9.9
    assert breaker.is_open
    clock.now = 10.0
    assert breaker.admit() == "trial"


def test_a_pause_also_stops_questions_under_way(server: Any, clock: Any) -> None:
    breaker = Breaker(3, 60.0, clock)
    http = http_module.Http(breaker)
    http.begin(time.monotonic() + 20, "closed")
    breaker.pause(10)
    for clock.now in (0.0, 10.0):  # nor may they go on beside the trial
        with pytest.raises(http_module.PausedError, match="paused"):
            http.get(server.url, {}, {})
    assert server.requests == http.sent == 0
    http.begin(time.monotonic() + 20, "trial")
    http.get(server.url, {"titles": "C"}, {})
    assert server.requests == http.sent == 1


def test_a_question_stopped_by_anothers_pause_is_no_failure_of_the_site(server: Any, clock: Any) -> None:
    tool = Wikipedia(url=server.url, timeout_seconds=20, failures_to_open=1, clock=clock)
    server.latency_seconds = 0.5
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(tool, "Topic 1")
        while not server.requests:
            time.sleep(0.01)
        server.scenario, server.retry_after, server.latency_seconds = "overloaded", "5", 0.0
        assert tool("Topic 2") == UNAVAILABLE.format("HTTP 503")
        clock.now = 5.0
        assert slow.result() == UNAVAILABLE.format("paused after failures")
    assert server.requests == 2
    server.scenario = "ok"
    assert not tool.is_open and tool("Topic 1").startswith("Topic 1: ")


def test_an_interrupted_trial_does_not_hold_the_breaker_open_for_ever(
    server: Any, tool: Wikipedia, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.scenario, server.retry_after = "overloaded", "5"
    tool("Einstein")
    server.scenario, clock.now = "ok", 5.0
    with monkeypatch.context() as patched:
        patched.setattr(tool, "_ask", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            tool("Einstein")
    assert tool("Einstein") == EINSTEIN  # the next one is the trial: an interrupt is no failure of the site


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
