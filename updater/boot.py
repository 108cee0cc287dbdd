"""Finds grubenv on the ESP, and changes the boot state there as one sector through the device.

The ESP is never mounted for it: a mount would write its directory and its dirty bit too, and a
power cut in between could cost the file. The file was put there by the build, as two sectors that
lie side by side, and nothing moves it. Beside it lies a copy, which is written before it, and read
where it can't be.

Format: "FAT: General Overview of On-Disk Format", Microsoft 2000.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from updater import grubenv
from updater.disk import ALIGNMENT, Disk
from updater.errors import UpdateError
from updater.grubenv import FIRST_SECTOR, SIZE, BootState

FOLDERS = (b"EFI        ", b"BOOT       ")
FILE, COPY = b"GRUBENV    ", b"GRUBENV2   "  # images of versions before have no copy
_ENTRY = 32
_END = 0x0FFFFFF8  # clusters from here on mean: no further one


class BootStateFile:
    """grubenv on an ESP."""

    def __init__(self, esp: Path) -> None:
        self.esp = esp

    def read(self) -> BootState:
        """The state; the default one where neither file holds one, as GRUB does it too."""
        with Disk(self.esp) as disk:
            for offset in self._offsets(disk):
                with suppress(ValueError):
                    return grubenv.parse(disk.read(offset, SIZE))
        return BootState()

    def _offsets(self, disk: Disk) -> list[int]:
        """Where the files begin that there are, the copy last. Raises UpdateError."""
        found, problem = [], None
        for name in (FILE, COPY):
            try:
                found.append(find(disk, name))
            except UpdateError as error:
                problem = problem or error
        if problem and not found:
            raise problem
        return found

    def write(self, state: BootState) -> None:
        """Change the state; when this returns, the disk has it."""
        data = grubenv.render(state)
        with Disk(self.esp, write=True) as disk:
            for offset in reversed(self._offsets(disk)):
                self._write(disk, offset, data)

    def _write(self, disk: Disk, offset: int, data: bytes) -> None:
        sector, rest = data[:FIRST_SECTOR], data[FIRST_SECTOR:]
        if disk.read(offset, SIZE)[FIRST_SECTOR:] != rest:  # nonsense, which GRUB would read
            disk.write(offset + FIRST_SECTOR, rest, FIRST_SECTOR)
            disk.flush()
        disk.write(offset, sector, FIRST_SECTOR)
        disk.flush()
        if disk.read(offset, FIRST_SECTOR) != sector:
            raise UpdateError(f"{self.esp}: the disk did not keep the boot state")


class Readable(Protocol):
    """A partition as `Disk` has it."""

    path: Path
    size: int

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`."""


def find(disk: Readable, file: bytes) -> int:
    """The byte at which a file in EFI/BOOT of an ESP begins. Raises UpdateError.

    What a damaged entry leads to may be anything else, and is to be written over: so the file has
    its size, and clusters side by side that are a chain of their own.
    """
    head = disk.read(0, ALIGNMENT)
    sector, per_cluster, reserved, fats = struct.unpack_from("<HBHB", head, 11)
    sectors, fat_sectors, _, _, root = struct.unpack_from("<IIHHI", head, 32)
    if head[510:512] != b"\x55\xaa" or sector != FIRST_SECTOR or not per_cluster:
        raise UpdateError(f"{disk.path} is no FAT32 with sectors of {FIRST_SECTOR} bytes")
    cluster_size = per_cluster * sector
    fat_at = reserved * sector
    data_at = fat_at + fats * fat_sectors * sector
    space = min(sectors * sector, disk.size) - data_at
    end = 2 + min(space // cluster_size, fat_sectors * sector // 4 - 2)
    damaged = UpdateError(f"{disk.path}: the entry of {_shown(file)} is damaged")

    def byte_of(cluster: int) -> int:
        if not 2 <= cluster < end:
            raise damaged
        return int(data_at + (cluster - 2) * cluster_size)

    def following(cluster: int) -> int:
        where = fat_at + cluster * 4
        piece = disk.read(where // sector * sector, sector)
        return int(struct.unpack_from("<I", piece, where % sector)[0]) & 0x0FFFFFFF

    folders: set[int] = set()
    cluster, size = root, 0
    for name in (*FOLDERS, file):
        found = None
        while found is None:
            folder = disk.read(byte_of(cluster), cluster_size)
            for at in range(0, len(folder), _ENTRY):
                if folder[at : at + 11] == name:
                    high, low, size = struct.unpack_from("<20xH4xHI", folder, at)
                    found = int(high) << 16 | int(low)
                    break
            folders.add(cluster)
            if found is None:
                cluster = following(cluster)
                if cluster >= _END or cluster in folders:
                    raise UpdateError(f"{disk.path} has no EFI/BOOT/{_shown(name)}")
        cluster = found
    last = cluster + max(0, SIZE - 1) // cluster_size
    begin, chain = byte_of(cluster), range(cluster, last + 1)
    wanted = [*range(cluster + 1, last + 1), _END]
    byte_of(last)
    if size != SIZE or folders.intersection(chain):
        raise damaged
    if any(
        min(following(cluster), _END) != then for cluster, then in zip(chain, wanted, strict=True)
    ):
        raise damaged
    return begin


def _shown(name: bytes) -> str:
    return name.decode().strip().lower()
