"""Where icl's examples come from: other users' histories, and never a question of the study."""

from __future__ import annotations

import random
from collections.abc import Sequence

from personaagent.datasets.source import Source
from personaagent.datasets.task import User
from personaagent.experiments.harness.subjects import before_the_questions
from personaagent.programs.interaction import Interaction

MOST_USERS = 20
"""So many users' histories are enough for a few examples from as many users as there are."""


def example_pool(
    source: Source,
    users: Sequence[User],
    data_seed: int,
    walk_forward: int | None = None,
    queries_per_user: int | None = None,
) -> tuple[Interaction, ...]:
    """Interactions that no question of the study is among, of up to `MOST_USERS` users of the source.

    The users are drawn from all of the source's by the seed, those of the study among them, so that a larger study
    shows the same examples. What a user is asked about, or shares its text with a question of anyone, is left out.

    Args:
        source: of the users.
        users: of the study.
        data_seed: of the draw.
        walk_forward: how many of the newest interactions of each user are asked about.
        queries_per_user: of the study: a history may depend on the questions that come after it.
    """
    chosen = {user.user_id: user for user in users}
    ids = sorted(size.user_id for size in source.sizes() if size.history)
    random.Random(f"examples {data_seed}").shuffle(ids)
    asked = {query.input for user in users for query in user.queries}
    if walk_forward is not None:
        known = [(user, len(before_the_questions(user, walk_forward))) for user in users]
        asked = {one.query for user, before in known for one in user.history[before:]}
    found: list[Interaction] = []
    for user_id in ids[:MOST_USERS]:
        user = chosen.get(user_id) or source.user(user_id, queries_per_user)
        found += [one for one in before_the_questions(user, walk_forward) if one.query not in asked]
    return tuple(found)
