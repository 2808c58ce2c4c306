"""Finding a task's files under any folder that a person would name."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from personaagent.datasets.lamp.layout import Files, find_files
from personaagent.datasets.lamp.oppu import HISTORY_FILE, LABEL_FILE, OTHERS_FILE
from personaagent.datasets.lamp.tasks import LAMP_1, LAMP_2M, LAMP_2N, LAMP_3, LampTask
from personaagent.programs.errors import InputError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("[]")


def message(folder: Path, task: LampTask, split: str = "dev") -> str:
    with pytest.raises(InputError) as caught:
        find_files(folder, task, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- where files are -------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "time", "time/LaMP_3", "time/LaMP_3/dev"])
def test_the_time_based_split_is_found_from_the_root_the_task_or_the_split(tmp_path: Path, given: str) -> None:
    touch(tmp_path, "time/LaMP_3/dev/dev_questions.json", "time/LaMP_3/dev/dev_outputs.json")
    folder = tmp_path / "time/LaMP_3/dev"
    expected = Files("official", folder / "dev_questions.json", folder / "dev_outputs.json", None)
    assert find_files(tmp_path / given, LAMP_3) == expected
    assert expected.read == [expected.main, expected.golds]


@pytest.mark.parametrize("inside", ["LaMP_3/dev", "LaMP_3", "user/LaMP_3/dev", "product_rating/dev", "dev", ""])
def test_the_official_layout_is_found_in_other_folders(tmp_path: Path, inside: str) -> None:
    touch(tmp_path / inside, "dev_questions.json")
    assert find_files(tmp_path, LAMP_3) == Files("official", tmp_path / inside / "dev_questions.json", None, None)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_each_split_is_found_in_its_folder(tmp_path: Path, split: str) -> None:
    for name in ("train", "dev", "test"):
        touch(tmp_path, f"LaMP_3/{name}/{name}_questions.json", f"LaMP_3/{name}/{name}_outputs.json")
    files = find_files(tmp_path, LAMP_3, split)
    assert [path.name for path in files.read] == [f"{split}_questions.json", f"{split}_outputs.json"]


def test_a_roots_time_based_split_is_preferred_to_the_user_based_one(tmp_path: Path) -> None:
    touch(tmp_path, "LaMP_3/dev/dev_questions.json", "time/LaMP_3/dev/dev_questions.json")
    assert find_files(tmp_path, LAMP_3).main == tmp_path / "time/LaMP_3/dev/dev_questions.json"
    assert find_files(tmp_path / "LaMP_3", LAMP_3).main == tmp_path / "LaMP_3/dev/dev_questions.json"


@pytest.mark.parametrize("given", ["", "time", "time/LaMP_2"])
def test_movies_are_inside_the_folder_of_news_and_the_two_are_told_apart(tmp_path: Path, given: str) -> None:
    touch(tmp_path, "time/LaMP_2/dev/dev_questions.json", "time/LaMP_2/new/dev/dev_questions.json")
    folder = tmp_path / "time/LaMP_2"
    assert find_files(tmp_path / given, LAMP_2M).main == folder / "new/dev/dev_questions.json"
    assert find_files(tmp_path / given, LAMP_2N).main == folder / "dev/dev_questions.json"
    assert find_files(folder / "new", LAMP_2M).main == folder / "new/dev/dev_questions.json"


@pytest.mark.parametrize("given", ["", "citation"])
def test_oppus_files_are_found_from_the_root_and_the_task(tmp_path: Path, given: str) -> None:
    names = (HISTORY_FILE, LABEL_FILE, OTHERS_FILE)
    touch(tmp_path, *(f"citation/{name}" for name in names))
    main, labels, others = (tmp_path / "citation" / name for name in names)
    assert find_files(tmp_path / given, LAMP_1) == Files("oppu", main, labels, others)


def test_oppus_labels_are_optional_and_other_users_are_of_a_task_that_draws_from_them(tmp_path: Path) -> None:
    touch(tmp_path, f"movie_tagging/{HISTORY_FILE}", f"movie_tagging/{OTHERS_FILE}", f"citation/{HISTORY_FILE}")
    assert find_files(tmp_path, LAMP_2M) == Files("oppu", tmp_path / "movie_tagging" / HISTORY_FILE, None, None)
    assert find_files(tmp_path, LAMP_1) == Files("oppu", tmp_path / "citation" / HISTORY_FILE, None, None)


def test_several_tasks_and_layouts_share_a_root(tmp_path: Path, each_task: LampTask) -> None:
    touch(tmp_path, *(f"time/LaMP_{k}/dev/dev_questions.json" for k in (1, 2, 3, 4, 5)))
    touch(tmp_path, "time/LaMP_2/new/dev/dev_questions.json")
    assert find_files(tmp_path, each_task).main == tmp_path / "time" / each_task.directory / "dev/dev_questions.json"
    touch(tmp_path, f"{each_task.folder}/{HISTORY_FILE}")
    assert find_files(tmp_path, each_task).layout == "oppu"


def test_a_path_with_spaces_and_a_link_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "my data é/LaMP_3/dev/dev_questions.json")
    (tmp_path / "link").symlink_to(tmp_path / "my data é")
    assert find_files(tmp_path / "link", LAMP_3).main == tmp_path / "link/LaMP_3/dev/dev_questions.json"


# --- what is not there -----------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["", "Dev", "validation", "train,dev"])
def test_an_unknown_split_is_refused(tmp_path: Path, split: str) -> None:
    assert message(tmp_path, LAMP_3, split) == f"--split must be train, dev or test, but got {split!r}"


def test_a_folder_that_is_missing_or_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "file.json")
    for name in ("nowhere", "file.json", "file.json/inside", "x" * 250):
        said = "is a file" if (tmp_path / name).exists() else "no such folder"
        expected = f"{tmp_path / name}: {said}; --data takes a folder of LaMP files, see docs/lamp.md"
        assert message(tmp_path / name, LAMP_3) == expected


def test_a_folder_without_files_says_where_was_looked(tmp_path: Path) -> None:
    assert message(tmp_path, LAMP_2M) == (
        f"{tmp_path}: no files of lamp-2m. Looked for {HISTORY_FILE} (OPPU's layout) here and in movie_tagging/, and "
        f"for dev_questions.json (the official layout) here, in dev/, and in LaMP_2/new/dev/"
    )


def test_a_link_to_nothing_and_a_folder_of_the_files_name_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "dev_questions.json").symlink_to(tmp_path / "gone")
    (tmp_path / HISTORY_FILE).mkdir()
    assert "no files of lamp-3" in message(tmp_path, LAMP_3)


def test_another_split_that_is_there_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "LaMP_3/train/train_questions.json", "LaMP_3/dev/dev_questions.json")
    expected = f"{tmp_path}: no test_questions.json of LaMP-3; give --split dev or train"
    assert message(tmp_path, LAMP_3, "test").casefold() == expected.casefold()


# --- what may not be read --------------------------------------------------------------------------


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "dev_questions.json")
    monkeypatch.setattr(os, "access", lambda *_: False)
    text = message(tmp_path, LAMP_3)
    assert text.startswith(f"{tmp_path}: the folder cannot be read: permission denied") and "chmod" in text


@pytest.mark.parametrize("asked", ["is_dir", "is_file"])
@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.ENAMETOOLONG, "File name too long")]
)
def test_a_path_that_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, error: OSError
) -> None:
    def refused(self: Path) -> Any:
        raise error

    monkeypatch.setattr(Path, asked, refused)
    text = message(tmp_path, LAMP_3)
    assert text.startswith(str(tmp_path)) and text.endswith(f": cannot be read: {error.strerror}")


def test_a_folder_without_permission(tmp_path: Path) -> None:
    touch(tmp_path, "closed/dev_questions.json")
    closed, user = tmp_path / "closed", os.geteuid()
    closed.chmod(0)
    try:
        if user == 0:  # whom no permission stops
            os.seteuid(65534)
        texts = [message(closed, LAMP_3), message(closed / "inside", LAMP_3)]
    finally:
        os.seteuid(user)
        closed.chmod(0o755)
    assert all("permission denied" in text.casefold() and text.startswith(str(closed)) for text in texts)
