"""What `describe` says of a folder: every count against files in which just that was planted."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from datasets import config
from personaagent.datasets.lamp.describe import print_description
from personaagent.datasets.lamp.tasks import LAMP_1, LAMP_2M, LAMP_2M_LABELS, LAMP_2N, LAMP_3, LAMP_4, LampTask
from personaagent.programs.errors import InputError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

Item = dict[str, Any]
Users = dict[str, tuple[list[Item], list[Item]]]
"""{user_id: (profile, queries)}; a query has `id`, `input` and `gold`."""

LONG = (
    "two bakers in a small town share an oven until the night on which one of them finds a letter under the "
    "stone that was never meant to be read by anybody else"
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


def film(one: int | str, description: str, tag: str = "comedy", date: str = "2010-01-01") -> Item:
    return {"id": str(one), "description": description, "tag": tag, "date": date}


def films(count: int, first: int = 0, **values: Any) -> list[Item]:
    """Films of which nothing is alike, each a day after the other."""
    return [
        film(n, f"film {'abcdefghij'[n % 10] * (n + 3)}", date=f"2010-01-{n + 1:02d}") | values
        for n in range(first, first + count)
    ]


def asked(one: int | str, description: str, gold: str = "comedy") -> Item:
    return {
        "id": f"q{one}" if isinstance(one, int) else one,
        "input": LAMP_2M.question.format(description=description),
        "gold": gold,
    }


def write_oppu(folder: Path, users: Users, task: LampTask = LAMP_2M) -> Path:
    place = folder / task.folder
    place.mkdir(parents=True)
    entries = [{"user_id": user, "profile": profile, "query": queries} for user, (profile, queries) in users.items()]
    (place / "user_top_100_history.json").write_text(json.dumps(entries))
    return folder


def write_official(
    folder: Path, users: Users, task: LampTask = LAMP_2M, golds: bool = True, by_user: bool = True
) -> Path:
    """The dev split; with `by_user`, the time-based one, and else the user-based one."""
    place = folder / ("time" if by_user else "user") / task.directory / "dev"
    place.mkdir(parents=True)
    entries = [
        {"id": query["id"], "input": query["input"], "profile": profile} | ({"user_id": user} if by_user else {})
        for user, (profile, queries) in users.items()
        for query in queries
    ]
    outputs = [{"id": query["id"], "output": query["gold"]} for _, queries in users.values() for query in queries]
    (place / "dev_questions.json").write_text(json.dumps(entries))
    if golds:
        (place / "dev_outputs.json").write_text(
            json.dumps({"task": task.name.replace("lamp-", "LaMP_"), "golds": outputs})
        )
    return folder


def printed(folder: Path, width: int = 80, **options: Any) -> str:
    text = io.StringIO()
    print_description(folder, Console(file=text, width=width), **options)
    return text.getvalue()


def described(folder: Path, **options: Any) -> dict[str, list[str]]:
    """{name of a row: its lines} of the one table that is printed."""
    lines = printed(folder, width=400, **options).splitlines()
    assert lines[0] == ""
    found: dict[str, list[str]] = {"title": [lines[1]], "notes": []}
    name = ""
    for line in lines[3:]:
        if line.startswith("note: "):
            found["notes"].append(line)
            continue
        first, _, said = line.partition("  ")
        name = first or name
        found.setdefault(name, []).append(said.strip())
    return found


# --- a screen ------------------------------------------------------------------------------------


def test_a_person_reads_in_one_screen_what_there_is(tmp_path: Path) -> None:
    profile = [*films(4, tag="action"), *films(3, 4), film(7, "a heist", "romance", "2010-01-01")]
    write_oppu(
        tmp_path, {"ann": (profile, [asked(1, "new"), asked(2, "newer")]), "bob": (films(2, 10), [asked(3, "x y")])}
    )
    assert [line.rstrip() for line in printed(tmp_path, width=200).splitlines()[1:]] == [
        "LaMP-2M, personalized movie tagging (lamp-2m; OPPU's layout)",
        f"{tmp_path}/movie_tagging/user_top_100_history.json, 0.0 MB",
        "users       2",
        "history     10 items; per user 2 to 8, median 5",
        "queries     3; per user 1 to 2, median 2; all with gold",
        "answers     3 of 15 labels: comedy (50%), action (40%), romance (10%)",
        "dates       2010-01-01 to 2010-01-12",
        "ties        2 items (20.0%) with the date of another item of their user",
        "duplicates  none",
        "leaks       none: no query is in a history by id, by text or nearly",
    ]


EVERYTHING: Users = {
    "ann": (
        [
            film(1, "a heist"),
            film(2, "A HEIST!", "action"),
            film(3, LONG, "romance", ""),
            film("both", "a wedding", "musical"),
            film(5, "shared film", "western"),
        ],
        [
            asked("both", "another text"),
            asked(2, "a heist", "action"),
            asked(3, LONG.replace("letter", "picture"), "romance"),
            asked(4, "two moons"),
            asked(5, "Two moons."),
        ],
    ),
    "bob": ([film(1, "shared film"), film(2, "a city")], [asked(6, "a wedding")]),
}


def test_everything_that_can_be_found_at_once_is_still_a_screen_of_80_columns(tmp_path: Path) -> None:
    lines = printed(write_oppu(tmp_path, EVERYTHING)).splitlines()[1:]
    assert len(lines) <= 18
    assert max(len(line.rstrip()) for number, line in enumerate(lines) if number != 1) <= 80
    assert lines[1].startswith(str(tmp_path)), "a path is one line, so that it can be copied"


def test_each_thing_that_was_planted_is_counted_in_its_own_line(tmp_path: Path) -> None:
    found = described(write_oppu(tmp_path, EVERYTHING))
    assert found["users"] == ["2"]
    assert found["history"] == ["7 items; per user 2 to 5, median 4"]
    assert found["queries"] == ["6; per user 1 to 5, median 3; all with gold"]
    assert found["answers"] == [
        "3 of 15 labels: comedy (43%), romance (14%), action (14%), ...",
        "2 items (28.6%) with no label of the task, such as 'musical', 'western'",
    ]
    assert found["dates"] == ["2010-01-01 to 2010-01-01; 1 item (14.3%) without one"]
    assert found["ties"] == ["6 items (85.7%) with the date of another item of their user"]
    assert found["duplicates"] == [
        "1 item (14.3%) with an earlier item's text, 1 answered otherwise",
        "1 query (16.7%) with an earlier query's text",
        "1 text in the histories of several users",
    ]
    assert found["leaks"] == [
        "1 query (16.7%) in the user's own history by id",
        "1 query (16.7%) in the user's own history by text, 1 answered alike",
        "1 query (16.7%) nearly in the user's history, 1 answered alike",
        "1 query (16.7%) in another user's history by text",
    ]


# --- duplicates and leaks, one at a time ----------------------------------------------------------


def test_duplicates_are_counted_whatever_their_case_and_signs(tmp_path: Path) -> None:
    same = ["a heist", "A heist.", "(a) HEIST", "a  heist\n", "a heist too"]
    found = described(write_oppu(tmp_path, {"ann": ([film(i, text) for i, text in enumerate(same)], [asked(1, "x")])}))
    assert found["duplicates"] == ["3 items (60.0%) with an earlier item's text"]


def test_texts_of_signs_alone_are_not_the_same(tmp_path: Path) -> None:
    profile = [film(1, "!!!"), film(2, "???"), film(3, "🎬"), film(4, "🎬")]
    found = described(write_oppu(tmp_path, {"ann": (profile, [asked(1, "...")])}))
    assert found["duplicates"] == ["1 item (25.0%) with an earlier item's text"]
    assert found["leaks"] == ["none: no query is in a history by id, by text or nearly"]


def test_texts_in_other_scripts_are_compared_too(tmp_path: Path) -> None:
    profile = [film(1, "二人のパン屋"), film(2, "二人のパン屋。"), film(3, "ÜBER allem"), film(4, "über ALLEM")]
    found = described(write_oppu(tmp_path, {"ann": (profile, [asked(1, "二人のパン屋")])}))
    assert found["duplicates"] == ["2 items (50.0%) with an earlier item's text"]
    assert found["leaks"] == ["1 query (100.0%) in the user's own history by text, 1 answered alike"]


@pytest.mark.parametrize(
    ("tags", "contradicting"),
    [(["comedy", "comedy", "comedy"], 0), (["comedy", "action", "comedy"], 1), (["comedy", "action", "romance"], 2)],
)
def test_a_duplicate_with_another_answer_is_a_contradiction(
    tmp_path: Path, tags: list[str], contradicting: int
) -> None:
    profile = [film(i, "a heist", tag) for i, tag in enumerate(tags)]
    found = described(write_oppu(tmp_path, {"ann": (profile, [asked(1, "x")])}))
    other = f", {contradicting} answered otherwise" if contradicting else ""
    assert found["duplicates"] == [f"2 items (66.7%) with an earlier item's text{other}"]


@pytest.mark.parametrize(
    ("changed", "near"),
    [
        (["oven"], True),
        (["oven", "letter", "stone"], True),
        (["oven", "letter", "stone", "town", "night", "bakers"], False),
    ],
)
def test_a_query_with_few_words_changed_is_nearly_in_the_history(
    tmp_path: Path, changed: list[str], near: bool
) -> None:
    """32 words, 30 of them different; 3 changed leave 27 of 33 common, 6 leave 24 of 36."""
    text = LONG
    for word in changed:
        text = text.replace(word, word[::-1])
    users: Users = {
        "ann": ([film(1, "a heist"), film(2, LONG, "action")], [asked(1, text, "action"), asked(2, text, "comedy")])
    }
    found = described(write_oppu(tmp_path, users))
    expected = "2 queries (100.0%) nearly in the user's history, 1 answered alike"
    assert found["leaks"] == [expected if near else "none: no query is in a history by id, by text or nearly"]


def test_the_same_answer_may_be_that_of_any_item_with_the_text(tmp_path: Path) -> None:
    profile = [
        film(1, "a heist", "comedy"),
        film(2, "a heist", "action"),
        film(3, LONG, "comedy"),
        film(4, LONG, "action"),
    ]
    queries = [asked(1, "a heist", "action"), asked(2, LONG + " again", "action"), asked(3, "a heist", "romance")]
    found = described(write_oppu(tmp_path, {"ann": (profile, queries)}))
    assert found["leaks"] == [
        "2 queries (66.7%) in the user's own history by text, 1 answered alike",
        "1 query (33.3%) nearly in the user's history, 1 answered alike",
    ]


def test_what_is_in_a_history_by_id_is_counted_once(tmp_path: Path) -> None:
    found = described(
        write_oppu(tmp_path, {"ann": (films(3), [asked("0", films(1)[0]["description"]), asked("9", "x")])})
    )
    assert found["leaks"] == ["1 query (50.0%) in the user's own history by id"]


def test_the_histories_of_others_are_others(tmp_path: Path) -> None:
    """A text of one's own history counts as another's only if another has it too."""
    users: Users = {
        "ann": ([film(1, "a heist"), film(2, "a heist")], [asked(1, "a heist"), asked(2, "a wedding")]),
        "bob": ([film(1, "a wedding")], [asked(3, "a wedding")]),
        "cleo": ([film(1, "a wedding"), film(2, "a city")], [asked(4, "a moon")]),
    }
    found = described(write_oppu(tmp_path, users))
    assert found["duplicates"][-1] == "1 text in the histories of several users"
    assert found["leaks"] == [
        "2 queries (50.0%) in the user's own history by text, 2 answered alike",
        "2 queries (50.0%) in another user's history by text",
    ]


def test_a_small_share_is_not_called_none_nor_a_large_one_all(tmp_path: Path) -> None:
    profile = [film(i, f"film {i:05d}", date="2010-01-01") for i in range(2500)]
    profile[7]["date"] = ""
    profile[9]["description"] = profile[8]["description"]
    found = described(write_oppu(tmp_path, {"ann": (profile, [asked(1, "x")])}))
    assert found["dates"] == ["2010-01-01 to 2010-01-01; 1 item (<0.1%) without one"]
    assert found["ties"] == ["2,499 items (>99.9%) with the date of another item of their user"]
    assert found["duplicates"] == ["1 item (<0.1%) with an earlier item's text"]


# --- dates, answers, golds ------------------------------------------------------------------------


def test_items_without_a_date_are_no_ties(tmp_path: Path) -> None:
    found = described(write_oppu(tmp_path, {"ann": (films(3, date=""), [asked(1, "x")])}))
    assert found["dates"] == ["none: the order in the file is that of time"] and found["ties"] == ["none"]


def test_ties_are_within_a_user(tmp_path: Path) -> None:
    users: Users = {user: (films(3), [asked(n, f"x{n}")]) for n, user in enumerate(("ann", "bob"))}
    assert described(write_oppu(tmp_path, users))["ties"] == ["none"]


def test_every_label_may_be_there(tmp_path: Path) -> None:
    profile = [item | {"tag": tag} for item, tag in zip(films(15), LAMP_2M_LABELS, strict=True)]
    [line] = described(write_oppu(tmp_path, {"ann": (profile, [asked(1, "x")])}))["answers"]
    assert line.startswith("15 of 15 labels: sci-fi (7%), ") and line.endswith(", ...")


def test_what_looks_like_markup_is_printed_as_it_is(tmp_path: Path) -> None:
    folder = write_oppu(tmp_path / "[bold] :warning: data", {"ann": (films(2, tag="[red]x[/]"), [asked(1, "x")])})
    text = printed(folder, width=400)
    assert "[bold] :warning: data" in text and "such as '[red]x[/]'" in text


def test_free_text_is_described_by_its_words(tmp_path: Path) -> None:
    profile = [{"id": str(n), "text": f"article {'x' * n}", "title": "word " * n, "date": ""} for n in (1, 4, 9)]
    query = {"id": "q", "input": LAMP_4.question.format(text="Article XXXX!"), "gold": "word word word word"}
    found = described(write_oppu(tmp_path, {"ann": (profile, [query])}, LAMP_4))
    assert found["answers"] == ["free text; words 1 to 9, median 4"]
    assert found["leaks"] == ["1 query (100.0%) in the user's own history by text"]
    assert "lamp-4" in found["title"][0]


def test_missing_outputs_are_said_beside_the_queries(tmp_path: Path) -> None:
    users: Users = {"ann": (films(3), [asked(1, "x"), asked(2, "y")])}
    found = described(write_official(tmp_path, users, golds=False))
    assert found["queries"] == ["2; per user 2; no dev_outputs.json: nothing can be scored"]


def test_the_time_based_split_says_that_histories_are_what_questions_have_in_common(tmp_path: Path) -> None:
    write_official(tmp_path, {"ann": (films(3), [asked(1, "x")]), "bob": (films(5), [asked(2, "y"), asked(3, "z")])})
    path = tmp_path / "time" / LAMP_2M.directory / "dev" / "dev_questions.json"
    entries = json.loads(path.read_text())
    entries[-1]["profile"].append(film(99, "later"))
    path.write_text(json.dumps(entries))
    found = described(tmp_path)
    assert found["title"] == ["LaMP-2M, personalized movie tagging (lamp-2m; official layout, dev)"]
    assert found["users"] == ["2"]
    assert found["history"] == ["8 items common to a user's questions; per user 3 to 5, median 4"]


def test_the_user_based_split_has_as_many_users_as_questions(tmp_path: Path) -> None:
    users: Users = {"ann": (films(3), [asked(1, "x"), asked(2, "y")]), "bob": (films(2), [asked(3, "z")])}
    found = described(write_official(tmp_path, users, by_user=False))
    assert found["users"] == ["3, each question its own"]
    assert found["history"] == ["8 items; per user 2 to 3, median 3"]
    assert found["queries"] == ["3; per user 1; all with gold"]
    assert found["duplicates"] == ["3 texts in the histories of several users"]


# --- LaMP-1 --------------------------------------------------------------------------------------


def paper(one: int, title: str, **more: str) -> Item:
    return {"id": str(one), "title": title, "abstract": f"{title}: abstract", "date": f"200{one}"} | more


def citing(one: str, title: str, first: str, second: str, gold: str) -> Item:
    return {
        "id": one,
        "input": LAMP_1.question.format(title=title, reference_1=first, reference_2=second),
        "gold": gold,
    }


def test_papers_are_compared_by_their_own_titles_and_answers_by_the_citation(tmp_path: Path) -> None:
    profile = [
        paper(1, "On Ovens", citation="Bread"),
        paper(2, "On ovens.", citation="Flour"),
        paper(3, "On Mills", citation="Wind"),
    ]
    queries = [citing("q1", "On Mills", "Sea", "Wind", "[2]"), citing("q2", "On Salt", "On Mills", "Wind", "[1]")]
    found = described(write_oppu(tmp_path, {"ann": (profile, queries)}, LAMP_1))
    assert found["answers"] == ["drawn: [1] or [2]; 3 items (100.0%) with a citation"]
    assert found["duplicates"] == ["1 item (33.3%) with an earlier item's text, 1 answered otherwise"]
    assert found["leaks"] == ["1 query (50.0%) in the user's own history by text, 1 answered alike"]
    assert found["notes"] == []


def test_papers_without_citations_are_described_even_of_a_single_author_with_a_single_one(tmp_path: Path) -> None:
    queries = [citing("q1", "On Salt", "Sea", "Wind", "[2]")]
    found = described(write_official(tmp_path, {"ann": ([paper(1, "On Mills")], queries)}, LAMP_1))
    assert found["answers"] == ["drawn: [1] or [2]; no item with a citation"]
    assert found["leaks"] == ["none: no query is in a history by id, by text or nearly"]
    [note] = found["notes"]
    assert "histories without citations" in note


# --- which files ---------------------------------------------------------------------------------


def test_a_root_with_several_tasks_is_described_one_table_after_the_other(tmp_path: Path) -> None:
    write_official(tmp_path, {"ann": (films(3), [asked(1, "x")])})
    news = {"id": "1", "text": "a", "title": "b", "category": "sports", "date": "2010"}
    query = {"id": "q", "input": LAMP_2N.question.format(text="c"), "gold": "sports"}
    write_official(tmp_path, {"ann": ([news], [query])}, LAMP_2N)
    review = {"id": "1", "text": "fine", "score": "5", "date": "2010"}
    write_oppu(
        tmp_path, {"ann": ([review], [{"id": "q", "input": LAMP_3.question.format(text="good"), "gold": "4"}])}, LAMP_3
    )
    titles = [line for line in printed(tmp_path, width=400).splitlines() if "personalized" in line]
    assert [title.partition("(")[2].partition(";")[0] for title in titles] == ["lamp-2m", "lamp-2n", "lamp-3"]
    assert described(tmp_path, task="lamp-3")["answers"] == ["1 of 5 labels: 5 (100%)"]
    split = tmp_path / "time" / LAMP_2N.directory / "dev"
    assert "lamp-2n" in described(split)["title"][0], "the folder of a split is told by its first question"


def message(run: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        run()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_cannot_be_described_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = message(lambda: printed(tmp_path / "empty"))
    assert text.startswith(
        f"{tmp_path}/empty: no LaMP files. Looked for user_top_100_history.json (OPPU's layout) and for "
    )
    assert "train_questions.json, dev_questions.json, test_questions.json (the official layout)" in text
    assert "no files of lamp-3" in message(lambda: printed(tmp_path / "empty", task="lamp-3"))
    assert "gone: no such folder" in message(lambda: printed(tmp_path / "gone"))
    assert "unknown task 'lamp-9'" in message(lambda: printed(tmp_path / "empty", task="lamp-9"))
    assert "--split must be train, dev or test, but got 'all'" in message(
        lambda: printed(tmp_path / "empty", split="all")
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dev_questions.json").write_text('[{"id": "1"')
    assert "dev_questions.json: not valid JSON" in message(lambda: printed(tmp_path / "broken"))
    ours = write_oppu(tmp_path / "ours", {"ann": (films(2), [{"id": "q", "input": "which?", "gold": "comedy"}])})
    assert "the first question is worded as none of a LaMP task" in message(lambda: printed(ours / "movie_tagging"))
    assert described(ours, task="lamp-2m")["users"] == ["1"]
    official = write_official(tmp_path / "official", {"ann": (films(2), [asked(1, "x")])})
    assert "no train_questions.json of lamp-2m; give --split dev" in message(lambda: printed(official, split="train"))


# --- real files ----------------------------------------------------------------------------------


def real(*parts: str) -> Path:
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: real data are no part of the project")
    return folder


def test_the_duplicates_of_real_reviews_are_found() -> None:
    found = described(real("oppu", "product_rating"))
    assert found["users"] == ["4"] and found["history"][0].startswith("1,988 items; per user 358 to 790")
    assert found["duplicates"] == [
        "46 items (2.3%) with an earlier item's text, 1 answered otherwise",
        "7 queries (1.4%) with an earlier query's text",
    ]
    assert found["leaks"] == ["1 query (0.2%) nearly in the user's history, 1 answered alike"]


def test_the_films_that_several_real_users_tagged_are_found() -> None:
    found = described(real("oppu", "movie_tagging"))
    assert found["users"] == ["64"] and found["history"][0].startswith("712 items; ")
    assert found["ties"] == ["660 items (92.7%) with the date of another item of their user"]
    assert found["duplicates"] == ["158 texts in the histories of several users"]
    assert found["leaks"] == ["209 queries (48.8%) in another user's history by text"]


@pytest.mark.parametrize(("folder", "tasks"), [("oppu", 4), ("lamp", 4)])
def test_all_real_folders_fit_a_screen_each(folder: str, tasks: int) -> None:
    parts = printed(real(folder)).split("\n\n") if folder == "oppu" else printed(real("lamp", "time")).split("\n\n")
    assert len(parts) == tasks
    for part in parts:
        lines = part.strip().splitlines()
        assert len(lines) <= 14 and max(len(line.rstrip()) for line in lines[2:]) <= 80
