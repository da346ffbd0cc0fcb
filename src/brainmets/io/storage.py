"""Writing so that nothing half-done is ever taken for whole.

Everything is written under a temporary name in the destination's own folder and
renamed when complete; a rename within one file system is atomic (POSIX).
"""

import errno
import hashlib
import json
import math
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from brainmets.errors import WriteError

UNFINISHED = ".unfinished-"
"""Prefix of names that are still being written; machine and process follow."""
MOST_SWAPS = 50
"""Tries to put a folder in its place while other runs do the same."""


def _prefix() -> str:
    return f"{UNFINISHED}{_machine()}-{os.getpid()}-"


def _machine() -> str:
    """Eight digits that tell machines apart and name none."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


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
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(), dir=path.parent))
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
    """Put ``new`` in the place of ``path``; of runs that do so at once, the last one stands."""
    _require_no_file(path)
    aside = Path(tempfile.mkdtemp(prefix=_prefix(), dir=path.parent))
    try:
        for attempt in range(MOST_SWAPS):
            old = aside / str(attempt)
            with suppress(FileNotFoundError):  # there is none, or another run has moved it
                path.rename(old)
            try:
                new.rename(path)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                    continue  # another run has put its own whole folder there since
                with suppress(FileNotFoundError):
                    old.rename(path)
                raise
            return
        raise OSError(errno.EBUSY, "other runs keep writing this folder")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _require_no_file(path: Path) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISDIR(path.stat().st_mode):  # one look: it may vanish between two
            raise NotADirectoryError(errno.ENOTDIR, "a file has the folder's name")


def sweep(folder: Path) -> int:
    """Delete what killed runs of this machine left unfinished in ``folder``; return how many.

    What a running process is still writing stays.
    """
    found = list(folder.glob(f"{UNFINISHED}*")) if folder.is_dir() else []
    stale = [path for path in found if _abandoned(path)]
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(stale)


def _abandoned(path: Path) -> bool:
    machine, _, rest = path.name.removeprefix(UNFINISHED).partition("-")
    process = rest.partition("-")[0]
    if machine != _machine() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def require_writable(folder: Path) -> None:
    """Make ``folder`` and prove that a file can be written there.

    Raises:
        WriteError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=_prefix(), dir=folder):
            pass
    except OSError as error:
        raise _refused(folder, error) from error


def require_own(folder: Path, names: Collection[str]) -> None:
    """Prove that replacing ``folder`` loses nothing but files of these names.

    Raises:
        WriteError: it holds something else: scans, perhaps, or somebody's notes.
    """
    others = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in others if name not in names or not _is_plain(folder / name)]
    if others:
        raise WriteError(
            f"cannot write {folder.name!r}: a folder of that name holds {others[0]!r}, which would "
            "be lost; give another place for the results"
        )


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def destination(folder: Path) -> Path:
    """Where a folder lies once links are followed, so that what they lead to is written.

    Nothing is made, but proven that a folder of that name can be.

    Raises:
        WriteError: a file is in the way, or the place cannot be written to.
    """
    try:
        place = folder.resolve()
        _require_no_file(place)
        nearest = next(parent for parent in (place, *place.parents) if parent.exists())
        with tempfile.NamedTemporaryFile(
            prefix=_prefix(), dir=nearest.parent if nearest == place else nearest
        ):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _refused(folder, error) from error
    return place


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys; NaN becomes null, as RFC 8259 has no NaN.

    Raises:
        WriteError: the place cannot be written to.
        ValueError: an infinite number, or what is no JSON value.
    """
    with whole_file(path) as temporary:
        temporary.write_text(
            json.dumps(
                _with_null(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False
            )
            + "\n",
            encoding="utf-8",
        )


def _with_null(value: Any) -> Any:
    """``value`` with None for each NaN in it."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {key: _with_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(item) for item in value]
    return value


def _reserve(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=_prefix(), suffix="".join(path.suffixes[-2:]), dir=path.parent
        )
        os.close(handle)
        Path(name).chmod(0o644)
    except OSError as error:
        raise _refused(path, error) from error
    return Path(name)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _refused(path: Path, error: Exception) -> WriteError:
    reason = getattr(error, "strerror", None) or type(error).__name__
    return WriteError(f"cannot write {path.name!r}: {reason}; give another place or free some room")
