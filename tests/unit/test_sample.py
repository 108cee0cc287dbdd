"""The sample mirror makes packages again out of files, and only out of the right ones."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
from pathlib import Path
from typing import cast

import pytest

from builder.core.errors import UserError
from builder.sample.ext4 import Inode
from builder.sample.mirror import sample_mirror
from builder.sample.packages import rebuild
from builder.sample.standins import _files, alpine_version
from builder.sample.wheel import System


def checksum(data: bytes) -> str:
    return "Q1" + base64.b64encode(hashlib.sha1(data).digest()).decode()


class FakeSystem:
    """An installed system with one package `rope`, whose files are `files`."""

    def __init__(self, files: dict[str, bytes]) -> None:
        control = hashlib.sha1(b"rope").digest()
        database = (
            f"C:Q1{base64.b64encode(control).decode()}\nP:rope\nV:1-r0\nS:1\nt:7\n"
            f"F:etc\nR:hostname\nZ:{checksum(b'localhost' + bytes([10]))}\n"
            f"F:usr\nR:rope\na:0:4:4755\nZ:{checksum(b'strong')}\n"
        )
        self.contents = {
            "lib/apk/db/installed": database.encode(),
            "lib/apk/db/triggers": f"Q1{base64.b64encode(control).decode()} /usr\n".encode(),
            "lib/apk/db/scripts.tar.gz": self.scripts(f"rope-1-r0.X1{control.hex()}.trigger"),
            **files,
        }
        self.files = {name: Inode(0o100644, 0, 0, 0, b"") for name in self.contents}

    def read(self, path: str) -> bytes:
        return self.contents[path]

    @staticmethod
    def scripts(name: str) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"true"))
        return buffer.getvalue()


def system(**files: bytes) -> System:
    return cast(System, FakeSystem({"etc/hostname": b"changed\n", "usr/rope": b"strong", **files}))


@pytest.mark.parametrize("place", ["sbin", "usr/sbin"])
def test_tools_of_older_and_newer_debians_are_found(tmp_path: Path, place: str) -> None:
    program = tmp_path / place / "mkfs.fat"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / place / "mkfs.vfat").symlink_to("mkfs.fat")
    found = list(_files(tmp_path, ("sbin/mkfs.fat", "sbin/mkfs.vfat")))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        f"{place}/mkfs.fat",
        f"{place}/mkfs.vfat",
    ]
    with pytest.raises(UserError, match=r"Debian's packages hold no usr/bin/mcopy"):
        list(_files(tmp_path, ("usr/bin/mcopy",)))


def test_a_package_has_its_files_owners_scripts_and_triggers_again() -> None:
    (rope,) = rebuild(system())
    assert {entry.path: (entry.mode, entry.gid, entry.data) for entry in rope.entries} == {
        "etc": (0o755, 0, None),
        "etc/hostname": (0o644, 0, b"localhost\n"),  # as before the system was configured
        "usr": (0o755, 0, None),
        "usr/rope": (0o4755, 4, b"strong"),
    }
    assert rope.fields == {"P": "rope", "V": "1-r0", "t": "7"}
    assert (rope.scripts, rope.triggers) == ({"trigger": b"true"}, "/usr")


def test_a_file_that_differs_from_its_package_is_an_error() -> None:
    with pytest.raises(UserError, match=r"usr/rope of rope: got Q1.*, wanted Q1"):
        rebuild(system(**{"usr/rope": b"weak"}))


def test_a_release_without_a_sample_is_named() -> None:
    with pytest.raises(UserError, match=r"no sample of Alpine 3\.1; there is one of: 3\.23, 3"):
        sample_mirror("3.1")


@pytest.mark.parametrize(
    ("debian", "alpine"),
    [
        ("1:4.5.1-1", "4.5.1-r1"),
        ("1%3a4.5.1-1+b2", "4.5.1-r1"),
        ("2.06-13+deb12u1", "2.06-r13"),
        ("2.36-9+deb12u14", "2.36-r9"),
        ("4.2~rc1-1", "4.2-r1"),
    ],
)
def test_versions_of_stand_ins_can_be_ordered_by_apk(debian: str, alpine: str) -> None:
    assert alpine_version(debian) == alpine
