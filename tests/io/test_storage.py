"""Nothing half-done is ever taken for whole, whatever kills the run."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from brainmets.errors import WriteError
from brainmets.io.storage import (
    UNFINISHED,
    require_own,
    require_writable,
    sweep,
    whole_file,
    whole_folder,
    write_json,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class CalledOffError(Exception):
    """Stands for any failure in the midst of writing."""


def half_done(place):
    with place as temporary:
        (temporary / "new.txt" if temporary.is_dir() else temporary).write_text("half")
        raise CalledOffError


# Files


def test_a_file_gets_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with whole_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.name.startswith(UNFINISHED)
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(CalledOffError):
        half_done(whole_file(path))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_write_error(tmp_path):
    with (
        pytest.raises(WriteError, match=r"cannot write 'a\.txt': No space left"),
        whole_file(tmp_path / "a.txt"),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


# Folders


def test_a_folder_replaces_the_old_one_whole(tmp_path):
    path = tmp_path / "case"
    for text in ("one", "two"):
        with whole_folder(path) as temporary:
            (temporary / f"{text}.txt").write_text(text)
            assert not path.exists() or names(path) == ["one.txt"]
        assert names(path) == [f"{text}.txt"]
    assert names(tmp_path) == ["case"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "case"
    with whole_folder(path) as temporary:
        (temporary / "old.txt").write_text("")
    with pytest.raises(CalledOffError):
        half_done(whole_folder(path))
    assert names(path) == ["old.txt"]
    assert names(tmp_path) == ["case"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_renamed(tmp_path, monkeypatch):
    path = tmp_path / "case"
    with whole_folder(path) as temporary:
        (temporary / "old.txt").write_text("")
    kind = type(path)
    rename = kind.rename

    def failing(self, target):
        if target == path and self.parent == tmp_path:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(kind, "rename", failing)
    with pytest.raises(WriteError, match="Input/output"), whole_folder(path) as temporary:
        (temporary / "new.txt").write_text("")
    assert names(path) == ["old.txt"]


def test_others_may_read_what_is_written(tmp_path):
    with whole_file(tmp_path / "a.txt"):
        pass
    with whole_folder(tmp_path / "case"):
        pass
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "case").stat().st_mode & 0o777 == 0o755


# A killed run

KILLED = """
    import os, signal, shutil
    from pathlib import Path
    import brainmets.io.storage as storage

    folder, kind, point = Path({folder!r}), {kind!r}, {point!r}

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_after(function, calls=1):
        count = []
        def wrapped(*args, **options):
            result = function(*args, **options)
            count.append(1)
            if len(count) == calls:
                die()
            return result
        return wrapped

    if point == "before renaming":
        Path.replace = Path.rename = die
    if point == "between the renames":
        Path.rename = dying_after(Path.rename)
    if point == "after renaming":
        Path.replace = dying_after(Path.replace)
        Path.rename = dying_after(Path.rename, 2)
    with getattr(storage, "whole_" + kind)(folder / "out") as temporary:
        file = temporary / "a.txt" if kind == "folder" else temporary
        with file.open("w") as stream:
            stream.write("new" * 50_000)
            if point == "while writing":
                die()
            stream.write("new" * 50_000)
"""
NEW = "new" * 100_000


def run_and_kill(folder, kind, point):
    script = textwrap.dedent(KILLED).format(folder=str(folder), kind=kind, point=point)
    done = subprocess.run([sys.executable, "-c", script], check=False)  # noqa: S603 - own script
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("point", ["while writing", "before renaming", "after renaming"])
def test_a_killed_run_leaves_the_old_file_or_the_new_one(tmp_path, point):
    (tmp_path / "out").write_text("old")
    run_and_kill(tmp_path, "file", point)
    assert (tmp_path / "out").read_text() == (NEW if point == "after renaming" else "old")
    sweep(tmp_path)
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("while writing", "old"),
        ("before renaming", "old"),
        ("between the renames", None),
        ("after renaming", NEW),
    ],
)
def test_a_killed_run_leaves_the_old_folder_none_or_the_new_one(tmp_path, point, left):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.txt").write_text("old")
    run_and_kill(tmp_path, "folder", point)
    found = (tmp_path / "out" / "a.txt").read_text() if (tmp_path / "out").exists() else None
    assert found == left
    assert sweep(tmp_path) >= 1
    assert names(tmp_path) == ([] if left is None else ["out"])


# Sweeping


def leftover(folder, process, machine=None):
    """A name as :func:`whole_folder` gives it, of another process or machine."""
    with whole_folder(folder / "probe") as temporary:
        own = temporary.name.removeprefix(UNFINISHED).partition("-")[0]
    (folder / "probe").rmdir()
    path = folder / f"{UNFINISHED}{machine or own}-{process}-x"
    path.mkdir()
    (path / "half").write_text("")
    return path.name


def test_sweeping_takes_leftovers_of_dead_processes_only(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "kept.txt").write_text("")
    running = leftover(tmp_path, os.getpid())
    elsewhere = leftover(tmp_path, ended.pid, machine="0" * 8)
    (tmp_path / (leftover(tmp_path, ended.pid) + "-file")).write_text("")
    assert sweep(tmp_path) == 2
    assert names(tmp_path) == sorted([running, elsewhere, "kept.txt"])
    assert sweep(tmp_path / "none") == 0


# Several at once


def test_of_runs_that_write_the_same_folder_at_once_one_stands_whole(tmp_path):
    path = tmp_path / "case"

    def write(number):
        for _ in range(40):
            with whole_folder(path) as temporary:
                for name in ("a", "b"):
                    (temporary / name).write_text(str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert names(tmp_path) == ["case"]
    assert (path / "a").read_text() == (path / "b").read_text()


def test_a_file_is_not_replaced_by_a_folder(tmp_path):
    (tmp_path / "case").write_text("mine")
    with pytest.raises(WriteError, match="a file has"), whole_folder(tmp_path / "case"):
        pass
    assert (tmp_path / "case").read_text() == "mine"
    assert names(tmp_path) == ["case"]


def test_a_folder_is_our_own_while_it_holds_nothing_else(tmp_path):
    require_own(tmp_path / "absent", ("a",))
    (tmp_path / "a").write_text("")
    require_own(tmp_path, ("a", "b"))
    (tmp_path / "notes").write_text("")
    with pytest.raises(WriteError, match="'notes', which would be lost"):
        require_own(tmp_path, ("a", "b"))


# Places that cannot be written to


def test_a_file_in_the_folder_s_place_is_reported(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WriteError, match="cannot write 'a'"), whole_file(blocked / "a"):
        pass
    with pytest.raises(WriteError, match="cannot write 'a'"), whole_folder(blocked / "a"):
        pass
    for place in (blocked, blocked / "a"):
        with pytest.raises(WriteError, match="cannot write"):
            require_writable(place)


def test_a_place_that_can_be_written_to_is_made_and_left_empty(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


# JSON


def test_json_is_sorted_and_the_same_each_time(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": (1.5, "µ")})
    write_json(tmp_path / "b.json", {"a": [1.5, "µ"], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"a": [1.5, "µ"], "b": 1}


def test_nan_becomes_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [np.float64("nan"), {"c": 1.0}]})
    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert content == {"a": None, "b": [None, {"c": 1.0}]}


def test_infinity_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("inf")})
    assert names(tmp_path) == []
