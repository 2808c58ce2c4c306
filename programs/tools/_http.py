"""HTTP for the Wikipedia tool: a deadline for each question, one session, under a circuit breaker."""

from __future__ import annotations

import json
import re
import threading
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from http.cookiejar import DefaultCookiePolicy
from types import SimpleNamespace
from typing import Any, Literal
from urllib.parse import urljoin

from personaagent.programs.breaker import Breaker

MAX_BODY_BYTES = 16 * 2**20
MAX_REQUESTS = 16
"""Of one question: a redirected, ambiguous hit of a search takes 8, redirects twice that."""

_ANSWERS = {"pages", "search", "interwiki"}
"""One of them is in whatever MediaWiki finds, or finds that there is not."""

PAUSED, TOO_LATE = "paused after failures", "no answer in time"


class UnavailableError(Exception):
    """The site did not do its part; the message is the reason that the model is told."""


class PausedError(UnavailableError):
    """The site was not asked: what became of other questions keeps this one back."""

    def __init__(self) -> None:
        super().__init__(PAUSED)


class Http:
    """`requests`, as far as the package uses it: get() within the deadline of the thread's question.

    Raises:
        UnavailableError: where the site did not do its part.
        requests.RequestException, urllib3's HTTPError: without a connection.
    """

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

    def begin(self, deadline: float, ticket: Literal["closed", "trial"]) -> None:
        """What this thread asks from now on is one question, which the breaker admitted with this ticket."""
        self._question.deadline, self._question.requests_left = deadline, MAX_REQUESTS
        self._question.ticket = ticket

    def get(self, url: str, params: dict[str, str], headers: dict[str, str]) -> SimpleNamespace:
        while True:
            with self._send(url, params, headers) as response:
                if response.status_code >= 400:
                    if response.status_code in (429, 503):
                        self._breaker.pause(_retry_after_seconds(response.headers.get("Retry-After", "")))
                    raise UnavailableError(f"HTTP {response.status_code}")
                if not response.is_redirect:
                    content = _checked(json.loads(self._read(response)))
                    break
                url, params = urljoin(url, response.headers["Location"]), {}
        return SimpleNamespace(json=lambda: content)

    def _send(self, url: str, params: dict[str, str], headers: dict[str, str]) -> Any:
        if not self._breaker.honours(self._question.ticket):  # since it began, another one was told to wait
            raise PausedError
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


def _checked(content: Any) -> dict[str, Any]:
    """What MediaWiki found. The package would take what is missing in it for a page that does not exist."""
    if isinstance(content, dict):
        if "error" in content:  # MediaWiki reports overload and its own faults under status 200
            raise UnavailableError("it reported an error")
        query = content.get("query")
        if isinstance(query, dict) and query.keys() & _ANSWERS:
            return content
    raise UnavailableError("unreadable answer")


def _retry_after_seconds(header: str) -> float:
    """Seconds of a Retry-After, which is a number or a date; 0 where it says nothing."""
    if re.fullmatch("[0-9]{1,9}", header):
        return float(header)
    try:
        when = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return when.replace(tzinfo=when.tzinfo or UTC).timestamp() - time.time()
