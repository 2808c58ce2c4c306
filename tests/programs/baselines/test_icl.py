"""icl: whose examples a user is shown, and what chooses them."""

from __future__ import annotations

from typing import Any

import dspy
import pytest

from personaagent.programs.baselines import ICL
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction


def pool(users: int, each: int = 5) -> list[Interaction]:
    return [
        Interaction(f"u{u:02}", str(i), f"asked {i} of u{u:02}", f"answer {i} of u{u:02}", "", i)
        for u in range(users)
        for i in range(each)
    ]


def chosen(icl: ICL, user: str) -> list[tuple[str, str]]:
    return [(one["user_id"], one["id"]) for one in icl.learn(user, [])["examples"]]


def test_four_examples_of_four_others() -> None:
    icl = ICL("query -> response", pool(12))
    for user in [f"u{u:02}" for u in range(12)]:
        others = [other for other, _ in chosen(icl, user)]
        assert len(set(others)) == 4
        assert user not in others


def test_others_take_turns_where_they_are_few() -> None:
    two = ICL("query -> response", pool(3), examples=5)
    others = [other for other, _ in chosen(two, "u00")]
    assert sorted(others) == ["u01", "u01", "u02", "u02", others[0]]
    assert others[0] != others[1]
    assert len(set(chosen(two, "u00"))) == 5
    assert len(chosen(ICL("query -> response", pool(2, each=3)), "u00")) == 3
    assert chosen(ICL("query -> response", pool(1)), "u00") == []


def test_the_seed_and_the_user_choose() -> None:
    drawn = {(seed, user): chosen(ICL("q -> r", pool(30), seed=seed), user) for seed in (0, 1) for user in ("u00", "x")}
    assert len({tuple(examples) for examples in drawn.values()}) == 4
    assert drawn[0, "x"] == chosen(ICL("q -> r", pool(30)[::-1]), "x")


def test_every_interaction_of_others_can_be_chosen() -> None:
    counts = [chosen(ICL("q -> r", pool(6), seed=seed), "u00") for seed in range(300)]
    seen = [example for examples in counts for example in examples]
    assert set(seen) == {(f"u{u:02}", str(i)) for u in range(1, 6) for i in range(5)}
    # 1,200 places over 25 interactions: 48 each; a fair draw strays by less than 4 standard deviations of 6.2.
    assert all(23 < seen.count(example) < 73 for example in set(seen))


def test_a_newcomer_changes_an_example_only_by_winning_its_place() -> None:
    before = chosen(ICL("q -> r", pool(20)), "u00")
    after = chosen(ICL("q -> r", pool(21)), "u00")
    assert [example for example in after if example[0] != "u20"] == before[: len([a for a in after if a[0] != "u20"])]


def test_examples_are_whole_questions_one_a_line(scripted: Any) -> None:
    lm, engine = scripted()
    with dspy.context(lm=lm):
        prediction = ICL("query -> response", pool(2, each=2)).for_user("u00")(query="What of me?")
    lines = engine.calls[0].user.partition("[[ ## examples ## ]]\n")[2].split("\n\n")[0].splitlines()
    assert sorted(lines) == [f'«asked {i} of u01» -> "answer {i} of u01"' for i in (0, 1)]
    assert prediction.recalled == []


def test_examples_come_from_the_pool_and_never_from_memory(store: Any, scripted: Any) -> None:
    """A study's queries may be in the store, as in a walk forward; they are not in the pool."""
    lm, engine = scripted()
    with dspy.context(lm=lm):
        ICL("query -> response", store.interactions("bob")[:2]).for_user("ann")(query="q?")
    assert "of cat" not in engine.calls[0].user
    assert {n for n in range(8) if f"asked {n} of bob" in engine.calls[0].user} == {0, 1}


def test_with_nobody_else_it_says_so(scripted: Any) -> None:
    lm, engine = scripted()
    with dspy.context(lm=lm):
        ICL("query -> response", pool(1)).for_user("u00")(query="q?")
    assert "[[ ## examples ## ]]\nThere are none." in engine.calls[0].user


def test_examples_of_the_user_are_refused() -> None:
    icl = ICL("query -> response", pool(3))
    with pytest.raises(InputError, match="chosen for another user"):
        icl.for_user("u01", learnt={"examples": [{"user_id": "u01", "id": "0", "query": "q", "response": "r"}]})


@pytest.mark.parametrize("examples", [0, -1, True, 1.5])
def test_examples_are_at_least_one(examples: Any) -> None:
    with pytest.raises(InputError, match="examples must be an integer from 1"):
        ICL("query -> response", [], examples)
