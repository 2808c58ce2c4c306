"""One event of a user's history, and the order of a history."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

import dspy

from personaagent.programs.errors import InputError

_ISO_8601 = re.compile(r"\d{4}(-\d{2}(-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:?\d{2})?)?)?)?")
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TEXTS = ("user_id", "id", "query", "response", "text")


class Position(NamedTuple):
    """Where an interaction stands in its user's total order. Compares as (timestamp, ordinal)."""

    timestamp: str
    ordinal: int


def normalise_timestamp(value: str | int | datetime) -> str:
    """A timestamp as text whose alphabetical order is the order in time.

    Args:
        value: ISO 8601 text (a year, a month, a date or a date with time), a year of four digits as an integer,
            or a `datetime`. Times with an offset are converted to UTC; those without are taken as UTC.

    Returns:
        `YYYY`, `YYYY-MM`, `YYYY-MM-DD` or `YYYY-MM-DDTHH:MM:SS.ffffffZ`. The empty string stays as it
        is: an unknown time, before all known ones.

    Raises:
        InputError: if the value is of another type, or the text not ISO 8601, if it names no real date, or a time
            that is before year 1 or after year 9999 in UTC.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | datetime):
        raise InputError(f"timestamp must be ISO 8601 text, a year or a datetime, but got {value!r}")
    if isinstance(value, datetime):
        return _utc(value)
    text = str(value).strip()
    if not text:
        return ""
    if not _ISO_8601.fullmatch(text):
        raise InputError(f"timestamp must be ISO 8601, such as 2007-08-31 or 2007-08-31T12:00:00Z, but got {value!r}")
    try:
        if len(text) <= 10:
            datetime.fromisoformat((text + "-01-01")[:10] if len(text) == 4 else (text + "-01")[:10])
            return text
        return _utc(datetime.fromisoformat(text))
    except ValueError as error:
        raise InputError(f"timestamp {value!r} names no real date: {error}") from None


def _utc(moment: datetime) -> str:
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise InputError(f"timestamp {moment.isoformat()!r} is before year 1 or after year 9999 in UTC") from None
    # Not strftime: its %Y does not pad a year under 1000 everywhere, and the text would sort wrongly.
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@dataclass(frozen=True, slots=True)
class Interaction:
    """One event (q_i, r_i^gt, m_i) of a user's history D^u (eq. 1).

    Interactions of a user are totally ordered by (timestamp, ordinal): most timestamps in real data tie.

    Raises:
        InputError: on an empty user_id, id or query, a response or text that is not text, metadata that is no
            mapping, half of a surrogate pair in any of them, a timestamp that `normalise_timestamp` refuses, or an
            ordinal that is no integer from 0 to 2**63 - 1.
    """

    user_id: str
    id: str
    """Unique among this user's interactions."""
    query: str
    """q_i, the whole question as the agent was, or would be, asked it."""
    response: str
    """r_i^gt, what the user really answered. May be empty."""
    timestamp: str = ""
    """ISO 8601; see `normalise_timestamp`. Empty if unknown: before all known times."""
    ordinal: int | None = None
    """Position in the source, from 0. None until a `MemoryStore` assigns the position of insertion."""
    text: str = ""
    """What retrieval compares, the task's corpus text (LaMP: without the label). Default: the query."""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The rest of m_i. Stored, never shown to a language model."""

    def __post_init__(self) -> None:
        for name in ("user_id", "id", "query"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"Interaction.{name} must be text and not empty, but got {value!r}")
        if not isinstance(self.response, str):
            raise InputError(f"Interaction.response must be text, but got {self.response!r} (id {self.id!r})")
        if not isinstance(self.text, str):
            raise InputError(f"Interaction.text must be text, but got {self.text!r} (id {self.id!r})")
        if self.ordinal is not None and (isinstance(self.ordinal, bool) or not isinstance(self.ordinal, int)):
            raise InputError(
                f"Interaction.ordinal must be an integer or None, but got {self.ordinal!r} (id {self.id!r})"
            )
        if self.ordinal is not None and not 0 <= self.ordinal < 2**63:
            raise InputError(f"Interaction.ordinal must be from 0 to 2**63 - 1 but got {self.ordinal} (id {self.id!r})")
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"Interaction.metadata must be a mapping, but got {self.metadata!r} (id {self.id!r})")
        object.__setattr__(self, "timestamp", normalise_timestamp(self.timestamp))
        object.__setattr__(self, "text", self.text or self.query)
        object.__setattr__(self, "metadata", MappingProxyType({str(k): str(v) for k, v in self.metadata.items()}))
        for name, value in (*((n, getattr(self, n)) for n in _TEXTS), *self.metadata.items()):
            if LONE_SURROGATE.search(name + value):
                raise InputError(
                    f"Interaction {self.id!r} holds half of a surrogate pair in {name!r}, which is no valid text: "
                    f"repair its source, or replace the character"
                )

    def __reduce__(self) -> tuple[type[Interaction], tuple[object, ...]]:
        # Pickled and copied as its fields: the proxy that keeps the metadata read-only can be neither.
        values = {f.name: getattr(self, f.name) for f in fields(self)} | {"metadata": dict(self.metadata)}
        return type(self), tuple(values.values())

    @property
    def position(self) -> Position:
        """Place in the user's order.

        Raises:
            InputError: if no ordinal has been assigned yet.
        """
        if self.ordinal is None:
            raise InputError(
                f"Interaction {self.id!r} has no ordinal yet: it is assigned when a MemoryStore records it"
            )
        return Position(self.timestamp, self.ordinal)

    def to_example(self, query: str = "query", response: str = "response") -> dspy.Example:
        """A DSPy example of this interaction, carrying whose it is and its place in the order.

        Args:
            query, response: names of the fields, those of the agent's signature.

        Returns:
            `dspy.Example` with the two fields and `user_id`, `interaction_id`, `timestamp`, `ordinal`; only the
            query is an input.
        """
        whose = {"user_id": self.user_id, "interaction_id": self.id}
        place = {"timestamp": self.timestamp, "ordinal": self.ordinal}
        return dspy.Example({**whose, **place, query: self.query, response: self.response}).with_inputs(query)
