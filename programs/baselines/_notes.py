"""MemoryBank's notes: what is asked of an LM about single dates and overall, and how its answers are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import dspy
from dspy.adapters.chat_adapter import field_header_pattern
from dspy.utils.exceptions import AdapterParseError

from personaagent.programs.adapter import careful
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.semantic import SemanticMemory
from personaagent.programs.quoting import defused_demos, one_line, shorten, written

SUMMARY_OF_A_DATE = (
    "The history lists what this user was asked on one day, and what the user answered. Sum it up as briefly as "
    "possible: the themes and the key facts, and the answers that the user gave. Write nothing else."
)
PERSONALITY_OF_A_DATE = (
    "The history lists what this user was asked on one day, and what the user answered. Infer from it the user's "
    "traits and moods, and how to answer in this user's sense. Write at most five short sentences and nothing else."
)
OVERALL_SUMMARY = (
    "The history lists summaries of days with this user, oldest first. Sum them up very briefly, and keep what is "
    "essential. Write nothing else."
)
OVERALL_PERSONALITY = (
    "The history lists what was inferred of this user on single days, oldest first. Sum up, very briefly, the user's "
    "personality and the best way to answer in this user's sense. Write nothing else."
)


Dates = Sequence[tuple[str, Sequence[Interaction]]]
"""Dates with their interactions, oldest first."""


class Note(NamedTuple):
    """A note that an LM wrote."""

    text: str
    """Empty if it wrote nothing that could be seen."""
    fault: str | None


class Request(NamedTuple):
    """A note to be written."""

    about: str
    module: dspy.Module
    inputs: dict[str, Any]


class NoteTaker(dspy.Module):
    """Two notes of each date, a summary and one on personality, and from these two overall.

    Each is MemoryBank's own prompt in our words. The output is called `profile`, as that of every summary of a
    user is here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.summarize_date = SemanticMemory(SUMMARY_OF_A_DATE)
        self.characterize_date = SemanticMemory(PERSONALITY_OF_A_DATE)
        self.summarize = dspy.Predict(dspy.Signature("history: str -> profile: str", OVERALL_SUMMARY))
        self.characterize = dspy.Predict(dspy.Signature("history: str -> profile: str", OVERALL_PERSONALITY))

    def of_dates(self, dates: Dates) -> list[Request]:
        """The summary and the personality note of each date."""
        modules = {"summary": self.summarize_date, "personality": self.characterize_date}
        return [
            Request(f"{name} of {date or 'no date'}", module, {"interactions": interactions})
            for date, interactions in dates
            for name, module in modules.items()
        ]

    def overall(self, dates: Dates, notes: Sequence[Note]) -> list[Request]:
        """The overall summary and personality note, of the notes that `of_dates` asked for."""
        requests = []
        for name, module, parts in (
            ("summary", self.summarize, notes[::2]),
            ("personality", self.characterize, notes[1::2]),
        ):
            pairs = zip(dates, parts, strict=True)
            lines = [f"{date} {one_line(note.text)}".strip() for (date, _), note in pairs if note.text]
            inputs = {"history": "\n".join(lines), "demos": defused_demos(module)}
            requests.append(Request(f"overall {name}", module, inputs))
        return requests if dates else []

    def write(self, request: Request) -> Note:
        """Write one note. An answer that cannot be read as asked is taken as it is, and the fault noted.

        Raises:
            dspy's `LMError`: if the LM call fails for good.
        """
        if request.inputs.get("history") == "":
            return _nothing(request)
        try:
            with careful():
                return _read(request, request.module(**request.inputs).profile)
        except AdapterParseError as error:
            return _unreadable(request, error)

    async def awrite(self, request: Request) -> Note:
        """As `write`."""
        if request.inputs.get("history") == "":
            return _nothing(request)
        try:
            with careful():
                return _read(request, (await request.module.acall(**request.inputs)).profile)
        except AdapterParseError as error:
            return _unreadable(request, error)


def _nothing(request: Request) -> Note:
    return Note("", f"{request.about}: there was no note to sum up")


def _read(request: Request, answer: object) -> Note:
    text = shorten(written(answer))
    return Note(text, None if text else f"{request.about}: nothing was written")


def _unreadable(request: Request, error: AdapterParseError) -> Note:
    text = shorten(written(field_header_pattern.sub("", str(error.lm_response))))
    return Note(text, f"{request.about}: could not be read as asked")
