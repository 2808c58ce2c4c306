"""`--study FILE`: a whole study as a file of options, which the command line overrides."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from personaagent.experiments.harness.secrets import refuse_secret
from personaagent.programs.errors import InputError

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 1_000_000
"""A study file is a page long; what is larger is something else."""

ABOUT = "about"
"""The key of what a study is, for people."""

Value = str | bool | int | float

_PACKAGE = "personaagent.experiments.studies"
_STUDY = "study"
_PAIR_SIGNS = {"columns": "="}
"""How an option's pairs are written on the command line, where it is not with a colon."""

# YAML 1.2's plain values. In YAML 1.1, which PyYAML reads, `on` is true, 010 is 8, 1:30 is 90 and 2020-01-01 a date.
_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
_EMPTY = ("", "~", "null", "Null", "NULL")
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_DECIMAL = re.compile(r"-?[0-9]{1,15}\.[0-9]{1,15}")
_SECRET_KEY = re.compile(r"key|token|secret|passw", re.IGNORECASE)


def find_study(name: str) -> Path:
    """The file of a study: a path, or the name of one in experiments/studies, with or without `.yaml`.

    Raises:
        InputError: if there is none, naming the studies there are.
    """
    path = Path(name)
    try:
        if path.exists() and not path.is_dir():
            return path
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise InputError(f"--study {name[:200]}: cannot be read: {error.strerror}") from None
    except ValueError:  # a zero byte
        pass
    there = packaged_studies()
    found = there.get(name.removesuffix(".yaml"))
    if found is None:
        raise InputError(
            f"--study {name}: there is no such file, and no study of that name; there are: {', '.join(there)}"
        )
    return found


def packaged_studies() -> dict[str, Path]:
    """The studies that come with this package, by name."""
    folder = Path(str(resources.files(_PACKAGE)))
    return dict(sorted((path.stem, path) for path in folder.glob("*.yaml")))


def load_study(name: str, known: Collection[str]) -> dict[str, Value]:
    """The options that a study file gives, by name as in `known`.

    A key is an option without the dashes in front, such as `batch-sizes` (or `batch_sizes`); `about` is free text
    and is left out. A list becomes `0,1,3`, a mapping `lamp-2m:3,lamp-1:0`, as they are written on the command line.
    A value that is no number and neither true nor false is text as it stands: `on` is "on", 1e3 is "1e3". Paths are
    taken from the current folder, not from the file's.

    Args:
        name: see `find_study`.
        known: names of options, without the dashes in front.

    Raises:
        InputError: if the file cannot be found or read, or holds what is no option, an empty value, a key twice, a
            list in a list, or a password. It names the file, and the line and the key where there is one.
    """
    path = find_study(name)
    names = {_normal(option): option for option in known if option not in (_STUDY, ABOUT)}
    values: dict[str, Value] = {}
    lines: dict[str, int] = {}
    for key_node, node in _entries(path):
        line = key_node.start_mark.line + 1
        key = _key(f"{path}, line {line}", key_node)
        where = f"{path}, line {line}: {key}"
        normal = _normal(key)
        if normal in lines:
            raise InputError(f"{where} is given twice, first in line {lines[normal]}")
        lines[normal] = line
        if normal == ABOUT:
            continue
        if normal == _STUDY:
            raise InputError(f"{where}: a study file cannot name another one")
        if normal not in names:
            raise InputError(f"{path}, line {line}: unknown key {_quoted(key)}{_suggestion(key, normal, names)}")
        value = _value(where, node, _PAIR_SIGNS.get(normal, ":"))
        refuse_secret(where, str(value))
        values[names[normal]] = value
    return values


