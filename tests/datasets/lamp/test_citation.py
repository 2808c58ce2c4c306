"""LaMP-1's histories: the true citation where files have it, a surrogate where not, and what is drawn beside it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.datasets.lamp.citation import SURROGATE_NOTE, with_references
from personaagent.datasets.lamp.oppu import HISTORY_FILE
from personaagent.datasets.lamp.records import kind
from personaagent.datasets.lamp.source import LampSource, open_lamp
from personaagent.datasets.lamp.tasks import LAMP_1
from personaagent.programs.errors import InputError

Make = Callable[..., Any]

PAPERS = [{"id": f"p{n}", "title": f"Own {n}", "abstract": "A.", "citation": f"Cited {n}"} for n in range(40)]
POOL = [("other", f"Foreign {n}") for n in range(50)] + [("me", f"Mine too {n}") for n in range(50)]


def without_citations(papers: Any = PAPERS) -> list[dict[str, Any]]:
    return [{key: value for key, value in paper.items() if key != "citation"} for paper in papers]


def pairs(made: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(the related reference, the other one) of each paper."""
    both = [(one["reference_1"], one["reference_2"]) for one in made]
    return [pair if one["related"] == "[1]" else pair[::-1] for pair, one in zip(both, made, strict=True)]


def message(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is drawn ---------------------------------------------------------------------------------


def test_the_related_reference_is_the_citation_and_the_other_one_of_another_users_papers() -> None:
    made = with_references(PAPERS, "me", POOL, 0)
    for paper, one, (related, unrelated) in zip(PAPERS, made, pairs(made), strict=True):
        assert {key: one[key] for key in paper} == paper, "what the file has stays"
        assert related == paper["citation"] and re.fullmatch(r"Foreign \d+", unrelated)


def test_both_positions_and_many_papers_are_drawn() -> None:
    made = with_references(PAPERS, "me", POOL, 0)
    assert 10 <= Counter(one["related"] for one in made)["[1]"] <= 30
    assert len({unrelated for _, unrelated in pairs(made)}) > 20


def test_a_seed_fixes_the_draw_and_another_one_changes_it() -> None:
    made = with_references(PAPERS, "me", POOL, 0)
    assert with_references(PAPERS, "me", list(reversed(POOL)), 0) == made
    for other in (with_references(PAPERS, "me", POOL, 1), with_references(PAPERS, "you", POOL[:50], 0)):
        assert other != made and [pair[0] for pair in pairs(other)] == [pair[0] for pair in pairs(made)]


def test_with_citations_a_papers_draw_does_not_depend_on_the_others() -> None:
    made = with_references(PAPERS, "me", POOL, 3)
    for number in (0, 7, 39):
        assert with_references(PAPERS[number : number + 1], "me", POOL, 3) == made[number : number + 1]
    assert with_references(PAPERS[::-1], "me", POOL, 3) == made[::-1]


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 99),
    cited=st.lists(st.sampled_from(["Foreign 1", " Foreign 2 ", "Own 1", "Elsewhere"]), min_size=1, max_size=5),
    pool=st.lists(st.tuples(st.sampled_from(["me", "a", "b"]), st.sampled_from(["Own 0", "Foreign 1", "Foreign 2"]))),
)
def test_the_other_reference_is_never_the_users_own_nor_the_related_one(
    seed: int, cited: list[str], pool: list[tuple[str, str]]
) -> None:
    papers = [{"id": str(n), "title": f"Own {n}", "abstract": "A.", "citation": one} for n, one in enumerate(cited)]
    foreign = {title for user, title in pool if user != "me" and title.startswith("Foreign")}
    if any(not foreign - {one.strip()} for one in cited):
        assert "no paper of another author is there" in message(lambda: with_references(papers, "me", pool, seed))
        return
    for one, (related, unrelated) in zip(cited, pairs(with_references(papers, "me", pool, seed)), strict=True):
        assert related == one and unrelated in foreign and unrelated != one.strip()


# --- the surrogate ---------------------------------------------------------------------------------


def test_without_citations_another_paper_of_the_authors_stands_for_one() -> None:
    made = with_references(without_citations(), "me", POOL, 0)
    titles = {paper["title"] for paper in PAPERS}
    for paper, (related, unrelated) in zip(PAPERS, pairs(made), strict=True):
        assert related in titles - {paper["title"]} and unrelated.startswith("Foreign")
    assert (
        with_references(without_citations(), "me", POOL, 0)
        == made
        != with_references(without_citations(), "me", POOL, 1)
    )


