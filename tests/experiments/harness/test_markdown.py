"""report.md, read by a Markdown parser: what it says in every state of a study, and that no data breaks it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.markdown import (
    About,
    Column,
    Run,
    code,
    code_block,
    plain,
    report,
    sentence,
    table_block,
)
from personaagent.experiments.harness.statistics import Interval, clustered_mean
from personaagent.experiments.harness.tables import Question, TaskInfo, tables

LM = "openai/gpt-4o-mini"
FILMS = TaskInfo("LaMP-2M, movie tagging", ("accuracy", "f1"), True, 20, 60, "data/films", 15)
STARS = TaskInfo("LaMP-3, product rating", ("mae", "rmse"), False, 20, 60, "data/stars", 5)
TASKS = {"lamp-2m": FILMS, "lamp-3": STARS}
TITLES = {"prompt": "Prompt", "rag": "RAG", "pag": "PAG", "persona-agent": "PersonaAgent"}
ABOUT = About("compare", ("python", "experiments/compare.py", "--users", "20"), method_titles=TITLES)
HOSTILE = "a|b `c` ``d`` **e** _f_ <b>g</b> <!-- h -->\n| i | j |\n\n# k\n[l](http://m) @n #1 \\ \\| $o$ &amp; ~~p~~"

PAPER = "paper, Claude-3.5 Sonnet, 300 queries (inferred), one run"
ACCURACY, F1, DIFFERENCE = (f"{what} [95 % interval]" for what in ("accuracy", "macro-F1", "difference"))
NEEDED = "users needed, alone / in this table"

GFM = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@dataclass(frozen=True)
class Row:
    cell: Cell
    values: dict[str, Any]
    second: Interval | None = None
    waiting: int = 0
    scores: Mapping[Question, float] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)


def row(
    method: str,
    chance: float,
    task: str = "lamp-2m",
    lm: str = LM,
    users: int = 20,
    queries: int = 3,
    waiting: int = 0,
    failures: Mapping[str, int] | None = None,
    axes: tuple[int, int, int] | None = None,
    control: str = "none",
    **more: Any,
) -> Row:
    """A cell's results: right or wrong with this chance, the first questions failed or waiting."""
    luck = np.random.default_rng([round(1_000 * chance), more.get("seed", 0)]).random((users, queries))
    scores = {(f"u{u}", f"q{q}"): float(luck[u, q] < chance) for u in range(users) for q in range(queries)}
    failed = sum((failures or {}).values())
    answered = dict(list(scores.items())[failed + waiting :])
    second = None
    if answered:
        second = clustered_mean([value / 2 for value in answered.values()], [user for user, _ in answered])
    values = {
        "queries": len(scores),
        "answered": len(answered),
        "failed": failed,
        "unparsable": 1,
        "score_failed_as_worst": 0.123,
        "profile_lm_calls": 20,
        "align_lm_calls": 1_000,
        "serve_lm_calls": 180,
        "prompt_tokens": 123_456,
        "completion_tokens": 7_890,
        "control": control,
        "profile": "on",
    }
    if axes is None:
        axes = {"persona-agent": (3, 1, 4), "prompt": (0, 0, 0)}.get(method, (0, 0, 4))
    return Row(Cell(task, method, lm, *axes, **more), values, second, waiting, answered, failures or {})


ROWS = [row("prompt", 0.1), row("rag", 0.45), row("pag", 0.5), row("persona-agent", 0.9)]


def written(about: About = ABOUT, rows: Sequence[Row] = ROWS, tasks: Mapping[str, TaskInfo] = TASKS) -> str:
    return report(about, tables(rows, tasks))


def shown(token: Token) -> str:
    """The text of a paragraph, heading or cell as a reader sees it."""
    return "".join(child.content for child in token.children or [])


def read_tables(text: str) -> list[list[list[str]]]:
    """Every table, of it every line, of it every cell, as a reader sees them; the first line is the heading."""
    found: list[list[list[str]]] = []
    tokens = GFM.parse(text)
    for place, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append(shown(tokens[place + 1]))
    return found


def table_with(text: str, heading: str) -> list[dict[str, str]]:
    """The lines of the one table that has a column of this heading."""
    (found,) = [lines for lines in read_tables(text) if any(cell.startswith(heading) for cell in lines[0])]
    return [dict(zip(found[0], line, strict=True)) for line in found[1:]]


