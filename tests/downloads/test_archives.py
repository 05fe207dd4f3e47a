"""Archives of strangers: ordinary ones are unpacked, and each kind of attack is refused before a file is written."""

import contextlib
import io
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgvivqa.downloads.archives import Archive, LinkPolicy
from surgvivqa.downloads.sources import UnpackLimits
from surgvivqa.utils.errors import RunError

LIMITS = UnpackLimits(bytes=5_000_000, files=50, ratio=100)


def unpack(path: Path, folder: Path, links: LinkPolicy = "refuse", limits: UnpackLimits = LIMITS) -> list[str]:
    """Unpacks an archive and returns the names of what is in the folder."""
    folder.mkdir()
    with Archive(path) as archive:
        members = archive.members(links, limits)
        archive.unpack(members, folder, lambda count: None)
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())


def make_zip(path: Path, *names: str, content: bytes = b"text") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def make_special_zip(path: Path, name: str, kind: int, content: bytes) -> Path:
    """A zip with an entry of a kind of Unix, such as a link, and an ordinary one."""
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, content)
        archive.writestr("data/a.txt", "a")
    return path


def make_tar(path: Path, *entries: tuple[str, bytes, str], mode: str = "w:gz") -> Path:
    """A tar of entries: name, type, content or target."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content.encode()))
            else:
                info.linkname = content
                archive.addfile(info)
    return path


def test_a_zip_is_unpacked_without_droppings_and_permissions(tmp_path: Path) -> None:
    path = make_special_zip(tmp_path / "a.zip", "data/run.sh", stat.S_IFREG | stat.S_ISUID, b"#!/bin/sh")
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("__MACOSX/data/._a.txt", "data/.DS_Store", "data/inner/"):
            archive.writestr(name, "")
    assert unpack(path, tmp_path / "out") == ["data/a.txt", "data/run.sh"]
    assert (tmp_path / "out" / "data" / "run.sh").read_bytes() == b"#!/bin/sh"
    assert (tmp_path / "out" / "data" / "run.sh").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tars_of_all_compressions_are_unpacked_whatever_their_name(mode: str, tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.zip",
        ("d", tarfile.DIRTYPE, ""),
        ("./d/b.txt", tarfile.REGTYPE, "b"),
        ("d/a.txt", tarfile.REGTYPE, "a"),
        mode=mode,
    )
    assert unpack(path, tmp_path / "out") == ["d/a.txt", "d/b.txt"]
    assert (tmp_path / "out" / "d" / "a.txt").read_text() == "a"


@pytest.mark.parametrize(
    "name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "C:/evil.txt", "a\\..\\evil.txt", "..", "a/.."]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_out_are_refused(name: str, kind: str, tmp_path: Path) -> None:
    if kind == "zip":
        path = make_zip(tmp_path / "a", "good.txt", name)
    else:
        path = make_tar(tmp_path / "a", ("good.txt", tarfile.REGTYPE, "a"), (name, tarfile.REGTYPE, "evil"))
    with pytest.raises(RunError, match="which leads out of its folder, so it is not unpacked"):
        unpack(path, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir()) and not (tmp_path / "evil.txt").exists()


@pytest.mark.parametrize("name", [b"\0.txt", b"a\0txt"])
def test_a_name_that_ends_at_a_nul_byte_is_refused(name: bytes, tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", "#" * len(name))
    path.write_bytes(path.read_bytes().replace(b"#" * len(name), name))
    with pytest.raises(RunError, match="cannot be used"):
        unpack(path, tmp_path / "out")


def test_a_file_without_a_name_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", "#")
    raw = path.read_bytes()
    end = raw.index(b"PK\x05\x06")
    local, central = raw.index(b"PK\x03\x04"), raw.index(b"PK\x01\x02")
    changed = bytearray(raw)
    changed[local + 26], changed[central + 28] = 0, 0  # the lengths of the names
    del changed[central + 46], changed[local + 30]
    changed[end - 2 + 12] -= 1  # the size of the directory
    changed[end - 2 + 16] -= 1  # where it begins
    path.write_bytes(changed)
    with pytest.raises(RunError, match="holds a file without a name"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("name", ["a\nb.txt", "a\x1b[2Jb", "x" * 300])
def test_names_that_cannot_be_used_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be used"):
        unpack(make_zip(tmp_path / "a.zip", name), tmp_path / "out")


@pytest.mark.parametrize("target", ["/etc/passwd", "../../etc/passwd", "..", "a/../../../x", "\\\\host\\x"])
def test_links_that_lead_out_are_refused(target: str, tmp_path: Path) -> None:
    for path in (
        make_special_zip(tmp_path / "a.zip", "data/link", stat.S_IFLNK, target.encode()),
        make_tar(tmp_path / "a.tar", ("link", tarfile.SYMTYPE, target)),
    ):
        if path.suffix == ".zip" and target == "..":
            continue  # from data/link it leads to the root of the archive
        with pytest.raises(RunError, match="a link that leads out of its folder"):
            unpack(path, tmp_path / f"out{path.suffix}", "inside")


def test_links_are_refused_unless_the_table_allows_them(tmp_path: Path) -> None:
    path = make_special_zip(tmp_path / "a.zip", "train/1.jpg", stat.S_IFLNK, b"../data/a.txt")
    with pytest.raises(RunError, match=r"holds 'train/1.jpg', which is a link"):
        unpack(path, tmp_path / "out")
    assert unpack(path, tmp_path / "again", "inside") == ["data/a.txt", "train/1.jpg"]
    assert (tmp_path / "again" / "train" / "1.jpg").read_text() == "a"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", ("d", tarfile.SYMTYPE, "e"), ("d/x.txt", tarfile.REGTYPE, "evil"))
    with pytest.raises(RunError, match=r"holds 'd/x.txt' below 'd', which is no folder"):
        unpack(path, tmp_path / "out", "inside")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (tarfile.LNKTYPE, "which is a hard link"),
        (tarfile.CHRTYPE, "which is a device"),
        (tarfile.BLKTYPE, "which is a device"),
        (tarfile.FIFOTYPE, "which is a device, a pipe"),
    ],
)
def test_devices_pipes_and_hard_links_are_refused(kind: bytes, sentence: str, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", ("a.txt", tarfile.REGTYPE, "a"), ("b", kind, "a.txt"))
    with pytest.raises(RunError, match=sentence):
        unpack(path, tmp_path / "out", "inside")


def test_a_pipe_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = make_special_zip(tmp_path / "a.zip", "pipe", stat.S_IFIFO, b"")
    with pytest.raises(RunError, match="which is a device or a pipe"):
        unpack(path, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("a.txt", "a.txt"), "holds 'a.txt' twice"),
        (("a.txt", "A.TXT"), "differ only in case or form"),
        (("caf\u00e9", "cafe\u0301"), "differ only in case or form"),
        (("VID01/1.txt", "vid01/2.txt"), "holds the folders 'VID01' and 'vid01', which differ only in case"),
        (("a", "a/b.txt"), "holds 'a/b.txt' below 'a', which is no folder"),
        (("./a.txt", "a.txt"), "twice"),
    ],
)
def test_names_that_would_replace_each_other_are_refused(names: tuple[str, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=sentence):
        unpack(make_zip(tmp_path / "a.zip", *names), tmp_path / "out")


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds more than 50 files"):
        unpack(make_zip(tmp_path / "a.zip", *(f"{n}.txt" for n in range(51))), tmp_path / "out")


@pytest.mark.parametrize("make", [make_zip, None])
def test_too_many_bytes_are_refused(make: Callable[..., Path] | None, tmp_path: Path) -> None:
    if make:
        path = make(tmp_path / "a", "bomb", content=b"\0" * 6_000_000)
    else:
        path = make_tar(tmp_path / "a", ("bomb", tarfile.REGTYPE, "\0" * 6_000_000))
    with pytest.raises(RunError, match="becomes more than 5,000,000 bytes"):
        unpack(path, tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


def test_a_high_ratio_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", "bomb", content=b"\0" * 4_000_000)
    with pytest.raises(RunError, match=r"becomes 4,000,000 bytes, more than 3 times its own size"):
        unpack(path, tmp_path / "out", limits=UnpackLimits(bytes=10**9, files=10, ratio=3))


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", "bomb", content=b"\0" * 1_000_000)
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = raw.index(signature) + offset
        raw[place : place + 4] = (10).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(RunError, match="damaged"):
        unpack(path, tmp_path / "out")
    written = tmp_path / "out" / "bomb"
    assert not written.exists() or written.stat().st_size <= 10


def test_a_tar_whose_header_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 10**9
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10240)
    with pytest.raises(RunError, match="damaged"):
        unpack(tmp_path / "a.tar", tmp_path / "out")


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", "secret.txt")
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + offset] |= 1
    path.write_bytes(raw)
    with pytest.raises(RunError, match=r"holds the encrypted file 'secret\.txt'"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_truncated_archive_is_refused(kind: str, cut: float, tmp_path: Path) -> None:
    text = "".join(chr(33 + (n * n) % 89) for n in range(5000))
    path = tmp_path / "a"
    if kind == "zip":
        make_zip(path, *"abcdef", content=text.encode())
    else:
        make_tar(path, *((name, tarfile.REGTYPE, text) for name in "abcdef"))
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(RunError, match=r"damaged|cannot be read"):
        unpack(path, tmp_path / "out")


def test_flipped_bits_are_found(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", "a.txt", content=b"some text that is long enough" * 20)
    raw = bytearray(path.read_bytes())
    raw[60] ^= 64
    path.write_bytes(raw)
    with pytest.raises(RunError, match="damaged"):
        unpack(path, tmp_path / "out")


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", "evil.txt")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(inner, "data/inner.zip")
    assert unpack(tmp_path / "a.tar", tmp_path / "out") == ["data/inner.zip"]


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"hello, I am not an archive" * 100)
    with pytest.raises(RunError, match="damaged or of an unsupported kind"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text("./\\aA:~ \u0301", min_size=1, max_size=8), min_size=1, max_size=4),
    kind=st.sampled_from(["zip", "tar"]),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_whatever_the_names_nothing_is_written_outside(names: list[str], kind: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path, out = Path(folder) / "archive", Path(folder) / "deep" / "er"
        out.parent.mkdir()
        if kind == "zip":
            make_zip(path, *names)
        else:
            make_tar(path, *((name, tarfile.REGTYPE, "a") for name in names))
        with contextlib.suppress(RunError):
            unpack(path, out)
        outside = [p for p in Path(folder).rglob("*") if p not in (path, out, out.parent) and out not in p.parents]
        assert outside == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.floats(0, 1, exclude_max=True),
    byte=st.integers(0, 255),
    kind=st.sampled_from(["zip", "tar", "gz", "xz", "bz2"]),
)
def test_a_changed_byte_gives_a_sentence_or_the_files(place: float, byte: int, kind: str, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        path = Path(folder) / "archive"
        if kind == "zip":
            make_zip(path, "d/a.txt", "d/b.txt", content=b"text" * 100)
        else:
            entries = [(name, tarfile.REGTYPE, "text" * 100) for name in ("d/a.txt", "d/b.txt")]
            make_tar(path, *entries, mode="w" if kind == "tar" else f"w:{kind}")
        raw = bytearray(path.read_bytes())
        raw[int(place * len(raw))] = byte
        path.write_bytes(raw)
        with contextlib.suppress(RunError):
            unpack(path, Path(folder) / "out")


def test_a_size_below_zero_does_not_lead_back(tmp_path: Path) -> None:
    """On Python without the correction of CVE-2025-8194, tarfile would read the same entries for ever."""
    first, second = tarfile.TarInfo("a.txt"), tarfile.TarInfo("__MACOSX/b.txt")
    first.size, second.size = 600, -512
    path = tmp_path / "a.tar"
    path.write_bytes(first.tobuf(tarfile.GNU_FORMAT) + bytes(1024) + second.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(RunError, match=r"below zero|cannot be read|is damaged"):
        unpack(path, tmp_path / "out")
