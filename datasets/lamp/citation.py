"""LaMP-1's histories have no questions: a true reference and another's make one of each paper."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from personaagent.datasets.lamp.records import kind
from personaagent.programs.errors import InputError

SURROGATE_NOTE = (
    "lamp-1: histories without citations: another paper of the author's own stands for the reference that is related "
    "(a surrogate; the queries are as they are)"
)


def with_references(
    items: Sequence[Mapping[str, Any]],
    user_id: str,
    pool: Sequence[tuple[str, str]],
    seed: int,
    asked: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """A user's papers with `reference_1`, `reference_2` and `related`, the one of the two that is.

    The related one is the paper's `citation` (OPPU's files have it). Without one it is a surrogate: the title of an
    earlier paper of the author's, drawn by the seed; of the first paper, which has none, of a later one. The other one
    is drawn from the pool, and so is the position. Each draw depends on seed, user and paper alone.

    Args:
        items: with `id` and `title`.
        user_id: whose they are.
        pool: (user_id, title) of papers; those of this user are passed over.
        seed: `--data-seed`.
        asked: titles that the user's questions ask about: none of them is drawn as unrelated, which would give away,
            or contradict, an answer.

    Raises:
        InputError: if a citation is no text, or there is no paper to draw.
    """
    own = {_plain(str(item["title"])) for item in items} | {_plain(title) for title in asked}
    drawable = {_plain(title): title for other, title in pool if other != user_id}
    others = [title for plain, title in sorted(drawable.items()) if plain not in own]
    in_time = sorted(items, key=lambda item: str(item.get("date", "")))
    made = []
    for number, item in enumerate(items):
        draw = random.Random(f"references {seed} {user_id} {item['id']}")
        related = item.get("citation")
        if related is None:
            place = next(i for i, other in enumerate(in_time) if other is item)
            title = _plain(str(item["title"]))
            rest = [str(other["title"]) for other in in_time[:place] if _plain(str(other["title"])) != title]
            rest = rest or [str(other["title"]) for other in in_time if _plain(str(other["title"])) != title]
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
        if not others or all(_plain(title) == _plain(related) for title in others[:2]):
            raise InputError(
                f"user {user_id!r}: no paper of another author is there to draw an unrelated reference from: lamp-1 "
                f"needs two users or more, or user_others.json"
            )
        unrelated = draw.choice(others)
        while _plain(unrelated) == _plain(related):
            unrelated = draw.choice(others)
        pair = [related, unrelated]
        position = draw.randrange(2)
        first, second = pair if position == 0 else pair[::-1]
        made.append({**item, "reference_1": first, "reference_2": second, "related": f"[{position + 1}]"})
    return made


@lru_cache(maxsize=200_000)
def _plain(title: str) -> str:
    return " ".join(re.findall(r"\w+", title.casefold()))
