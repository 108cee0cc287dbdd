"""Packages and indexes: what is signed is read, everything else is refused with its reason."""

from __future__ import annotations

import gzip
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from builder.alpine.apk_database import read_database
from builder.alpine.apk_format import (
    Package,
    gzip_streams,
    installed_record,
    package_files,
    read_index,
    verify_index,
    verify_package,
)
from builder.alpine.apk_writer import (
    Draft,
    Entry,
    SigningKey,
    stored_gzip,
    tar_of,
    write_index,
    write_package,
)
from builder.core.errors import UserError

FOLDER = "v3.23/main/x86_64"
FIELDS = {"P": "rope", "V": "1.2-r3", "A": "x86_64", "T": "holds", "t": "1767225600", "D": "musl"}


@pytest.fixture(scope="module")
def key() -> SigningKey:
    return SigningKey("test.rsa.pub", rsa.generate_private_key(65537, 2048))


@pytest.fixture
def keys(tmp_path: Path, key: SigningKey) -> Path:
    folder = tmp_path / "keys"
    folder.mkdir()
    public = key.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / key.name).write_bytes(public)
    return folder


@pytest.fixture(scope="module")
def written(key: SigningKey) -> tuple[bytes, Package]:
    entries = [Entry("usr", 0o755), Entry("usr/rope", 0o4755, b"strong" * 20000)]
    data, fields = write_package(Draft(FIELDS, entries), key)
    (package,) = read_index(write_index([fields], key, ""), FOLDER)
    return data, package


def test_a_package_is_found_in_its_index(written: tuple[bytes, Package]) -> None:
    data, package = written
    assert (package.name, package.version, package.size) == ("rope", "1.2-r3", len(data))
    assert package.path == "v3.23/main/x86_64/rope-1.2-r3.apk"
    verify_package(data, package, "rope")
    assert b"strong" * 20000 in package_files(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-100], "bytes, wanted"),
        (lambda data: data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], "its files are not those"),
        (lambda data: bytes(len(data)), "not a gzip stream"),
        (lambda data: data[:3] + b"x" + data[4:], "not a gzip stream"),
    ],
)
def test_a_damaged_package_is_refused(
    written: tuple[bytes, Package], damage: Callable[[bytes], bytes], message: str
) -> None:
    data, package = written
    with pytest.raises(UserError, match=message):
        verify_package(damage(data), package, "rope")


def test_a_package_that_the_index_does_not_name_is_refused(
    written: tuple[bytes, Package], key: SigningKey
) -> None:
    _, package = written
    entries = [Entry("usr", 0o755), Entry("usr/rope", 0o4755, b"weaker" * 20000)]
    other, _ = write_package(Draft(FIELDS, entries), key)
    assert len(other) == package.size
    with pytest.raises(UserError, match="is not the package that the index names"):
        verify_package(other, package, "rope")


def test_the_files_of_one_package_under_the_control_of_another_are_refused(
    written: tuple[bytes, Package], key: SigningKey
) -> None:
    data, package = written
    content = stored_gzip(b"\0" * 1024)
    head = b"".join(raw for raw, _ in gzip_streams(data)[:2])
    forged = head + content
    claimed = Package(package.name, package.version, len(forged), package.checksum, FOLDER)
    with pytest.raises(UserError, match="its files are not those that it was signed with"):
        verify_package(forged, claimed, "rope")


@pytest.mark.parametrize(
    "name",
    ["one+two@example.org-5f.rsa.pub", "it's (me), \u00fc.rsa.pub", "-x.rsa.pub", "a b.rsa.pub"],
)
def test_keys_are_called_as_abuild_calls_them(keys: Path, key: SigningKey, name: str) -> None:
    """After the packager's address, whatever stands there."""
    (keys / key.name).rename(keys / name)
    verify_index(write_index([FIELDS], SigningKey(name, key.private), ""), keys, "index")


@pytest.mark.parametrize("name", ["../test.rsa.pub", "/etc/passwd", "sub/test.rsa.pub"])
def test_no_key_lies_elsewhere(keys: Path, key: SigningKey, name: str) -> None:
    (keys / "sub").mkdir()
    for folder in (keys.parent, keys / "sub"):
        (folder / key.name).write_bytes((keys / key.name).read_bytes())
    with pytest.raises(UserError, match="not signed by any of the keys"):
        verify_index(write_index([FIELDS], SigningKey(name, key.private), ""), keys, "index")


