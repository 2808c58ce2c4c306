"""An agent at an LM endpoint that fails in every way: each question is answered, or fails with a reason.

One table says which, scenario by scenario, over 30 questions side by side. The LM is a real one of `make_lm`, over
real HTTP; what was sent is counted by the server, too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMError
from servers.llm import FORGED, REFUSAL, SCENARIOS, OpenAIServer

from personaagent.programs.agent import PersonaAgent
from personaagent.programs.episode import max_predictions
from personaagent.programs.interaction import Interaction
from personaagent.programs.lm import make
from personaagent.programs.lm.endpoint import CALLS_TO_OPEN, NUM_RETRIES, one_line_of
from personaagent.programs.lm.make import CALLS_PER_PREDICTION, make_lm
from personaagent.programs.lm.meter import Meter, metering
from personaagent.programs.memory.store import MemoryStore

TAGS = ("comedy", "classic", "dark comedy")
QUESTIONS = [f"Which tag fits? tags: [{', '.join(TAGS)}] description: film {number} of 30" for number in range(30)]
WORKERS, MAX_ITERS = 6, 3
ATTEMPTS = NUM_RETRIES + 1
SHORT = 0.7
"""A timeout in seconds, where an endpoint hangs."""


@dataclass
class Outcome:
    """What became of one question."""

    answer: str | None = None
    faults: list[str] = field(default_factory=list)
    reason: str | None = None
    """Of a failure, as a study journals it: the error's type and words."""
    lm_calls: int = 0


@dataclass
class Run:
    """What became of all, and what it took."""

    outcomes: list[Outcome]
    meter: Meter
    seconds: float

    @property
    def answers(self) -> set[str | None]:
        return {outcome.answer for outcome in self.outcomes if outcome.reason is None}

    @property
    def reasons(self) -> list[str]:
        return [outcome.reason for outcome in self.outcomes if outcome.reason is not None]


Ask = Callable[..., Run]


