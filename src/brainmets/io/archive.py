"""Files of a folder or a zip, named and read one by one; nothing is ever extracted.

A zip is read member by member into memory. Its directory is checked before anything is
unpacked, so that a hostile archive costs its announced sizes at most.
"""

import hashlib
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from brainmets.errors import ReadError

MOST_BYTES = 8 * 2**30
"""A zip that announces more unpacked bytes is refused."""
MOST_RATIO = 200
"""A zip that announces more unpacked bytes than this times its own size is refused."""
MOST_FILES = 100_000
"""A folder or a zip with more files is refused."""
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile)
"""What a damaged zip makes the standard library raise (NotImplementedError is a RuntimeError)."""


@dataclass(frozen=True)
class Entry:
    """One file, on disk or inside a zip.

    Attributes:
        name: unique within what was opened; may identify a patient, so it is never printed.
        path: the file on disk, or the zip that holds it.
        member: name inside the zip; None for a file on disk.
    """

    name: str
    path: Path
    member: str | None = None

    @property
    def folder(self) -> str:
        """The folder it lies in, by name."""
        return self.name.rpartition("/")[0]


def is_zip(path: Path) -> bool:
    """Whether the file starts as a zip does; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) in ZIP_MAGIC
    except OSError:
        return False


def entries(path: Path) -> tuple[Entry, ...]:
    """All files of a folder of any depth, of a zip, or the one file given, sorted by name.

    In a folder, a zip that is called ``*.zip`` counts as a folder; other files that are built
    as zips (documents, programs) are files. Hidden files and folders stay out, and so does what
    another run has not finished writing. Errors name no file: names may identify a patient.

    Raises:
        ReadError: nothing of that name, no permission, a zip that is damaged, encrypted or
            hostile (see :func:`_require_harmless`), or more than MOST_FILES files.
    """
    if path.is_dir():
        found = [entry for file in _files_below(path) for entry in _entries_of(path, file)]
    else:
        _require_readable(path)
        found = list(_members(path, "")) if is_zip(path) else [Entry(path.name, path)]
    _require_few(len(found))
    return tuple(sorted(found, key=lambda entry: entry.name))


class Reader:
    """Reads entries; keeps the zip it read from last open, so that many members cost one look."""

    def __init__(self) -> None:
        """Start with nothing open."""
        self._path: Path | None = None
        self._zip: zipfile.ZipFile | None = None

    def read(self, entry: Entry) -> bytes:
        """The whole content of an entry.

        Raises:
            ReadError: it is not there any more, or damaged.
        """
        try:
            if entry.member is None:
                return entry.path.read_bytes()
            return self._archive(entry.path).read(entry.member)
        except (*UNREADABLE, KeyError) as error:
            raise _unreadable(error) from error

    def open(self, entry: Entry) -> IO[bytes]:
        """An entry to read a part of; a member of a zip is unpacked as far as it is read.

        Raises:
            ReadError: as :meth:`read`.
        """
        try:
            if entry.member is None:
                return entry.path.open("rb")
            return self._archive(entry.path).open(entry.member)
        except (*UNREADABLE, KeyError) as error:
            raise _unreadable(error) from error

    def head(self, entry: Entry, length: int) -> bytes:
        """The first bytes of an entry, without reading the rest.

        Raises:
            ReadError: as :meth:`read`.
        """
        try:
            with self.open(entry) as file:
                return file.read(length)
        except UNREADABLE as error:
            raise _unreadable(error) from error

    def _archive(self, path: Path) -> zipfile.ZipFile:
        if self._zip is None or path != self._path:
            self.close()
            self._zip, self._path = zipfile.ZipFile(path), path
        return self._zip

    def close(self) -> None:
        """Close what is open."""
        if self._zip is not None:
            self._zip.close()
        self._path = self._zip = None


@contextmanager
def reader() -> Iterator[Reader]:
    """A Reader that is closed afterwards, also on failure."""
    opened = Reader()
    try:
        yield opened
    finally:
        opened.close()


def content_sha256(path: Path, members: tuple[str, ...] = ()) -> bytes:
    """Hash of the contents of a file, or of all (or the named) files of a folder or zip.

    Names and order of files do not matter, only what they hold.

    Raises:
        ReadError: as :func:`entries`.
    """
    if not path.is_dir() and not members:
        _require_readable(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    wanted = set(members)
    with reader() as opened:
        hashes = sorted(
            hashlib.sha256(opened.read(entry)).digest()
            for entry in entries(path)
            if not wanted or entry.name in wanted
        )
    return hashlib.sha256(b"".join(hashes)).digest()


def _files_below(folder: Path) -> Iterator[Path]:
    """Files of any depth. Links to folders are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        here = Path(place).stat()
        if (here.st_dev, here.st_ino) in seen:
            folders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(place) / name for name in sorted(names) if not name.startswith("."))
        yield from (file for file in visible if file.is_file())


