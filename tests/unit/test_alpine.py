"""What becomes of an installed root: apk's database, the packed tar, the initramfs."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from tasks.alpine.apk_database import InstalledFile, read_database
from tasks.alpine.initramfs import normalise, pack_initramfs
from tasks.alpine.tree import pack_chroot

DATABASE = """\
P:rope
V:1-r0
F:
F:etc
R:plain
Z:Q1abc=
R:secret
a:0:42:640
Z:Q1def=
F:var/locked
M:7:8:700

P:other
V:2-r0
F:usr/bin
R:become
a:0:9:4755
"""


def test_the_database_says_whose_the_files_are() -> None:
    rope, other = read_database(DATABASE)
    assert rope.fields == {"P": "rope", "V": "1-r0"}
    assert rope.files[2:] == [
        InstalledFile("etc/plain", False, 0o644, checksum="Q1abc="),
        InstalledFile("etc/secret", False, 0o640, 0, 42, "Q1def="),
        InstalledFile("var/locked", True, 0o700, 7, 8),
    ]
    assert other.files[-1] == InstalledFile("usr/bin/become", False, 0o4755, 0, 9)


def test_a_packed_chroot_has_the_owners_of_the_database(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in ("etc", "var/locked", "usr/bin", "lib/apk/db", "lib/modules/6.18"):
        (root / folder).mkdir(parents=True)
    (root / "lib/apk/db/installed").write_text(DATABASE)
    for name, mode in {"etc/plain": 0o644, "etc/secret": 0o640, "usr/bin/become": 0o755}.items():
        (root / name).write_text(name)
        (root / name).chmod(mode)
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-virt").write_bytes(b"a kernel")
    (root / "link").symlink_to("etc/plain")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(root, ".")
    pack_chroot(tmp_path, {})
    assert (tmp_path / "vmlinuz").read_bytes() == b"a kernel"
    with tarfile.open(tmp_path / "modules.tar") as tar:
        assert tar.getnames() == ["lib/modules", "lib/modules/6.18"]
    with tarfile.open(tmp_path / "chroot.tar") as tar:
        found = {m.name: (m.uid, m.gid, m.mode, m.mtime) for m in tar}
        assert tar.getnames() == sorted(tar.getnames())
        assert tar.getmember("link").linkname == "etc/plain"
    assert not found.keys() & {"boot/vmlinuz-virt", "lib/modules"}
    assert found["etc/secret"] == (0, 42, 0o640, 0)
    assert found["usr/bin/become"] == (0, 9, 0o4755, 0), "chown would have cost it setuid"
    assert found["var/locked"][:2] == (7, 8)
    assert found["etc/plain"] == (0, 0, 0o644, 0)


def cpio_entry(name: bytes, data: bytes, mtime: int, device: int) -> bytes:
    numbers = [1, 0o100644, 0, 0, 1, mtime, len(data), device, device, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name + b"\0"
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


def cpio(mtime: int, device: int) -> bytes:
    return cpio_entry(b"init", b"#!/bin/sh\n", mtime, device) + cpio_entry(
        b"TRAILER!!!", b"", 0, device
    )


def test_an_initramfs_does_not_depend_on_when_and_where_it_was_made(tmp_path: Path) -> None:
    for name, made in {"one": cpio(1, 0xFD), "two": cpio(99, 0x801)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "initramfs").write_bytes(made)
        pack_initramfs(tmp_path / name, {})
    one, two = ((tmp_path / name / "initramfs").read_bytes() for name in ("one", "two"))
    assert one == two
    assert gzip.decompress(one) == cpio(0, 0)


def test_what_is_no_cpio_is_refused() -> None:
    with pytest.raises(ValueError, match="no cpio header at byte 0"):
        normalise(bytearray(200))
