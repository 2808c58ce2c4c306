"""The sample users: their shape, that a seed fixes them, and that they hold the signal they claim to hold."""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from personaagent.datasets.sample import (
    DRIFT_TAIL,
    NOISE,
    TAGS,
    SampleUser,
    habits,
    sample_users,
    theme_of,
)
from personaagent.programs.errors import InputError

SEEDS = range(3)
QUESTION = (
    "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
    "further explanation. tags: [sci-fi, based on a book, comedy, action, twist ending, dystopia, "
    "dark comedy, classic, psychology, fantasy, romance, thought-provoking, social commentary, violence, "
    "true story] description: "
)


def digest(users: list[SampleUser]) -> str:
    return hashlib.sha256(json.dumps(users).encode()).hexdigest()


def described(text: str) -> str:
    """The description in a question."""
    return text.removeprefix(QUESTION)


def descriptions(user: SampleUser) -> list[str]:
    return [item["description"] for item in user["profile"]] + [described(q["input"]) for q in user["query"]]


def golds(users: list[SampleUser]) -> list[str]:
    return [query["gold"] for user in users for query in user["query"]]


def test_users_have_oppus_layout_and_lamp_2ms_strings() -> None:
    users = sample_users()
    assert [user["user_id"] for user in users] == [f"sample-{number:02d}" for number in range(24)]
    for user in users:
        assert set(user) == {"user_id", "profile", "query"}
        assert all(set(item) == {"id", "description", "tag", "date"} for item in user["profile"])
        assert all(set(query) == {"id", "input", "gold"} for query in user["query"])
        assert all(isinstance(value, str) for item in user["profile"] for value in item.values())
        assert all(query["input"].startswith(QUESTION) for query in user["query"])
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", item["date"]) for item in user["profile"])
        ids = [item["id"] for item in user["profile"]] + [query["id"] for query in user["query"]]
        assert ids == [f"{user['user_id']}-{position}" for position in range(len(ids))]
    ids = [entry["id"] for user in users for entry in (*user["profile"], *user["query"])]
    assert len(set(ids)) == len(ids)


def test_some_users_are_far_more_active_than_others() -> None:
    users = sample_users()
    lengths = [len(user["profile"]) for user in users]
    assert 16 <= min(lengths) < 20 and 40 < max(lengths) <= 44
    assert 26 < sum(lengths) / len(lengths) < 30
    assert all(6 <= len(user["query"]) <= 10 for user in users)


def test_dates_never_decrease_and_often_tie() -> None:
    for user in sample_users():
        dates = [item["date"] for item in user["profile"]]
        assert dates == sorted(dates)
        assert len(set(dates)) < 0.8 * len(dates)


def test_seed_fixes_the_data_in_any_process() -> None:
    program = (
        "import hashlib, json; from personaagent.datasets.sample import sample_users;"
        "print(hashlib.sha256(json.dumps(sample_users(5)).encode()).hexdigest())"
    )
    for hash_seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        printed = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout
        assert printed.strip() == digest(sample_users(5))
    assert digest(sample_users(5)) != digest(sample_users(6))


def test_default_data_are_pinned() -> None:
    # Recorded figures rest on these data: a change of the text, or of Python's generator, shows here.
    assert digest(sample_users()) == "33003e8f5861e8e4ff73d8442e9687ad92ce4cd5b7ff90205e872ab8edfc1a96"


def test_a_user_is_the_same_whoever_else_is_drawn() -> None:
    assert sample_users(0, 3) == sample_users(0, 24)[:3]
    assert sample_users(0, 120)[:24] == sample_users()
    assert sample_users(0, 120)[101]["user_id"] == "sample-101"


def test_callers_own_what_they_get() -> None:
    sample_users()[0]["profile"].clear()
    assert sample_users()[0]["profile"]


@pytest.mark.parametrize("data_seed", SEEDS)
def test_every_tag_occurs_and_none_dominates(data_seed: int) -> None:
    users = sample_users(data_seed)
    assert set(golds(users)) <= set(TAGS)
    assert {item["tag"] for user in users for item in user["profile"]} == set(TAGS)
    assert Counter(golds(users)).most_common(1)[0][1] < 0.2 * len(golds(users))


def test_every_tag_is_the_answer_to_some_default_query() -> None:
    assert set(golds(sample_users())) == set(TAGS)


