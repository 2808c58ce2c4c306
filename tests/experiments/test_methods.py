"""Who has what: the prompts of every method of a study, held against DESIGN.md's table of methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from marked_users import PAGE, TOPIC, Mark, Sent, Teller, done, logs_of, marks, sent, write_logs
from servers.wikipedia import WikipediaServer

from personaagent.experiments.harness.methods.registry import GROUPS, METHODS
from personaagent.experiments.harness.settings import StudyOptions

Make = Callable[..., StudyOptions]
SentBy = dict[str, Sent]
"""For Ann, by method."""

# What each may show of a user when a question is answered, and how it is told from everything else.
SIGNS = {
    "persona": re.compile("<persona>"),
    "aligned": re.compile("REWRITTEN"),
    "profile": re.compile("PROFILE"),
    "profile as input": re.compile(r"\[\[ ## profile ## \]\]\nPROFILE"),
    "notes": re.compile("NOTE"),
    "records": re.compile(r"«What of ann-q\d\?» -> \"It is ann-a\d\.\""),
    "others": re.compile(r"(?:bob|cat)-[qa]\d"),
    "recall tool": re.compile(r"\brecall\b"),
    "wikipedia tool": re.compile(r"\bwikipedia\b"),
    "page": re.compile("WIKIPAGE"),
}
WIKIPEDIA = {"wikipedia tool", "page"}
RECALL = {"recall tool", "records"}
TABLE: dict[str, set[str]] = {
    "prompt": set(),
    "icl": {"others"},
    "rag": {"records"},
    "pag": {"records", "profile", "profile as input"},
    "react": {*RECALL, *WIKIPEDIA},
    "react-wiki": WIKIPEDIA,
    "memory-bank": {"notes", "records", *WIKIPEDIA},
    "persona-agent": {"persona", "aligned", "profile", *RECALL, *WIKIPEDIA},
    "no-alignment": {"persona", "profile", *RECALL, *WIKIPEDIA},
    "no-persona": {"profile", "profile as input", *RECALL, *WIKIPEDIA},
    "no-memory": {"persona", "aligned", *WIKIPEDIA},
    "no-action": {"persona", "aligned", "profile"},
    "episodic-only": {"persona", "aligned", *RECALL, *WIKIPEDIA},
    "semantic-only": {"persona", "aligned", "profile", *WIKIPEDIA},
    # Controls of persona-agent, without alignment.
    "more-memories": {"persona", "profile", *RECALL, *WIKIPEDIA},
    "self-consistency": {"persona", "profile", *RECALL, *WIKIPEDIA},
}
LEARNS = {name: "profile" for name, shown in TABLE.items() if "profile" in shown} | {"memory-bank": "notes"}
ALIGNED = [name for name, shown in TABLE.items() if "aligned" in shown]

CENTRE = ((2,), (1,), (2,))
HISTORY, ASKED = range(6), range(6, 8)
"""Of Ann's nine rows; the last is a question that this study does not ask."""


def shown(prompts: list[str]) -> set[str]:
    return {sign for sign, pattern in SIGNS.items() if any(pattern.search(prompt) for prompt in prompts)}


def question(prompt: str) -> str:
    """Of a step or an answer; "" of other prompts."""
    return field(prompt, "query") if "1. `query`" in prompt else ""


def field(prompt: str, name: str) -> str:
    return prompt.rpartition(f"[[ ## {name} ## ]]\n")[2].partition("\n")[0]


def of(user: str, numbers: Iterable[int]) -> set[Mark]:
    """What is asked and answered."""
    return {Mark(user, kind, number) for kind in "qa" for number in numbers}


@pytest.fixture
def study_all(options: Make, engine: Any, tmp_path: Path) -> Callable[..., SentBy]:
    """Runs one study of all methods, with the two controls of equal cost."""

    def run(**changes: Any) -> SentBy:
        engine.script = teller = Teller()
        data = write_logs(tmp_path / "logs.jsonl", {"ann": 9, "bob": 9, "cat": 6})
        settings = {"methods": GROUPS["all"], "control": "equal-cost", "axes": CENTRE}
        found = {}
        with done(logs_of(options, data, **{**settings, **changes})) as study:
            for cell in study.all_cells():
                [ann] = [subject for subject in study.subjects(cell) if subject.user_id == "ann"]
                found[cell.method] = sent(study, cell, ann, teller)
        return found

    return run


@pytest.fixture(scope="module")
def kept() -> SentBy:
    return {}


@pytest.fixture
def sent_by(study_all: Callable[..., SentBy], kept: SentBy, monkeypatch: pytest.MonkeyPatch) -> SentBy:
    """With Wikipedia; run once."""
    if not kept:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with WikipediaServer() as wikipedia:
            wikipedia.pages[TOPIC] = PAGE
            kept.update(study_all(wikipedia=wikipedia.url))
    return kept


def test_the_table_names_every_method() -> None:
    assert set(TABLE) == set(METHODS)


def test_answers_show_what_the_table_says_and_nothing_else(sent_by: SentBy) -> None:
    assert {name: shown(prompts.answers) for name, prompts in sent_by.items()} == TABLE


def test_what_a_method_has_not_is_not_behind_what_it_has(sent_by: SentBy) -> None:
    """Neither has an alignment seen it, or a profile: the LM passes on what it has read."""
    for name, prompts in sent_by.items():
        hidden = {"persona", "profile", "notes", "page", "others", "recall tool", "wikipedia tool"} - TABLE[name]
        assert not shown(prompts.all) & hidden, name


