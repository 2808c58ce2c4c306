"""Addresses as they may be shown and stored: without the passwords that are in them."""

from __future__ import annotations

import re

_WITH_USER = re.compile(r"((?!sqlite|file)[\w.+-]+://).*@", re.DOTALL)
_SECRET_VALUE = re.compile(r"([?&][^=&\s]*(?:pass|pwd|secret|token|key)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE)


def masked(text: str, address: str | None = None) -> str:
    """A text without what is secret in an address: its user info, and passwords in its query.

    Rather too much than too little: passwords with a raw / or @ are found in texts that quote only a part of them.

    Args:
        text: may be the address itself, or speak of it.
        address: default: the text.
    """
    address = text if address is None else address
    if _WITH_USER.match(address):
        text = text.replace(address, _WITH_USER.sub(r"\1***@", address))
        text = re.sub(r"([\w.+-]+://)?[^\s'\"]*@", r"\1***@", text)
    return _SECRET_VALUE.sub(r"\1***", text)