def headings(text: str) -> list[str]:
    tokens = GFM.parse(text)
    return [f"{t.tag} {shown(tokens[i + 1])}" for i, t in enumerate(tokens) if t.type == "heading_open"]


def only(text: str) -> str:
    """A text of one paragraph as a reader sees it."""
    tokens = GFM.parse(text)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    return shown(tokens[1])


# --- data as Markdown ---


@pytest.mark.parametrize(
    "text", [HOSTILE, "`", "``", "` a", "a `", "\\", "|", "\\|", "<script>", "&lt;", "*", "a\tb\x00c\x1b[0m"]
)
def test_any_text_is_shown_as_it_is_on_one_line(text: str) -> None:
    seen = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    for shown_as in (plain(text), sentence(text.replace("`", "")), code(text)):
        assert "\n" not in shown_as
    assert only("." + plain(text)).replace("\u2060", "") == "." + seen
    assert only(code(text)) == seen


@pytest.mark.parametrize(
    "text", ["# a", "- a", "+ a", "* a", "> a", "1. a", "12) a", "=", "---", "| a |", "```", "~~~", "<!-- a"]
)
def test_nothing_at_the_start_of_a_line_makes_it_more_than_a_line(text: str) -> None:
    assert only(plain(text)) == text


@settings(deadline=None, database=None, derandomize=True, max_examples=300)
@given(st.text("ab1 `\\\\|*_<>[]()&;#@!~$-+=.:/\\n\"'", max_size=12), st.text("a `\\\\|", max_size=8))
def test_no_text_leaves_its_cell(one: str, other: str) -> None:
    columns = [Column("x", "left", ["x" + plain(one)]), Column("y", "left", [code(other)]), Column("z", "left", ["z"])]
    [_, line] = read_tables(table_block(columns))[0]
    assert line[0].replace("\u2060", "") == "x" + " ".join(one.split())
    assert line[1:] == [" ".join(other.split()) or "-", "z"]


@pytest.mark.parametrize(("text", "seen"), [("", "-"), (" \n", "-"), ("`a`", "`a`"), ("a``b`c", "a``b`c")])
def test_code_of_any_text(text: str, seen: str) -> None:
    assert only("x " + code(text)) == "x " + seen


def test_words_in_names_keep_their_underscores_readable() -> None:
    assert plain("cold_start of queries_per_user") == "cold_start of queries_per_user"
    assert plain("_a_") == "\\_a\\_"


def test_mentions_and_issue_numbers_link_to_nothing() -> None:
    assert plain("@someone, see #12; a@b.c and C# stay") == "@\u2060someone, see #\u206012; a@b.c and C# stay"
    assert code("@someone") == "`@someone`"


def test_backticks_in_a_sentence_are_code() -> None:
    assert sentence("It has `recall` and `wiki|pedia` only*.") == "It has `recall` and `wiki|pedia` only\\*."
    assert only(sentence("an odd ` one, `code` too")) == "an odd ` one, code too"
    assert only(sentence("`first`")) == "first"


def test_a_code_block_holds_any_fence() -> None:
    [token] = GFM.parse(code_block("a\n```\nb ````\n"))
    assert (token.type, token.content) == ("fence", "a\n```\nb ````\n\n")


