"""Archives that try to leave their folder, or to fill the disk, leave nothing behind (B16–B19)."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.core.errors import InputError
from danlu.data import archives
from danlu.data.archives import deb_content, unpack_tar

Entry = tuple[str, bytes | None, dict[str, object]]


def tar(*entries: Entry) -> bytes:
    """Build a tar file of (name, content, fields of its header)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, fields in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content) if content is not None else None)
    return buffer.getvalue()


GOOD: list[Entry] = [("a", None, {"type": tarfile.DIRTYPE}), ("a/b.txt", b"hello", {}), ("./c.txt", b"", {})]


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_good_archives_are_unpacked(squeeze: Callable[[bytes], bytes], tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(squeeze(tar(*GOOD)))
    out = unpack_tar(tmp_path / "x.tar", tmp_path / "out", limit=100)
    assert {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()} == {
        "a/b.txt": b"hello",
        "c.txt": b"",
    }
    assert not (out / "a" / "b.txt").stat().st_mode & 0o111, "nothing becomes a program"


EVIL: dict[str, list[Entry]] = {
    "parent": [("../x", b"1", {})],
    "deep parent": [("a/../../x", b"1", {})],
    "absolute": [("/tmp/danlu-evil", b"1", {})],
    "backslash": [("..\\x", b"1", {})],
    "drive": [("C:\\x", b"1", {})],
    "symlink": [("a", None, {"type": tarfile.SYMTYPE, "linkname": "/etc"}), ("a/x", b"1", {})],
    "inner symlink": [("a", b"1", {}), ("b", None, {"type": tarfile.SYMTYPE, "linkname": "a"})],
    "hard link": [("a", None, {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})],
    "device": [("a", None, {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
    "fifo": [("a", None, {"type": tarfile.FIFOTYPE})],
    "twice": [("a", b"1", {}), ("a", b"2", {})],
    "case clash": [("a", b"1", {}), ("A", b"2", {})],
    "long name": [("x" * 300, b"1", {})],
    "file is folder": [("a", b"1", {}), ("a/b", b"2", {})],
    "too large": [("a", b"1" * 101, {})],
    "too large in all": [("a", b"1" * 60, {}), ("b", b"1" * 60, {})],
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_archives_are_refused_whole(name: str, tmp_path: Path) -> None:
    """B16, B17, B19: a good entry before the evil one is not kept either."""
    (tmp_path / "x.tar").write_bytes(tar(("good", b"g", {}), *EVIL[name]))
    with pytest.raises(InputError, match=r"x\.tar"):
        unpack_tar(tmp_path / "x.tar", tmp_path / "in" / "out", limit=100)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["x.tar"]
    assert not Path("/tmp/danlu-evil").exists()
    assert not any(p.is_symlink() for p in tmp_path.rglob("*"))


def test_a_symlink_chain_is_refused_at_its_first_link(tmp_path: Path) -> None:
    """B17: the shape of CVE-2025-4517: deep folders and links that add up to a way out."""
    deep, entries = "", list[Entry]()
    for letter in "abcdefgh":
        folder = letter * 200
        entries.append((deep + folder, None, {"type": tarfile.DIRTYPE}))
        entries.append((deep + letter, None, {"type": tarfile.SYMTYPE, "linkname": folder}))
        deep += letter + "/"
    entries.append(("escape", None, {"type": tarfile.SYMTYPE, "linkname": deep + "../" * 8 + "../outside"}))
    entries.append(("escape/owned", b"1", {}))
    (tmp_path / "x.tar").write_bytes(tar(*entries))
    (tmp_path / "outside").mkdir()
    with pytest.raises(InputError, match="is a link"):
        unpack_tar(tmp_path / "x.tar", tmp_path / "out", limit=10**6)
    assert list((tmp_path / "outside").iterdir()) == []
    assert not (tmp_path / "out").exists()


def test_bombs_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B18: too many entries; a stream that never ends; a header that claims a large name block."""
    monkeypatch.setattr(archives, "MAX_FILES", 20)
    (tmp_path / "many.tar").write_bytes(tar(*[(f"f{i}", b"", {}) for i in range(21)]))
    with pytest.raises(InputError, match="more than 20 entries"):
        unpack_tar(tmp_path / "many.tar", tmp_path / "out", limit=100)
    monkeypatch.setattr(archives, "_HEADERS", 1 << 16)
    (tmp_path / "pax.tar.gz").write_bytes(gzip.compress(tar(("a", b"1", {"pax_headers": {"comment": "x" * 10**6}}))))
    with pytest.raises(InputError, match="grows beyond"):
        unpack_tar(tmp_path / "pax.tar.gz", tmp_path / "out", limit=100)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 5, 300, 600, -12])
@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, lzma.compress], ids=["plain", "gzip", "xz"])
def test_damaged_archives_are_named(keep: int, squeeze: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """Cut anywhere, also within the checksum at the end (a plain tar file ends in padding: there the middle is cut)."""
    content = squeeze(tar(("a.bin", bytes(range(256)) * 8, {})))
    if keep >= len(content) or (keep < 0 and squeeze is bytes):
        keep = min(len(content) - 12, 1500)
    (tmp_path / "x.tar").write_bytes(content[:keep])
    with pytest.raises(InputError, match=r"x\.tar"):
        unpack_tar(tmp_path / "x.tar", tmp_path / "out", limit=10**6)
    assert not (tmp_path / "out").exists()


def deb(*members: tuple[str, bytes]) -> bytes:
    rows = [
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}".encode()
        + b"`\n"
        + content
        + b"\n" * (len(content) % 2)
        for name, content in members
    ]
    return b"!<arch>\n" + b"".join(rows)


def test_a_debian_package_is_unpacked_without_dpkg(tmp_path: Path) -> None:
    data = lzma.compress(tar(*GOOD))
    (tmp_path / "x.deb").write_bytes(deb(("debian-binary", b"2.0\n"), ("control.tar", b"odd"), ("data.tar.xz/", data)))
    assert (deb_content(tmp_path / "x.deb", tmp_path / "out", limit=100) / "a" / "b.txt").read_bytes() == b"hello"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no Debian package"),
        (b"<html>", "no Debian package"),
        (deb(("debian-binary", b"2.0\n")), r"no data\.tar"),
        (deb(("data.tar", b"x" * 100))[:-50], "cut short"),
        (b"!<arch>\n" + b"x" * 60, "byte 8 begins no package member"),
    ],
)
def test_what_is_no_debian_package_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(InputError, match=message):
        deb_content(tmp_path / "x.deb", tmp_path / "out", limit=100)


def test_long_names_without_end_are_refused(tmp_path: Path) -> None:
    def header(name: str, size: int, kind: bytes) -> bytes:
        member = tarfile.TarInfo(name)
        member.size, member.type = size, kind
        return member.tobuf(tarfile.GNU_FORMAT)

    long = header("././@LongLink", 2, tarfile.GNUTYPE_LONGNAME) + b"a\0".ljust(512, b"\0")
    (tmp_path / "x.tar").write_bytes(long * 1500 + header("f", 0, tarfile.REGTYPE) + bytes(1024))
    with pytest.raises(InputError, match="is a damaged archive"):
        unpack_tar(tmp_path / "x.tar", tmp_path / "out", limit=10**7)
    assert not (tmp_path / "out").exists()
