"""Packages and indexes: what is signed is read, everything else is refused with its reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tasks.alpine.apk_format import Package, gzip_streams, read_index, verify_index, verify_package
from tasks.alpine.apk_writer import (
    Draft,
    Entry,
    SigningKey,
    stored_gzip,
    tar_of,
    write_index,
    write_package,
)
from tasks.core.errors import UserError

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
    assert b"strong" * 20000 in verify_package(data, package, "rope")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-100], "bytes, wanted"),
        (lambda data: data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], "not a gzip stream"),
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
    with pytest.raises(UserError, match="not signed by any of the keys in"):
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