@pytest.mark.parametrize("data_seed", SEEDS)
def test_no_description_names_a_tag(data_seed: int) -> None:
    named = [tag.replace("-", " ") for tag in TAGS] + [tag.replace("-", "").replace(" ", "") for tag in TAGS]
    for user in sample_users(data_seed, 100):
        for description in descriptions(user):
            plain = re.sub(r"[\s-]+", " ", description.lower())
            assert not [tag for tag in named if tag in plain], description


@pytest.mark.parametrize("data_seed", SEEDS)
def test_descriptions_are_short_and_never_repeat_within_a_user(data_seed: int) -> None:
    for user in sample_users(data_seed):
        texts = descriptions(user)
        assert len(set(texts)) == len(texts)
        assert all(25 <= len(text.split()) <= 50 for text in texts)
        assert all(2 <= len(re.findall(r"\.(?= [A-Z]|$)", text)) <= 3 for text in texts)


def test_every_theme_is_tagged_in_several_ways() -> None:
    tags_of_theme: dict[str, set[str]] = {}
    for number in range(100):
        for theme, tag in itertools.chain.from_iterable(habit.items() for habit in habits(0, number)):
            tags_of_theme.setdefault(theme, set()).add(tag)
    assert len(tags_of_theme) >= 12
    assert all(3 <= len(tags) <= 5 for tags in tags_of_theme.values())


@pytest.mark.parametrize("data_seed", SEEDS)
def test_history_follows_the_old_habit_and_the_tail_and_the_queries_the_new_one(data_seed: int) -> None:
    def follows(habit: dict[str, str], text: str, tag: str) -> bool:
        return habit[theme_of(text)] == tag

    early, late, queries_before, queries_after = [], [], [], []
    for number, user in enumerate(sample_users(data_seed)):
        before, after = habits(data_seed, number)
        assert before.keys() == after.keys() and 4 <= len(before) <= 6
        assert sum(before[theme] != after[theme] for theme in before) == (len(before) + 1) // 2
        tail = user["profile"][-DRIFT_TAIL:]
        early += [follows(before, i["description"], i["tag"]) for i in user["profile"][:-DRIFT_TAIL]]
        late += [follows(after, i["description"], i["tag"]) for i in tail]
        queries_before += [follows(before, q["input"], q["gold"]) for q in user["query"]]
        queries_after += [follows(after, q["input"], q["gold"]) for q in user["query"]]
    for agreement in (early, late, queries_after):
        assert np.mean(agreement) == pytest.approx(1 - NOISE, abs=0.06)
    assert np.mean(queries_before) < 0.5


@pytest.mark.parametrize("data_seed", SEEDS)
def test_users_lean_towards_a_favourite_tag(data_seed: int) -> None:
    shares = []
    for user in sample_users(data_seed):
        tags = [item["tag"] for item in user["profile"][:-DRIFT_TAIL]]
        shares.append(Counter(tags).most_common(1)[0][1] / len(tags))
    assert np.mean(shares) > 0.35


def test_similar_films_tell_the_tag_and_the_latest_ones_tell_it_better() -> None:
    # Plain word overlap will do; sentence embeddings tell the themes apart still better.
    neighbours, latest = [], []
    for user in sample_users():
        texts, tags = descriptions(user), [item["tag"] for item in user["profile"]]
        vectors = TfidfVectorizer().fit_transform(texts).toarray()
        history, asked = vectors[: len(tags)], vectors[len(tags) :]
        for similarity, query in zip(asked @ history.T, user["query"], strict=True):
            nearest = [tags[index] for index in np.argsort(-similarity, kind="stable")[:4]]
            neighbours.append(Counter(nearest).most_common(1)[0][0] == query["gold"])
            recent = len(tags) - DRIFT_TAIL + int(np.argmax(similarity[-DRIFT_TAIL:]))
            latest.append(tags[recent] == query["gold"])
    assert 0.3 < np.mean(neighbours) < 0.65
    assert np.mean(latest) > np.mean(neighbours)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": 0}, "users must be at least 1 but got 0"),
        ({"users": -3}, "users must be at least 1 but got -3"),
        ({"users": 2.0}, "users must be an integer but got 2.0"),
        ({"users": True}, "users must be an integer but got True"),
        ({"data_seed": "0"}, "data_seed must be an integer but got '0'"),
        ({"data_seed": None}, "data_seed must be an integer but got None"),
    ],
)
def test_bad_arguments_are_refused_with_rule_and_value(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        sample_users(**arguments)


def test_helpers_refuse_what_is_not_theirs() -> None:
    with pytest.raises(InputError, match="user must be at least 0 but got -1"):
        habits(0, -1)
    with pytest.raises(InputError, match="'a film of somebody else'"):
        theme_of("a film of somebody else")
