"""LaMP-1's histories have no questions: a true reference and another's make one of each paper."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from personaagent.datasets.lamp.records import kind
from personaagent.programs.errors import InputError

SURROGATE_NOTE = (
    "lamp-1: histories without citations: another paper of the author's own stands for the reference that is related "
    "(a surrogate; the queries are as they are)"
)


def with_references(
    items: Sequence[Mapping[str, Any]], user_id: str, pool: Sequence[tuple[str, str]], seed: int
) -> list[dict[str, Any]]:
    """A user's papers with `reference_1`, `reference_2` and `related`, the one of the two that is.

    The related one is the paper's `citation` (OPPU's files have it). Without one it is a surrogate: the title of
    another paper of the author's, drawn by the seed. The other one is drawn from the pool, and so is the position.
    Each draw depends on seed, user and paper alone.

    Args:
        items: with `id` and `title`.
        user_id: whose they are.
        pool: (user_id, title) of papers; those of this user are passed over.
        seed: `--data-seed`.

    Raises:
        InputError: if a citation is no text, or there is no paper to draw.
    """
    own = {str(item["title"]).strip() for item in items}
    others = sorted({title for other, title in pool if other != user_id} - own)
    made = []
    for number, item in enumerate(items):
        draw = random.Random(f"references {seed} {user_id} {item['id']}")
        related = item.get("citation")
        if related is None:
            rest = [str(other["title"]) for other in items if str(other["title"]).strip() != str(item["title"]).strip()]
            if not rest:
                raise InputError(
                    f"user {user_id!r}, profile item {number}: no 'citation', and no other paper of this author could "
                    f"stand for one: leave the user out, or use files with citations (OPPU's)"
                )
            related = draw.choice(rest)
        if not isinstance(related, str) or not related.strip():
            raise InputError(
                f"user {user_id!r}, profile item {number}: field 'citation' must be text and not empty, but is "
                f"{kind(related)}"
            )
        unrelated = [title for title in others if title != related.strip()]
        if not unrelated:
            raise InputError(
                f"user {user_id!r}: no paper of another author is there to draw an unrelated reference from: lamp-1 "
                f"needs two users or more, or user_others.json"
            )
        pair = [related, draw.choice(unrelated)]
        position = draw.randrange(2)
        first, second = pair if position == 0 else pair[::-1]
        made.append({**item, "reference_1": first, "reference_2": second, "related": f"[{position + 1}]"})
    return made
