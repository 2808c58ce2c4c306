"""HTTP for the Wikipedia tool: a deadline for each question, one session, and a circuit breaker."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from types import SimpleNamespace
from typing import Any, Literal
from urllib.parse import urljoin

MAX_BODY_BYTES = 16 * 2**20
MAX_REQUESTS = 16
"""Of one question: a redirected, ambiguous hit of a search takes 8, redirects twice that."""

PAUSED, TOO_LATE = "paused after failures", "no answer in time"


class UnavailableError(Exception):
    """The site did not do its part; the message is the reason that the model is told."""


class Http:
    """`requests`, as far as the package uses it: get() within the deadline of the thread's question."""

    def __init__(self, breaker: Breaker) -> None:
        import requests

        self._session = requests.Session()
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=32))
        self._breaker = breaker
        self._question = threading.local()
        self._lock = threading.Lock()
        self.sent = 0

    def begin(self, deadline: float) -> None:
        """What this thread asks from now on is one question."""
        self._question.deadline, self._question.requests_left = deadline, MAX_REQUESTS

    def get(self, url: str, params: dict[str, str], headers: dict[str, str]) -> SimpleNamespace:
        while True:
            with self._send(url, params, headers) as response:
                if response.status_code >= 400:
                    if response.status_code in (429, 503):
                        self._breaker.pause(_retry_after_seconds(response.headers.get("Retry-After", "")))
                    raise UnavailableError(f"HTTP {response.status_code}")
                if not response.is_redirect:
                    content = json.loads(self._read(response))
                    break
                url, params = urljoin(url, response.headers["Location"]), {}
        if "error" in content:  # MediaWiki reports overload and its own faults under status 200
            raise UnavailableError("it reported an error")
        return SimpleNamespace(json=lambda: content)

    def _send(self, url: str, params: dict[str, str], headers: dict[str, str]) -> Any:
        if self._breaker.is_open:  # since this question began: another one was told to wait
            raise UnavailableError(PAUSED)
        self._question.requests_left -= 1
        if self._question.requests_left < 0:  # also of pages that redirect to each other
            raise UnavailableError("too many redirects")
        timeout = self._seconds_left()
        with self._lock:
            self.sent += 1
        return self._session.get(
            url, params=params, headers=headers, timeout=timeout, stream=True, allow_redirects=False
        )

    def _read(self, response: Any) -> str:
        # read1 returns what has arrived, so that a body in drips meets the deadline between two of them.
        body = bytearray()
        while chunk := response.raw.read1(2**16, decode_content=True):
            body += chunk
            self._seconds_left()
            if len(body) > MAX_BODY_BYTES:
                raise UnavailableError("answer too large")
        return body.decode()

    def _seconds_left(self) -> float:
        seconds: float = self._question.deadline - time.monotonic()
        if seconds <= 0:
            raise UnavailableError(TOO_LATE)
        return seconds


def _retry_after_seconds(header: str) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 where it says nothing."""
    if re.fullmatch("[0-9]{1,9}", header):
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp() - time.time()


class Breaker:
    """Keeps requests back after failures in a row: closed, open until a time, then one trial (half open)."""

    def __init__(self, failures_to_open: int, open_seconds: float, clock: Callable[[], float]) -> None:
        self._failures_to_open, self._open_seconds, self._clock = failures_to_open, open_seconds, clock
        self._lock = threading.RLock()
        self._failures = 0
        self._open_until = -math.inf  # closed
        self._trial_runs = False

    @property
    def is_open(self) -> bool:
        with self._lock:
            return self._clock() < self._open_until

    def admit(self) -> Literal["closed", "trial"] | None:
        """A ticket for one question, to be given back to `record`, or None where it must not be asked."""
        with self._lock:
            if self._open_until == -math.inf:
                return "closed"
            if self.is_open or self._trial_runs:
                return None
            self._trial_runs = True
            return "trial"

    def record(self, ticket: Literal["closed", "trial"], *, usable: bool) -> None:
        with self._lock:
            self._trial_runs &= ticket != "trial"
            if self.is_open:
                return  # a question from before: it neither ends a pause nor prolongs it
            self._failures = 0 if usable else self._failures + 1
            if usable:
                self._open_until = -math.inf
            elif ticket == "trial" or self._failures >= self._failures_to_open:
                self._open_until = self._clock() + self._open_seconds

    def pause(self, seconds: float) -> None:
        """Obey a Retry-After: open at once, whatever the count."""
        with self._lock:
            if seconds > 0:
                self._open_until = max(self._open_until, self._clock() + seconds)