def test_hostile_data_in_every_place_breaks_nothing() -> None:
    about = About(
        "compare",
        ("python", "x.py", HOSTILE),
        lms={LM: HOSTILE},
        method_titles={"rag": HOSTILE},
        remarks={"rag": [HOSTILE]},
        notes=[HOSTILE],
        controls={"equal-cost": HOSTILE},
        settings={HOSTILE: HOSTILE},
        versions={"a": HOSTILE},
        spent=[Run(("x", HOSTILE), 1, 2, 3, 4.0), Run((HOSTILE,), 1, 2, 3, 4.0)],
        replayed_from=HOSTILE,
    )
    task = replace(FILMS, title=HOSTILE, source=HOSTILE)
    history: dict[str, Any] = {"history": HOSTILE, "control": "equal-cost"}
    rows = [row("rag", 0.4, failures={HOSTILE: 2}, **history), row("persona-agent", 0.9, **history), row("pag", 0.5)]
    made = written(about, rows, {"lamp-2m": task})
    tokens = GFM.parse(made)
    kinds = {token.type for top in tokens for token in (top, *(top.children or []))}
    assert not kinds & {"html_block", "html_inline", "link_open", "image", "em_open", "s_open"}
    # The same parts in the same order as without such data.
    tame = tables([replace(one, failures={"late": 2} if one.failures else {}) for one in rows], {"lamp-2m": FILMS})
    calm = report(About("compare", ("x",), remarks={"rag": ["a"]}, settings={"a": "b"}, spent=about.spent), tame)
    assert [h.split()[0] for h in headings(made)] == [h.split()[0] for h in headings(calm)]
    shapes = [[[len(line) for line in one] for one in read_tables(text)] for text in (made, calm)]
    assert shapes[0] == shapes[1]
    assert [line["reason"] for line in table_with(made, "reason")] == [" ".join(HOSTILE.split())]
    assert any(token.type == "fence" and HOSTILE in token.content for token in tokens)


# --- the whole ---


def test_sections_in_their_order() -> None:
    about = replace(ABOUT, notes=["A note."], settings={"users": "20"})
    assert headings(written(about)) == [
        f"h1 Methods compared (the paper's Tables 2 and 4): {LM}",
        "h2 LaMP-2M, movie tagging",
        "h3 What can be told apart",
        "h3 Answers and cost",
        "h2 Failures",
        "h2 Costs",
        "h2 Remarks",
        "h2 How these figures are made",
        "h2 Settings and versions",
    ]


@pytest.mark.parametrize(
    ("script", "title"),
    [
        ("ablate", "Ablation (the paper's Table 3)"),
        ("cold_start", "Cold start (the paper's Table 6)"),
        ("scale", "Test-time scaling (the paper's section 3.5)"),
        ("of_my_own", "of_my_own"),
    ],
)
def test_each_script_has_its_title(script: str, title: str) -> None:
    assert headings(written(replace(ABOUT, script=script)))[0] == f"h1 {title}: {LM}"


def test_the_opening_tells_lm_size_failures_cost_and_command() -> None:
    spent = [Run(("a",), 1_000, 20_000, 300, 12.4), Run(("b",), 200, 1, 2, 3.3)]
    rows = [*ROWS[:2], row("pag", 0.5, failures={"late": 3}), row("persona-agent", 0.9, waiting=2)]
    opening = written(replace(ABOUT, spent=spent), rows).split("\n## ")[0]
    for said in (
        f"Prompt, RAG, PAG and PersonaAgent (4 rows), answered by the LM `{LM}`.",
        "No answer is a replay.",
        "There is no control: each user is served with their own data.",
        "**3 of 240 questions failed**, and **2 wait for another run**.",
        "Spent: 1,200 LM calls, 20,001 prompt and 302 completion tokens, 16 seconds in 2 runs.",
        "- LaMP-2M, movie tagging: 20 users, 60 queries, 15 possible answers, data: `data/films`; ",
        " of 6 pairs of rows can be told apart.",
        "```\npython experiments/compare.py --users 20\n```",
    ):
        assert said in opening
    assert "offline" not in opening


def test_the_command_can_be_pasted_into_a_shell() -> None:
    assert "\npython x.py --data 'my films' '*'\n" in written(
        replace(ABOUT, command=("python", "x.py", "--data", "my films", "*"))
    )


def test_where_all_went_well_it_says_so() -> None:
    made = written()
    assert "None of 240 questions failed, and none is waiting." in made
    assert "## Failures\n\nNo question failed.\n" in made
    assert "waiting" not in table_headings(made, "answered")
    assert not any("worst" in heading for heading in table_headings(made, "answered"))
    assert "## Remarks" not in made and "## Settings" not in made


def table_headings(text: str, heading: str) -> list[str]:
    return list(table_with(text, heading)[0])


