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
from typing import Any
from urllib.parse import urljoin

from personaagent.programs.breaker import Breaker

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