def study_callback(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> str | None:
    """Of an eager option `--study`: what the file says becomes the other options' defaults.

    An option on the command line overrides the file, which overrides the script's own default. A value of the file is
    taken as if it were written on the command line; true and false are on and off where the option is no switch.

    Raises:
        InputError: as `load_study`, or on a value of a wrong type, naming the file and the key. What the script itself
            refuses later, naming the option, is completed by the name of the file.
    """
    if value is None or ctx.resilient_parsing:
        return value
    path = find_study(value)
    options = {}
    for option in ctx.command.params:
        for name in option.opts:
            if name.startswith("--") and option.name not in (param.name, "help"):
                options[name.removeprefix("--")] = option
    defaults: dict[str, str | bool] = {}
    for name, given in load_study(value, options).items():
        option = options[name]
        is_switch = bool(getattr(option, "is_flag", False))
        if isinstance(given, bool) and is_switch:
            typed: str | bool = given
        elif isinstance(given, bool):
            typed = "on" if given else "off"
        else:
            typed = str(given)
            if typed.startswith("~/"):  # which the shell resolves on the command line
                typed = str(Path(typed).expanduser())
        try:
            option.process_value(ctx, typed)
        except typer.BadParameter as error:
            raise InputError(f"{path}: {name}: {error.message}") from None
        defaults[str(option.name)] = typed
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.with_resource(_named(ctx, path, {f"--{name}": str(options[name].name) for name in options}))
    return value


@contextmanager
def _named(ctx: typer.Context, path: Path, options: dict[str, str]) -> Iterator[None]:
    """To an error about an option that the file gave, the file's name."""
    try:
        yield
    except InputError as error:
        said = re.findall(r"--[a-z][a-z-]*", str(error))
        sources = [ctx.get_parameter_source(options[option]) for option in said if option in options]
        if any(source is not None and source.name == "DEFAULT_MAP" for source in sources):
            raise InputError(f"{error} (given in {path})") from error
        raise


def _entries(path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a file's mapping."""
    import yaml

    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"--study {path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"--study {path}: is larger than {MAX_BYTES:,} bytes: that is no study file")
    try:
        # Nodes, not objects: nothing is constructed, so that no tag and no anchor can do anything.
        root = yaml.compose(raw.decode(), Loader=yaml.BaseLoader)
    except UnicodeDecodeError:
        raise InputError(f"--study {path}: is not UTF-8 text") from None
    except RecursionError:
        raise InputError(f"--study {path}: is nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"--study {path}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"--study {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"--study {path}: expected options and their values, such as `users: 20`")
    return root.value


def _key(where: str, node: yaml.Node) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{where}: a key must be the name of an option")
    return str(node.value)


def _value(where: str, node: yaml.Node, pair_sign: str) -> Value:
    import yaml

    _refuse_tag(where, node)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(where, node)
    if isinstance(node, yaml.SequenceNode):
        return _joined(where, [_text(where, part) for part in node.value])
    pairs = [(_text(where, key), _text(where, value)) for key, value in node.value]
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise InputError(f"{where}: {_quoted(name)} is given twice")
        seen.add(name)
        if pair_sign in name:
            raise InputError(f"{where}: {_quoted(name)} holds {pair_sign!r}, which stands between the two of a pair")
    return _joined(where, [f"{name}{pair_sign}{value}" for name, value in pairs])


def _joined(where: str, parts: list[str]) -> str:
    if not parts:
        raise InputError(f"{where} is empty: leave the key out, or give it a value")
    for part in parts:
        if "," in part:
            raise InputError(f"{where}: {_quoted(part)} holds a comma, which stands between values")
    return ",".join(parts)


def _text(where: str, node: yaml.Node) -> str:
    """One value of a list, or of a mapping, as it is written."""
    import yaml

    _refuse_tag(where, node)
    if not isinstance(node, yaml.ScalarNode):
        kind = "list" if isinstance(node, yaml.SequenceNode) else "mapping"
        raise InputError(f"{where}: a {kind} within a list or a mapping; write single values")
    _scalar(where, node)
    return str(node.value).strip()


def _refuse_tag(where: str, node: yaml.Node) -> None:
    if node.tag not in _TAGS:
        raise InputError(f"{where}: tags such as {_quoted(node.tag)} are not read; write the value alone")


def _scalar(where: str, node: yaml.ScalarNode) -> Value:
    text = str(node.value)
    if "\0" in text:
        raise InputError(f"{where}: {_quoted(text)} holds a zero byte, which no option can")
    if node.style is not None:  # in quotes, or a block
        return text.strip() if node.style in "|>" else text
    if text in _EMPTY:
        raise InputError(f"{where} is empty: leave the key out, or give it a value")
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _normal(key: str) -> str:
    return key.replace("_", "-")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def _suggestion(key: str, normal: str, names: dict[str, str]) -> str:
    close = get_close_matches(normal.lstrip("-"), names, n=1)
    words = f"; did you mean {names[close[0]]!r}?" if close else "."
    if _SECRET_KEY.search(key):
        words += " Keys of LMs are read from the environment, such as OPENAI_API_KEY."
    return f"{words} The keys are: {', '.join(sorted(names.values()))}, {ABOUT}"