def test_only_the_papers_without_one_get_a_surrogate() -> None:
    made = pairs(with_references([PAPERS[0], {**PAPERS[1], "citation": None}], "me", POOL, 0))
    assert [related for related, _ in made] == ["Cited 0", "Own 0"]


def test_an_author_with_one_paper_and_no_citation_is_a_clear_error() -> None:
    for papers in (without_citations(PAPERS[:1]), without_citations([PAPERS[0], {**PAPERS[0], "id": "again"}])):
        assert message(lambda papers=papers: with_references(papers, "me", POOL, 0)) == (  # type: ignore[misc]
            "user 'me', profile item 0: no 'citation', and no other paper of this author could stand for one: leave "
            "the user out, or use files with citations (OPPU's)"
        )


@pytest.mark.parametrize("citation", ["", "  ", 7, ["Cited"], {"title": "Cited"}, False])
def test_a_citation_of_a_wrong_type_is_an_error(citation: Any) -> None:
    text = message(lambda: with_references([PAPERS[0], {**PAPERS[1], "citation": citation}], "me", POOL, 0))
    assert text == f"user 'me', profile item 1: field 'citation' must be text and not empty, but is {kind(citation)}"


def test_one_user_alone_has_nobody_to_draw_from() -> None:
    text = message(lambda: with_references(PAPERS, "me", POOL[50:], 0))
    assert text.startswith("user 'me': no paper of another author is there") and "user_others.json" in text


# --- out of files ----------------------------------------------------------------------------------


def entries(names: str, citations: bool = True, papers: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "user_id": name,
            "profile": [
                {"id": f"{name}{n}", "title": f"{name} paper {n}", "abstract": "A.", "date": 2000 + n}
                | ({"citation": f"{name} cites {n}"} if citations else {})
                for n in range(papers)
            ],
            "query": [{"id": f"{name}-q", "input": LAMP_1.question.format_map(REFERENCES), "gold": "[2]"}],
        }
        for name in names
    ]


REFERENCES = {"title": "T", "reference_1": "R1", "reference_2": "R2"}
HISTORY = re.compile(r'title "(\w) paper \d", .* \[1\]: "(.+)" \[2\]: "(.+)"')


def authors(source: LampSource) -> set[str]:
    """Whose papers the other references of the histories are."""
    found = set()
    for user in source.users():
        for one in user.history:
            match = HISTORY.search(one.query)
            assert match and match[1] == user.user_id and one.response in ("[1]", "[2]")
            related, unrelated = match[2], match[3]
            if one.response == "[2]":
                related, unrelated = unrelated, related
            assert related.startswith(f"{user.user_id} ") and not unrelated.startswith(f"{user.user_id} ")
            found.add(unrelated.partition(" ")[0])
    return found


def test_histories_of_oppus_files_have_the_true_citation_and_papers_of_the_other_users(
    tmp_path: Path, oppu: Make
) -> None:
    source = open_lamp(oppu(tmp_path, entries("abc")), LAMP_1)
    assert authors(source) == {"a", "b", "c"} and source.notes == []
    one = source.user("a").history[0]
    assert "a cites 0" in one.query and one.text == "a paper 0 A." and one.timestamp == "2000"
    assert source.user("a").queries[0].gold == "[2]"


def test_papers_are_drawn_from_the_file_of_other_users_if_there_is_one(tmp_path: Path, oppu: Make) -> None:
    source = open_lamp(oppu(tmp_path, entries("ab"), others=entries("xyza")), LAMP_1)
    assert authors(source) <= set("xyza") and authors(source) & set("xyz"), "of users of both files none of their own"
    assert source.user_ids == ["a", "b"], "others are not asked"
    alone = open_lamp(oppu(tmp_path / "alone", entries("a"), others=entries("x")), LAMP_1)
    assert authors(alone) == {"x"}


def test_the_data_seed_changes_what_is_drawn_and_nothing_that_is_asked(tmp_path: Path, oppu: Make) -> None:
    folder = oppu(tmp_path, entries("abc"))
    zero, again, one = (open_lamp(folder, LAMP_1, data_seed=seed) for seed in (0, 0, 1))
    assert list(zero.users()) == list(again.users()) and zero.digest == one.digest
    assert [user.queries for user in zero.users()] == [user.queries for user in one.users()]
    assert [user.history for user in zero.users()] != [user.history for user in one.users()]


