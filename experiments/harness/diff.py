"""Personas before and after alignment, as one page of HTML."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from html import escape

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.settings import lm_title
from personaagent.programs.persona import Persona

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 60em; color: #222; }
h2 { font-size: 1em; margin: 2em 0 .3em; } h2 span { font-weight: normal; color: #666; }
pre { white-space: pre-wrap; border: 1px solid #ddd; border-radius: 4px; padding: .6em; margin: 0; }
ins { background: #e3f5e1; text-decoration: none; display: block; }
del { background: #fbe3e1; text-decoration: none; display: block; }
"""


def persona_diff_page(cell: Cell, personas: Sequence[tuple[str, Persona, Persona]]) -> str:
    """A page with a section for each user: what the alignment added and removed, line by line.

    Args:
        cell: named in the heading.
        personas: (user_id, before, after).
    """
    where = f"n={cell.batch_size}, E={cell.iterations}, K={cell.memories}, LM: {lm_title(cell.lm)}"
    title = f"Personas before and after alignment: {where}"
    sections = [
        f"<h2>{escape(user)} <span>version {before.version} to {after.version}</span></h2>"
        f"<pre>{''.join(_lines(before, after))}</pre>"
        for user, before, after in personas
    ]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1 style='font-size:1.2em'>{escape(title)}</h1>{''.join(sections)}</html>\n"
    )


def _lines(before: Persona, after: Persona) -> Iterator[str]:
    for line in difflib.ndiff(before.text.splitlines(), after.text.splitlines()):
        mark, text = line[:2], escape(line[2:])
        if mark == "+ ":
            yield f"<ins>+ {text}</ins>"
        elif mark == "- ":
            yield f"<del>- {text}</del>"
        elif mark == "  ":
            yield f"  {text}\n"