def test_the_offline_reader_is_never_taken_for_a_language_model() -> None:
    rows = [replace(one, cell=replace(one.cell, lm="offline")) for one in ROWS]
    made = written(replace(ABOUT, lms={"offline": "offline reader (not an LLM)"}), rows)
    assert headings(made)[0].endswith(": offline reader (not an LLM)")
    assert "answered by the offline reader (not an LLM)." in made
    assert "**The offline reader is no language model:" in made
    assert "do not compare with the paper's.**" in made
    assert "replay" not in made
    heading = next(one for one in table_headings(made, "told apart") if one.startswith("paper"))
    assert heading == f"{PAPER}, not comparable"


def test_beside_an_lm_only_the_offline_readers_table_is_not_comparable() -> None:
    rows = [*ROWS, *(replace(one, cell=replace(one.cell, lm="offline")) for one in ROWS)]
    made = written(replace(ABOUT, lms={"offline": "offline reader (not an LLM)"}), rows)
    assert f"answered by the LMs `{LM}` and offline reader (not an LLM)." in made
    assert [h for h in headings(made) if h.startswith("h2 LaMP")] == [
        f"h2 LaMP-2M, movie tagging, {LM}",
        "h2 LaMP-2M, movie tagging, offline reader (not an LLM)",
    ]
    papers = [cell for one in read_tables(made) for cell in one[0] if cell.startswith("paper")]
    assert [paper.endswith(", not comparable") for paper in papers] == [False, True]


def test_a_replay_says_of_what() -> None:
    made = written(replace(ABOUT, replayed_from="runs/calls.jsonl"))
    assert "No LM was asked: the answers are replayed from `runs/calls.jsonl`." in made
    assert "No answer is a replay" not in made


def test_a_control_is_named_with_what_it_does() -> None:
    swapped = [replace(one, values={**one.values, "control": "swap"}) for one in ROWS]
    made = written(ABOUT, swapped)
    assert "Control: `swap` (each user is served with another user's history, profile and persona)." in made
    assert "control" not in table_headings(made, "told apart")
    assert "paper" not in " ".join(table_headings(made, "told apart"))  # the paper has no control
    some = [*ROWS, row("rag", 0.5, control="equal-cost")]
    made = written(replace(ABOUT, controls={"equal-cost": "as many LM calls as PersonaAgent has"}), some)
    assert "Control, in rows that say so: `equal-cost` (as many LM calls as PersonaAgent has)." in made
    assert [line["control"] for line in table_with(made, "told apart")] == ["none"] * 4 + ["equal-cost"]


def test_without_rows_it_says_so() -> None:
    made = written(replace(ABOUT, spent=[Run(("x",), 1, 2, 3, 4.0)]), [])
    assert headings(made) == ["h1 Methods compared (the paper's Tables 2 and 4)", "h2 Costs"]
    assert "No row has a result yet." in made
    assert "python experiments/compare.py" in made


# --- a table ---


def test_scores_are_shown_with_intervals_and_the_papers_beside() -> None:
    made = written()
    lines = table_with(made, "told apart")
    interval = clustered_mean(list(ROWS[3].scores.values()), [user for user, _ in ROWS[3].scores])
    last = lines[3]
    assert list(last) == ["#", "method", "n", "E", "K", ACCURACY, F1, PAPER, "told apart from"]
    assert [last[name] for name in ("#", "method", "n", "E", "K")] == ["4", "PersonaAgent", "3", "1", "4"]
    assert last[ACCURACY] == f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    assert [line[PAPER] for line in lines] == ["0.387 / 0.302", "0.427 / 0.386", "0.430 / 0.387", "0.513 / 0.424"]
    assert "The paper's column: accuracy / macro-F1 of its Table 2" in made


def test_who_is_told_apart_from_whom_is_named_by_row() -> None:
    lines = table_with(written(), "told apart")
    assert [line["told apart from"] for line in lines] == ["< 2-4", "> 1; < 4", "> 1; < 4", "> 1-3"]
    two = table_with(written(rows=ROWS[:2] + ROWS[3:]), "told apart")
    assert [line["told apart from"] for line in two] == ["< 2, 3", "> 1; < 3", "> 1, 2"]
    alike = table_with(written(rows=[row("rag", 0.5), row("pag", 0.52)]), "told apart")
    assert [line["told apart from"] for line in alike] == ["none", "none"]


