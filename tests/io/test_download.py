import hashlib
import http.server
import threading
from functools import partial

import pytest

from brainmets.errors import ConfigError, DownloadError
from brainmets.io.download import REMOTE_FILES, RemoteFile, fetch

CONTENT = b"weights" * 1000
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9/weights.pt"  # the discard port: nothing answers


class Silent(http.server.SimpleHTTPRequestHandler):
    """A file server that writes nothing to the terminal."""

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def address(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "weights.pt").write_bytes(CONTENT)
    handler = partial(Silent, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/weights.pt"
        server.shutdown()


def remote(address, sha256=SHA256, size=SIZE):
    return RemoteFile("weights.pt", address, sha256, size, "none")


def test_fetches_and_keeps_the_file(address, tmp_path):
    path = fetch(remote(address), folder=tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert fetch(remote(NOWHERE), folder=tmp_path / "cache") == path  # no connection needed


def test_published_digits_of_a_hash_suffice(address, tmp_path):
    entry = remote(address, sha256=SHA256[:8], size=None)
    assert fetch(entry, folder=tmp_path / "cache").read_bytes() == CONTENT


@pytest.mark.parametrize("entry", [{"sha256": "0" * 64}, {"size": 3}])
def test_another_file_than_announced_never_gets_the_name(address, tmp_path, entry):
    with pytest.raises(DownloadError, match=r"expected weights\.pt"):
        fetch(remote(address, **entry), folder=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_damaged_file_in_the_cache_is_noticed(tmp_path):
    (tmp_path / "weights.pt").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DownloadError, match="delete it"):
        fetch(remote(NOWHERE), folder=tmp_path)


def test_offline_says_which_file_to_put_where(tmp_path):
    with pytest.raises(DownloadError) as caught:
        fetch(remote(NOWHERE), folder=tmp_path / "cache")
    for part in ("weights.pt", SHA256, f"{SIZE:,} bytes", NOWHERE, str(tmp_path / "cache")):
        assert part in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_an_address_that_has_no_such_file_is_an_error(address, tmp_path):
    with pytest.raises(DownloadError, match="could not be fetched"):
        fetch(remote(address + "x"), folder=tmp_path / "cache")


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match=r"synthstrip\.1\.pt"):
        fetch("synthstrip.2.pt")


def test_every_entry_is_https_and_its_hash_is_hexadecimal():
    for name, entry in REMOTE_FILES.items():
        assert name == entry.name == entry.address.rsplit("/", 1)[1]
        assert entry.address.startswith("https://")
        assert len(bytes.fromhex(entry.sha256)) in (4, 32)
