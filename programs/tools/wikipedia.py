"""The general-knowledge tool of the paper's Appendix E: a short summary of one Wikipedia article.

It is the PyPI package `wikipedia`, which alone has neither https nor a timeout, a session or a status
check, and keeps its settings in module globals. Each tool therefore runs a private copy of that module
whose `requests` is the `Http` beside this file; what else a program does with `wikipedia` stays as it was.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from importlib import metadata, util
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import dspy

from personaagent.programs.breaker import Breaker
from personaagent.programs.errors import InputError
from personaagent.programs.quoting import one_line, quoted
from personaagent.programs.tools._http import PAUSED, TOO_LATE, Http, PausedError, UnavailableError

logger = logging.getLogger(__name__)

DESCRIPTION = (
    "Look up one topic on Wikipedia. Serves best for general background, basic facts, and the people and "
    "events of history. The query is the name of one definite topic (for example 'Marie Curie' or "
    "'French Revolution'). Returns a concise summary of the article. Exact names find more than "
    "questions or descriptions do."
)
"""The paper's Appendix E in our own words."""

ENGLISH = "https://en.wikipedia.org/w/api.php"

TIMEOUT_SECONDS = 10.0
MAX_QUERY_CHARS = 200
MAX_OPTIONS = 8
MAX_CACHED_ANSWERS = 256

# MediaWiki reads these as several titles, or drops what follows: "C#" would become the page "C".
_NOT_IN_TITLES = re.compile(r"[#<>\[\]{}|]")
_AGENT = f"personaagent/{metadata.version('personaagent')} (+https://arxiv.org/abs/2506.06254)"


class Answers(Protocol):
    """Where a tool keeps what its site answered; a `dict` is one. It must be thread safe.

    `__setitem__` returns before the answer is used, and each topic is set once as long as `get` finds it.
    """

    def get(self, topic: str, /) -> str | None:
        """The text that was kept for this topic."""

    def __setitem__(self, topic: str, text: str, /) -> None:
        """Keep a text; what this raises, the question raises."""


