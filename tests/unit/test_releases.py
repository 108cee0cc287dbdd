"""What the one who publishes has of releases."""

from __future__ import annotations

import hashlib
import lzma
import random
from pathlib import Path

import pytest

from builder.core.errors import UserError
from builder.releases import make
from builder.releases.changes import changes
from builder.releases.chunks import unpack_xz, write_xz
from tests.publisher import Key, Publisher
from updater.formats import CHUNK


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    monkeypatch.setattr("builder.releases.chunks.CACHE", tmp_path / "cache")
    return Publisher(tmp_path / "server")


def test_the_release_before_is_the_newest_older_one_that_is_trusted(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = Key()
    publisher.release("1.9.0", new.sign)
    publisher.release("1.10.0")
    publisher.release("2.0.0", new.sign)

    def before(version: str, *keys: Key) -> str:
        monkeypatch.setattr(make, "trusted_keys", lambda: [key.public for key in keys])
        manifest = make.release_before(publisher.store, version)
        return manifest.version if manifest else ""

    assert before("3.0.0", new, publisher.key) == "2.0.0"
    assert before("1.11.0", new, publisher.key) == "1.10.0"
    assert before("1.11.0", new) == "1.9.0", "the key of 1.10.0 was revoked"
    assert before("1.9.0", new) == ""


def test_changes_read_like_a_list_of_packages() -> None:
    found = changes(
        ("1.0.0", {"curl": "8.1-r0", "nano": "7-r0"}, 5_000_000),
        ("1.1.0", {"curl": "8.2-r0", "vim": "9-r0"}, 7_500_000),
    )
    assert found.lines() == [
        "  curl 8.1-r0 -> 8.2-r0", "- nano 7-r0", "+ vim 9-r0", "  slot image: +2.5 MB",
    ]  # fmt: skip


def test_a_disk_is_unpacked_as_it_was_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With chunks that come again, and holes in the middle and at the end."""
    monkeypatch.setattr("builder.releases.chunks.CACHE", tmp_path / "cache")
    disk, blobs = tmp_path / "disk", tmp_path / "blobs"
    slot = random.Random(3).randbytes(CHUNK) + b"the rest of a slot"
    with disk.open("wb") as file:
        for piece in (bytes(5 * CHUNK), slot, bytes(CHUNK), slot, bytes(11 * CHUNK)):
            file.write(piece)
    blob = write_xz(disk, [0, 5 * CHUNK], blobs, level=0)
    unpack_xz(blobs / blob.sha256, tmp_path / "unpacked")
    assert (tmp_path / "unpacked").read_bytes() == disk.read_bytes()
    assert lzma.decompress((blobs / blob.sha256).read_bytes()) == disk.read_bytes()

    half = (blobs / blob.sha256).read_bytes()[:-5]
    path = blobs / hashlib.sha256(half).hexdigest()
    path.write_bytes(half)
    with pytest.raises(lzma.LZMAError):
        unpack_xz(path, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()

    with (blobs / blob.sha256).open("r+b") as packed:
        packed.write(b"?")
    with pytest.raises(UserError, match=r"is damaged: its SHA-256 is not its name"):
        unpack_xz(blobs / blob.sha256, tmp_path / "unpacked")