def test_of_many_records_the_seed_draws_those_whose_papers_are_drawn(
    tmp_path: Path, oppu: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("personaagent.datasets.lamp.source._POOL_ROWS", 3)
    folder = oppu(tmp_path, entries("ab"), others=entries("cdefghijklmnop"))
    drawn = [authors(open_lamp(folder, LAMP_1, data_seed=seed)) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1] and len({frozenset(one) for one in drawn}) == 3
    assert all(len(one) <= 3 for one in drawn)


@pytest.mark.parametrize("absent", ["missing", "null"])
def test_without_citations_a_note_says_that_it_is_a_surrogate_once(tmp_path: Path, oppu: Make, absent: str) -> None:
    made = entries("ab", citations=False)
    if absent == "null":
        for entry in made:
            for paper in entry["profile"]:
                paper["citation"] = None
    source = open_lamp(oppu(tmp_path, made), LAMP_1)
    assert authors(source) == {"a", "b"} and source.notes == [SURROGATE_NOTE]


def test_the_official_files_have_no_citations_and_their_questions_are_as_they_are(
    tmp_path: Path, question: Make, official: Make
) -> None:
    asked = [question(LAMP_1, f"q{n}", [f"p{n}-{k}" for k in range(3)], user=n % 2) for n in range(4)]
    for n, one in enumerate(asked):
        one["profile"] = asked[n % 2]["profile"]
        for k, paper in enumerate(one["profile"]):
            paper["title"] = f"{n % 2} paper {k}"
    source = open_lamp(official(tmp_path, asked, task="LaMP_1"), LAMP_1)
    assert authors(source) == {"0", "1"} and source.notes == [SURROGATE_NOTE]
    assert [q.input for q in source.user("1").queries] == [asked[1]["input"], asked[3]["input"]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"citation": ["x"]}, "user 'b', profile item 2: field 'citation' must be text and not empty, but is a list"),
        (
            {"citation": ""},
            "user 'b', profile item 2: field 'citation' must be text and not empty, but is an empty text",
        ),
    ],
)
def test_a_fault_of_a_citation_is_named_with_its_file(
    tmp_path: Path, oppu: Make, change: dict[str, Any], said: str
) -> None:
    made = entries("ab")
    made[1]["profile"][2].update(change)
    source = open_lamp(oppu(tmp_path, made), LAMP_1)
    assert message(lambda: list(source.users())) == f"{tmp_path / HISTORY_FILE}: {said}"


def test_one_user_of_a_file_alone_is_named_with_it(tmp_path: Path, oppu: Make) -> None:
    source = open_lamp(oppu(tmp_path, entries("a")), LAMP_1)
    assert message(lambda: source.user("a")).startswith(f"{tmp_path / HISTORY_FILE}: user 'a': no paper of another")


def test_the_other_users_file_must_be_right_too(tmp_path: Path, oppu: Make) -> None:
    others = entries("x")
    del others[0]["profile"][0]["title"]
    folder = oppu(tmp_path, entries("ab"), others=others)
    said = message(lambda: open_lamp(folder, LAMP_1))
    assert "user_others.json: user at index 0 (user_id 'x'), profile item 0: field 'title' is missing. Corr" in said


def test_what_the_queries_ask_about_is_never_drawn_as_unrelated() -> None:
    items = [{"id": str(n), "title": f"Own {n}", "citation": f"Cited {n}"} for n in range(20)]
    pool = [("b", "Asked, Of Course"), ("b", "Other"), ("b", "Third")]
    made = with_references(items, "a", pool, 0, ["asked of course"])
    drawn = {item["reference_2" if item["related"] == "[1]" else "reference_1"] for item in made}
    assert drawn == {"Other", "Third"}


def test_the_titles_of_an_official_question_are_found() -> None:
    asked = LAMP_1.question.format(title="T", reference_1='The "A"', reference_2="B")
    assert LAMP_1.query_parts(asked) == ('The "A"', "B") and LAMP_1.query_parts("Which one?") == ()


def test_a_surrogate_is_an_earlier_paper_and_differs_in_more_than_case() -> None:
    items = [{"id": str(n), "title": f"Own {n}", "date": str(2010 - n)} for n in range(5)]
    items.append({"id": "5", "title": "OWN 4!", "date": "2011"})
    for item in with_references(items, "a", [("b", "Own 3."), ("b", "Other")], 1):
        related = item["reference_1" if item["related"] == "[1]" else "reference_2"]
        other = item["reference_2" if item["related"] == "[1]" else "reference_1"]
        assert other == "Other", "a title that is the author's own but for a sign is not unrelated"
        [date] = [one["date"] for one in items if one["title"] == related]
        assert date < item["date"] or item["id"] == "4"
