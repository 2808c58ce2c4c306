"""Reading JSON record by record, and what is said of a file that is none."""

from __future__ import annotations

import errno
import hashlib
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.datasets.lamp import records
from personaagent.datasets.lamp.records import an_object, file_digest, first_kind, kind, required, stream, unique
from personaagent.programs.errors import InputError

VALUES = [{"a": "é", "b": [1, 2.5, True, None]}, "text", 3, [], {"c": {"d": "e"}}]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Writes a file."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "file.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def message(call: Callable[[], Any]) -> str:
    """Of the error; one line that a terminal can show."""
    with pytest.raises(InputError) as caught:
        call()
    text = str(caught.value)
    assert text.isprintable() and len(text) < 400, text
    return text


def read(path: Path, prefix: str = "item") -> list[Any]:
    return list(stream(path, prefix))


# --- what is read ----------------------------------------------------------------------------------


def test_the_elements_of_a_list_are_read_as_json_reads_them(file: Callable[..., Path]) -> None:
    path = file(json.dumps(VALUES))
    assert read(path) == VALUES
    assert read(path, "item.c.d") == ["e"] and read(path, "") == [VALUES]
    assert [type(value) for value in read(path)[0]["b"]] == [int, float, bool, type(None)]


def test_only_as_much_is_read_as_is_asked_for(file: Callable[..., Path]) -> None:
    path = file("[1, 2" + ", 3" * 100_000 + " and then no JSON")
    values = stream(path, "item")
    assert [next(values), next(values)] == [1, 2]


def test_the_digest_is_that_of_the_files_one_after_the_other(tmp_path: Path) -> None:
    one, other = tmp_path / "1", tmp_path / "2"
    one.write_bytes(b"a" * 3_000_000)
    other.write_bytes(b"b")
    assert file_digest([one, other]) == hashlib.sha256(b"a" * 3_000_000 + b"b").hexdigest()
    assert file_digest([one, other]) != file_digest([other, one]) != file_digest([one])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", ""),
        (" \n", ""),
        ("[1]", "a list"),
        (" " * 200 + "{}", "an object"),
        ('"x"', "text"),
        ("-3", "a number"),
        ("null", "null"),
        ("true ", "true"),
        ("false", "false"),
        ("not found", "no JSON: it begins with 'not found'"),
        ("Quota\nexceeded", "no JSON: it begins with 'Quota\\nexceeded'"),
        (b"\xff\x00"[:1], "no JSON: it begins with '\ufffd'"),
        ("x" * 1000, f"no JSON: it begins with '{'x' * 64}'"),
    ],
)
def test_what_a_file_holds_is_said_in_words(file: Callable[..., Path], content: str | bytes, expected: str) -> None:
    assert first_kind(file(content)) == expected