def test_off_the_papers_setting_there_is_no_paper() -> None:
    other = row("persona-agent", 0.5, axes=(5, 1, 4))
    assert "paper, Claude" not in written(rows=[other, row("react-wiki", 0.3)])
    some = table_with(written(rows=[*ROWS, other]), "told apart")
    assert [line[PAPER] for line in some][3:] == ["0.513 / 0.424", "-"]
    unprofiled = [replace(one, values={**one.values, "profile": "off"}) for one in ROWS]
    assert "paper, Claude" not in written(rows=unprofiled)


def test_of_an_error_less_is_better_and_it_is_said() -> None:
    made = written(rows=[row("rag", 0.9, "lamp-3"), row("persona-agent", 0.1, "lamp-3")])
    lines = table_with(made, "told apart")
    assert "MAE, lower is better [95 % interval]" in lines[0]
    assert "RMSE, lower is better [95 % interval]" in lines[0]
    assert [line["told apart from"] for line in lines] == ["< 2", "> 1"]
    [pair] = table_with(made, "verdict")
    assert (pair["against"], pair["verdict"]) == ("1 RAG", "separable, better")
    assert not pair[DIFFERENCE].startswith("-")
    assert "A difference is in MAE (turned round: less is better)" in made
    assert "The paper's column: MAE / RMSE of its Table 2" in made


def test_one_method_has_no_column_and_rows_go_by_their_setting() -> None:
    rows = [row("persona-agent", 0.2 + n / 10, axes=(n, 1, 4)) for n in (0, 1, 3, 5)]
    made = written(replace(ABOUT, script="scale"), rows)
    assert "method" not in table_headings(made, "told apart")
    others = ["1 (n=0, E=0, K=4)", "2 (n=1, E=1, K=4)", "4 (n=5, E=1, K=4)"]
    assert [line["against"] for line in table_with(made, "verdict")] == others
    assert "Row 3 (n=3, E=1, K=4), against the others." in made
    assert table_with(made, "answered")[0]["row"] == "1 (n=0, E=0, K=4)"
    centred = written(replace(ABOUT, script="scale", centre=(5, 1, 4)), rows)
    assert "Row 4 (n=5, E=1, K=4), against the others." in centred


def test_histories_have_a_column_and_a_reference_each() -> None:
    rows = [row(m, c + int(h) / 100, history=h) for h in ("1", "10") for m, c in (("pag", 0.2), ("persona-agent", 0.8))]
    made = written(replace(ABOUT, script="cold_start"), rows)
    lines = table_with(made, "told apart")
    assert [line["history"] for line in lines] == ["1", "1", "10", "10"]
    heading = "paper, Claude-3.5 Sonnet, number of queries not stated, one run"
    assert [line[heading] for line in lines] == ["-", "-", "0.392 / 0.328", "0.476 / 0.407"]
    assert [(line["row"], line["against"]) for line in table_with(made, "verdict")] == [
        ("2 PersonaAgent (history 1)", "1 PAG (history 1)"),
        ("4 PersonaAgent (history 10)", "3 PAG (history 10)"),
    ]
    assert "of 2 pairs of rows can be told apart" in made
    assert "the row named first is better" in made


def test_seeds_have_a_column_and_a_word_on_what_is_done_with_them() -> None:
    rows = [row(method, chance, seed=seed) for method, chance in (("rag", 0.3), ("pag", 0.8)) for seed in (0, 1, 2, 5)]
    made = written(rows=rows)
    lines = table_with(made, "told apart")
    assert [line["seeds"] for line in lines] == ["0-2, 5", "0-2, 5"]
    assert "Of several seeds" in made
    [answers, _] = table_with(made, "answered")
    assert (answers["answered"], answers["unparsed"]) == ("240 / 240", "4")
    assert "Of several seeds" not in written()


def test_answers_and_cost() -> None:
    rows = [*ROWS[:3], row("persona-agent", 0.9, waiting=2, failures={"late": 1})]
    lines = table_with(written(rows=rows), "answered")
    assert lines[3] == {
        "row": "4 PersonaAgent",
        "answered": "57 / 60",
        "unparsed": "1",
        "failed": "1",
        "waiting": "2",
        "accuracy, failed as worst": "0.123",
        "LM calls: learning + alignment + answers": "20 + 1,000 + 180 = 1,200",
        "tokens: prompt + completion": "123,456 + 7,890",
    }


