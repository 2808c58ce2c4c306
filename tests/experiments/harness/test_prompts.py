"""--prompts FILE."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

import pytest

from personaagent.experiments.harness.prompts import BUILT_IN, Prompts, load_prompts
from personaagent.optimizers.signatures import Gradient, Update
from personaagent.programs.errors import InputError


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "prompts.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_replaces_what_it_names_and_keeps_the_rest(tmp_path: Path) -> None:
    path = written(tmp_path, "persona: |\n  Serve {profile}.\ngradient: Criticise.\n")
    prompts = load_prompts(path)
    assert (prompts.persona, prompts.gradient) == ("Serve {profile}.\n", "Criticise.")
    assert (prompts.update, prompts.recall, prompts.summary) == (Prompts().update, Prompts().recall, None)
    assert prompts.name == hashlib.sha256(path.read_bytes()).hexdigest()
    assert Prompts().name == BUILT_IN


def test_every_text_but_no_name_is_part_of_the_digest() -> None:
    digests = {Prompts(**{f.name: "x"}).digest for f in fields(Prompts) if f.name != "name"}
    assert len(digests) == len(fields(Prompts)) - 1
    assert Prompts().digest not in digests
    assert Prompts(name="other").digest == Prompts().digest


def test_two_files_of_the_same_texts_ask_the_same(tmp_path: Path) -> None:
    one = load_prompts(written(tmp_path, "gradient: Criticise."))
    other = load_prompts(written(tmp_path, "# a comment\n'gradient': 'Criticise.'"))
    assert one.digest == other.digest
    assert one.name != other.name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected a mapping"),
        ("[persona]", "expected a mapping"),
        ("persona: [", "not valid YAML"),
        (b"persona: \xff\xfe\xff", "not valid YAML"),
        ("persona: ' '", "'persona' must be text and not empty"),
        ("persona: 3", "'persona' must be text and not empty"),
        ("persona:", "'persona' must be text and not empty"),
        ("personality: x", "unknown key 'personality'; the keys are: persona, gradient"),
        ("name: mine", "unknown key 'name'"),
    ],
)
def test_a_bad_file_is_refused_by_its_path(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError, match=r"^--prompts") as caught:
        load_prompts(path)
    assert str(path) in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.yaml: cannot be read: No such file"):
        load_prompts(tmp_path / "gone.yaml")


def test_the_papers_own_slots_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "paper.yaml"
    file.write_text(
        "persona: 'Preferences: [Initial Semantic Memory]'\n"
        "gradient: 'Question: [Question] Expected: [Ground Truth] Given: [Response]'\n"
        "update: 'Prompt: [Current Persona] Feedback: [Aggregated Feedback]'\n"
    )
    prompts = load_prompts(file)
    assert prompts.persona == "Preferences: {profile}"
    assert "[" not in prompts.gradient + prompts.update
    assert all(f"`{name}`" in prompts.gradient for name in ("question", "expected_answer", "given_answer"))
    assert "`current_persona`" in prompts.update and "`feedback`" in prompts.update
    assert set(Gradient.input_fields) >= {"question", "expected_answer", "given_answer"}
    assert set(Update.input_fields) >= {"current_persona", "feedback"}
