"""The methods by name: groups, titles, order, and the cells that a point of the axes means."""

from __future__ import annotations

import re

import pytest

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.methods.registry import (
    EQUAL_COST,
    GROUPS,
    METHODS,
    PERSONA_AGENT,
    in_order,
    parse_methods,
)
from personaagent.programs.baselines import BASELINES
from personaagent.programs.errors import InputError

POINT = Cell("lamp-2m", PERSONA_AGENT, "some/lm", 3, 2, 4, "10", 7)

# Of each method, which of n and E, and K, are axes.
AXES = {
    "prompt": "",
    "icl": "",
    "rag": "K",
    "pag": "K",
    "react": "K",
    "react-wiki": "",
    "memory-bank": "K",
    "persona-agent": "nEK",
    "no-alignment": "K",
    "no-persona": "K",
    "no-memory": "nE",
    "no-action": "nE",
    "episodic-only": "nEK",
    "semantic-only": "nE",
    "more-memories": "nEK",
    "self-consistency": "nEK",
}


def test_the_groups() -> None:
    assert list(METHODS) == list(AXES)
    assert EQUAL_COST == ("more-memories", "self-consistency")
    assert GROUPS["all"] == tuple(AXES)[:14]
    assert GROUPS["paper"] == ("prompt", "icl", "rag", "pag", "react", "memory-bank", "persona-agent")
    table_3 = ("persona-agent", "no-alignment", "no-persona", "no-memory", "no-action")
    assert GROUPS["ablation"] == (*table_3, "episodic-only", "semantic-only")
    assert {*BASELINES} <= {*GROUPS["all"]}


def test_each_has_a_title_of_its_own_on_one_line() -> None:
    titles = [entry.title for entry in METHODS.values()]
    assert len(set(titles)) == len(titles) and all(title.strip() and "\n" not in title for title in titles)
    assert all(name == entry.name for name, entry in METHODS.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_point_means_one_cell_of_a_method(name: str) -> None:
    n, e = (3, 2) if "n" in AXES[name] else (0, 0)
    cell = METHODS[name].cell(POINT)
    assert cell == Cell("lamp-2m", name, "some/lm", n, e, 4 if "K" in AXES[name] else 0, "10", 7)
    assert METHODS[name].cell(cell) == cell


def test_without_alignment_there_is_one_cell_whatever_n_and_e() -> None:
    points = [Cell("lamp-2m", PERSONA_AGENT, "some/lm", n, e, 4) for n, e in ((0, 0), (0, 5), (3, 0), (3, 1), (5, 2))]
    counts = {name: len({entry.cell(point) for point in points}) for name, entry in METHODS.items()}
    assert counts == {name: 3 if "n" in axes else 1 for name, axes in AXES.items()}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("rag", ("rag",)),
        (" rag , persona-agent,rag", ("rag", "persona-agent")),
        ("persona-agent,rag", ("persona-agent", "rag")),
        ("all", GROUPS["all"]),
        ("react-wiki,paper,rag", ("react-wiki", *GROUPS["paper"])),
        ("paper,ablation", tuple(dict.fromkeys((*GROUPS["paper"], *GROUPS["ablation"])))),
    ],
)
def test_names_and_groups_each_once_in_the_order_given(text: str, names: tuple[str, ...]) -> None:
    assert parse_methods(text) == names


@pytest.mark.parametrize(
    "text", ["", "rag,", "RAG", "persona", "more-memories", "self-consistency", "table3", "rag;pag"]
)
def test_anything_else_is_refused_with_all_there_are(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_methods(text)
    said = str(caught.value)
    assert re.match(r"--methods: unknown method '[^',]*'; the methods are: prompt, icl, ", said)
    assert said.endswith("semantic-only; or one of the groups all, paper, ablation")
    assert "self-consistency; or" not in said


def test_tables_begin_with_what_is_simplest() -> None:
    assert sorted(METHODS, key=in_order) == list(AXES)
    assert in_order("prompt") == 0 < in_order("memory-bank") < in_order("persona-agent") < in_order("no-alignment")