class Wikipedia:
    """A callable that answers a topic with one line, ``Title: «summary…»``, or a sentence saying why not.

    It never raises for trouble with the network or the site. One question takes at most `timeout_seconds`
    (and the first one the import of `wikipedia`), whatever the server does. After `failures_to_open`
    questions in a row to which the site gave no usable answer, nothing is sent for `open_seconds`; then
    one question is let through, and its fate decides. A Retry-After in a 429 or 503 is obeyed at once.
    A page that does not exist is an answer, not a failure. What the site answered is kept and not asked again,
    nor is a topic that another thread is just asking: its answer, or failure, is this question's, too.

    Thread safe. A deep copy is the object itself, so that all agents share one session and one breaker. Pickled, it
    is its settings alone: without answers, `answers`, `given` and `clock`.

    Args:
        url: the `api.php` of a MediaWiki; it fixes the language. A user and password in it are not logged.
        user_agent: a line of ASCII. Wikimedia refuses agents that do not say who runs them: put your own contact in
            it. Default: `personaagent/VERSION` and the paper's address.
        timeout_seconds: for one question with all its requests, above 0 and at most 3600.
        max_chars: longest summary, at least 80; longer ones are cut after a sentence.
        failures_to_open: at least 1.
        open_seconds: above 0 and finite.
        answers: where answers are kept, those that say that there is no such page included. Default: the 256
            that were used last, for as long as the tool lives.
        given: is told topic and text of every answer before it is used, also that the site is not available; what it
            raises, the question raises.
        clock: seconds for the breaker only; timeouts are real time.

    Raises:
        InputError: on a value out of range.
    """

    def __init__(
        self,
        *,
        url: str = ENGLISH,
        user_agent: str = _AGENT,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_chars: int = 1200,
        failures_to_open: int = 3,
        open_seconds: float = 60.0,
        answers: Answers | None = None,
        given: Callable[[str, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check("url", _shown(url), re.fullmatch(r"https?://[^\s/?#]+\S*", url), "an http(s) address", ENGLISH)
        _check("user_agent", user_agent, re.fullmatch("[!-~][ -~]*", user_agent), "a line of ASCII", _AGENT)
        _check("timeout_seconds", timeout_seconds, 0 < timeout_seconds <= 3600, "above 0, at most 3600", 10.0)
        _check("max_chars", max_chars, max_chars >= 80, "at least 80", 1200)
        _check("failures_to_open", failures_to_open, failures_to_open >= 1, "at least 1", 3)
        _check("open_seconds", open_seconds, 0 < open_seconds < math.inf, "above 0 and finite", 60.0)
        self.__name__, self.__doc__ = "wikipedia", DESCRIPTION  # what DSPy shows of a bare callable
        self._url, self._user_agent = url, user_agent
        self._breaker_settings = {"failures_to_open": failures_to_open, "open_seconds": open_seconds}
        self._timeout_seconds, self._max_chars = timeout_seconds, max_chars
        self._breaker = Breaker(failures_to_open, open_seconds, clock)
        self._lock = threading.Lock()
        self._answers: Answers = _LatestAnswers() if answers is None else answers
        self._given = given
        self._being_asked: dict[str, Future[str]] = {}
        self._module: ModuleType | None = None

    def __call__(self, query: str) -> str:
        if len(query) > MAX_QUERY_CHARS:
            return f"The query is too long. Give the name of one topic in at most {MAX_QUERY_CHARS} characters."
        topic = one_line(query)
        if not topic:
            return "The query is empty. Give the name of one topic."
        text = self._text(topic)
        if self._given is not None:
            self._given(topic, text)
        return text

    def _text(self, topic: str) -> str:
        """What was kept, what another thread is just asking for, or what the site says."""
        with self._lock:
            kept = self._answers.get(topic)
            if kept is not None:
                return kept
            others = self._being_asked.get(topic)
            if others is None:
                own = self._being_asked[topic] = Future()
        if others is not None:
            try:
                return others.result(self._timeout_seconds)
            except TimeoutError:
                return _unavailable(TOO_LATE).text
        try:
            text = self._answer(topic)
        except BaseException as error:
            # An interrupt is of this thread alone: who waits for it is told a reason.
            if isinstance(error, Exception):
                own.set_exception(error)
            else:
                own.set_result(_unavailable("interrupted").text)
            raise
        else:
            own.set_result(text)
            return text
        finally:
            with self._lock:
                del self._being_asked[topic]

    def __deepcopy__(self, memo: object) -> Wikipedia:
        return self

    def __getstate__(self) -> dict[str, Any]:
        asked = {"url": self._url, "user_agent": self._user_agent}
        limits = {"timeout_seconds": self._timeout_seconds, "max_chars": self._max_chars}
        return {**asked, **limits, **self._breaker_settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Wikipedia.__init__(self, **state)

    @property
    def requests_sent(self) -> int:
        """HTTP requests so far, redirected ones included."""
        return self._module.requests.sent if self._module else 0

    @property
    def is_open(self) -> bool:
        """Whether the breaker keeps every request back at this moment."""
        return self._breaker.is_open

    def as_tool(self, description: str | None = None) -> dspy.Tool:
        """A `dspy.Tool` named wikipedia; `description` takes the place of `DESCRIPTION`."""
        return dspy.Tool(self, name="wikipedia", desc=description or DESCRIPTION)

    def _answer(self, topic: str) -> str:
        """What the site says, kept if it says anything."""
        ticket = self._breaker.admit()
        if ticket is None:
            return _unavailable(PAUSED).text
        usable = None
        try:
            answer = self._ask(self._own_module(), topic, ticket)
            usable = answer.usable
        finally:  # an interrupt says nothing of the site
            if usable is None:
                self._breaker.give_back(ticket)
            else:
                self._breaker.record(ticket, usable=usable)
        if answer.usable:
            self._answers[topic] = answer.text
        return answer.text

    def _own_module(self) -> ModuleType:
        with self._lock:
            if self._module is None:
                self._module = _private_copy(self._url, self._user_agent, self._breaker)
            return self._module

    def _ask(self, module: ModuleType, topic: str, ticket: Literal["closed", "trial"]) -> _Answer:
        # A socket's timeout begins anew with every byte and does not cover name resolution: only leaving
        # a request behind in its thread bounds a question. What is left behind ends at its next read; were
        # a server to trickle headers for ever, the breaker would bound the number of such threads.
        answers: list[_Answer] = []
        deadline = time.monotonic() + self._timeout_seconds

        def work() -> None:
            import urllib3

            module.requests.begin(deadline, ticket)
            try:
                answers.append(_Answer(self._look_up(module, topic)))
            except PausedError as error:
                answers.append(_unavailable(str(error), usable=None))
            except UnavailableError as error:
                answers.append(_unavailable(str(error)))
            except (OSError, urllib3.exceptions.HTTPError):  # OSError: the base of requests' errors
                answers.append(_unavailable("no connection" if time.monotonic() < deadline else TOO_LATE))
            except Exception:  # the package trusts the shape of what it reads
                logger.debug("unexpected answer from %s", _shown(self._url), exc_info=True)
                answers.append(_unavailable("unreadable answer"))

        thread = threading.Thread(target=work, name="wikipedia", daemon=True)
        thread.start()
        thread.join(self._timeout_seconds)
        answer = answers[0] if answers else _unavailable(TOO_LATE)
        if answer.usable is False:
            logger.warning("%s %s", _shown(self._url), answer.text)
        return answer

    def _look_up(self, module: ModuleType, topic: str) -> str:
        options: list[str] | None = None
        try:
            page = None if _NOT_IN_TITLES.search(topic) else _page(module, topic)
            if page is None:
                hits = module.search.fn(topic, results=1)  # .fn: without the package's unbounded cache
                page = _page(module, hits[0]) if hits else None
        except module.DisambiguationError as error:
            options = [name for name in map(one_line, error.options) if name and name != error.title]
            try:
                page = _page(module, options[0]) if options else None
            except module.DisambiguationError:
                page = None
        if options is None:
            return f'Wikipedia has no page "{topic}".' if page is None else self._summary(page)
        listed = quoted("; ".join(options[:MAX_OPTIONS]) or "none listed", self._max_chars)
        several = f'"{topic}" has several meanings: {listed}.'
        if page is None:
            return f"{several} Ask again with the name of one of them."
        return f"{self._summary(page)} {several} If another one is meant, ask again with its name."

    def _summary(self, page: Any) -> str:
        title = one_line(page.title, MAX_QUERY_CHARS)
        try:
            # Folding looks at every character: of a page of megabytes only the beginning is of interest.
            summary = page.summary.strip()[: 8 * self._max_chars]
        except KeyError:  # special pages and files have no text to cut an extract from
            summary = ""
        return f"{title}: {quoted(summary, self._max_chars)}" if summary else f'Wikipedia has no summary of "{title}".'


class _Answer(NamedTuple):
    text: str
    usable: bool | None = True
    """The site did its part, so that it may be kept. False counts for the breaker, None says nothing of the site."""


class _LatestAnswers:
    """The answers that were used last, at most `MAX_CACHED_ANSWERS`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, str] = OrderedDict()

    def get(self, topic: str, /) -> str | None:
        with self._lock:
            if topic in self._texts:
                self._texts.move_to_end(topic)
            return self._texts.get(topic)

    def __setitem__(self, topic: str, text: str, /) -> None:
        with self._lock:
            self._texts[topic] = text
            if len(self._texts) > MAX_CACHED_ANSWERS:
                self._texts.popitem(last=False)


def _check(name: str, value: object, valid: object, rule: str, example: object) -> None:
    if not valid:
        raise InputError(f"{name} must be {rule} but got {value!r}. Pass, for example, {name}={example!r}.")


def _shown(url: str) -> str:
    """The address without what may be secret in it."""
    return re.sub("//.*@", "//***@", url, flags=re.DOTALL).partition("?")[0]


def _unavailable(reason: str, usable: bool | None = False) -> _Answer:
    return _Answer(f"Wikipedia is not available right now ({reason}).", usable)


def _private_copy(url: str, user_agent: str, breaker: Breaker) -> ModuleType:
    """A second instance of the module `wikipedia.wikipedia`, with globals of its own and in no registry."""
    import bs4

    installed = util.find_spec("wikipedia.wikipedia")
    assert installed is not None
    # The name lies inside the package, since the module imports its neighbours relatively.
    spec = util.spec_from_file_location("wikipedia._personaagent", installed.origin)
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # A named parser causes no GuessedAtParserWarning; filtering warnings would not be thread safe.
    soup = partial(bs4.BeautifulSoup, features="html.parser")
    vars(module).update(API_URL=url, USER_AGENT=user_agent, requests=Http(breaker), BeautifulSoup=soup)
    return module


def _page(module: ModuleType, title: str) -> Any:
    """The package's page, or None where there is none under this title."""
    try:
        return module.page(title, auto_suggest=False)
    except (module.PageError, KeyError, AssertionError):
        # KeyError: what cannot be a title ("de:Berlin") has no page. AssertionError: the package
        # misreads a title that was normalised and redirected twice. A search may find either.
        return None
