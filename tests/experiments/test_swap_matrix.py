"""`--control matrix`: every user's questions under every user's persona and memory, and what that costs in score."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dspy import lm15

from personaagent.datasets.lamp.tasks import LAMP_2M
from personaagent.experiments.harness import study as study_module
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.programs.errors import InputError
from personaagent.programs.lm.make import make_lm
from personaagent.programs.memory.encoder import load_encoder

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]

USERS = ("ann", "bob", "cleo")
ONE: dict[str, Any] = {"axes": ((2,), (1,), (3,)), "script": "compare"}
MATRIX: dict[str, Any] = {**ONE, "control": "matrix"}
SWAPPED = ("swap_matrix.csv", "swap_predictions.jsonl")
OPPU = Path(__file__).resolve().parents[3] / "shared" / "data" / "oppu"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def failing(engine: Any, when: Callable[[Any], bool]) -> Callable[[], None]:
    """The engine refuses where `when` holds; what is returned heals it."""
    usual = engine.script

    def script(call: Any) -> Any:
        if when(call):
            raise lm15.InvalidRequestError("out of order")
        return usual(call)

    def heal() -> None:
        engine.script = usual

    engine.script = script
    return heal


# -- files ----------------------------------------------------------------------------------------


def test_there_is_a_line_for_each_two_users_and_one_for_each_sample(
    run_study: Run, options: Make, read_jsonl: Any
) -> None:
    assert run_study(options(**MATRIX)) == 0
    lines = rows_of(options().out / "swap_matrix.csv")
    assert [(line["persona_of"], line["user_id"]) for line in lines] == list(product(USERS, USERS))
    samples = read_jsonl(options().out / "swap_predictions.jsonl")
    order = [(user, query, by) for user in USERS for query in ("q0", "q1") for by in USERS]
    assert [(s["user_id"], s["id"].rpartition("-")[2], s["persona_of"]) for s in samples] == order
    for line in lines:
        own = [s for s in samples if (s["persona_of"], s["user_id"]) == (line["persona_of"], line["user_id"])]
        assert (line["queries"], line["answered"], line["failed"]) == ("2", "2", "0")
        assert float(line["score"]) == sum(s["prediction"] == s["gold"] for s in own) / 2
    assert {line["control"] for line in lines} == {s["control"] for s in samples} == {"matrix"}
    assert {(line["method"], line["batch_size"], line["memories"]) for line in lines} == {("persona-agent", "2", "3")}


def test_each_is_served_by_the_memory_and_the_persona_of_who_is_named(
    run_study: Run, options: Make, engine: Any, read_jsonl: Any
) -> None:
    assert run_study(options(**MATRIX)) == 0
    for sample in read_jsonl(options().out / "swap_predictions.jsonl"):
        assert len(sample["retrieved"]) == 3 and sample["persona_version"] == 1
        assert all(one.startswith(f"{sample['persona_of']}-") for one in sample["retrieved"])
    personas = {p["user_id"]: p["text"] for p in read_jsonl(options().out / "personas.jsonl") if p["version"] == 1}
    for user, by in product(USERS, USERS):
        served = [
            call
            for call in engine.calls
            if call.role == "answer" and f"{user}'s new film" in call.user and personas[by] in call.system
        ]
        assert len(served) == 2, (user, by)


def test_the_diagonal_is_what_the_cell_itself_predicts(run_study: Run, options: Make, read_jsonl: Any) -> None:
    assert run_study(options(**MATRIX)) == 0
    diagonal = []
    for sample in read_jsonl(options().out / "swap_predictions.jsonl"):
        if sample.pop("persona_of") == sample["user_id"]:
            diagonal.append({**sample, "control": "none"})
    assert diagonal == read_jsonl(options().out / "predictions.jsonl")
    users = {row["user_id"]: row for row in rows_of(options().out / "users.csv")}
    for line in rows_of(options().out / "swap_matrix.csv"):
        if line["user_id"] == line["persona_of"]:
            assert line["score"] == users[line["user_id"]]["score"]


def test_the_figures_in_words_are_those_of_the_files(
    run_study: Run, options: Make, read_jsonl: Any, capsys: Any
) -> None:
    assert run_study(options(**MATRIX)) == 0
    samples = read_jsonl(options().out / "swap_predictions.jsonl")
    right = [(s["user_id"] == s["persona_of"], s["prediction"] == s["gold"]) for s in samples]
    own, others = (
        sum(hit for is_own, hit in right if is_own is wanted) / sum(is_own is wanted for is_own, _ in right)
        for wanted in (True, False)
    )
    words = f"accuracy {own:.3f} by the user's own persona and memory, {others:.3f} by others', "
    words += f"difference {own - others:.3f}"
    for said in (capsys.readouterr().out, (options().out / "report.md").read_text()):
        assert "Swap matrix of persona-agent on lamp-2m (n=2, E=1, K=3, LM: scripted/one)" in said
        assert words in said and "over 3 users and 6 queries. Each pair is in swap_matrix.csv." in said


# -- beside other runs ----------------------------------------------------------------------------


def test_added_to_a_finished_study_it_asks_what_is_off_the_diagonal_alone(asked: Any, options: Make) -> None:
    asked(options(**ONE))
    names = ("results.csv", "users.csv", "predictions.jsonl", "personas.jsonl")
    before = {name: (options().out / name).read_bytes() for name in names}
    assert asked(options(**MATRIX)) == (0, 3 * 2 * 2 * 3)
    assert {name: (options().out / name).read_bytes() for name in names} == before
    assert asked(options(**MATRIX)) == (0, 0)


def test_a_study_that_goes_on_without_it_keeps_its_files(asked: Any, options: Make, capsys: Any) -> None:
    asked(options(**MATRIX))
    before = {name: (options().out / name).read_bytes() for name in SWAPPED}
    for name in SWAPPED:
        (options().out / name).unlink()
    capsys.readouterr()
    assert asked(options(**{**ONE, "axes": ((0, 2), (1,), (3,))}))[0] == 0
    assert {name: (options().out / name).read_bytes() for name in SWAPPED} == before
    assert "Swap matrix of persona-agent" in (options().out / "report.md").read_text()
    assert "swapped" in capsys.readouterr().out


def test_only_the_centre_of_the_axes_has_one_and_each_history_and_lm_its_own(run_study: Run, options: Make) -> None:
    settings = {**MATRIX, "axes": ((2, 0), (1, 2), (3, 0)), "grid": False, "queries_per_user": 1}
    settings |= {"histories": ("2", "all"), "lm": "scripted/one,scripted/two", "methods": ("rag", "persona-agent")}
    assert run_study(options(**settings)) == 0
    names = ("lm", "history", "method", "batch_size", "iterations", "memories")
    found = [tuple(line[name] for name in names) for line in rows_of(options().out / "swap_matrix.csv")]
    cells = [(lm, h, "persona-agent", "2", "1", "3") for lm in ("scripted/one", "scripted/two") for h in ("2", "all")]
    assert found == [cell for cell in cells for _ in range(9)]
    said = (options().out / "report.md").read_text()
    assert said.count("Swap matrix of persona-agent") == 4
    assert said.count("LM: scripted/two, history 2)") == 1


def test_it_is_of_the_persona_agent_and_needs_two_users(options: Make, engine: Any) -> None:
    with pytest.raises(InputError, match="--control matrix is of persona-agent: add it to --methods"):
        options(control="matrix", methods=("rag",))
    with pytest.raises(InputError, match=r"--control matrix needs at least 2 users, but .* gives 1"):
        study_module.Study(options(**MATRIX, users=1))


# -- what fails, and what waits -------------------------------------------------------------------


def test_what_fails_off_the_diagonal_is_counted_and_asked_again_alone(
    asked: Any, options: Make, engine: Any, capsys: Any
) -> None:
    """Bob's second question fails wherever ann's memory was read for it."""
    heal = failing(engine, lambda call: "bob's new film 1" in call.user and "ann's film" in call.user)
    assert asked(options(**MATRIX))[0] == 1
    assert "1 samples failed; --retry-failed asks them again" in capsys.readouterr().out
    lines = {(line["persona_of"], line["user_id"]): line for line in rows_of(options().out / "swap_matrix.csv")}
    assert {pair for pair, line in lines.items() if line["failed"] != "0"} == {("ann", "bob")}
    assert (lines["ann", "bob"]["queries"], lines["ann", "bob"]["answered"]) == ("2", "1")
    assert {row["failed"] for row in rows_of(options().out / "results.csv")} == {"0"}
    assert "over 3 users and 6 queries; 1 failed. Each" in (options().out / "report.md").read_text()
    assert asked(options(**MATRIX)) == (1, 0)
    assert asked(options(**ONE)) == (1, 0), "what was ever asked for counts"
    heal()
    assert asked(options(**MATRIX, retry_failed=True)) == (0, 3)


def test_a_persona_that_could_not_be_made_fails_all_that_it_would_serve(
    asked: Any, options: Make, engine: Any, capsys: Any
) -> None:
    heal = failing(engine, lambda call: call.role == "gradient" and "bob's" in call.user)
    assert asked(options(**MATRIX))[0] == 1
    lines = {(line["persona_of"], line["user_id"]): line for line in rows_of(options().out / "swap_matrix.csv")}
    for (by, _), line in lines.items():
        assert (line["answered"], line["failed"]) == (("0", "2") if by == "bob" else ("2", "0"))
        assert (line["score"] == "") == (by == "bob")
    # Two of the row, which are the diagonal's, and four off it.
    assert "6 samples failed;" in capsys.readouterr().out
    said = (options().out / "report.md").read_text()
    assert "over 2 users and 4 queries; 6 failed. Each" in said
    heal()
    assert asked(options(**MATRIX, retry_failed=True))[0] == 0


def test_what_waits_is_counted_once(asked: Any, options: Make, capsys: Any) -> None:
    """At K=0 an answer is one call, and may take 132: the cap leaves room for so many."""
    settings = {**MATRIX, "axes": ((0,), (1,), (0,))}
    assert asked(options(**settings, max_calls=3 + 132 + 2)) == (1, 3 + 3)
    assert "15 samples wait: the same command goes on" in capsys.readouterr().out
    assert asked(options(**settings, max_calls=132 + 5)) == (1, 6)
    assert "9 samples wait: the same command goes on" in capsys.readouterr().out
    assert "; 9 wait. Each pair" in (options().out / "report.md").read_text()
    assert asked(options(**{**settings, "control": "none"})) == (1, 0)
    assert "9 samples wait in cells of this folder that this command did not ask for" in capsys.readouterr().out
    assert asked(options(**settings)) == (0, 9)


def test_a_key_that_is_refused_leaves_no_matrix_behind_that_waits(asked: Any, options: Make, engine: Any) -> None:
    asked(options(**ONE))
    usual = engine.script

    def refuse(call: Any) -> Any:
        raise lm15.AuthError("bad key")

    engine.script = refuse
    with pytest.raises(InputError, match="the LM cannot be used"):
        asked(options(**MATRIX))
    engine.script = usual
    assert asked(options(**ONE)) == (0, 0)
    assert not (options().out / "swap_matrix.csv").exists()
    assert json.loads((options().out / "study.json").read_text())["matrix"] == []


# -- what it shows --------------------------------------------------------------------------------


class WordEncoder:
    """Counts of words, hashed: texts with the same words are near each other."""

    name, dimension, cache_size = "words-256", 256, 0

    def encode(self, text: str) -> Any:
        vector = np.zeros(self.dimension, np.float32)
        for word in re.findall(r"\w+", text.lower()):
            vector[int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dimension] += 1
        return vector / max(1.0, float(np.linalg.norm(vector)))


THEMES = ("a robot wakes up", "two lawyers quarrel", "the old king dies", "a ship sails north")


@pytest.fixture
def habits(tmp_path: Path) -> Path:
    """Four users who tag the same films, each in a way of their own."""
    entries = []
    for number, user in enumerate(("ann", "bob", "cleo", "dan")):
        tags = {theme: LAMP_2M.labels[(4 * number + place) % 15] for place, theme in enumerate(THEMES)}
        history = [
            {"id": f"{user}-{i}-{p}", "description": f"{theme} {i}", "tag": tags[theme], "date": f"2010-01-{i + 1:02d}"}
            for i in range(3)
            for p, theme in enumerate(THEMES)
        ]
        asked = [
            {"id": f"{user}-q{p}", "input": LAMP_2M.question.format(description=f"{theme} again"), "gold": tags[theme]}
            for p, theme in enumerate(THEMES)
        ]
        entries.append({"user_id": user, "profile": history, "query": asked})
    folder = tmp_path / "habits"
    folder.mkdir()
    (folder / "user_top_100_history.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    """The offline reader and memory, with this encoder."""

    def install(encoder: Any) -> None:
        monkeypatch.setattr(study_module, "make_lm", partial(make_lm, encoder=encoder))
        monkeypatch.setattr(study_module, "load_encoder", lambda name: encoder)

    yield install


def shown(out: Path) -> tuple[float, float]:
    """(own, others) as the report has them."""
    said = (out / "report.md").read_text()
    found = re.search(r"accuracy ([\d.]+) by the user's own persona and memory, ([\d.]+) by others'", said)
    assert found is not None
    return float(found[1]), float(found[2])


def test_with_the_offline_reader_ones_own_persona_and_memory_serve_one_best(
    run_study: Run, options: Make, habits: Path, reading: Any
) -> None:
    reading(WordEncoder())
    settings = {**MATRIX, "data": habits, "users": 4, "queries_per_user": 4, "lm": "offline"}
    assert run_study(options(**settings)) == 0
    own, others = shown(options().out)
    assert own > 0.9 and others < 0.2
    by_pair = {(line["persona_of"], line["user_id"]): line for line in rows_of(options().out / "swap_matrix.csv")}
    for user in ("ann", "bob", "cleo", "dan"):
        scores = {by: float(line["score"]) for (by, asked), line in by_pair.items() if asked == user}
        assert max(scores, key=lambda by: scores[by]) == user


@pytest.mark.real_data
@pytest.mark.skipif(not OPPU.exists(), reason=f"OPPU's release is not in {OPPU}: it is not part of this repository")
def test_on_movie_tagging_the_diagonal_is_ten_points_above_what_is_off_it(
    run_study: Run, options: Make, reading: Any
) -> None:
    encoder = load_encoder("auto")
    encoder.cache_size = max(encoder.cache_size, 20_000)
    reading(encoder)
    settings = {**MATRIX, "axes": ((3,), (1,), (4,)), "data": OPPU, "users": 6, "lm": "offline", "histories": ("20",)}
    assert run_study(options(**settings)) == 0
    own, others = shown(options().out)
    assert own - others >= 0.1
