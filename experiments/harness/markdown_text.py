"""Texts of any origin as GitHub-flavoured Markdown: whatever they hold, they are shown as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple


def plain(text: str) -> str:
    """A text on one line that Markdown shows as it is: no markup, no HTML, no mention, no link to an issue."""
    # Also what would begin a list, a heading or a rule at the start of a line.
    return re.sub(r"^(\d*)([-+=#.)])", r"\1\\\2", escaped(one_line(text)))


def code(text: str) -> str:
    """A text on one line as a code span, in which nothing is markup; `-` if it is blank."""
    line = one_line(text)
    if not line:
        return "-"
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def sentence(text: str) -> str:
    """As `plain`, but what stands between single backticks is code."""
    parts = re.split(r"`([^`\s][^`]*)`", one_line(text))
    return "".join(code(part) if index % 2 else escaped(part) for index, part in enumerate(parts))


def code_block(text: str) -> str:
    """A text of any lines as a fenced block."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}\n{text}\n{ticks}"


class Column(NamedTuple):
    """A column of a table."""

    heading: str
    alignment: Literal["left", "right"]
    cells: Sequence[str]
    """Markdown on one line, such as `plain` and `code` give."""


def table_block(columns: Sequence[Column]) -> str:
    """A table of columns of one length. Pipes in cells are escaped here."""
    rules = ["--:" if column.alignment == "right" else ":--" for column in columns]
    lines = zip(*(column.cells for column in columns), strict=True)
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"
        for line in ([column.heading for column in columns], rules, *lines)
    )


def escaped(line: str) -> str:
    """A line with what would be markup escaped."""
    escaped = re.sub(r"[\\`*\[\]<>~&$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)
    # GitHub looks for these after Markdown is done, so that no backslash helps: a word joiner does.
    return re.sub(r"(?<!\w)([@#])(?=\w)", "\\1\u2060", escaped)


def one_line(text: str) -> str:
    """A text with its line breaks and what cannot be printed as single blanks."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