@pytest.mark.parametrize(
    "separator",
    ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r", "\udcff"],
)
def test_lines_end_at_newlines_only(key: SigningKey, separator: str) -> None:
    """A description may hold all that Python takes for the end of a line, and no UTF-8."""
    fields = {**FIELDS, "T": f"holds{separator}fast", "S": "1", "C": "Q1x"}
    index = write_index([fields, {**FIELDS, "P": "knot", "S": "1", "C": "Q1y"}], key, "")
    assert [package.name for package in read_index(index, FOLDER)] == ["rope", "knot"]
    data, _ = write_package(Draft({**FIELDS, "T": f"a{separator}b"}, []), key)
    assert f"T:a{separator}b\n" in installed_record(data)
    record = f"P:rope\nT:a{separator}b\nF:usr\nR:n{separator}m\nZ:Q1z\n"
    (package,) = read_database(record)
    assert [file.path for file in package.files] == ["usr", f"usr/n{separator}m"]


def test_what_nobody_signed_is_bounded(keys: Path) -> None:
    """A gzip of a gigabyte of zeros has a megabyte; a thousand small streams take their time."""
    engine = zlib.compressobj(9, wbits=31)
    bomb = b"".join(engine.compress(bytes(1 << 20)) for _ in range(1 << 10)) + engine.flush()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="unpacks to more than 256 MiB"):
        verify_index(bomb, keys, "index")
    package = Package("bomb", "1", len(bomb), "Q1x", FOLDER)
    with pytest.raises(UserError, match="unpacks to more than 16 MiB"):
        verify_package(bomb, package, "bomb")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 700 << 10
    start = time.process_time()
    with pytest.raises(UserError, match="has more than 3 streams"):
        verify_index(gzip.compress(b"") * 100_000, keys, "index")
    assert time.process_time() - start < 5


def test_format_v3_is_called_by_its_name(keys: Path) -> None:
    for magic in (b"ADBd", b"ADBc", b"ADB."):
        with pytest.raises(UserError, match=r"is of format v3, and this Belay reads v2"):
            verify_index(magic + bytes(100), keys, "index")
        with pytest.raises(UserError, match=r"is of format v3, and this Belay reads v2"):
            verify_package(magic + bytes(96), Package("x", "1", 100, "Q1x", FOLDER), "x.apk")


def test_a_signed_index_is_accepted(keys: Path, key: SigningKey) -> None:
    verify_index(write_index([FIELDS], key, ""), keys, "index")


def test_an_index_signed_as_alpine_does_is_accepted(keys: Path, key: SigningKey) -> None:
    """`.SIGN.RSA.` means SHA-1."""
    body = gzip_streams(write_index([FIELDS], key, ""))[1][0]
    signature = key.private.sign(body, padding.PKCS1v15(), hashes.SHA1())
    entry = Entry(f".SIGN.RSA.{key.name}", 0o644, signature)
    head = stored_gzip(tar_of([entry], end=False, checksums=False))
    verify_index(head + body, keys, "index")


def test_an_index_by_an_unknown_key_is_refused(keys: Path) -> None:
    stranger = SigningKey("stranger.rsa.pub", rsa.generate_private_key(65537, 2048))
    with pytest.raises(UserError, match="not signed by any of the keys"):
        verify_index(write_index([FIELDS], stranger, ""), keys, "index")


def test_an_index_by_a_wrong_key_of_the_right_name_is_refused(keys: Path, key: SigningKey) -> None:
    stranger = SigningKey(key.name, rsa.generate_private_key(65537, 2048))
    with pytest.raises(UserError, match=r"its signature by test\.rsa\.pub is wrong"):
        verify_index(write_index([FIELDS], stranger, ""), keys, "index")


def test_what_is_behind_the_signed_part_of_an_index_is_refused(keys: Path, key: SigningKey) -> None:
    data = write_index([FIELDS], key, "") + stored_gzip(b"unsigned")
    with pytest.raises(UserError, match="not signed as a whole"):
        verify_index(data, keys, "index")


@pytest.mark.parametrize("data", [b"", b"<html>no such file</html>", bytes(100)])
def test_what_is_no_index_is_refused(keys: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="index: "):
        verify_index(data, keys, "index")
