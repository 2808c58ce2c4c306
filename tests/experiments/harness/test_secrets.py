"""Keys and passwords are shown nowhere: what was given to the process, and what looks like one in an address."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from personaagent.experiments.harness.secrets import (
    MIN_SECRET_CHARS,
    masked,
    refuse_secret,
    secrets_given,
    without_secrets,
)
from personaagent.programs.errors import InputError

KEY = "sk-proj-3f9a1c77b2d84e60"

ADDRESSES = {
    "postgresql://me:hunter2@host/db": "postgresql://***@host/db",
    "postgresql+psycopg://me:hun/ter2@host/db": "postgresql+psycopg://***@host/db",
    "https://me:hun@ter2@host": "https://***@host",
    "http://host/?password=hunter2&x=1": "http://host/?password=***&x=1",
    "mysql://host/db?ssl_key=hunter2": "mysql://host/db?ssl_key=***",
    "http://127.0.0.1:5000": "http://127.0.0.1:5000",
    "sqlite:///runs/a@b.db": "sqlite:///runs/a@b.db",
    "--tracking": "--tracking",
    "user@name": "user@name",
    "openai/gpt-4.1": "openai/gpt-4.1",
    "openai/test?api_key=hunter2": "openai/test?api_key=***",
    "http://host/v1;token=hunter2": "http://host/v1;token=***",
    "https://host/v1?api-version=2024-06-01": "https://host/v1?api-version=2024-06-01",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_shown_without_its_password(address: str) -> None:
    assert masked(address) == ADDRESSES[address]


def test_an_error_that_quotes_a_part_of_the_address_is_masked() -> None:
    address = "postgresql://me:hun/ter2@host/db"
    said = f"could not connect to {address}: no host 'me:hun/ter2@host' in postgresql://me:hun/ter2@host"
    assert "hun" not in masked(said, address) and "could not connect to postgresql://***@host/db" in masked(
        said, address
    )


MESSAGES = {
    "no such folder: http:/me:hunter2@host/data": "no such folder: http:/***@host/data",
    "see http://127.0.0.1:5000 and https://host/a?x=1": "see http://127.0.0.1:5000 and https://host/a?x=1",
    "sent Authorization: Bearer abcdefgh12345678, got 500": "sent Authorization: Bearer *** got 500",
    "Authorization: Basic bWU6aHVudGVyMg==": "Authorization: Basic ***",
    "Bearer token is missing": "Bearer token is missing",
    "unable to open sqlite:///runs/a:b@c.db": "unable to open sqlite:///runs/a:b@c.db",
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_shown_without_what_looks_like_a_key(message: str) -> None:
    assert masked(message) == MESSAGES[message]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


def test_a_key_of_the_environment_is_found_wherever_it_stands(key: str) -> None:
    assert masked(f"Incorrect API key provided: {key}.") == "Incorrect API key provided: ***."
    assert without_secrets(f"{key}{key},{key!r}") == "******,'***'"
    result = {"raw": f"a {key}", "steps": [{"args": {key: 1}}, (key, None, True, 1.5)]}
    assert without_secrets(result) == {"raw": "a ***", "steps": [{"args": {"***": 1}}, ["***", None, True, 1.5]]}


def test_a_key_that_was_cut_short_is_found_from_twelve_characters_on(key: str) -> None:
    for end in range(len(key) + 1):
        assert without_secrets(f"[:200] {key[:end]}") == f"[:200] {'***' if end >= 12 else key[:end]}"
    assert without_secrets(f"{key[:14]}****{key[-4:]}") == f"*******{key[-4:]}"
    assert without_secrets(f"{key[:14]}other") == f"{key[:14]}other"


def test_answers_are_not_masked_for_what_only_looks_like_a_key(key: str) -> None:
    text = "see https://me:you@host/?key=value and https://blog.example/@me"
    assert without_secrets(text) == text != masked(text)


def test_what_counts_as_a_secret_of_a_process() -> None:
    environment = {
        "OPENAI_API_KEY": "openai-key-1",
        "AZURE_OPENAI_API_KEY_2": "azure-key-22",
        "GITHUB_TOKEN": "github-token",
        "AWS_SECRET_ACCESS_KEY": "aws-secret-key",
        "PGPASSWORD": "pg-password",
        "DATABASE_URL": "postgresql://me:url%2Fpassword@host/db",
        "OTEL_HEADERS": "Authorization=Bearer otel-header-token",
        "SHORT_TOKEN": "x" * (MIN_SECRET_CHARS - 1),
        "PWD": "/home/someone/work",
        "OLDPWD": "/home/someone/work",
        "TOKENIZERS_PARALLELISM": "false-or-not",
        "PATH": "/usr/bin:/usr/local/bin",
    }
    arguments = ["--tracking", "mysql://me:argument-password@host/db", "--lm=openai/x?api_key=argument-key", "--users"]
    found = secrets_given(environment, arguments)
    assert list(map(len, found)) == sorted(map(len, found), reverse=True)
    assert set(found) == {
        "openai-key-1",
        "azure-key-22",
        "github-token",
        "aws-secret-key",
        "pg-password",
        "url%2Fpassword",
        "url%252Fpassword",
        "url/password",
        "otel-header-token",
        "argument-password",
        "argument-key",
    }


def test_a_secret_is_found_as_json_and_addresses_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = 'pass"word\\é+/='
    monkeypatch.setenv("SOME_PASSWORD", secret)
    for written in (json.dumps({"a": secret}), json.dumps({"a": secret}, ensure_ascii=False)):
        assert without_secrets(written) == '{"a": "***"}'
    assert without_secrets(f"http://host/?q={quote(secret, safe='')}") == "http://host/?q=***"


def test_a_private_key_is_found_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNING_KEY", "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n")
    assert without_secrets("cannot read hkiG9w0BAQEFAASC") == "cannot read ***"


def test_an_option_that_holds_a_key_is_refused_and_not_repeated(key: str) -> None:
    for value in ("openai/x?api_key=hunter2", "http://me:hunter2@host/v1", "https://host/v1?key=hunter2"):
        with pytest.raises(InputError, match=r"^--lm .*\*\*\*.* holds a key or a password") as caught:
            refuse_secret("--lm", value)
        assert "hunter2" not in str(caught.value)
    for value in ("openai/gpt-4.1", "http://127.0.0.1:8000/v1", "offline", "on", None):
        refuse_secret("--lm", value)