def test_a_large_file_has_a_bar_on_standard_error_only(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = file(json.dumps(VALUES))
    monkeypatch.setattr(records, "_BAR_FROM_BYTES", 1)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert read(path) == VALUES and file_digest([path])
    out, err = capfd.readouterr()
    assert out == "" and "file.json" in err


def test_where_there_is_no_terminal_there_is_no_bar(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = file("[1, 2, tru")
    monkeypatch.setattr(records, "_BAR_FROM_BYTES", 1)
    message(lambda: read(path))
    out, err = capfd.readouterr()
    assert out == err == ""


# --- what is no JSON -------------------------------------------------------------------------------


def test_wherever_a_file_is_cut_it_is_said_to_end_too_early_and_in_which_record(file: Callable[..., Path]) -> None:
    whole = json.dumps([{"a": ["é", -1.5e-3, True, None, '\\"\u20ac'], "b": {}}] * 2)
    data = whole.encode()
    second = data.find(b"}, {") + 1
    for end in range(1, len(data)):
        text = message(partial(read, file(data[:end])))
        assert "the file ends too early" in text and "Is the download complete?" in text, data[:end]
        assert f"after {end:,} bytes, in the record at index {(end >= second) + (end == len(data) - 1)}" in text


@pytest.mark.parametrize("at", [0, 1, 700, 2999])
@pytest.mark.parametrize("broken", ['{"a": NaN}', '{"a": tru}', "{'a': 1}", '{"a" 1}', '{"a": "\t"}', '{"a": 1,}', "&"])
def test_what_is_wrong_inside_is_named_with_its_record_and_its_surroundings(
    file: Callable[..., Path], broken: str, at: int
) -> None:
    elements = [json.dumps({"a": "é" * 60})] * 3000
    elements[at] = broken
    text = message(lambda: read(file("[" + ",".join(elements) + "]")))
    assert f"not valid JSON in the record at index {at}, within the first " in text and ", near '" in text
    assert "too early" not in text


def test_a_word_of_the_file_is_not_taken_for_what_is_wrong_with_it(file: Callable[..., Path]) -> None:
    text = message(lambda: read(file('["premature incomplete UTF8" NaN]')))
    assert "too early" not in text and "not UTF-8" not in text and "near" in text


@pytest.mark.parametrize("tail", ["x", "[]", "]", ' {"a": 1}'])
def test_what_follows_the_end_is_an_error(file: Callable[..., Path], tail: str) -> None:
    assert "not valid JSON in the record at index 2" in message(lambda: read(file("[1, 2]" + tail)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty: download it again"),
        (b"  \n", "ends too early, after 3 bytes"),
        (b"\x1f\x8b\x08\x00", "gzip file"),
        (b"PK\x03\x04", "zip file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\n  <html>", "web page"),
        ("[1]".encode("utf-16"), "UTF-16"),
        ("[1]".encode("utf-16-le"), "UTF-16 or no text"),
        ("[1]".encode("utf-16-be"), "UTF-16 or no text"),
        (b"\x00" * 64, "UTF-16 or no text"),
        (b"\xef\xbb\xbf[1]", "byte order mark"),
        (b'["\xe9"]', "not UTF-8 in the record at index 0"),
        (b'["ok", "\xc3"]', "not UTF-8 in the record at index 1"),
        (b'["\xed\xa0\x80"]', "not UTF-8"),
        (b'["\\udc00"]', "not UTF-8"),
        (b"[" * 100_000, "more than 500 lists and objects"),
        (b'{"a":' * 100_000, "more than 500 lists and objects"),
        (b"[1e999]", "overflow"),
        (b"[" + b"1" * 5000 + b"]", "overflow"),
        (b'[{"a": \x1b[31m}]', "near '[{\"a\": \\x1b[31m}]'"),
    ],
)
def test_a_file_that_is_something_else_is_named_with_the_remedy(
    file: Callable[..., Path], content: bytes, said: str
) -> None:
    path = file(content)
    text = message(lambda: read(path))
    assert text.startswith(f"{path}: ") and said in text


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_no_bytes_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("bytes") / "file"
    path.write_bytes(content)
    for call in (lambda: read(path), lambda: read(path, ""), lambda: first_kind(path), lambda: file_digest([path])):
        try:
            call()
        except InputError as error:
            assert str(error).isprintable() and str(path) in str(error)


# --- what cannot be read ---------------------------------------------------------------------------


CALLS: list[Callable[[Path], Any]] = [read, first_kind, lambda path: file_digest([path])]


@pytest.mark.parametrize("call", CALLS)
def test_a_file_that_is_not_there_or_may_not_be_read(
    tmp_path: Path, file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, call: Callable[[Path], Any]
) -> None:
    gone = tmp_path / "gone"
    assert message(lambda: call(gone)) == f"{gone}: cannot be read: No such file or directory"
    assert message(lambda: call(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"
    path = file("[1]")

    def denied(self: Path, *_: Any, **__: Any) -> IO[bytes]:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", denied)
    assert message(lambda: call(path)) == f"{path}: cannot be read: Permission denied"


@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_fails_while_it_is_read(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, call: Callable[[Path], Any]
) -> None:
    path = file("[1]")

    class Failing:
        reads = 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise OSError(errno.EIO, "Input/output error")
            return b"[1, 2"

        def seek(self, _: int) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr(Path, "open", lambda *_: Failing())
    assert message(lambda: call(path)) == f"{path}: cannot be read: Input/output error"


# --- fields ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "an empty text"),
        ("x", "text, 'x'"),
        (3, "a number, 3"),
        (1.5, "a number, 1.5"),
        (None, "null"),
        (True, "true"),
        ([], "an empty list"),
        ([1], "a list"),
        ({}, "an empty object"),
        ({"a": 1}, "an object"),
    ],
)
def test_a_value_is_said_in_words(value: Any, said: str) -> None:
    assert kind(value) == said


def test_a_long_value_is_cut_and_stays_on_its_line() -> None:
    assert len(kind("x\n" * 1000)) < 60 and "\n" not in kind("x\n" * 1000)


@pytest.mark.parametrize("value", ["x", 3, 10**30])
def test_a_field_of_a_wanted_type_is_returned(value: Any) -> None:
    assert required({"a": value}, "a", (str, int), "here") == value


@pytest.mark.parametrize(
    ("value", "types", "expected"),
    [
        ("", (str,), "text and not empty, but is an empty text"),
        (" \t", (str,), "text and not empty, but is text, ' \\t'"),
        (True, (int,), "a whole number and not empty, but is true"),
        (1.5, (str, int), "text or a whole number and not empty, but is a number, 1.5"),
        (None, (list,), "a list and not empty, but is null"),
        ([], (list,), "a list and not empty, but is an empty list"),
        ({}, (list,), "a list and not empty, but is an empty object"),
    ],
)
def test_a_field_of_another_type_is_named_with_its_value(value: Any, types: tuple[type, ...], expected: str) -> None:
    text = message(lambda: required({"a": value}, "a", types, "here"))
    assert text == f"here: field 'a' must be {expected}"


def test_a_missing_field_is_named_and_an_empty_one_may_be_allowed() -> None:
    assert message(lambda: required({}, "a", (str,), "here")) == "here: field 'a' is missing"
    assert required({"a": []}, "a", (list,), "here", empty=True) == []
    assert message(lambda: required({"a": {}}, "a", (list,), "here", empty=True)).endswith(
        "must be a list, but is an empty object"
    )


def test_what_must_be_an_object_and_ids_that_repeat() -> None:
    assert an_object({"a": 1}, "here") == {"a": 1}
    assert message(lambda: an_object("x", "here")) == "here: expected an object, but found text, 'x'"
    unique(["a", "b"], "here")
    assert message(lambda: unique(["a", "b", "a", "b"], "here")) == "here: id 'a' occurs twice"


@pytest.mark.parametrize("seed", range(5))
def test_brackets_in_a_text_are_no_nesting(tmp_path: Path, seed: int) -> None:
    """Texts that reach over the ends of what is read at a time, with quotes and backslashes at any place."""
    rng = random.Random(seed)
    texts = ["".join(rng.choices('[{"\\ab', (40, 40, 1, 1, 1, 1), k=rng.randint(1, 200_000))) for _ in range(5)]
    path = tmp_path / "file.json"
    path.write_text(json.dumps(texts))
    assert list(stream(path, "item")) == texts
    path.write_text(json.dumps(texts)[:-1] + ", " + "[" * 100_000)
    with pytest.raises(InputError, match="one inside the other"):
        list(stream(path, "item"))


def test_values_between_the_openings_do_not_hide_how_deep_they_are(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_text("[" + "[1," * 60_000 + "]" * 60_000 + "]")
    with pytest.raises(InputError, match="more than 500 lists and objects, one inside the other"):
        list(stream(file, "item"))