def test_who_has_a_profile_or_notes_learns_them_of_the_whole_history_and_nobody_else_does(sent_by: SentBy) -> None:
    for name, prompts in sent_by.items():
        # One profile; of three days two notes each, and two overall.
        assert len(prompts.learning) == {"profile": 1, "notes": 8}.get(LEARNS.get(name, ""), 0), name
        if name in LEARNS:
            assert set().union(*map(marks, prompts.learning)) == of("ann", HISTORY), name


def test_an_alignment_rehearses_the_last_n_with_what_the_method_has(sent_by: SentBy) -> None:
    assert [name for name, prompts in sent_by.items() if prompts.alignment] == ALIGNED
    for name in ALIGNED:
        rollouts = [prompt for prompt in sent_by[name].alignment if question(prompt)]
        assert {question(prompt) for prompt in rollouts} == {"What of ann-q4?", "What of ann-q5?"}, name
        assert shown(rollouts) == TABLE[name] - {"aligned"}, name
        # The critic sees the true answers. Those of no-memory, too: its batch is the harness's.
        gradients = [prompt for prompt in sent_by[name].alignment if "`expected_answer`" in prompt]
        assert [field(prompt, "expected_answer") for prompt in gradients] == ["It is ann-a4.", "It is ann-a5."], name
        if "profile" not in TABLE[name]:  # which has read the batch's answers, as the paper's has
            for prompt in rollouts:
                rehearsed = int(question(prompt)[-2])
                assert marks(prompt) <= of("ann", range(rehearsed)) | {Mark("ann", "q", rehearsed)}, name


def test_nothing_of_a_question_asked_or_not_nor_of_another_user_is_in_any_prompt(sent_by: SentBy) -> None:
    for name, prompts in sent_by.items():
        known = of("bob", range(6)) | of("cat", range(4)) if name == "icl" else of("ann", HISTORY)
        for prompt in [*prompts.learning, *prompts.alignment]:
            assert marks(prompt) <= known, name
        for prompt in prompts.answers:
            assert marks(prompt) <= known | marks(question(prompt)), name
        assert {question(prompt) for prompt in prompts.answers} == {f"What of ann-q{number}?" for number in ASKED}


def test_no_two_methods_send_the_same(sent_by: SentBy) -> None:
    """Of self-consistency the prompts are those of no-alignment, but more of them."""
    assert len({tuple(sorted(prompts.all)) for prompts in sent_by.values()}) == len(TABLE)
    assert set(sent_by["self-consistency"].all) == set(sent_by["no-alignment"].all)
    answers = {name: len(sent_by[name].answers) for name in ("no-alignment", "self-consistency", "persona-agent")}
    # Alignment's 2 * (4 + 1) + 1 calls buy 3 more answers of 4.
    assert answers == {"no-alignment": 8, "self-consistency": 8 + 12, "persona-agent": 8}
    # And K = 2 * (8 + 11) / 8, rounded up.
    records = {name: sent_by[name].answers[-1].count("» -> ") for name in ("no-alignment", "more-memories")}
    assert records == {"no-alignment": 2, "more-memories": 5}


def test_without_wikipedia_two_rows_are_twins_and_the_report_and_the_terminal_say_so(
    study_all: Callable[..., SentBy], options: Make, run_study: Any, tmp_path: Path, capsys: Any
) -> None:
    found = study_all()
    twins = {"react-wiki": "prompt", "semantic-only": "no-action"}
    for name, twin in twins.items():
        assert sorted(found[name].all) == sorted(found[twin].all)
    assert len({tuple(sorted(prompts.all)) for name, prompts in found.items() if name not in twins}) == 14
    assert not any(shown(prompts.all) & WIKIPEDIA for prompts in found.values())
    methods = ("prompt", "react", "react-wiki", "no-action", "semantic-only")
    assert run_study(logs_of(options, tmp_path / "logs.jsonl", methods=methods, axes=CENTRE)) == 0
    printed, report = capsys.readouterr().out, (options().out / "report.md").read_text()
    for name, twin in twins.items():
        said = f"{name}: Wikipedia, its only tool, is off: it sends what `{twin}` sends."
        assert f"note: {said}" in printed and said in report
    assert "note: react:" not in printed and "- react: Wikipedia" not in report


def test_icl_with_nobody_else_in_the_data_says_that_it_shows_none(
    options: Make, run_study: Any, users_folder: Any, capsys: Any
) -> None:
    said = "icl: There is no other user to take examples from: it shows none."
    assert run_study(options(methods=("icl",))) == 0
    assert said not in capsys.readouterr().out
    users_folder({"ann": (6, 2)}, "alone")
    alone = options().out.parent / "alone"
    assert run_study(options(methods=("icl",), data=alone, out=alone / "out")) == 0
    assert said in capsys.readouterr().out and said in (alone / "out" / "report.md").read_text()


def test_of_an_lm_that_does_not_sample_self_consistency_says_so(options: Make, run_study: Any, capsys: Any) -> None:
    for lm in ("scripted/one", "offline"):
        assert run_study(options(axes=CENTRE, lm=lm, control="equal-cost", out=options().out / lm)) == 0
        said = "The offline reader does not sample: all of an answer's are the same." in capsys.readouterr().out
        assert said == (lm == "offline")
