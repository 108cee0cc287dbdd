"""What becomes of an installed root: apk's database, the packed tar, the initramfs."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest

from builder.alpine.apk_database import InstalledFile, read_database
from builder.alpine.chroot import pack_chroot
from builder.alpine.initramfs import cpio_entries, initramfs_parts, normalise, pack_initramfs
from builder.core.errors import UserError
from builder.engines.noted_chown import NOTES, Note

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

P:kernel
V:6-r0
F:boot
R:vmlinuz-virt
"""


def test_the_database_says_whose_the_files_are() -> None:
    rope, other, _ = read_database(DATABASE)
    assert rope.fields == {"P": "rope", "V": "1-r0"}
    assert rope.files[2:] == [
        InstalledFile("etc/plain", False, 0o644, checksum="Q1abc="),
        InstalledFile("etc/secret", False, 0o640, 0, 42, "Q1def="),
        InstalledFile("var/locked", True, 0o700, 7, 8),
    ]
    assert other.files[-1] == InstalledFile("usr/bin/become", False, 0o4755, 0, 9)


def installed(tmp_path: Path, script: str = "") -> Path:
    """An installed root: what a job has before it packs it."""
    (tmp_path / "xattrs").touch()
    root = tmp_path / "root"
    for folder in ("etc", "var/locked", "usr/bin", "lib/apk/db", "lib/modules/6.18"):
        (root / folder).mkdir(parents=True)
    (root / "lib/apk/db/installed").write_text(DATABASE)
    for name in ("passwd", "group"):
        (root / "etc" / name).write_text("app:x:100:101::/:\n")
    for name, mode in {"etc/plain": 0o644, "etc/secret": 0o640, "usr/bin/become": 0o4755}.items():
        (root / name).write_text(name)
        (root / name).chmod(mode)
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-virt").write_bytes(b"a kernel")
    (root / "link").symlink_to("etc/plain")
    with tarfile.open(root / "lib/apk/db/scripts.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("rope-1-r0.X1abc.post-install")
        info.size = len(script)
        tar.addfile(info, io.BytesIO(script.encode()))
    return root


def packed(tmp_path: Path, uid: int = 0, gid: int = 0) -> dict[str, tarfile.TarInfo]:
    """What `pack_chroot` makes of it, where `tar` saw these owners."""

    def owned(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid, info.gid = uid, gid
        return info

    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(tmp_path / "root", ".", filter=owned)
    pack_chroot(tmp_path, {})
    with tarfile.open(tmp_path / "chroot.tar") as tar:
        return {member.name: member for member in tar}


def test_a_packed_chroot_has_the_owners_of_the_database(tmp_path: Path) -> None:
    installed(tmp_path)
    packed(tmp_path)
    assert (tmp_path / "vmlinuz").read_bytes() == b"a kernel"
    with tarfile.open(tmp_path / "modules.tar") as tar:
        assert tar.getnames() == ["lib/modules", "lib/modules/6.18"]
    with tarfile.open(tmp_path / "chroot.tar") as tar:
        found = {m.name: (m.uid, m.gid, m.mode, m.mtime) for m in tar}
        assert tar.getnames() == sorted(tar.getnames())
        assert tar.getmember("link").linkname == "etc/plain"
    assert not found.keys() & {"boot/vmlinuz-virt", "lib/modules"}
    assert found["etc/secret"] == (0, 42, 0o640, 0)
    assert found["usr/bin/become"] == (0, 9, 0o4755, 0)
    assert found["var/locked"][:2] == (7, 8)
    assert found["etc/plain"] == (0, 0, 0o644, 0)


def test_owners_that_the_engine_gave_count_more_than_the_database(tmp_path: Path) -> None:
    installed(tmp_path, "chown 3 /etc/plain")
    found = packed(tmp_path, 3, 4)
    assert {(member.uid, member.gid) for member in found.values()} == {(3, 4)}


@pytest.mark.parametrize(
    "script", ["chown app /x", "chgrp app /x", "install -d -o app /x", "install -m 750 -g app y x"]
)
def test_owners_that_nobody_could_note_are_refused(tmp_path: Path, script: str) -> None:
    installed(tmp_path, f"#!/bin/sh\n{script}\n")
    with pytest.raises(UserError, match="the install scripts of rope-1-r0 set owners of files"):
        packed(tmp_path)


def test_notes_count_more_than_the_database(tmp_path: Path) -> None:
    root = installed(tmp_path)
    (root / "etc/edited").write_text("written anew")
    paths = sorted(root.rglob("*"))
    lines = [f"{p.lstat().st_dev} {p.lstat().st_ino} ./{p.relative_to(root)}\n" for p in paths]
    (tmp_path / "inodes").write_text("".join(lines))

    def note(name: str, inode: int, uid: int | None, gid: int | None, **more: bool) -> Note:
        return Note(root.stat().st_dev, inode, f"/tmp/root/{name}", uid, gid, **more)

    secret, plain, edited = (
        (root / f"etc/{x}").stat().st_ino for x in ("secret", "plain", "edited")
    )
    notes = [
        note("etc/.fresh", secret, 0, 42),  # by apk
        note("etc/secret", secret, 5, None),
        note("etc/plain", plain, 6, 6),
        note("etc/plain", plain, 0, None),
        note("etc/edited", 1, 7, 7),
        note("etc/edited.new", edited, 0, 0, copied=True),
        note("usr/bin/become", 2, 8, 8),  # removed since, and made anew
    ]
    (tmp_path / NOTES).write_text(json.dumps([asdict(note) for note in notes]))
    found = {name: (member.uid, member.gid) for name, member in packed(tmp_path).items()}
    assert found["etc/secret"] == (5, 42), "what isn't asked for stays"
    assert found["etc/plain"] == (0, 6)
    assert found["etc/edited"] == (7, 7)
    assert found["usr/bin/become"] == (0, 0)


def test_a_file_with_several_names_is_one_file(tmp_path: Path) -> None:
    root = installed(tmp_path)
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(root, ".")
        for name in (
            "./etc/a-name-before",
            "./usr/bin/z",
            "./lib/modules/6.18/twin",
            "./boot/twin",
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, "./etc/plain"
            tar.addfile(info)
    pack_chroot(tmp_path, {})
    with tarfile.open(tmp_path / "chroot.tar") as tar:
        names = ("etc/a-name-before", "etc/plain", "usr/bin/z")
        first, *others = (tar.getmember(name) for name in names)
        assert first.isreg() and tar.extractfile(first).read() == b"etc/plain"  # type: ignore[union-attr]
        assert [(o.type, o.linkname, o.size) for o in others] == [
            (tarfile.LNKTYPE, "etc/a-name-before", 0)
        ] * 2
    with tarfile.open(tmp_path / "modules.tar") as tar:
        alone = tar.getmember("lib/modules/6.18/twin")
        assert alone.isreg() and alone.size == len("etc/plain")


def test_extended_attributes_are_listed(tmp_path: Path) -> None:
    installed(tmp_path)
    (tmp_path / "xattrs").write_text(
        "# file: usr/bin/become\nuser.b=0x62\nsecurity.selinux=0x01\nuser.a\n\n"
        "# file: boot/vmlinuz-virt\nuser.a=0x61\n\n# file: etc/one \\134 two\nuser.c=0x63\n\n"
    )
    packed(tmp_path)
    assert (tmp_path / "chroot.xattrs").read_bytes().splitlines() == [
        b"user.a 0x usr/bin/become",
        b"user.b 0x62 usr/bin/become",
        b"user.c 0x63 etc/one \\ two",
    ]


def test_a_name_with_a_newline_is_refused(tmp_path: Path) -> None:
    (installed(tmp_path) / "etc/one\nline").touch()
    with pytest.raises(UserError, match="no list of files can hold"):
        packed(tmp_path)


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
        (tmp_path / name / "microcode").write_bytes(b"")
        pack_initramfs(tmp_path / name, {"microcode": tmp_path / name / "microcode"})
    first, second = ((tmp_path / name / "initramfs").read_bytes() for name in ("one", "two"))
    assert first == second
    assert gzip.decompress(first) == cpio(0, 0)


def test_microcode_comes_before_the_initramfs(tmp_path: Path) -> None:
    root = installed(tmp_path)
    path = "kernel/x86/microcode/GenuineIntel.bin"
    for name, data in {"intel": b"code of intel", "amd": b"code of amd", "other": b""}.items():
        code = cpio_entry(path.replace("Genuine", name).encode(), data, 0, 0)
        image = code + cpio_entry(b"TRAILER!!!", b"", 0, 0)
        (root / f"boot/{name}{'-ucode.img' if data else '.img'}").write_bytes(image)
    packed(tmp_path)
    (tmp_path / "initramfs").write_bytes(cpio(1, 1))
    pack_initramfs(tmp_path, {"microcode": tmp_path / "microcode"})
    made = (tmp_path / "initramfs").read_bytes()
    names = [[e.name for e in cpio_entries(bytearray(part))] for part in initramfs_parts(made)]
    assert names == [
        ["kernel/x86/microcode/amdIntel.bin", "TRAILER!!!"],
        ["kernel/x86/microcode/intelIntel.bin", "TRAILER!!!"],
        ["init", "TRAILER!!!"],
    ]


def test_two_kernels_are_named(tmp_path: Path) -> None:
    root = installed(tmp_path)
    (root / "boot/vmlinuz-aaa").touch()
    with pytest.raises(
        UserError, match=r"boot/vmlinuz-aaa of a script, boot/vmlinuz-virt of kernel"
    ):
        packed(tmp_path)
    (root / "boot/vmlinuz-aaa").unlink()
    (root / "lib/modules/6.1-aaa").mkdir()
    with pytest.raises(UserError, match=r"several kernels.*modules of 6\.1-aaa, 6\.18;"):
        packed(tmp_path)


def test_firmware_is_listed_with_its_links(tmp_path: Path) -> None:
    firmware = installed(tmp_path) / "lib/firmware"
    (firmware / "acme").mkdir(parents=True)
    (firmware / "acme/wifi 1.bin").touch()
    (firmware / "wifi.bin").symlink_to("acme/wifi 1.bin")
    packed(tmp_path)
    listed = (tmp_path / "firmware.list").read_bytes().splitlines()
    assert listed == [b"acme/wifi 1.bin", b"wifi.bin\tacme/wifi 1.bin"]


def test_what_is_no_cpio_is_refused() -> None:
    with pytest.raises(ValueError, match="no cpio header at byte 0"):
        normalise(bytearray(200))