def test_a_row_without_an_answer_is_a_row_of_dashes() -> None:
    rows = [*ROWS[:2], row("persona-agent", 0.9, waiting=60)]
    last = table_with(written(rows=rows), "told apart")[2]
    assert [last[name] for name in (ACCURACY, F1, "told apart from")] == ["-", "-", "none"]


def test_remarks_are_marked_where_they_matter() -> None:
    remarks = {"rag": ["It has `recall` only.", "No more."], "icl": ["Not here."]}
    about = replace(ABOUT, remarks=remarks, notes=["A note."])
    made = written(about)
    assert [line["method"] for line in table_with(made, "told apart")] == ["Prompt", "RAG†", "PAG", "PersonaAgent"]
    assert "†: see Remarks." in made
    assert "## Remarks\n\n- RAG: It has `recall` only. No more.\n- A note.\n" in made
    assert "†" not in written() + written(about, ROWS[1:2])


# --- verdicts ---


def test_the_reference_is_held_against_each_other_row() -> None:
    made = written()
    found = tables(ROWS, TASKS)[0].against(3)
    lines = table_with(made, "verdict")
    assert [line["against"] for line in lines] == ["1 Prompt", "2 RAG", "3 PAG"]
    for line, (_, verdict) in zip(lines, found, strict=True):
        one = verdict.difference.interval
        assert line[DIFFERENCE] == f"{one.estimate:.3f} [{one.low:.3f}, {min(1, one.high):.3f}]"
        assert line["queries"] == "60"
        assert line[NEEDED] == f"{verdict.users_needed} / {verdict.users_needed_in_table}"
    assert [line["p"] for line in lines] == ["<.001", "<.001", f"{found[2][1].difference.test.p:.3f}"]
    assert {line["verdict"] for line in lines} == {"separable, better"}
    assert "5 of 6 pairs of rows can be told apart by accuracy at .05 after Holm's correction" in made
    assert "; 1 cannot be told from noise. All are in `pairs.csv`." in made
    assert "The nearest pair" not in made  # nothing of the reference's is left open


def test_of_what_is_not_separable_the_power_is_said_in_words() -> None:
    rows = [row("rag", 0.4), row("persona-agent", 0.5), row("pag", 0.47)]
    made = written(rows=rows)
    found = tables(rows, TASKS)[0].against(1)
    for line, (_, verdict) in zip(table_with(made, "verdict"), found, strict=True):
        assert line["verdict"] == "not separable from noise"
        estimate, low, high = verdict.difference.interval
        assert low < 0
        assert line[DIFFERENCE] == f"{estimate:.3f} [{low:.3f}, {high:.3f}]"
    alone, together, other = min((v.users_needed or 0, v.users_needed_in_table or 0, index) for index, v in found)
    assert 0 < alone < together
    assert (
        f"The nearest pair: with 80 % power at .05, about {alone:,} users would separate row 2 from row {other + 1} "
        f"(this pair alone), about {together:,} within this table."
    ) in made


def test_where_two_rows_are_the_same_no_number_of_users_is_named() -> None:
    made = written(rows=[row("rag", 0.5), row("persona-agent", 0.5)])
    [line] = table_with(made, "verdict")
    assert line[NEEDED] == "- / -"
    assert line[DIFFERENCE] == "0.000 [-]"
    assert (line["p"], line["verdict"]) == ("1.000", "not separable from noise")
    assert "`-`: none up to 1,000,000" in made and "The nearest pair" not in made


def test_few_users_are_warned_of() -> None:
    few = [row(method, chance, users=8) for method, chance in (("prompt", 0.1), ("rag", 0.5), ("persona-agent", 0.9))]
    made = written(rows=few)
    assert "**With 8 users, fewer than 10, the intervals are not to be relied on.**" in made
    assert "whatever the scores" not in made  # 3 pairs take 7 users
    fewer = written(rows=[replace(one, scores={k: v for k, v in one.scores.items() if k[0] < "u6"}) for one in few])
    assert (
        "**With 6 users no pair of this table can be separable, whatever the scores: among 3 pairs that takes 7 users "
        "or more.**"
    ) in fewer
    enough = [row(one.cell.method, 0.5, users=7) for one in few]
    assert "whatever the scores" not in written(rows=enough)
    assert "not to be relied on" not in written()


