"""Folders and zips are read file by file; a hostile zip is refused before it is unpacked."""

import random
import stat
import zipfile
from pathlib import Path

import pytest

from brainmets.errors import BrainmetsError, ReadError
from brainmets.io import archive, images
from brainmets.io.archive import content_sha256, entries, reader


def zipped(path, members):
    """A zip of names (or ready-made entries) and contents."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def entry_of(name, mode=stat.S_IFREG):
    info = zipfile.ZipInfo(name)
    info.external_attr = (mode | 0o644) << 16
    return info


def everything_below(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


def encrypted(path):
    """A zip whose only entry is marked as encrypted, in both of its headers."""
    zipped(path, [("scan", b"x" * 50)])
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    return path


HOSTILE = {
    "leads out": [("../../evil", b"x")],
    "leads out from within": [("a/../../evil", b"x")],
    "absolute": [("/etc/evil", b"x")],
    "of a drive": [("C:/evil", b"x")],
    "of another system": [("a\\..\\evil", b"x")],
    "a link": [(entry_of("link", stat.S_IFLNK), b"/etc/passwd")],
    "a device": [(entry_of("null", stat.S_IFCHR), b"")],
    "a zip in the zip": [("inner.zip", b"PK\x03\x04")],
    "a bomb": [("bomb", bytes(30_000_000))],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_zip_is_refused_and_writes_nothing(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = zipped(tmp_path / "x.zip", HOSTILE[name])
    before = everything_below(tmp_path.parent)
    with pytest.raises(ReadError, match=r"^(entry 1 of the zip|the zip announces)"):
        images.read(path)
    assert everything_below(tmp_path.parent) == before


def test_an_encrypted_zip_is_refused(tmp_path):
    with pytest.raises(ReadError, match="encrypted"):
        entries(encrypted(tmp_path / "x.zip"))


def test_a_zip_that_announces_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = zipped(tmp_path / "x.zip", [("a", b"ab" * 3000), ("b", b"ba" * 3000)])
    monkeypatch.setattr(archive, "MOST_BYTES", 11_999)
    monkeypatch.setattr(archive, "MOST_RATIO", 1e9)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(ReadError, match=r"announces .* GiB unpacked"):
        entries(path)


def test_a_bomb_is_told_by_its_ratio_and_the_one_allowed(tmp_path):
    path = zipped(tmp_path / "x.zip", [("bomb", bytes(30_000_000))])
    with pytest.raises(ReadError, match=r"announces \d{3,4} times .* at most 200 times"):
        entries(path)


def test_the_ratio_counts_the_whole_zip_so_that_an_empty_slice_is_no_bomb(tmp_path):
    noise = random.Random(1).randbytes(5000)  # noqa: S311 - any bytes that do not pack
    path = zipped(tmp_path / "x.zip", [("air", bytes(500_000)), ("brain", noise)])
    with zipfile.ZipFile(path) as file:
        air = file.getinfo("air")
    assert air.file_size > archive.MOST_RATIO * air.compress_size
    assert len(entries(path)) == 2


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(ReadError, match="at most 3"):
        entries(zipped(tmp_path / "x.zip", [(str(n), b"x") for n in range(4)]))


def test_two_entries_of_one_name_are_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "x.zip", [("a", b"1"), ("a", b"2")])
    with pytest.raises(ReadError, match="one name"):
        entries(path)


def test_a_damaged_member_is_one_clear_error(tmp_path):
    path = zipped(tmp_path / "x.zip", [("a", bytes(range(256)) * 40)])
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)
    (only,) = entries(path)
    with reader() as opened, pytest.raises(ReadError, match="copy it again"):
        opened.read(only)


@pytest.mark.parametrize("length", [5, 30, 100])
def test_a_zip_cut_short_is_one_clear_error(tmp_path, length):
    path = zipped(tmp_path / "x.zip", [("a", b"x" * 500)])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ReadError, match="not a readable zip"):
        entries(path)


def test_hidden_files_and_folders_stay_out(tmp_path):
    for name in ("a", ".b", ".git/c", "d/e"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    members = [("a", b""), (".DS_Store", b""), ("__MACOSX/a", b""), ("d/e", b"")]
    zipped(tmp_path / "z.zip", members)
    assert [entry.name for entry in entries(tmp_path)] == ["a", "d/e", "z.zip/a", "z.zip/d/e"]


@pytest.mark.parametrize("name", ["SECRET.jar", "SECRET.docx", "SECRET"])
def test_a_file_built_as_a_zip_but_not_called_so_is_one_file(tmp_path, name):
    zipped(tmp_path / name, [("../evil", b"x")])
    (tmp_path / "broken").write_bytes(b"PK\x03\x04")
    assert {entry.name for entry in entries(tmp_path)} == {name, "broken"}


@pytest.mark.parametrize("content", [None, b"PK\x03\x04"], ids=["hostile", "broken"])
def test_names_of_files_are_in_no_message(tmp_path, content):
    place = tmp_path / "SECRETNAME"
    place.mkdir()
    zipped(place / "SECRETNAME.zip", [("../SECRETNAME", b"x")])
    if content is not None:
        (place / "SECRETNAME.zip").write_bytes(content)
    for path in (place, place / "SECRETNAME.zip"):
        with pytest.raises(ReadError) as caught:
            images.read(path)
        assert "SECRETNAME" not in str(caught.value)


def test_linked_folders_are_followed_once(tmp_path):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "x").write_bytes(b"1")
    (tmp_path / "data" / "deep" / "loop").symlink_to(tmp_path / "data")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "data")
    assert [entry.name for entry in entries(tmp_path / "in")] == ["linked/deep/x"]


def test_the_hash_is_of_contents_not_of_names(tmp_path):
    for folder, names in (("one", ("a", "b")), ("two", ("y", "x"))):
        for name, content in zip(names, (b"1", b"22"), strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / name).write_bytes(content)
    path = zipped(tmp_path / "x.zip", [("q", b"22"), ("r", b"1")])
    one = content_sha256(tmp_path / "one")
    assert one == content_sha256(tmp_path / "two") == content_sha256(path, ("q", "r"))
    assert one != content_sha256(tmp_path / "one", ("a",))
    (tmp_path / "two" / "x").write_bytes(b"23")
    assert one != content_sha256(tmp_path / "two")


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(ReadError, match="No such file"):
        entries(tmp_path / "none.zip")
    with pytest.raises(BrainmetsError, match="No such file"):
        content_sha256(Path(tmp_path / "none"))
