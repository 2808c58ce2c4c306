"""Passwords in addresses are shown nowhere."""

from __future__ import annotations

import pytest

from personaagent.experiments.harness.secrets import masked

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