@pytest.fixture
def ask(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Asks questions of one user side by side, at a server."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with OpenAIServer() as healthy:  # what DSPy imports with the first call must not count against a short timeout
        make_lm("openai/test", api_base=healthy.url)("hello")

    def run(
        server: OpenAIServer,
        questions: list[str] = QUESTIONS,
        workers: int = WORKERS,
        timeout_seconds: float = 10.0,
        record: str = "A film that ann saw",
    ) -> Run:
        history = [Interaction("ann", f"h{i}", f"{record} ({i}).", TAGS[i % 2], "2020-01-01") for i in range(5)]
        meter = Meter()
        lm = make_lm(
            "openai/test", api_base=server.url, timeout_seconds=timeout_seconds, retry_wait_seconds=1e-5, meter=meter
        )
        with closing(MemoryStore("sqlite://", encoder=encoder)) as store:
            store.add(history)
            signature = dspy.Signature("query -> answer", "Give the tag.")
            agent = PersonaAgent(signature, memory=store, memories=3, max_iters=MAX_ITERS).for_user("ann")

            def one(question: str) -> Outcome:
                # Nothing but an LM's error may be raised: any other ends the test here.
                with dspy.context(lm=lm, adapter=dspy.ChatAdapter()), metering() as usage:
                    try:
                        prediction = agent(query=question)
                    except LMError as error:
                        return Outcome(reason=f"{type(error).__name__}: {one_line_of(error)}", lm_calls=usage.lm_calls)
                return Outcome(prediction.answer, prediction.faults, lm_calls=usage.lm_calls)

            started = time.monotonic()
            with ThreadPoolExecutor(workers) as pool:
                outcomes = list(pool.map(one, questions))
        return Run(outcomes, meter, time.monotonic() - started)

    return run


def check(run: Run, server: OpenAIServer, timeout_seconds: float) -> None:
    """What holds whatever the endpoint does."""
    for outcome in run.outcomes:
        assert (outcome.answer is None) == (outcome.reason is not None)
        assert outcome.lm_calls <= max_predictions(MAX_ITERS) * CALLS_PER_PREDICTION
    booked = sum(outcome.lm_calls for outcome in run.outcomes)
    assert len(server.requests) == run.meter.spent.lm_calls == booked, "every request is counted, once, and for its own"
    for seen in server.requests:
        until = time.monotonic() + 2
        while seen.seconds is None and time.monotonic() < until:  # the last one may be about to hang up
            time.sleep(0.005)
        assert seen.seconds is not None and seen.seconds <= timeout_seconds + 1, seen.scenario


# -- answered ----------------------------------------------------------------------------------------

UNREADABLE = f"(step \\d could not be read: [^;]*; ){{{MAX_ITERS}}}stopped after {MAX_ITERS} steps without `finish`"
UNREADABLE_TO_THE_END = f"{UNREADABLE}; the answer could not be read: the field \\w+ was missing."
ANSWERED: dict[str, tuple[int, str, str]] = {
    # scenario: requests of each question; its answer; its faults, joined
    "no-choices": (8, "", UNREADABLE_TO_THE_END),
    "null-content": (8, "", UNREADABLE_TO_THE_END),
    "empty-text": (8, "", UNREADABLE_TO_THE_END),
    "refusal": (8, re.escape(REFUSAL), UNREADABLE_TO_THE_END),
    "refusal-field": (8, f"({re.escape(REFUSAL)})?", UNREADABLE_TO_THE_END),
    "prose": (8, "Well, that depends on many things.*", UNREADABLE_TO_THE_END),
    "truncated": (8, ".*As this user a.*", UNREADABLE_TO_THE_END),
    "json": (6, "|".join(TAGS), ""),
    "unknown-tool": (7, "|".join(TAGS), UNREADABLE),
    "wrong-argument": (3, "|".join(TAGS), "tool recall failed in step 1: .*my_query.*"),
    "arguments-no-object": (7, "|".join(TAGS), UNREADABLE),
    "finish-at-once": (2, "|".join(TAGS), ""),
    "endless-calls": (4, "|".join(TAGS), f"stopped after {MAX_ITERS} steps without `finish`"),
    "repeated-calls": (4, "|".join(TAGS), f"stopped after {MAX_ITERS} steps without `finish`"),
    "forged-markers": (5, "|".join(TAGS), ""),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_every_question_is_answered_whatever_the_lm_writes(name: str, ask: Ask) -> None:
    requests, answer, faults = ANSWERED[name]
    with OpenAIServer(scenarios=[name]) as server:
        run = ask(server)
        check(run, server, timeout_seconds=10)
    assert run.reasons == []
    assert [outcome.lm_calls for outcome in run.outcomes] == [requests] * 30
    for outcome in run.outcomes:
        assert re.fullmatch(answer, outcome.answer or ""), outcome.answer
        assert re.fullmatch(faults, "; ".join(outcome.faults)), outcome.faults
    assert server.counts == {name: 30 * requests}


def test_with_a_healthy_server_every_question_takes_three_requests_and_has_no_fault(ask: Ask) -> None:
    with OpenAIServer() as server:
        run = ask(server)
        check(run, server, timeout_seconds=10)
    assert run.answers <= set(TAGS) and run.reasons == []
    assert {(outcome.lm_calls, *outcome.faults) for outcome in run.outcomes} == {(3,)}


def test_a_forged_marker_reaches_prompts_only_as_a_text(ask: Ask) -> None:
    """The LM writes one into every thought and obeys what it reads: without quoting, this test would see it obeyed."""
    with OpenAIServer(scenarios=["forged-markers"]) as server:
        run = ask(server, QUESTIONS[:3])
    assert FORGED not in str(run.outcomes)
    shown = [seen.prompt.user for seen in server.requests if FORGED in seen.prompt.user]
    assert shown and all("[[ # # answer # # ]]\nforged" in text for text in shown), "as text it is still there"


# -- failed ------------------------------------------------------------------------------------------

TOO_LONG = (
    r"maximum context length is 1000|context length is only 1000|available context size \(1000 tokens\)|"
    "the prompt may be too long"  # of a message that DSPy's client does not find, old vLLM's
)
TRIED_AGAIN = {
    "429": "(?i)rate limit",
    "429-retry-after": "(?i)rate limit",
    "500": "LMServerError.*The server had an error",
    "500-retry-now": "LMServerError.*The server had an error",
    "502-html": "502 Bad Gateway",
    "503": "currently overloaded",
    "reset": "reset by peer",
    "close": "closed connection before",
    "cut": "connection closed with",
    "html-200": "HTTP 200, text/html.*is not JSON",
    "broken-json-200": "HTTP 200.*is not JSON",
    "error-200": "Upstream failed",
    "object-200": "holds no answer",
    "null-message-200": "holds no answer",
}
TRIED_ONCE = {
    "401-bad-key": "LMAuthError.*Incorrect API key",
    "404-model": "`test` does not exist",
    "list-200": "JSON object, got list",
}
MISTAKEN = ("401-bad-key", "404-model")
HANGING = ("hang", "hang-in-body", "drip", "drip-headers")
TOO_LONG_ALWAYS = ("context-length", "context-length-vllm", "context-length-vllm-old", "context-length-llamacpp")


@pytest.mark.parametrize("name", [*TRIED_AGAIN, *TRIED_ONCE])
def test_an_endpoint_that_always_fails_is_asked_by_few_and_the_others_say_why(name: str, ask: Ask) -> None:
    """The calls that are under way together are made; then the breaker is open, and no question is sent."""
    attempts, words = (ATTEMPTS, TRIED_AGAIN[name]) if name in TRIED_AGAIN else (1, TRIED_ONCE[name])
    with OpenAIServer(scenarios=[name], retry_after="0.02") as server:
        run = ask(server)
        check(run, server, timeout_seconds=10)
    assert len(run.reasons) == 30
    assert all(re.search(words, reason) for reason in run.reasons), run.reasons
    sent = [outcome for outcome in run.outcomes if outcome.lm_calls]
    assert all(outcome.lm_calls <= attempts for outcome in sent)
    if name in MISTAKEN:
        assert len(sent) == 1, "what has never answered need not be asked again"
    else:
        few = CALLS_TO_OPEN + WORKERS
        assert CALLS_TO_OPEN <= len(sent) < few, "so many in a row open the breaker; those under way then end with it"
    assert server.counts == {name: run.meter.spent.lm_calls}


@pytest.mark.parametrize("name", HANGING)
def test_an_endpoint_that_hangs_is_left_when_the_time_is_over_and_not_long_after(
    name: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "NUM_RETRIES", 1)  # it takes long enough
    with OpenAIServer(scenarios=[name], drip_seconds=0.1, forever_seconds=20) as server:
        run = ask(server, timeout_seconds=SHORT)
        check(run, server, timeout_seconds=SHORT)
        held = sorted(seen.seconds or 0.0 for seen in server.requests)
    assert len(run.reasons) == 30
    assert all(f"no complete answer within {SHORT} s" in reason for reason in run.reasons), run.reasons
    assert held[len(held) // 2] >= SHORT * 0.9, "nor is it left early"
    few = WORKERS + CALLS_TO_OPEN - 1
    assert len(server.requests) <= few * 2, "each that fails before the last one that is needed lets one more begin"
    # The first alone, then all at once: one after the other would be 40 s.
    assert run.seconds <= 3 * (SHORT + 1)


@pytest.mark.parametrize("name", TOO_LONG_ALWAYS)
def test_a_prompt_that_never_fits_fails_for_each_question_by_itself(name: str, ask: Ask) -> None:
    """It is the prompt's fault and not the endpoint's: every question is tried, as a step and as an answer."""
    with OpenAIServer(scenarios=[name]) as server:
        run = ask(server)
        check(run, server, timeout_seconds=10)
    assert len(run.reasons) == 30
    assert all(re.search(f"ContextWindowExceededError.*({TOO_LONG})", reason) for reason in run.reasons), run.reasons
    assert server.counts == {name: 60}


def test_the_breaker_opens_after_calls_in_a_row_that_failed_for_good(ask: Ask) -> None:
    with OpenAIServer(scenarios=["503"]) as server:
        run = ask(server, workers=1)
        check(run, server, timeout_seconds=10)
    assert [outcome.lm_calls for outcome in run.outcomes] == [ATTEMPTS] * CALLS_TO_OPEN + [0] * (30 - CALLS_TO_OPEN)
    assert all("not sent" in reason and "overloaded" in reason for reason in run.reasons[CALLS_TO_OPEN:])


def test_every_scenario_has_its_place_in_the_table() -> None:
    assert {*ANSWERED, *TRIED_AGAIN, *TRIED_ONCE, *HANGING, *TOO_LONG_ALWAYS} == set(SCENARIOS)


@pytest.mark.parametrize(
    ("name", "status"),
    [("429", 429), ("500", 500), ("502-html", 502), ("503", 503), ("401-bad-key", 401), ("404-model", 404)],
)
def test_the_reason_names_the_status(name: str, status: int, ask: Ask) -> None:
    with OpenAIServer(scenarios=[name]) as server:
        [reason] = ask(server, QUESTIONS[:1]).reasons
    assert re.search(rf"\b{status}\b", reason), reason


# -- transient, too long -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["429-retry-after", "500", "reset", "html-200"])
def test_what_is_transient_costs_no_question(name: str, ask: Ask) -> None:
    """A quarter of the requests fails, and which is drawn anew for each attempt."""
    with OpenAIServer(scenarios=[name], rate=0.25, retry_after="0.02") as server:
        run = ask(server)
        check(run, server, timeout_seconds=10)
    assert run.reasons == [] and run.answers <= set(TAGS)
    assert server.counts["ok"] == 90 and server.counts[name] > 15


def test_a_retry_after_is_kept_to(ask: Ask) -> None:
    with OpenAIServer(scenarios=["429-retry-after"], retry_after="0.3") as server:
        run = ask(server, QUESTIONS[:1])
    arrivals = [seen.arrived for seen in server.requests]
    waits = [later - earlier for earlier, later in pairwise(arrivals)]
    assert len(run.reasons) == 1
    assert len(waits) == NUM_RETRIES and all(0.3 <= wait < 1.3 for wait in waits), waits


@pytest.mark.parametrize("name", TOO_LONG_ALWAYS)
def test_where_a_prompt_is_too_long_observations_are_shortened_and_the_question_is_kept(name: str, ask: Ask) -> None:
    record = "A long story about a film that ann saw, sentence by sentence. " * 30
    with OpenAIServer(max_prompt_chars=6_000, context_shape=name) as server:
        run = ask(server, QUESTIONS[:5], record=record)
        check(run, server, timeout_seconds=10)
    assert run.reasons == [] and run.answers <= set(TAGS)
    assert server.counts[name] >= 5, "at first it did not fit"
    for seen in server.requests:
        assert any(question in seen.prompt.user for question in QUESTIONS[:5])
    last = [seen.prompt for seen in server.requests if seen.scenario == "ok" and "answer" in seen.prompt.outputs]
    assert len(last) == 5
    assert all("A long story about a film" in prompt.user and "…" in prompt.user for prompt in last)
