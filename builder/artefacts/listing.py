"""What an artefact holds, file by file, whatever its format: told by how it begins."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.alpine.initramfs import CPIO_MAGIC, cpio_entries, initramfs_parts
from builder.core.errors import UserError
from builder.core.paths import LOGS
from builder.disk.layout import SECTOR
from builder.disk.table import read_table
from builder.engines.engine import SCRIPT_ARGV, Engine, Job
from updater import slot

GPT_MAGIC = b"EFI PART"
UNSQUASHFS = Path(__file__).with_name("unsquashfs.sh")


@dataclass(frozen=True)
class File:
    """One file: `content` is the SHA-256 of its bytes, or the target of a symlink."""

    kind: str  # file, folder, symlink, other
    mode: int  # permission bits
    owner: str  # uid/gid
    size: int
    content: str


def differences(first: Mapping[str, File], second: Mapping[str, File]) -> dict[str, str]:
    """By name what differs: `only in the first`, or for instance `mode 644 -> 755, content`."""
    found = {}
    for name in sorted(first.keys() | second.keys()):
        a, b = first.get(name), second.get(name)
        if a is None or b is None:
            found[name] = "only in the second" if a is None else "only in the first"
        elif a != b:
            changes = []
            if a.kind != b.kind:
                changes.append(f"{a.kind} -> {b.kind}")
            if a.mode != b.mode:
                changes.append(f"mode {a.mode:o} -> {b.mode:o}")
            if a.owner != b.owner:
                changes.append(f"owner {a.owner} -> {b.owner}")
            if a.size != b.size:
                changes.append(f"{a.size} -> {b.size} bytes")
            elif a.content != b.content:
                is_link = a.kind == b.kind == "symlink"
                changes.append(f"-> {a.content} now {b.content}" if is_link else "content")
            found[name] = ", ".join(changes)
    return found


@dataclass(frozen=True)
class Lister:
    """Lists artefacts; squashfs with the tools of the build container, `root`."""

    engine: Engine
    root: Path

    def files(self, path: Path) -> dict[str, File]:
        """Every file in an artefact. Raises UserError where it is of no known kind."""
        with path.open("rb") as file:
            head = file.read(2 * SECTOR)
        if head[SECTOR : SECTOR + 8] == GPT_MAGIC:
            return dict(self._disk(path))
        if head[:4] == slot.MAGIC:
            return dict(self._squashfs_or_slot(path))
        if head[:2] == b"\x1f\x8b" or head.startswith(CPIO_MAGIC):
            parts = initramfs_parts(path.read_bytes())
            return dict(entry for part in parts for entry in _initramfs(part))
        if head[257:262] == b"ustar":
            return dict(_tar(path))
        raise UserError(f"{path}: is no disk image, slot, squashfs, initramfs or tar")

    def _disk(self, path: Path) -> Iterator[tuple[str, File]]:
        """The partitions; slots with their files, others as one file each."""
        with path.open("rb") as file, tempfile.TemporaryDirectory() as scratch:
            yield "table", _whole(file.read(34 * SECTOR))
            try:
                table = read_table(file)
            except ValueError as error:
                raise UserError(str(error)) from None
            for name, partition in table.items():
                file.seek(partition.offset)
                data = file.read(partition.size)
                if data[:4] != slot.MAGIC:
                    yield name, _whole(data)
                    continue
                copy = Path(scratch) / name
                copy.write_bytes(data)
                for inner, found in self._squashfs_or_slot(copy):
                    yield f"{name}/{inner}", found

    def _squashfs_or_slot(self, path: Path) -> Iterator[tuple[str, File]]:
        with path.open("rb") as file:

            def read(offset: int, size: int) -> bytes:
                file.seek(offset)
                return file.read(size)

            try:
                parts = slot.parts(read)
            except ValueError:  # a squashfs by itself
                yield from self._squashfs(path)
                return
            with tempfile.TemporaryDirectory() as scratch:
                for part in parts:
                    copy = Path(scratch) / part.name
                    copy.write_bytes(read(part.offset, part.size))
                    for name, found in self._squashfs(copy):
                        yield f"{part.name}/{name}", found

    def _squashfs(self, path: Path) -> Iterator[tuple[str, File]]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            inputs = {"script": UNSQUASHFS, "squashfs": path}
            job = Job("unsquashfs", self.root, SCRIPT_ARGV, out, inputs)
            self.engine.run(job, LOGS / "diff.log")
            hashes = {}
            for line in (out / "hashes").read_text().splitlines():
                digest, _, name = line.partition("  ./")
                hashes[name] = digest
            for line in (out / "listing").read_text().splitlines():
                # "-rw-r----- 0/42  299 1970-01-01 00:00 squashfs-root/etc/shadow"
                mode, owner, size, _, _, name = line.split(maxsplit=5)
                name, _, target = name.removeprefix("squashfs-root").lstrip("/").partition(" -> ")
                kind = _KINDS.get(mode[0], "other")
                yield (
                    name or ".",
                    File(
                        kind,
                        _mode(mode),
                        owner,
                        int(size) if kind == "file" else 0,
                        hashes.get(name, target),
                    ),
                )


_KINDS = {"-": "file", "d": "folder", "l": "symlink"}


def _mode(text: str) -> int:
    """`-rwsr-xr-x` as a number."""
    letters = enumerate(text[1:10], start=1)
    bits = sum(1 << (9 - index) for index, letter in letters if letter not in "-ST")
    special = {3: (stat.S_ISUID, "sS"), 6: (stat.S_ISGID, "sS"), 9: (stat.S_ISVTX, "tT")}
    return bits | sum(bit for index, (bit, marks) in special.items() if text[index] in marks)


def _whole(data: bytes) -> File:
    return File("file", 0, "", len(data), hashlib.sha256(data).hexdigest())


def _initramfs(data: bytes) -> Iterator[tuple[str, File]]:
    for entry in cpio_entries(bytearray(data)):
        content = data[entry.data_at : entry.data_at + entry.size]
        kind = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink"}.get(
            stat.S_IFMT(entry.mode), "other"
        )
        shown = content.decode() if kind == "symlink" else hashlib.sha256(content).hexdigest()
        mode = stat.S_IMODE(entry.mode)
        yield entry.name, File(kind, mode, entry.owner, entry.size if kind == "file" else 0, shown)


def _tar(path: Path) -> Iterator[tuple[str, File]]:
    with tarfile.open(path) as tar:
        for member in tar:
            kind = "folder" if member.isdir() else "symlink" if member.issym() else "file"
            reader = tar.extractfile(member) if member.isreg() else io.BytesIO()
            content = hashlib.sha256(reader.read() if reader else b"").hexdigest()
            owner = f"{member.uid}/{member.gid}"
            shown = member.linkname if kind == "symlink" else content
            yield member.name, File(kind, member.mode, owner, member.size, shown)