def test_more_than_a_thousand_pairs_are_too_many_for_drawn_flips() -> None:
    rows = [row("persona-agent", n / 50, axes=(n, 1, 4), users=18, queries=1) for n in range(46)]
    made = written(replace(ABOUT, script="scale"), rows)
    assert "**Among 1,035 pairs none in which more than 16 users differ can be separable, whatever the scores" in made


def test_one_user_gives_no_verdict() -> None:
    made = written(rows=[row("rag", 0.3, users=1), row("persona-agent", 0.9, users=1)])
    assert "no pair of rows can be judged." in made
    assert "**Of one user there is no interval.**" in made
    assert "Nothing is judged: that takes two rows of one history with answers to questions of the same" in made
    assert not any("told apart from" in lines[0] or "verdict" in lines[0] for lines in read_tables(made))


def test_one_row_gives_no_verdict() -> None:
    assert "Nothing is judged" in written(rows=ROWS[:1])


# --- failures, costs, settings ---


def test_failures_are_counted_by_row_and_reason() -> None:
    reasons = {f"reason {number}": 13 - number for number in range(13)}
    rows = [row("rag", 0.4, failures={"late": 1}), row("pag", 0.5, users=40, failures=reasons)]
    made = written(rows=rows)
    lines = table_with(made, "reason")
    assert lines[0] == {"row": "1 RAG", "reason": "late", "questions": "1"}
    assert [line["questions"] for line in lines[1:]] == [*map(str, range(13, 3, -1)), "6"]
    assert lines[-1]["reason"] == "3 other reasons"


def test_with_several_tables_a_failure_names_its_own() -> None:
    made = written(rows=[row("rag", 0.4, failures={"late": 1}), row("rag", 0.4, "lamp-3", failures={"busy": 2})])
    assert [(line["table"], line["reason"]) for line in table_with(made, "reason")] == [
        ("LaMP-2M, movie tagging", "late"),
        ("LaMP-3, product rating", "busy"),
    ]


def test_a_long_reason_is_cut() -> None:
    [line] = table_with(written(rows=[row("rag", 0.4, failures={"x" * 1_000: 1})]), "reason")
    assert line["reason"] == "x" * 299 + "…"


def test_what_waits_is_told_from_what_failed() -> None:
    made = written(rows=[row("rag", 0.4, waiting=3), row("pag", 0.4)])
    assert "None of 120 questions failed, and **3 wait for another run**." in made
    assert (
        "## Failures\n\nNo question failed.\n\n3 questions left for another run: the same command goes on there.\n"
        in made
    )


def test_costs_are_those_of_each_run_and_together() -> None:
    spent = [Run(("x.py", "--lm", "a b"), 1_000, 20_000, 300, 12.4), Run(("x.py",), 200, 1, 2, 1_003.3)]
    lines = table_with(written(replace(ABOUT, spent=spent)), "run")
    assert [list(line.values()) for line in lines] == [
        ["1", "1,000", "20,000", "300", "12", "x.py --lm 'a b'"],
        ["2", "200", "1", "2", "1,003", "x.py"],
        ["all", "1,200", "20,001", "302", "1,016", ""],
    ]
    assert len(table_with(written(replace(ABOUT, spent=spent[:1])), "run")) == 1
    assert "## Costs\n\nNo run is on record.\n" in written()


def test_settings_and_versions_are_a_compact_list() -> None:
    made = written(replace(ABOUT, settings={"users": "20", "data_seed": "0"}, versions={"dspy": "3.4.1"}))
    assert made.endswith(
        "## Settings and versions\n\n- Settings: `users=20`, `data_seed=0`\n- Versions: `dspy 3.4.1`\n"
    )


def test_numbers_that_are_not_finite_are_shown_as_such() -> None:
    one = row("rag", 0.4, "lamp-3")
    wild = replace(one, scores={**one.scores, ("u0", "q0"): math.inf}, second=Interval(math.inf, math.nan, math.nan))
    [line] = table_with(written(rows=[wild]), "MAE")
    assert line["MAE, lower is better [95 % interval]"] == "inf"
    assert line["RMSE, lower is better [95 % interval]"] == "inf"
