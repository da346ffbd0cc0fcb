"""Writing so that nothing half-done is ever taken for whole.

Everything is written under a temporary name in the destination's own folder and
renamed when complete; a rename within one file system is atomic (POSIX).
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brainmets.errors import WriteError

UNFINISHED = ".unfinished-"
"""Prefix of names that are still being written."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it becomes ``path``.

    Raises:
        WriteError: the folder cannot be written to.
    """
    temporary = _reserve(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it replaces ``path``.

    An older folder of that name is moved aside first and deleted last, so at any
    moment ``path`` is the old folder whole, absent, or the new one whole.

    Raises:
        WriteError: the parent folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=path.parent))
        temporary.chmod(0o755)
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield temporary
        for file in temporary.iterdir():
            if file.is_file():
                _sync(file)
        _swap(temporary, path)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=path.parent))
    path.rename(aside / "old")
    new.rename(path)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> int:
    """Delete what a killed run left unfinished in ``folder``; return how many."""
    stale = list(folder.glob(f"{UNFINISHED}*")) if folder.is_dir() else []
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(stale)


def require_writable(folder: Path) -> None:
    """Make ``folder`` and prove that a file can be written there.

    Raises:
        WriteError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=UNFINISHED, dir=folder):
            pass
    except OSError as error:
        raise _refused(folder, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; NaN becomes null, as RFC 8259 has no NaN."""
    with whole_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
            encoding="utf-8",
        )


def _reserve(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=UNFINISHED, suffix="".join(path.suffixes[-2:]), dir=path.parent
        )
        os.close(handle)
        Path(name).chmod(0o644)
    except OSError as error:
        raise _refused(path, error) from error
    return Path(name)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _refused(path: Path, error: OSError) -> WriteError:
    reason = error.strerror or type(error).__name__
    return WriteError(f"cannot write {path.name!r}: {reason}; give another place or free some room")
