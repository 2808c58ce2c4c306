"""A study file says what the command line says, and its traps are errors that name the file, the line and the key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from personaagent.datasets.registry import check_task
from personaagent.experiments.harness import study_files
from personaagent.experiments.harness.cells import parse_axis
from personaagent.experiments.harness.methods.registry import METHODS
from personaagent.experiments.harness.options import Arguments
from personaagent.experiments.harness.study_files import find_study, load_study, packaged_studies, study_callback
from personaagent.programs.errors import InputError

KNOWN = ("tasks", "users", "users-by", "queries-per-user", "batch-sizes", "columns", "labels", "data", "wikipedia")
KNOWN += ("profile", "grid", "lm", "align-lm", "temperature", "tracking", "study")
OPTIONS = [field.name.replace("_", "-") for field in fields(Arguments)]

Write = Callable[[str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A study file with this content; its path."""

    def made(content: str | bytes) -> str:
        path = tmp_path / "my study.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return made


# -- finding --------------------------------------------------------------------------------------


def test_a_study_is_found_by_path_and_by_name(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_study(write("users: 1")) == tmp_path / "my study.yaml"
    assert find_study("paper") == find_study("paper.yaml") == packaged_studies()["paper"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").mkdir()  # a folder of that name is no study
    assert find_study("paper") == packaged_studies()["paper"]
    (tmp_path / "paper.yaml").write_text("users: 1")
    assert find_study("paper.yaml") == Path("paper.yaml")


@pytest.mark.parametrize("name", ["papre", "", ".", "../studies/paper", "nowhere/paper.yaml", "a\0b", "__init__"])
def test_what_is_not_there_is_an_error_that_names_what_is(name: str) -> None:
    with pytest.raises(InputError) as caught:
        find_study(name)
    assert "there are: paper, paper-ablation, paper-cold-start, smoke" in str(caught.value)


def test_a_name_that_the_system_refuses_is_one_error() -> None:
    with pytest.raises(InputError, match="File name too long"):
        find_study("x" * 5000)


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("users: 20", "users", 20),
        ("users: -1", "users", -1),
        ("temperature: 0.10", "temperature", 0.1),
        ("temperature: 1e-1", "temperature", "1e-1"),
        ("users: 1e3", "users", "1e3"),
        ("users: 010", "users", "010"),
        ("users: 0x10", "users", "0x10"),
        ("users: 1_000", "users", "1_000"),
        ("users: 1:30", "users", "1:30"),
        ("users: 123456789012345678901234567890", "users", "1" + "23456789012345678901234567890"),
        ("lm: 2020-01-01", "lm", "2020-01-01"),
        ("temperature: .inf", "temperature", ".inf"),
        ("wikipedia: on", "wikipedia", "on"),
        ("wikipedia: off", "wikipedia", "off"),
        ("profile: yes", "profile", "yes"),
        ("profile: 'off'", "profile", "off"),
        ("profile: n", "profile", "n"),
        ("grid: true", "grid", True),
        ("grid: False", "grid", False),
        ("lm: 'true'", "lm", "true"),
        ('labels: ""', "labels", ""),
        ("lm: ollama_chat/llama3:8b", "lm", "ollama_chat/llama3:8b"),
        ("lm: openai/日本語", "lm", "openai/日本語"),
        ("lm: >\n  openai/gpt-4.1\n", "lm", "openai/gpt-4.1"),
        ("batch-sizes: [0, 1, 3]", "batch-sizes", "0,1,3"),
        ("batch_sizes: 0,1,3", "batch-sizes", "0,1,3"),
        ("batch-sizes:\n- 0\n- 010\n- on\n", "batch-sizes", "0,010,on"),
        ("labels: ['true story', \"null\"]", "labels", "true story,null"),
        ("queries-per-user: {lamp-2m: 3, lamp-1: 0}", "queries-per-user", "lamp-2m:3,lamp-1:0"),
        ("columns: {user: author, query: text}", "columns", "user=author,query=text"),
        ("data: ../some where/data", "data", "../some where/data"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_values_arrive_as_they_are_written_on_the_command_line(write: Write, line: str, name: str, value: Any) -> None:
    found = load_study(write(line), KNOWN)
    assert found == {name: value} and type(found[name]) is type(value)


def test_a_whole_file_with_comments_anchors_and_a_word_about_it(write: Write) -> None:
    text = "\ufeff# a study\r\nabout: |\r\n  null, [what] it: is\r\nlm: &lm some/lm  # both\r\nalign-lm: *lm\r\n"
    assert load_study(write(text), KNOWN) == {"lm": "some/lm", "align-lm": "some/lm"}
    assert load_study(write("about:\n"), KNOWN) == {}
    assert load_study(write("batch-sizes: 3"), ["batch_sizes"]) == {"batch_sizes": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected options and their values"),
        ("# nothing\n", "expected options"),
        ("- users\n", "expected options"),
        ("users", "expected options"),
        ("users: 1\n---\nusers: 2\n", "not valid YAML"),
        ("users: [1\n", "line 2: not valid YAML"),
        ("users: 1\n\tlm: x\n", "line 2: not valid YAML"),
        ("users: 1\nlm: *nothing\n", "line 2: not valid YAML: found undefined alias"),
        (b"lm: \xff\xfe", "not UTF-8 text"),
        (b"lm: a\x00b", "not valid YAML"),
        ("users: 1\n\nusers: 2\n", "line 3: users is given twice, first in line 1"),
        ("batch-sizes: 1\nbatch_sizes: 2\n", "line 2: batch_sizes is given twice, first in line 1"),
        ("about: x\nabout: y\n", "line 2: about is given twice"),
        ("users:\n", "line 1: users is empty"),
        ("users: ~\n", "users is empty"),
        ("lm: null\n", "lm is empty"),
        ("batch-sizes: []\n", "batch-sizes is empty"),
        ("batch-sizes: [1, null]\n", "batch-sizes is empty"),
        ("queries-per-user: {}\n", "queries-per-user is empty"),
        ("queries-per-user: {lamp-1: }\n", "queries-per-user is empty"),
        ("batch-sizes: [1, [2]]\n", "batch-sizes: a list within a list or a mapping"),
        ("queries-per-user:\n- lamp-1: 3\n", "a mapping within a list or a mapping"),
        ("queries-per-user: {lamp-1: [3]}\n", "a list within a list or a mapping"),
        ("queries-per-user: {a: 1, a: 2}\n", "'a' is given twice"),
        ("queries-per-user: {'a:b': 1}\n", "'a:b' holds ':'"),
        ("queries-per-user: {? [a] : 1}\n", "a list within"),
        ("labels: ['true story', 'a, b']\n", "'a, b' holds a comma"),
        ("? [users]\n: 1\n", "a key must be the name of an option"),
        ("users: !!int '3'\n", "tags such as 'tag:yaml.org,2002:int' are not read"),
        ("lm: !!python/object/apply:os.system ['true']\n", "lm: tags such as"),
        ("queries-per-user: !!omap [a: 1]\n", "tags such as"),
        ("batch-sizes: [!!int 3]\n", "tags such as"),
        ("user: 3\n", "unknown key 'user'; did you mean 'users'? The keys are: align-lm, batch-sizes, columns"),
        ("--users: 3\n", "unknown key '--users'; did you mean 'users'?"),
        ("Users: 3\n", "unknown key 'Users'; did you mean 'users'?"),
        ("<<: {users: 3}\n", "unknown key '<<'"),
        ("1: 3\n", "unknown key '1'"),
        ("study: paper\n", "line 1: study: a study file cannot name another one"),
        ("openai_api_key: sk-1234567890\n", "Keys of LMs are read from the environment"),
        ("lm: x\ntracking: postgresql://me:secret-word@host/db\n", "line 2: tracking postgresql://***@host/db holds a"),
        ("wikipedia: https://host/?token=abcdefghijkl\n", "wikipedia https://host/?token=*** holds a key"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_what_cannot_be_meant_is_an_error_that_names_the_file(write: Write, content: Any, message: str) -> None:
    path = write(content)
    with pytest.raises(InputError) as caught:
        load_study(path, KNOWN)
    assert message in str(caught.value) and path in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("sk-1234567890", "secret-word", "abcdefghijkl"))


@pytest.mark.parametrize(
    "content",
    [
        "x" * (study_files.MAX_BYTES + 1),
        "users: " + "[" * 20_000,
        "users: &a [*a]\n",
        "a: &a [x, x]\n" + "".join(f"k{n}: &{chr(97 + n)} [{f'*{chr(96 + n)}, ' * 9}]\n" for n in range(1, 12)),
        "users: &a {lamp-1: 1}\nlm: {<<: *a}\n",
        "k" * 100_000 + ": 1\n",
    ],
    ids=["large", "deep", "endless", "many", "merged", "long"],
)
def test_bombs_are_short_errors(write: Write, content: str) -> None:
    with pytest.raises(InputError) as caught:
        load_study(write(content), KNOWN)
    assert len(str(caught.value)) < 1000


def test_a_file_that_cannot_be_read_is_an_error(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    path = write("users: 1")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        load_study(path, KNOWN)


# -- on the command line --------------------------------------------------------------------------


def command() -> typer.Typer:
    """A script with options of every kind; it prints them, and where they came from."""
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

    @made.command()
    def run(
        ctx: typer.Context,
        study: Annotated[str | None, typer.Option("--study", is_eager=True, callback=study_callback)] = None,
        users: Annotated[int, typer.Option("--users")] = 20,
        temperature: Annotated[float, typer.Option("--temperature")] = 0.1,
        batch_sizes: Annotated[str, typer.Option("--batch-sizes")] = "3",
        queries_per_user: Annotated[str, typer.Option("--queries-per-user")] = "3",
        profile: Annotated[str, typer.Option("--profile")] = "on",
        data: Annotated[Path | None, typer.Option("--data", readable=False)] = None,
        workers: Annotated[int | None, typer.Option("--workers")] = None,
        grid: Annotated[bool, typer.Option("--grid")] = False,
        record: Annotated[bool, typer.Option("--record/--no-record")] = True,
    ) -> None:
        if users < 1:
            raise InputError(f"--users must be at least 1 but got {users}")
        if temperature > 2:
            raise InputError(f"--temperature must be from 0 to 2 but got {temperature}; --users is {users}")
        values = {name: value for name, value in locals().items() if name not in ("ctx", "study")}
        for name, value in values.items():
            source = ctx.get_parameter_source(name)
            print(name, repr(value), source and source.name)

    return made


def ran(*arguments: str) -> dict[str, tuple[str, str]]:
    """{option: (value, source)} of a run that succeeds."""
    result = CliRunner().invoke(command(), [*arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    lines = [line.split(" ", 1) for line in result.output.splitlines()]
    return {name: (rest.rsplit(" ", 1)[0], rest.rsplit(" ", 1)[1]) for name, rest in lines}


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(command(), [*arguments])
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def test_the_file_overrides_the_script_and_the_command_line_the_file(write: Write) -> None:
    path = write(
        "users: 7\ntemperature: 0.5\nbatch-sizes: 5\nqueries_per_user: {lamp-1: 0}\nprofile: off\ndata: some/where\n"
        "workers: 2\ngrid: true\nrecord: off\n"
    )
    assert ran("--study", path) == {
        "users": ("7", "DEFAULT_MAP"),
        "temperature": ("0.5", "DEFAULT_MAP"),
        "batch_sizes": ("'5'", "DEFAULT_MAP"),
        "queries_per_user": ("'lamp-1:0'", "DEFAULT_MAP"),
        "profile": ("'off'", "DEFAULT_MAP"),
        "data": (repr(Path("some/where")), "DEFAULT_MAP"),
        "workers": ("2", "DEFAULT_MAP"),
        "grid": ("True", "DEFAULT_MAP"),
        "record": ("False", "DEFAULT_MAP"),
    }
    # Wherever --study stands.
    for arguments in (["--study", path, "--users", "3", "--record"], ["--users", "3", "--record", "--study", path]):
        found = ran(*arguments)
        assert found["users"] == ("3", "COMMANDLINE") and found["record"] == ("True", "COMMANDLINE")
        assert found["temperature"] == ("0.5", "DEFAULT_MAP")
    assert ran("--study", write("users: 7"))["temperature"] == ("0.1", "DEFAULT")
    assert ran()["users"] == ("20", "DEFAULT")


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("temperature: 1", "temperature", "1.0"),
        ("temperature: 1e-1", "temperature", "0.1"),
        ("users: 010", "users", "10"),
        ("profile: true", "profile", "'on'"),
        ("profile: false", "profile", "'off'"),
        ("grid: on", "grid", "True"),
        ("grid: false", "grid", "False"),
        ("batch-sizes: 2020-01-01", "batch_sizes", "'2020-01-01'"),
    ],
)
def test_values_become_what_the_option_takes(write: Write, line: str, name: str, value: str) -> None:
    assert ran("--study", write(line))[name] == (value, "DEFAULT_MAP")


def test_a_path_in_the_home_folder_is_resolved(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert ran("--study", write("data: ~/lamp"))["data"][0] == repr(Path("/home/me/lamp"))
    assert ran("--study", write("profile: ~x"))["profile"][0] == "'~x'"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("users: many", "users"),
        ("users: 1.5", "users"),
        ("users: true", "users"),
        ("users: [1, 2]", "users"),
        ("temperature: warm", "temperature"),
        ("grid: maybe", "grid"),
        ("workers: 1e3", "workers"),
    ],
)
def test_a_value_of_a_wrong_type_names_the_file_and_the_key(write: Write, line: str, key: str) -> None:
    path = write(line)
    assert refused("--study", path).startswith(f"{path}: {key}: ")
    # Even one that the command line overrides: the file is wrong.
    assert refused("--study", path, f"--{key}", "3").startswith(f"{path}: {key}: ")


def test_a_value_that_the_script_refuses_names_the_file_if_it_is_the_files(write: Write) -> None:
    path = write("users: 0\n")
    assert refused("--study", path) == f"--users must be at least 1 but got 0 (given in {path})"
    assert refused("--study", path, "--users", "-1") == "--users must be at least 1 but got -1"
    assert "given in" in refused("--study", write("temperature: 3\n"))
    assert "given in" not in refused("--study", path, "--users", "3", "--temperature", "3")


def test_what_is_no_option_of_the_script_is_refused(write: Write) -> None:
    message = refused("--study", write("histories: 10\n"))
    assert "unknown key 'histories'" in message and "batch-sizes" in message and "help" not in message
    assert "no-record" not in message and "study," not in message
    assert "another one" in refused("--study", write("study: paper\n"))
    assert "there are: paper" in refused("--study", "papre")


def test_help_needs_no_file() -> None:
    assert "--study" in CliRunner().invoke(command(), ["--help", "--study", "papre"]).output


# -- the studies there are ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["paper", "paper-ablation", "paper-cold-start", "smoke"])
def test_the_packaged_studies_are_of_options_tasks_and_methods_that_there_are(name: str) -> None:
    found = load_study(name, OPTIONS)
    tasks = str(found["tasks"]).split(",")
    assert all(check_task(task) for task in tasks)
    assert all(method in METHODS for method in str(found["methods"]).split(","))
    for axis in ("batch-sizes", "iterations", "memories"):
        assert len(parse_axis(axis, str(found[axis]))) == 1
    if name != "smoke":
        queries = dict(pair.split(":") for pair in str(found["queries-per-user"]).split(","))
        assert list(queries) == tasks and set(queries.values()) == {"0", "3"}


def test_the_papers_studies_are_the_papers() -> None:
    paper, ablation, cold = (load_study(name, OPTIONS) for name in ("paper", "paper-ablation", "paper-cold-start"))
    for study in (paper, ablation, cold):
        assert (study["batch-sizes"], study["iterations"], study["memories"]) == (3, 1, 4)
        assert (study["users"], study["temperature"], study["wikipedia"]) == (100, 0.1, "on")
        assert study["lm"] == "anthropic/claude-3-5-sonnet-20241022"
    assert (cold["histories"], cold["users-by"], paper["users-by"]) == (10, "random", "active")
    assert "data" not in {*paper, *ablation, *cold}
