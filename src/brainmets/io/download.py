"""Files that do not come with the package: where they are, and proof that they arrived whole.

Nothing is fetched unless it is asked for, and no file gets its name before its size and
hash are those announced.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from brainmets.errors import ConfigError, DownloadError
from brainmets.io.storage import whole_file


@dataclass(frozen=True)
class RemoteFile:
    """One file that can be fetched.

    Attributes:
        name: what it is called here and there.
        address: where it is.
        sha256: its hash, or only the first digits where no more are published.
        size_bytes: its size where known.
        licence: under whose terms it comes.
    """

    name: str
    address: str
    sha256: str
    size_bytes: int | None
    licence: str

    def __str__(self) -> str:
        """Name, size and hash, for messages."""
        size = f"{self.size_bytes:,} bytes, " if self.size_bytes else ""
        return f"{self.name} ({size}SHA-256 {self.sha256}{'' if len(self.sha256) == 64 else '…'})"


REMOTE_FILES = {
    file.name: file
    for file in (
        RemoteFile(
            "synthstrip.1.pt",
            "https://surfer.nmr.mgh.harvard.edu/docs/synthstrip/requirements/synthstrip.1.pt",
            # as cited by independent public packages of SynthStrip
            "37417f802196186441aae3e7f385d94f8a98c64a88acaeaa2723af995c653e33",
            30_851_709,
            "FreeSurfer Software License Agreement",
        ),
        RemoteFile(
            "resnet34-b627a593.pth",
            "https://download.pytorch.org/models/resnet34-b627a593.pth",
            "b627a593",  # the digits in its name, which torch.hub checks too
            None,
            "BSD-3-Clause (torchvision); trained on ImageNet, whose terms are its own",
        ),
    )
}
"""Every file brainmets may fetch."""

FETCHABLE = {"synthstrip": "synthstrip.1.pt", "resnet34": "resnet34-b627a593.pth"}
"""Short names for the command line."""


def cache_folder() -> Path:
    """Where fetched files are kept: the user's cache folder of this system."""
    from platformdirs import user_cache_path

    return Path(user_cache_path("brainmets"))


def fetch(file: str | RemoteFile, *, folder: Path | None = None) -> Path:
    """Give the local path of a file; fetch it first unless it is there.

    Args:
        file: a name in :data:`REMOTE_FILES`, or an entry of one's own.
        folder: where to keep it; :func:`cache_folder` by default.

    Raises:
        ConfigError: a name that is not in the table.
        DownloadError: it could not be fetched, or is not the file announced.
        WriteError: the folder cannot be written to.
    """
    remote = _entry(file)
    path = cached_path(remote, folder=folder)
    if path.is_file():
        verify(path, remote)
        return path
    with whole_file(path) as temporary:
        _transfer(remote, temporary, path)
        verify(temporary, remote)
    return path


def describe(file: str | RemoteFile) -> str:
    """What a file is, where it comes from and under which licence, one thing a line.

    Raises:
        ConfigError: a name that is not in the table.
    """
    remote = _entry(file)
    return f"file: {remote}\nfrom: {remote.address}\nlicence: {remote.licence}"


def cached_path(file: str | RemoteFile, *, folder: Path | None = None) -> Path:
    """Where a file is kept once it is fetched, there or not."""
    return (folder or cache_folder()) / _entry(file).name


def verify(path: Path, remote: RemoteFile) -> None:
    """Raise DownloadError unless the file at ``path`` is the one announced."""
    size = path.stat().st_size
    if remote.size_bytes is not None and size != remote.size_bytes:
        raise _not_as_announced(remote, f"a file of {size:,} bytes")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(remote.sha256.lower()):
        raise _not_as_announced(remote, f"a file with SHA-256 {found}")


def _entry(file: str | RemoteFile) -> RemoteFile:
    if isinstance(file, RemoteFile):
        return file
    if file not in REMOTE_FILES:
        known = ", ".join((*FETCHABLE, *REMOTE_FILES))
        raise ConfigError(f"no file {file!r} to fetch; known are {known}")
    return REMOTE_FILES[file]


def _transfer(remote: RemoteFile, temporary: Path, path: Path) -> None:
    import pooch
    from requests import RequestException

    try:
        downloader = pooch.HTTPDownloader(timeout=60)
        downloader(remote.address, str(temporary), None)
    except (RequestException, ValueError) as error:
        raise DownloadError(
            f"{remote.name} could not be fetched ({type(error).__name__}). Fetch it where there "
            f"is a connection, from {remote.address}, and put {remote} into {path.parent}"
        ) from error


def _not_as_announced(remote: RemoteFile, found: str) -> DownloadError:
    return DownloadError(
        f"{remote.name}: found {found}, expected {remote}; delete it and fetch it again from "
        f"{remote.address}"
    )