def _refuse(error: OSError) -> None:
    raise ReadError(f"a folder cannot be read ({_why(error)}); give access to it") from error


def _unreadable(error: BaseException) -> ReadError:
    advice = "give access to it" if isinstance(error, PermissionError) else "copy it again"
    return ReadError(f"a file cannot be read ({_why(error)}); {advice}")


def _entries_of(root: Path, file: Path) -> Iterator[Entry]:
    name = file.relative_to(root).as_posix()
    if file.suffix.lower() == ".zip" and is_zip(file):
        yield from _members(file, f"{name}/")
    else:
        yield Entry(name, file)


def _members(path: Path, prefix: str) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except UNREADABLE as error:
        raise ReadError(f"not a readable zip ({_why(error)}); copy it again") from error
    _require_harmless(path, infos)
    for info in infos:
        if not _is_hidden(info.filename):
            yield Entry(prefix + info.filename, path, info.filename)


def _is_hidden(name: str) -> bool:
    """``.DS_Store``, ``__MACOSX/…`` and the like: no scans."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _require_harmless(path: Path, infos: list[zipfile.ZipInfo]) -> None:
    """Refuse a zip that no export of scans looks like.

    Raises:
        ReadError: too many or too large members, a compression beyond MOST_RATIO, names that
            are absolute or lead out, links, encrypted members, zips in the zip.
    """
    _require_few(len(infos))
    _require_modest(sum(info.file_size for info in infos), path.stat().st_size)
    for number, info in enumerate(infos, start=1):
        if (fault := _fault_of(info)) is not None:
            raise ReadError(f"entry {number} of the zip {fault}; pack the scans as plain files")
    if len({info.filename for info in infos}) != len(infos):
        raise ReadError("two entries of the zip have one name; pack the scans anew")


def _require_modest(total: int, packed: int) -> None:
    """Refuse a zip that announces too many bytes, in all or for its own size."""
    ratio = total / max(packed, 1)
    if total > MOST_BYTES:
        found = f"{total / 2**30:.1f} GiB unpacked; at most {MOST_BYTES / 2**30:.0f} GiB are read"
    elif ratio > MOST_RATIO:
        found = f"{ratio:.0f} times its own size unpacked; at most {MOST_RATIO} times are read"
    else:
        return
    raise ReadError(f"the zip announces {found}. Unpack it yourself if you trust it")


def _fault_of(info: zipfile.ZipInfo) -> str | None:
    name = info.filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if "\\" in name or re.match("/|[A-Za-z]:", name):
        return "has an absolute name, or one of another system"
    if ".." in PurePosixPath(name).parts:
        return "has a name that leads out of the zip ('..')"
    if kind not in (0, stat.S_IFREG):
        return "is a link or a device"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if name.lower().endswith(".zip"):
        return "is itself a zip"
    return None


def _require_few(count: int) -> None:
    if count > MOST_FILES:
        raise ReadError(
            f"{count} files; at most {MOST_FILES} are read at once, give a part of them"
        )


def _require_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ReadError(f"{_why(error)}; give a file that can be read") from error


def _why(error: BaseException) -> str:
    """What the system says, without the name of the file it says it of."""
    said = error.strerror if isinstance(error, OSError) else None
    return said or type(error).__name__
